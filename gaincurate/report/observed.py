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

Policy = tuple[PassRates, list[str]]
"""A policy's pass rates under the policy's name, and notes."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One policy's pass rates, their facts for the report, and those of each group with observed prompts."""

    rates: PassRates
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
    policies = [
        ("rollouts", Path(path), *policy)
        for path in rollouts
        for policy in _read(Path(path), success, scored)
    ]
    if run is not None:
        opened = Run(run)
        if opened.scored.manifest_hash != scored.manifest_hash:
            other = f"goes by another scored set than {scored.folder}; its outcomes are joined by gc_id."
            table.notes.append(f"{opened.folder} {other}")
        paths = [opened.outcomes(round_) for round_ in range(opened.round + 1)]
        if any(path.exists() and path.stat().st_size for path in paths):
            strategy = opened.config.strategy
            drawn = f"The prompts were drawn by {strategy}: what holds among them need not hold elsewhere."
            rates, notes = _of_rounds(pass_rates_of(opened.folder), opened.folder)
            policies.append(("run", opened.folder, rates, [*notes, drawn]))
        else:
            table.notes.append(f"{opened.folder} has no outcomes yet.")
    ids = scored.column(ID).combine_chunks() if policies else None
    return table, [_observe(scored, table, ids, *policy) for policy in policies]


def _read(path: Path, success: float | None, scored: ScoredSet) -> list[Policy]:
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
        return [(replace(rates, source={"hash": digest_files(sorted(path.rglob("*.arrow")))}), [])]
    if success is not None:
        raise InputError(
            f"--success {success:g} is for rollout sets, which have every reward, and {path} is none; give "
            "right and wrong rollouts as 1 and 0 there, and leave --success out.",
            path=str(path),
        )
    policies = pass_rates_of(path, scored=scored)
    if any(rates.round is not None for rates in policies):
        return [_of_rounds(policies, path)]
    names = [path.name if len(policies) == 1 else f"{path.name}, {rates.name}" for rates in policies]
    return [(replace(rates, name=name), []) for name, rates in zip(names, policies, strict=True)]


def _of_rounds(by_round: Sequence[PassRates], path: Path) -> Policy:
    """All rounds of a run together."""
    rounds = [rates.round for rates in by_round if rates.round is not None]
    changed = f"Rounds {min(rounds)} to {max(rounds)} together: the policy changed while it was observed."
    return replace(pooled(by_round), name=path.name), [changed] if len(by_round) > 1 else []


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


def _observe(
    scored: ScoredSet,
    table: Table,
    ids: pa.Array,
    source: str,
    path: Path,
    rates: PassRates,
    notes: list[str],
) -> Observed:
    """Put a policy's pass rates into the table.

    Raises:
        InputError: none of its prompts is in the set.
    """
    places = pc.index_in(pa.array(rates.ids, pa.string()).cast(ids.type), value_set=ids)
    in_set = places.is_valid().to_numpy(zero_copy_only=False)
    if not in_set.any():
        raise InputError(
            f"{path}: none of its {len(rates.ids):,} prompts is in {scored.folder}; is it of another set? "
            "They are joined by gc_id.",
            path=str(path),
        )
    at, won, lost = places.drop_null().to_numpy(), rates.wins[in_set], rates.losses[in_set]
    wins, losses = np.full(table.rows, np.nan), np.full(table.rows, np.nan)
    wins[at], losses[at] = won, lost
    variance = pass_variance(wins, losses) if rates.counted else np.full(table.rows, np.nan)
    name, learnability = _free(table, f"pass rate ({rates.name})"), None
    made = f"{'rollouts' if source == 'rollouts' else 'a run'}: {path}"
    meaning = "share of rollouts that were right, 0 to 1"
    table.add(Column(name, "pass-rate", meaning, made), wins / (wins + losses))
    if not np.isnan(variance).all():
        learnability = _free(table, f"p(1-p) ({rates.name})")
        meaning = "p (1 - p), unbiased: highest where one rollout in two is right; what GRPO learns from"
        table.add(Column(learnability, "learnability", meaning, made), variance)
    outcome = Outcome(
        name=name,
        learnability=learnability,
        source=source,
        path=str(path),
        prompts=len(at),
        unknown=int((~in_set).sum()),
        rollouts=round(float((won + lost).sum())) if rates.counted else None,
        mean=float(np.mean(won / (won + lost))),
        always=float(np.mean(lost == 0)),
        never=float(np.mean(won == 0)),
        ceiling=noise_ceiling(won, lost) if rates.counted else None,
        mean_variance=mean(variance[~np.isnan(variance)]),
        notes=[*notes, *_notes(source, rates.counted, won, lost)],
    )
    groups = list[GroupRate]()
    codes, names = (np.empty(0), []) if table.groups is None else (table.groups.codes, table.groups.names)
    for code, group in enumerate(names):
        inside = (codes == code) & (wins + losses > 0)
        if inside.any():
            won, lost, varies = wins[inside], losses[inside], variance[inside]
            teaches = float(np.mean((won > 0) & (lost > 0))) if rates.counted else None
            varying = None if np.isnan(varies).all() else float(np.nanmean(varies))
            figures = len(won), float(np.mean(won / (won + lost))), teaches, varying
            groups.append(GroupRate(name, group, *figures))
    return Observed(rates, outcome, groups)


def _free(table: Table, name: str) -> str:
    """The name, with a number behind it where the table has it already."""
    free, number = name, 1
    while free in table.values:
        number += 1
        free = f"{name} {number}"
    return free


def _notes(source: str, counted: bool, wins: Floats, losses: Floats) -> list[str]:
    if not counted:
        return ["How many rollouts stand behind a rate is not known, so p (1 - p) and the ceiling are not."]
    notes, count = [], wins + losses
    if (count < 2).all():
        notes.append("One rollout a prompt says nothing of p (1 - p), nor of its own noise.")
    elif (count < 2).any():
        notes.append(f"Prompts with one rollout, which have no p (1 - p): {int((count < 2).sum()):,}.")
    if np.ptp(count) > 0 and source == "rollouts":
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
