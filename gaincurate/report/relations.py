"""How columns go together: the matrix of correlations, and each signal against each target.

A relation has three controls: the partial correlation given length, correlations inside bins of like
length, which assume nothing of the relation's form, and correlations inside groups. Two columns are
compared over the rows that have both, so pairs are put together by which rows those are, and each column is
sorted once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

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
    work = _Work(table, length_bins(table.values[LENGTH]), frozenset(pairs), level)
    names = [column.name for column in table.columns]
    work.share(Sample(table, None, None, LENGTH), LENGTH, None)
    for rows, some in by_rows(table, combinations(names, 2)):
        work.overall(rows, some)
    for rows, some in by_rows(table, pairs):
        work.inside(rows, some)
    order = {pair: place for place, pair in enumerate(combinations(names, 2))}
    return Relations(
        [Cell(a, b, work.cells[a, b]) for a, b in sorted(work.cells, key=order.__getitem__)],
        [work.shares[name] for name in names if name in work.shares],
        [work.judged(pair) for pair in pairs],
        [work.profile(signal, targets) for signal in signals],
        len(pairs),
        level,
    )


class _Work:
    """Relations in the making, by pair: the fields of `Relation`, and what decides on it."""

    def __init__(self, table: Table, bins: Codes, pairs: frozenset[Pair], level: float) -> None:
        self._table, self._bins, self._level = table, bins, level
        self._bin_count = int(bins.max()) + 1 if len(bins) else 0
        self.cells: dict[Pair, Estimate] = {}
        self.shares: dict[str, GroupShare] = {}
        self._explained: dict[str, float | None] = {}
        without: dict[str, Any] = dict.fromkeys(_INSIDE_GROUPS) | {"groups": []}
        self._made = {pair: dict(without) for pair in pairs}

    def overall(self, rows: Rows | None, pairs: list[Pair]) -> None:
        """Over all rows that have both."""
        sample = Sample(self._table, rows, None, LENGTH)
        for first, second in pairs:
            self.cells[first, second] = overall = _estimate(sample.pair(first, second), sample)
            # A table's signals come before its length, and that before its targets.
            if (made := self._made.get((first, second))) is not None:
                made["overall"], made["length"] = overall, _estimate(sample.pair(LENGTH, second), sample)
                made["given_length"], made["beyond"] = self._both(sample.partial(first, second), sample)
            if LENGTH in (first, second):
                self.share(sample, second if first == LENGTH else first, rows)

    def _both(self, correlation: Correlation | None, sample: Sample) -> tuple[Estimate, Estimate]:
        """At 95 %, and at the level of all looks together."""
        return _estimate(correlation, sample), _estimate(correlation, sample, self._level)

    def share(self, sample: Sample, name: str, rows: Rows | None) -> None:
        """How much of a column's order is its length bin, and how much its group."""
        ranked, groups = sample.ranked(name), self._table.groups
        self._explained[name] = between(ranked, Sample(self._table, rows, self._bins, LENGTH).strata)
        if groups is not None:
            strata = Sample(self._table, rows, groups.codes, LENGTH).strata
            chance = (len(strata) - 1) / (sample.count - 1) if sample.count > 1 else None
            self.shares[name] = GroupShare(name, len(strata), sample.count, between(ranked, strata), chance)

    def inside(self, rows: Rows | None, pairs: list[Pair]) -> None:
        """Inside bins of like length, then inside groups; one at a time, for the memory of their ranks."""
        orders: dict[str, Ints] = {}
        lengths = self._table.values[LENGTH] if rows is None else self._table.values[LENGTH][rows]
        each = Sample(self._table, rows, self._bins, LENGTH, orders)
        for first, second in pairs:
            inside = inside_each(each.ranked(first), each.ranked(second))
            names = [] if each.names is None else each.names.tolist()
            self._made[first, second]["bins"] = dict(zip(names, inside, strict=False))
        if each.count < _ENOUGH:
            each = Sample(self._table, rows, self._spread(length_bins(lengths), rows), LENGTH, orders)
        self._pool(each, pairs, "within_length_bins")
        del each
        if self._table.groups is None:
            return
        groups = Sample(self._table, rows, self._table.groups.codes, LENGTH, orders)
        self._inside_groups(groups, pairs, self._table.groups.names)
        codes = self._spread(length_bins_inside(lengths, groups.strata), rows)
        del groups
        both = Sample(self._table, rows, codes, LENGTH, orders)
        self._pool(both, pairs, "within_length_bins_and_groups")

    def _spread(self, codes: Codes, rows: Rows | None) -> Codes:
        """Strata of some rows as strata of all, of which only these will be looked at."""
        if rows is None:
            return codes
        whole = np.zeros(self._table.rows, np.int64)
        whole[rows] = codes
        return whole

    def _pool(self, sample: Sample, pairs: list[Pair], field: str) -> None:
        """Correlations inside the sample's strata; the last ones pooled for a pair have every control."""
        for pair in pairs:
            made = self._made[pair]
            made[field], made["in_bins"] = self._both(sample.pair(*pair), sample)

    def _inside_groups(self, groups: Sample, pairs: list[Pair], all_names: list[str]) -> None:
        names = [] if groups.names is None else [all_names[k] for k in groups.names]
        for first, second in pairs:
            inside = inside_each(groups.ranked(first), groups.ranked(second))[:_MOST_GROUPS]
            made = self._made[first, second]
            made["groups"] = [GroupCorrelation(*pair) for pair in zip(names, inside, strict=False)]
            made["within_groups"] = _estimate(groups.pair(first, second), groups)
            given = self._both(groups.partial(first, second), groups)
            made["given_length_within_groups"], made["beyond"] = given

    def judged(self, pair: Pair) -> Judged:
        """One relation with all of its controls."""
        made = self._made[pair]
        fields = {name: value for name, value in made.items() if name not in ("beyond", "in_bins", "bins")}
        return Judged(Relation(*pair, **fields), made["beyond"], made["in_bins"])

    def profile(self, signal: str, targets: list[str]) -> LengthProfile:
        """A signal in the bins of all rows."""
        values, lengths = self._table.values[signal], self._table.values[LENGTH]
        judged = [target for target in targets if (signal, target) in self._made]
        bins, missing = [], Estimate(None, None, None, 0)
        for k in range(self._bin_count):
            here = self._bins == k
            present = values[here][~np.isnan(values[here])]
            quartiles = np.quantile(present, [0.25, 0.5, 0.75]).tolist() if len(present) else []
            ends = int(lengths[here].min()), int(lengths[here].max())
            each = [self._made[signal, target]["bins"].get(k, missing) for target in judged]
            bins.append(LengthBin(*ends, len(present), quartiles, each))
        return LengthProfile(signal, judged, self._explained.get(signal), bins)


def _estimate(correlation: Correlation | None, sample: Sample, level: float = LEVEL) -> Estimate:
    return (
        Estimate(None, None, None, sample.count) if correlation is None else correlation.estimate(level=level)
    )


class Sample:
    """Some rows of a table in strata, with their columns' ranks.

    Args:
        table: the columns.
        rows: which rows, `[rows]`; None for all.
        codes: each row's stratum, over all rows of the table; None for a single one.
        control: pairs with this column are kept, for partial correlations.
        orders: the columns' orders by value, kept from one sample of the same rows to the next.
    """

    def __init__(
        self,
        table: Table,
        rows: Rows | None,
        codes: Codes | None,
        control: str,
        orders: dict[str, Ints] | None = None,
    ) -> None:
        self._table, self._rows, self._control = table, rows, control
        self._orders = {} if orders is None else orders
        self.count = table.rows if rows is None else int(rows.sum())
        self.names, dense = _dense(codes if codes is None or rows is None else codes[rows])
        self.strata = Strata.one(self.count) if dense is None else Strata(dense)
        self._ranked: dict[str, Ranked] = {}
        self._pairs: dict[Pair, Correlation | None] = {}

    def ranked(self, name: str) -> Ranked:
        """A column's ranks inside the strata."""
        if name not in self._ranked:
            whole = self._table.values[name]
            values = whole if self._rows is None else whole[self._rows]
            if name not in self._orders:
                self._orders[name] = by_value(values)
            self._ranked[name] = Ranked(values, self.strata, self._orders[name])
        return self._ranked[name]

    def pair(self, first: str, second: str) -> Correlation | None:
        """Their correlation, pooled over the strata."""
        key = (first, second)
        if key in self._pairs:
            return self._pairs[key]
        correlation = correlate(self.ranked(first), self.ranked(second))
        if self._control in key:
            self._pairs[key] = correlation
        return correlation

    def partial(self, first: str, second: str) -> Correlation | None:
        """Their correlation given the control."""
        control = self._control
        return partial(self.pair(first, second), self.pair(first, control), self.pair(second, control))


def _dense(codes: Codes | None) -> tuple[Codes | None, Codes | None]:
    """The strata that have rows, and each row's place among them."""
    if codes is None or not len(codes):
        return None, None
    present = np.bincount(codes) > 0
    return np.flatnonzero(present), (np.cumsum(present) - 1)[codes]


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
    if not len(lengths) or count == 1:
        return np.zeros(len(lengths), np.int64)
    codes = even_bins(lengths, count)
    _, dense = _dense(codes)
    return codes if dense is None else dense


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
