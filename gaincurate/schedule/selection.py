"""Selects rows of a scored set for `export` and `schedule start`.

A condition (`--where`) sees source, score and computed columns, and with `--rollouts` what a model did with
each prompt: `pass_rate` and `samples`.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.columns import fields, read_column
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.where import Condition, Mask
from gaincurate.difficulty.pass_rates import pooled
from gaincurate.errors import InputError
from gaincurate.schedule.observations import Note, pass_rates_of, silent

OF_ROLLOUTS = ("pass_rate", "samples")
"""The columns that `--rollouts` adds: the share of right rollouts, and how many were judged."""


def matching(
    scored: ScoredSet, where: str, rollouts: Path | None = None, note: Note = silent
) -> tuple[Mask, Mask]:
    """For which rows a condition (see `core.where`) is true, and for which a value is missing, `[rows]` each.

    `rollouts` is a rollout set, or another file of pass rates.

    Raises:
        InputError: the condition cannot be read or does not go with the columns, or there are no pass rates.
    """
    condition = Condition(where)
    there = {*scored.schema.names, *dict(fields(scored.schema))}
    observed = {} if rollouts is None else _of_rollouts(scored, rollouts)
    absent = set(condition.names) & set(OF_ROLLOUTS) - there - observed.keys()
    if absent and rollouts is None:
        raise InputError(
            f"--where {where!r}: {scored.folder} has no column {min(absent)!r}; --rollouts PATH adds it."
        )
    if both := there & observed.keys() & set(condition.names):
        raise InputError(
            f"--where {where!r}: {min(both)} is a column of {scored.folder} and of --rollouts {rollouts}; "
            "leave --rollouts out, or rename the column in the data."
        )
    condition.check(there | observed.keys())
    columns = {
        name: observed[name] if name in observed else read_column(scored, name) for name in condition.names
    }
    missing = columns["pass_rate"].null_count if "pass_rate" in columns else 0
    if 2 * missing > len(scored):
        note(
            f"warning: {missing:,} of {len(scored):,} rows have no pass_rate. "
            "`gaincurate difficulty predict` writes gc_difficulty, the failure rate of every row, which "
            "--where takes too."
        )
    return condition.holds(columns)


def _of_rollouts(scored: ScoredSet, path: Path) -> dict[str, pa.ChunkedArray]:
    """The columns that a file of pass rates adds, in the order of the set's rows."""
    policies = pass_rates_of(path, scored=scored)
    if len(policies) > 1 and any(rates.round is None for rates in policies):
        names = ", ".join(rates.name for rates in policies)
        raise InputError(
            f"--rollouts {path} has {len(policies)} policies ({names}), and a pass rate is of one; give a "
            "file of one."
        )
    rates = pooled(policies) if len(policies) > 1 else policies[0]
    places = pc.index_in(scored.column(ID), value_set=pa.array(rates.ids, pa.string()))
    samples = rates.wins + rates.losses
    columns = {"pass_rate": rates.wins / samples, **({"samples": samples} if rates.counted else {})}
    return {name: pa.chunked_array([pa.array(values)]).take(places) for name, values in columns.items()}
