"""How columns go together: the matrix of correlations, and each signal against each target.

A relation has three controls: the partial correlation given length, correlations inside bins of like
length, which assume nothing of the relation's form, and correlations inside groups. Two columns are
compared over the rows that have both, so pairs are put together by which rows those are, and each column is
sorted once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from gaincurate.core.stats import (
    LEVEL,
    Correlation,
    Estimate,
    Floats,
    Ints,
    Ranked,
    Strata,
    between,
    by_value,
    correlate,
    even_bins,
    inside_each,
    partial,
)
from gaincurate.report.document import Cell, GroupCorrelation, GroupShare, LengthBin, LengthProfile, Relation
from gaincurate.report.table import LENGTH, Table

TARGETS = ("difficulty", "pass-rate", "learnability")
_MOST_GROUPS = 20
_ENOUGH = 1000  # rows of a relation, from which on the bins of all rows serve it
Rows = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.integer]
Pair = tuple[str, str]
Scalar = TypeVar("Scalar", bound=np.generic)
_MOST_BINS, _BIN_ROWS = 20, 50
_INSIDE_GROUPS = ("within_groups", "given_length_within_groups", "within_length_bins_and_groups")


@dataclass(frozen=True, slots=True)
class Judged:
    """A relation, and what decides on it at the level of all looks together.

    `beyond` is the correlation given length, inside groups where there are any; `in_bins` the one inside bins
    of like length, of each group where there are any.
    """

    relation: Relation
    beyond: Estimate
    in_bins: Estimate


@dataclass(frozen=True, slots=True)
class Relations:
    """See `relate`. `level` is the confidence of each of `looks` intervals that decide, 95 % over all."""

    matrix: list[Cell]
    shares: list[GroupShare]
    judged: list[Judged]
    profiles: list[LengthProfile]
    looks: int
    level: float


def relate(table: Table, apart: Collection[Pair] = ()) -> Relations:
    """Everything about how the table's columns go together.

    Args:
        table: with the observed pass rates.
        apart: pairs of a signal and a target that were made from one another, and say nothing.
    """
    signals, targets = table.names("signal"), table.names(*TARGETS)
    pairs = [(signal, target) for signal in signals for target in targets if (signal, target) not in apart]
    level = 1 - (1 - LEVEL) / max(1, len(pairs))
    names, bins = [column.name for column in table.columns], length_bins(table.values[LENGTH])
    cells: dict[Pair, Estimate] = {}
    explained, shares = dict[str, float | None](), dict[str, GroupShare]()
    without: dict[str, Any] = dict.fromkeys(_INSIDE_GROUPS) | {"groups": []}
    made = {pair: dict(without) for pair in pairs}
    for rows, some in [(None, [(LENGTH, LENGTH)]), *by_rows(table, combinations(names, 2))]:
        sample = Sample(table, rows, level)
        for pair in some:
            if pair[0] != pair[1]:
                cells[pair], _ = sample.both(*pair)
            if LENGTH in pair:
                name = pair[pair[0] == LENGTH]
                explained[name] = between(sample.ranked(name), _strata(sample.of(bins))[1])
                if table.groups is not None:
                    shares[name] = _share(sample, name, _strata(sample.of(table.groups.codes))[1])
        # A table's signals come before its length, and that before its targets.
        judged = [pair for pair in some if pair in made]
        for pair in judged:
            of = made[pair]
            of["overall"], (of["length"], _) = cells[pair], sample.both(LENGTH, pair[1])
            of["given_length"], of["beyond"] = sample.both(*pair, given_length=True)
        if judged:
            orders = sample.orders
            del sample  # its ranks, before those inside bins and groups are made
            _inside(Sample(table, rows, level, orders=orders), judged, made, bins)
    return Relations(
        [Cell(*pair, cells[pair]) for pair in combinations(names, 2)],
        [shares[name] for name in names if name in shares],
        [_judged(pair, made[pair]) for pair in pairs],
        [_profile(table, signal, targets, bins, explained.get(signal), made) for signal in signals],
        len(pairs),
        level,
    )


def _share(sample: Sample, name: str, groups: Strata) -> GroupShare:
    """How much of a column's order is its group."""
    chance = (len(groups) - 1) / (sample.count - 1) if sample.count > 1 else None
    return GroupShare(name, len(groups), sample.count, between(sample.ranked(name), groups), chance)


def _inside(whole: Sample, pairs: list[Pair], made: Mapping[Pair, dict[str, Any]], bins: Codes) -> None:
    """Inside bins of like length, then inside groups; one at a time, for the memory of their ranks."""
    lengths, groups = whole.of(whole.table.values[LENGTH]), whole.table.groups
    sample = whole.inside(whole.of(bins))
    for pair in pairs:
        made[pair]["bins"] = sample.each(*pair)
    if sample.count < _ENOUGH:
        sample = whole.inside(length_bins(lengths))
    for pair in pairs:
        made[pair]["within_length_bins"], made[pair]["in_bins"] = sample.both(*pair)
    if groups is None:
        return
    sample = whole.inside(whole.of(groups.codes))
    for pair in pairs:
        of, each = made[pair], sample.each(*pair)
        of["groups"] = [GroupCorrelation(groups.names[k], each[k]) for k in [*each][:_MOST_GROUPS]]
        of["within_groups"], _ = sample.both(*pair)
        of["given_length_within_groups"], of["beyond"] = sample.both(*pair, given_length=True)
    sample = whole.inside(length_bins_inside(lengths, sample.strata))
    for pair in pairs:
        made[pair]["within_length_bins_and_groups"], made[pair]["in_bins"] = sample.both(*pair)


def _judged(pair: Pair, made: Mapping[str, Any]) -> Judged:
    """One relation with all of its controls."""
    fields = {name: value for name, value in made.items() if name not in ("beyond", "in_bins", "bins")}
    return Judged(Relation(*pair, **fields), made["beyond"], made["in_bins"])


def _profile(
    table: Table,
    signal: str,
    targets: list[str],
    bins: Codes,
    explained: float | None,
    made: Mapping[Pair, Mapping[str, Any]],
) -> LengthProfile:
    """A signal in the bins of all rows."""
    values, lengths = table.values[signal], table.values[LENGTH]
    judged = [target for target in targets if (signal, target) in made]
    rows, missing = [], Estimate(None, None, None, 0)
    for k in range(int(bins.max()) + 1):
        here = bins == k
        present = values[here][~np.isnan(values[here])]
        quartiles = np.quantile(present, [0.25, 0.5, 0.75]).tolist() if len(present) else []
        ends = int(lengths[here].min()), int(lengths[here].max())
        each = [made[signal, target]["bins"].get(k, missing) for target in judged]
        rows.append(LengthBin(*ends, len(present), quartiles, each))
    return LengthProfile(signal, judged, explained, rows)


class Sample:
    """Some rows of a table in strata, with their columns' ranks.

    Args:
        table: the columns.
        rows: which rows, `[rows]`; None for all.
        level: of the intervals that decide, besides those of 95 %.
        codes: each of these rows' stratum; None for a single one.
        orders: the columns' orders by value, shared by samples of the same rows.
    """

    def __init__(
        self,
        table: Table,
        rows: Rows | None,
        level: float,
        codes: Codes | None = None,
        orders: dict[str, Ints] | None = None,
    ) -> None:
        self.table, self._rows, self._level = table, rows, level
        self.orders = {} if orders is None else orders
        self.count = table.rows if rows is None else int(rows.sum())
        self._names, self.strata = _strata(np.zeros(self.count, np.int64) if codes is None else codes)
        self._ranked: dict[str, Ranked] = {}
        self._with_length: dict[Pair, Correlation | None] = {}

    def inside(self, codes: Codes) -> Sample:
        """The same rows in other strata."""
        return Sample(self.table, self._rows, self._level, codes, self.orders)

    def of(self, whole: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """The part of an array over the table's rows that belongs to these rows."""
        return whole if self._rows is None else whole[self._rows]

    def ranked(self, name: str) -> Ranked:
        """A column's ranks inside the strata."""
        if name not in self._ranked:
            values = self.of(self.table.values[name])
            if name not in self.orders:
                self.orders[name] = by_value(values)
            self._ranked[name] = Ranked(values, self.strata, self.orders[name])
        return self._ranked[name]

    def _pair(self, first: str, second: str) -> Correlation | None:
        if LENGTH not in (first, second):
            return correlate(self.ranked(first), self.ranked(second))
        if (first, second) not in self._with_length:
            self._with_length[first, second] = correlate(self.ranked(first), self.ranked(second))
        return self._with_length[first, second]

    def both(self, first: str, second: str, *, given_length: bool = False) -> tuple[Estimate, Estimate]:
        """Their correlation pooled over the strata, at 95 % and at the level of all looks together."""
        pair = self._pair(first, second)
        if given_length:
            pair = partial(pair, self._pair(first, LENGTH), self._pair(second, LENGTH))
        if pair is None:
            return (Estimate(None, None, None, self.count),) * 2
        return pair.estimate(), pair.estimate(level=self._level)

    def each(self, first: str, second: str) -> dict[int, Estimate]:
        """Their correlation inside each stratum, by its code."""
        inside = inside_each(self.ranked(first), self.ranked(second))
        return dict(zip(self._names, inside, strict=True))


def _strata(codes: Codes) -> tuple[list[int], Strata]:
    """The strata that have rows, and the rows in these alone."""
    present = np.bincount(codes) > 0
    return np.flatnonzero(present).tolist(), Strata((np.cumsum(present) - 1)[codes])


def by_rows(table: Table, pairs: Iterable[Pair]) -> list[tuple[Rows | None, list[Pair]]]:
    """Pairs of columns by the rows that have both, None for all rows; in order of the first pair of each."""
    pairs, by_key = list(pairs), dict[bytes, tuple[Rows | None, list[Pair]]]()
    there = {name: ~np.isnan(table.values[name]) for name in {name for pair in pairs for name in pair}}
    for first, second in pairs:
        rows = there[first] & there[second]
        some = None if rows.all() else rows
        by_key.setdefault(np.packbits(rows).tobytes(), (some, []))[1].append((first, second))
    return list(by_key.values())


def length_bins(lengths: Floats, most: int = _MOST_BINS) -> Codes:
    """Each row's bin of like length, shortest first, `[rows]`: about equal counts of 50 rows at least.

    Rows of one length stay together.
    """
    count = max(1, min(most, len(lengths) // _BIN_ROWS))
    if count == 1:
        return np.zeros(len(lengths), np.int64)
    return _strata(even_bins(lengths, count))[1].codes


def length_bins_inside(lengths: Floats, groups: Strata) -> Codes:
    """Each row's bin of like length among the rows of its group, no two groups in one, `[rows]`."""
    order = np.argsort(groups.codes, kind="stable")
    ends = np.cumsum(groups.sizes)
    codes, before = np.empty(len(lengths), np.int64), 0
    for size, end in zip(groups.sizes.tolist(), ends.tolist(), strict=True):
        here = order[end - size : end]
        codes[here] = before + length_bins(lengths[here])
        before = int(codes[here].max()) + 1
    return codes
