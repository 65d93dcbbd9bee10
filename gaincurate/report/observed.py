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
from gaincurate.report.table import Table, read_table
from gaincurate.schedule.observations import pass_rates_of
from gaincurate.schedule.run import Run


@dataclass(frozen=True, slots=True)
class Rates:
    """One policy's pass rates by id, from "rollouts" or a "run"."""

    name: str
    source: str
    path: str
    pass_rates: PassRates
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """Pass rates, their facts for the report, and those of each group with an observed prompt."""

    rates: Rates
    outcome: Outcome
    groups: list[GroupRate]


def observed_table(
    scored: ScoredSet,
    *,
    run: str | Path | None = None,
    rollouts: Sequence[str | Path] = (),
    success: float | None = None,
    group_column: str | None = None,
    columns: Sequence[str] = (),
) -> tuple[Table, list[Observed]]:
    """The columns of a report, with a column for each policy's pass rates and one for its p (1 - p).

    Arguments and errors are those of `report.build.report`.
    """
    table = read_table(scored, group_column=group_column, columns=columns)
    by_policy = [rates for path in rollouts for rates in read_rollouts(Path(path), success, scored)]
    if run is not None:
        opened = Run(run)
        if opened.scored.manifest_hash != scored.manifest_hash:
            other = f"goes by another scored set than {scored.folder}; its outcomes are joined by gc_id."
            table.notes.append(f"{opened.folder} {other}")
        if (outcomes := _read_run(opened)) is not None:
            by_policy.append(outcomes)
        else:
            table.notes.append(f"{opened.folder} has no outcomes yet.")
    ids = scored.column(ID).combine_chunks() if by_policy else None
    return table, [_observe(scored, table, ids, rates) for rates in by_policy]


def read_rollouts(path: Path, success: float | None, scored: ScoredSet) -> list[Rates]:
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
        return [Rates(path.name, "rollouts", str(path), replace(rates, source=source))]
    if success is not None:
        raise InputError(
            f"--success {success:g} is for rollout sets, which have every reward, and {path} is none; give "
            "right and wrong rollouts as 1 and 0 there, and leave --success out.",
            path=str(path),
        )
    by_policy = pass_rates_of(path, scored=scored)
    if any(rates.round is not None for rates in by_policy):
        return [_of_rounds(by_policy, path, "rollouts")]
    names = [path.name if len(by_policy) == 1 else f"{path.name}, {rates.name}" for rates in by_policy]
    return [Rates(name, "rollouts", str(path), r) for name, r in zip(names, by_policy, strict=True)]


def _read_run(run: Run) -> Rates | None:
    """A run's outcomes, all rounds together; None where it has none yet."""
    rounds = range(run.round + 1)
    if not any(run.outcomes(round_).exists() and run.outcomes(round_).stat().st_size for round_ in rounds):
        return None
    drawn = f"The prompts were drawn by {run.config.strategy}: what holds among them need not hold elsewhere."
    return _of_rounds(pass_rates_of(run.folder), run.folder, "run", drawn)


def _of_rounds(by_round: Sequence[PassRates], path: Path, source: str, *notes: str) -> Rates:
    rounds = [rates.round for rates in by_round if rates.round is not None]
    changed = f"Rounds {min(rounds)} to {max(rounds)} together: the policy changed while it was observed."
    notes = (changed, *notes) if len(by_round) > 1 else notes
    return Rates(path.name, source, str(path), pooled(by_round), notes)


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


def _observe(scored: ScoredSet, table: Table, ids: pa.Array, rates: Rates) -> Observed:
    """Put a policy's pass rates into the table.

    Raises:
        InputError: none of its prompts is in the set.
    """
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
    variance = pass_variance(wins, losses) if pass_rates.counted else np.full(table.rows, np.nan)
    name, learnability = _free(table, f"pass rate ({rates.name})"), None
    made = f"{'rollouts' if rates.source == 'rollouts' else 'a run'}: {rates.path}"
    meaning = "share of rollouts that were right, 0 to 1"
    table.add(Column(name, "pass-rate", meaning, made), wins / (wins + losses))
    if not np.isnan(variance).all():
        learnability = _free(table, f"p(1-p) ({rates.name})")
        meaning = "p (1 - p), unbiased: highest where one rollout in two is right; what GRPO learns from"
        table.add(Column(learnability, "learnability", meaning, made), variance)
    won, lost = wins[at], losses[at]
    outcome = Outcome(
        name=name,
        learnability=learnability,
        source=rates.source,
        path=rates.path,
        prompts=len(at),
        unknown=int((~in_set).sum()),
        rollouts=round(float((won + lost).sum())) if pass_rates.counted else None,
        mean=float(np.mean(won / (won + lost))),
        always=float(np.mean(lost == 0)),
        never=float(np.mean(won == 0)),
        ceiling=noise_ceiling(won, lost) if pass_rates.counted else None,
        mean_variance=mean(variance[~np.isnan(variance)]),
        notes=[*rates.notes, *_notes(rates, won, lost)],
    )
    return Observed(rates, outcome, list(_group_rates(table, outcome, wins, losses, variance)))


def _group_rates(
    table: Table, outcome: Outcome, wins: Floats, losses: Floats, variance: Floats
) -> Iterator[GroupRate]:
    """Pass rates in each group with an observed prompt, largest groups first."""
    if table.groups is None:
        return
    known = outcome.rollouts is not None
    for code, name in enumerate(table.groups.names):
        inside = (table.groups.codes == code) & (wins + losses > 0)
        if inside.any():
            won, lost, varies = wins[inside], losses[inside], variance[inside]
            yield GroupRate(
                outcome.name,
                name,
                len(won),
                float(np.mean(won / (won + lost))),
                float(np.mean((won > 0) & (lost > 0))) if known else None,
                None if np.isnan(varies).all() else float(np.nanmean(varies)),
            )


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
