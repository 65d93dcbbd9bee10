"""Observed pass rates in a report: rollouts and the outcomes of a run, joined to the set by id.

p (1 - p) of a prompt is estimated without bias from its G rollouts, as G / (G - 1) times that of the
observed rate, because the plain value is too low by a tenth with ten rollouts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.files import digest_files
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.stats import Floats, mean
from gaincurate.difficulty.metrics import noise_ceiling, pass_variance
from gaincurate.difficulty.pass_rates import PassRates, of_rollouts, pooled
from gaincurate.difficulty.rollout_set import is_rollout_set
from gaincurate.errors import InputError
from gaincurate.report.document import Column, GroupRate, Outcome
from gaincurate.report.table import Table
from gaincurate.schedule.observations import pass_rates_of
from gaincurate.schedule.run import Run


@dataclass(frozen=True, slots=True)
class Rates:
    """One policy's pass rates by id, from "rollouts" or a "run"; `hashes` name the files they came from."""

    name: str
    source: str
    path: str
    pass_rates: PassRates
    hashes: frozenset[str]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Observed:
    """An outcome, its wins and losses at the rows of the set, `[rows]` (NaN where none), and its files."""

    outcome: Outcome
    wins: Floats
    losses: Floats
    hashes: frozenset[str]


def read_rollouts(path: Path, success: float | None = None, scored: ScoredSet | None = None) -> list[Rates]:
    """Every policy in a rollout set, or in whatever `difficulty predict --rollouts` takes.

    Args:
        path: its place.
        success: a rollout is right from this reward on, else wrong; None: a reward is so much of a success.
        scored: the set of the prompts, for files without ids.

    Raises:
        InputError: nothing there, or it cannot be read as pass rates.
    """
    if not path.exists():
        raise InputError(f"--rollouts {path} does not exist.", path=str(path))
    if is_rollout_set(path):
        rates = of_rollouts(path, success)
        if not rates.ids:
            raise InputError(f"--rollouts {path} has no rollout that could be judged.", path=str(path))
        source = {"hash": digest_files(sorted(path.rglob("*.arrow")))}
        return [_of(replace(rates, source=source), path.name, path)]
    if success is not None:
        raise InputError(
            f"--success {success:g} is for rollout sets, which have every reward, and {path} is none; give "
            "right and wrong rollouts as 1 and 0 there, and leave --success out.",
            path=str(path),
        )
    by_policy = pass_rates_of(path, scored=scored)
    if any(rates.round is not None for rates in by_policy):
        return [_of_rounds(by_policy, path)]
    names = [path.name if len(by_policy) == 1 else f"{path.name}, {rates.name}" for rates in by_policy]
    return [_of(rates, name, path) for name, rates in zip(names, by_policy, strict=True)]


def read_run(run: Run) -> Rates | None:
    """A run's outcomes, all rounds together; None where it has none yet."""
    rounds = range(run.round + 1)
    if not any(run.outcomes(round_).exists() and run.outcomes(round_).stat().st_size for round_ in rounds):
        return None
    drawn = f"The prompts were drawn by {run.config.strategy}: what holds among them need not hold elsewhere."
    return _of_rounds(pass_rates_of(run.folder), run.folder, "run", drawn)


def _of_rounds(by_round: Sequence[PassRates], path: Path, source: str = "rollouts", *notes: str) -> Rates:
    rounds = [rates.round for rates in by_round if rates.round is not None]
    changed = f"Rounds {min(rounds)} to {max(rounds)} together: the policy changed while it was observed."
    more = [changed] if len(by_round) > 1 else []
    return _of(pooled(by_round), path.name, path, source, *more, *notes)


def _of(rates: PassRates, name: str, path: Path, source: str = "rollouts", *notes: str) -> Rates:
    return Rates(name, source, str(path), rates, frozenset(hashes_in(rates.source)), [*notes])


def hashes_in(facts: Any, key: str = "hash") -> Iterator[str]:
    """Every `hash` (or another key) in nested facts about sources."""
    if isinstance(facts, dict):
        for name, value in facts.items():
            if name == key and isinstance(value, str):
                yield value
            else:
                yield from hashes_in(value, key)
    elif isinstance(facts, list):
        for value in facts:
            yield from hashes_in(value, key)


def observe(scored: ScoredSet, table: Table, rates_of_policies: Sequence[Rates]) -> list[Observed]:
    """Put observed pass rates into the table, a column for each policy and one for its p (1 - p).

    Raises:
        InputError: none of a policy's prompts is in the set.
    """
    ids = scored.column(ID).combine_chunks() if rates_of_policies else None
    return [_one(scored, table, ids, rates) for rates in rates_of_policies]


def _one(scored: ScoredSet, table: Table, ids: pa.Array, rates: Rates) -> Observed:
    pass_rates = rates.pass_rates
    places = pc.index_in(pa.array(pass_rates.ids, pa.string()).cast(ids.type), value_set=ids)
    in_set = places.is_valid().to_numpy(zero_copy_only=False)
    if not in_set.any():
        raise InputError(
            f"{rates.path}: none of its {len(pass_rates.ids):,} prompts is in {scored.folder}; is it of "
            "another set? They are joined by gc_id.",
            path=rates.path,
        )
    at = places.drop_null().to_numpy()
    wins, losses = np.full(table.rows, np.nan), np.full(table.rows, np.nan)
    wins[at], losses[at] = pass_rates.wins[in_set], pass_rates.losses[in_set]
    name = _free(table, f"pass rate ({rates.name})")
    made = f"{'rollouts' if rates.source == 'rollouts' else 'a run'}: {rates.path}"
    count = wins + losses
    table.add(Column(name, "pass-rate", "share of rollouts that were right, 0 to 1", made), wins / count)
    notes, learnability = list(rates.notes), None
    variance = pass_variance(wins, losses) if pass_rates.counted else np.full(table.rows, np.nan)
    if not np.isnan(variance).all():
        learnability = _free(table, f"p(1-p) ({rates.name})")
        meaning = "p (1 - p), unbiased: highest where one rollout in two is right; what GRPO learns from"
        table.add(Column(learnability, "learnability", meaning, made), variance)
    notes += _notes(rates, wins[at], losses[at])
    outcome = Outcome(
        name=name,
        learnability=learnability,
        source=rates.source,
        path=rates.path,
        prompts=len(at),
        unknown=int((~in_set).sum()),
        rollouts=round(float(count[at].sum())) if pass_rates.counted else None,
        mean=float(np.mean(wins[at] / count[at])),
        always=float(np.mean(losses[at] == 0)),
        never=float(np.mean(wins[at] == 0)),
        ceiling=noise_ceiling(wins[at], losses[at]) if pass_rates.counted else None,
        mean_variance=mean(variance[~np.isnan(variance)]),
        notes=notes,
    )
    return Observed(outcome, wins, losses, rates.hashes)


def group_rates(table: Table, observed: Sequence[Observed]) -> list[GroupRate]:
    """Pass rates of each policy in each group with an observed prompt, largest groups first."""
    rates = []
    for each in observed:
        outcome, names = each.outcome, [] if table.groups is None else table.groups.names
        for code, name in enumerate(names):
            assert table.groups is not None
            inside = (table.groups.codes == code) & (each.wins + each.losses > 0)
            if not inside.any():
                continue
            wins, losses = each.wins[inside], each.losses[inside]
            variance = pass_variance(wins, losses)
            known = outcome.rollouts is not None
            rates.append(
                GroupRate(
                    outcome.name,
                    name,
                    int(inside.sum()),
                    float(np.mean(wins / (wins + losses))),
                    float(np.mean((wins > 0) & (losses > 0))) if known else None,
                    float(np.nanmean(variance)) if known and not np.isnan(variance).all() else None,
                )
            )
    return rates


def _free(table: Table, name: str) -> str:
    """The name, with a number behind it where the table has it already."""
    free, number = name, 1
    while free in table.values:
        number += 1
        free = f"{name} {number}"
    return free


def _notes(rates: Rates, wins: Floats, losses: Floats) -> list[str]:
    if not rates.pass_rates.counted:
        return ["How many rollouts stand behind a rate is not known, so p (1 - p) and the ceiling are not."]
    notes, count = [], wins + losses
    if (count < 2).all():
        notes.append("One rollout a prompt says nothing of p (1 - p), nor of its own noise.")
    elif (count < 2).any():
        notes.append(f"Prompts with one rollout, which have no p (1 - p): {int((count < 2).sum()):,}.")
    if np.ptp(count) > 0 and rates.source == "rollouts":
        notes.append(
            "Prompts have different numbers of rollouts. If sampling went on until a rate was clear, "
            "p (1 - p) is a little too low."
        )
    if (wins != np.round(wins)).any():
        notes.append(
            "Some rewards lie between right and wrong (--success 1 counts whole ones alone): p (1 - p) is "
            "then an upper bound of their variance, and the ceiling too low."
        )
    return notes
