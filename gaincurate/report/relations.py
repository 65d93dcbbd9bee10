"""How columns go together: takes a table, yields the matrix and each signal against each target.

Three controls: the partial correlation given length; correlations inside bins of like length, which assume
nothing of the relation's form; and correlations inside groups. Knows nothing of what follows from them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from gaincurate.report.figures import Cell, GroupCorrelation, GroupShare, LengthBin, LengthProfile, Relation
from gaincurate.report.intervals import LEVEL
from gaincurate.report.ranked import Correlation, Ints, between, inside_each
from gaincurate.report.samples import Codes, Pair, Rows, Sample, by_rows, length_bins, length_bins_inside
from gaincurate.report.table import LENGTH, Table
from gaincurate.stats import Estimate

TARGETS = ("difficulty", "pass-rate", "learnability")
_MOST_GROUPS = 20
_ENOUGH = 1000  # rows of a relation, from which on the bins of all rows serve it


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
    """What was found so far, by pair."""

    def __init__(self, table: Table, bins: Codes, pairs: frozenset[Pair], level: float) -> None:
        self._table, self._bins, self._pairs, self._level = table, bins, pairs, level
        self._bin_count = int(bins.max()) + 1 if len(bins) else 0
        self.cells: dict[Pair, Estimate] = {}
        self.shares: dict[str, GroupShare] = {}
        self._explained: dict[str, float | None] = {}
        self._given: dict[Pair, tuple[Estimate, Estimate]] = {}
        self._length: dict[Pair, Estimate] = {}
        self._in_bins: dict[Pair, list[tuple[Estimate, Estimate]]] = {}
        self._each_bin: dict[Pair, list[Estimate]] = {}
        self._in_groups: dict[Pair, tuple[Estimate, Estimate, Estimate, list[GroupCorrelation]]] = {}

    def overall(self, rows: Rows | None, pairs: list[Pair]) -> None:
        """Over all rows that have both."""
        sample = Sample(self._table, rows, None, LENGTH)
        for first, second in pairs:
            found = sample.pair(first, second)
            self.cells[first, second] = _estimate(found, sample)
            # A table's signals come before its length, and that before its targets.
            if (first, second) in self._pairs:
                self._given[first, second] = self._both(sample.partial(first, second), sample)
                self._length[first, second] = _estimate(sample.pair(LENGTH, second), sample)
            if LENGTH in (first, second):
                self.share(sample, second if first == LENGTH else first, rows)

    def _both(self, found: Correlation | None, sample: Sample) -> tuple[Estimate, Estimate]:
        """At 95 %, and at the level of all looks together."""
        return _estimate(found, sample), _estimate(found, sample, self._level)

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
            self._each_bin[first, second] = self._by_bin(each, first, second)
        if each.count < _ENOUGH:
            each = Sample(self._table, rows, self._spread(length_bins(lengths), rows), LENGTH, orders)
        self._pool(each, pairs)
        del each
        if self._table.groups is None:
            return
        groups = Sample(self._table, rows, self._table.groups.codes, LENGTH, orders)
        self._inside_groups(groups, pairs)
        codes = self._spread(length_bins_inside(lengths, groups.strata), rows)
        del groups
        self._pool(Sample(self._table, rows, codes, LENGTH, orders), pairs)

    def _spread(self, codes: Codes, rows: Rows | None) -> Codes:
        """Strata of some rows as strata of all, of which only these will be looked at."""
        if rows is None:
            return codes
        found = np.zeros(self._table.rows, np.int64)
        found[rows] = codes
        return found

    def _pool(self, sample: Sample, pairs: list[Pair]) -> None:
        """Correlations inside the sample's strata; the last ones pooled for a pair have every control."""
        for first, second in pairs:
            found = self._both(sample.pair(first, second), sample)
            self._in_bins.setdefault((first, second), []).append(found)

    def _inside_groups(self, groups: Sample, pairs: list[Pair]) -> None:
        assert self._table.groups is not None
        names = [] if groups.names is None else [self._table.groups.names[k] for k in groups.names]
        for first, second in pairs:
            found = inside_each(groups.ranked(first), groups.ranked(second))[:_MOST_GROUPS]
            named = [GroupCorrelation(*one) for one in zip(names, found, strict=False)]
            plain = _estimate(groups.pair(first, second), groups)
            given, judged = self._both(groups.partial(first, second), groups)
            self._in_groups[first, second] = (plain, given, judged, named)

    def _by_bin(self, sample: Sample, first: str, second: str) -> list[Estimate]:
        found = [Estimate(None, None, None, 0)] * self._bin_count
        inside = inside_each(sample.ranked(first), sample.ranked(second))
        for k, one in zip([] if sample.names is None else sample.names.tolist(), inside, strict=False):
            found[k] = one
        return found

    def judged(self, pair: Pair) -> Judged:
        """One relation with all of its controls."""
        signal, target = pair
        given, beyond = self._given[pair]
        pooled = self._in_bins[pair]
        within, both, groups = None, None, list[GroupCorrelation]()
        if pair in self._in_groups:
            within, both, beyond, groups = self._in_groups[pair]
        relation = Relation(
            signal=signal,
            target=target,
            overall=self.cells[pair],
            given_length=given,
            within_length_bins=pooled[0][0],
            within_groups=within,
            given_length_within_groups=both,
            within_length_bins_and_groups=pooled[1][0] if len(pooled) > 1 else None,
            length=self._length[pair],
            groups=groups,
        )
        return Judged(relation, beyond, pooled[-1][1])

    def profile(self, signal: str, targets: list[str]) -> LengthProfile:
        """A signal in the bins of all rows."""
        values, lengths = self._table.values[signal], self._table.values[LENGTH]
        judged = [target for target in targets if (signal, target) in self._pairs]
        bins = []
        for k in range(self._bin_count):
            here = self._bins == k
            known = values[here][~np.isnan(values[here])]
            quartiles = np.quantile(known, [0.25, 0.5, 0.75]).tolist() if len(known) else []
            ends = int(lengths[here].min()), int(lengths[here].max())
            each = [self._each_bin[signal, target][k] for target in judged]
            bins.append(LengthBin(*ends, len(known), quartiles, each))
        return LengthProfile(signal, judged, self._explained.get(signal), bins)


def _estimate(found: Correlation | None, sample: Sample, level: float = LEVEL) -> Estimate:
    return Estimate(None, None, None, sample.count) if found is None else found.estimate(level=level)
