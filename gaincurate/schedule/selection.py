"""Selects rows of a scored set for `export` and `schedule start`.

A condition (`--where`) sees source, score and computed columns, and with `--rollouts` what a model did with
each prompt: `pass_rate` and `samples`. Parts of a set (`--split`) go by a hash of the id, so a prompt is in
the same part whatever else the set holds and however it is ordered. Ids that are hashes of the row number its
copies (`-1`, `-2`). The number is left out here, or a copy of a training row would be validated on.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.columns import coded, fields, read_column
from gaincurate.core.rng import Ints
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.where import Condition, Mask
from gaincurate.difficulty.pass_rates import pooled
from gaincurate.errors import InputError
from gaincurate.schedule.groups import check_groups
from gaincurate.schedule.observations import pass_rates_of

OF_ROLLOUTS = ("pass_rate", "samples")
"""The columns that `--rollouts` adds: the share of right rollouts, and how many were judged."""
_WHOLE = 1 << 64
_COPY = re.compile(r"\A([0-9a-f]{32})-[0-9]+\Z")


@dataclass(frozen=True, slots=True)
class Matches:
    """For which rows a condition is true, and for which it cannot be said for want of a value, `[rows]`.

    `warning` says that most rows have no pass rate, where the condition is on that.
    """

    rows: Mask
    unknown: Mask
    warning: str | None = None


def matching(scored: ScoredSet, where: str, rollouts: Path | None = None) -> Matches:
    """The rows for which a condition is true.

    Args:
        scored: the set.
        where: the condition, see `core.where`.
        rollouts: a rollout set, or another file of pass rates.

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
    warning = None
    if 2 * missing > len(scored):
        warning = (
            f"warning: {missing:,} of {len(scored):,} rows have no pass_rate. "
            "`gaincurate difficulty predict` writes gc_difficulty, the failure rate of every row, which "
            "--where takes too."
        )
    return Matches(*condition.holds(columns), warning)


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


def first_of_groups(scored: ScoredSet, column: str, count: int, rows: Ints) -> Mask:
    """A mask of the rows among the first `count` of their group, `[len(rows)]`; null is a group too.

    Args:
        scored: the set.
        column: the groups, by dotted name.
        count: rows of a group, at most.
        rows: places in the set, in their order.

    Raises:
        InputError: no such column, or one that makes no groups.
    """
    check_groups(scored, column, f"--group-column {column}")
    _, labels = coded(read_column(scored, column), len(scored))
    assert labels is not None  # a set has no more groups than rows
    of_rows = labels[rows]
    by_group = np.argsort(of_rows, kind="stable")
    sizes = np.unique(of_rows, return_counts=True)[1]
    place = np.empty(len(rows), np.int64)
    place[by_group] = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen: Mask = place < count
    return chosen


def read_parts(text: str) -> dict[str, float]:
    """Parse `--split`: `train=.9,val=.1`.

    Raises:
        InputError: it is not that, or the shares are not 1 together.
    """
    pairs = [re.fullmatch(r"\s*([\w-]+)=(0?\.[0-9]+)\s*", pair) for pair in text.split(",")]
    parts = {pair[1]: float(pair[2]) for pair in pairs if pair}
    if len(parts) < len(pairs) or 0 in parts.values() or abs(math.fsum(parts.values()) - 1) > 1e-9:
        raise InputError(
            f"--split {text}: expected NAME=SHARE with distinct names and shares that sum to 1, as in "
            "train=.9,val=.1."
        )
    return parts


def part_of(ids: Sequence[str], parts: Mapping[str, float]) -> Ints:
    """The place in `parts` of each id, `[ids]`: where its BLAKE2b of 8 bytes lies among the shares.

    Copies of a row have one place.
    """
    ends = [round(math.fsum([*parts.values()][: place + 1]) * _WHOLE) for place in range(len(parts) - 1)]
    contents = (_COPY.sub(r"\1", gc_id) for gc_id in ids)
    keys = [hashlib.blake2b(content.encode(), digest_size=8).digest() for content in contents]
    places = np.searchsorted(
        np.array(ends, np.uint64),
        np.array([int.from_bytes(key, "big") for key in keys], np.uint64),
        side="right",
    )
    return places.astype(np.int64)
