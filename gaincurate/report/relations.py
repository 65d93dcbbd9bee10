"""How signals go together with length, groups and targets.

A relation has three controls: the partial correlation given length, correlations inside bins of like
length, which assume nothing of the relation's form, and correlations inside groups. Two columns are
compared over the rows that have both, so pairs are put together by which rows those are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gaincurate.core.stats import (
    LEVEL,
    Correlation,
    Estimate,
    Floats,
    Ranked,
    Strata,
    between,
    correlate,
    even_bins,
    partial,
)
from gaincurate.report.document import GroupShare, Relation
from gaincurate.report.table import LENGTH, Table

TARGETS = ("difficulty", "pass-rate", "learnability")
Rows = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.integer]
Pair = tuple[str, str]
_Controls = tuple[Estimate, Estimate, Estimate, Estimate, Estimate]
_MOST_BINS, _BIN_ROWS = 20, 50


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
    """See `relate`. `level` is the confidence of each of `looks` intervals that decide, 95 % over all.

    `lengths` are the correlations of the signals with length, and `explained` the shares of their rank
    variance between bins of like length, both by name.
    """

    lengths: dict[str, Estimate]
    explained: dict[str, float | None]
    shares: list[GroupShare]
    judged: list[Judged]
    looks: int
    level: float


def relate(table: Table, apart: Collection[Pair] = ()) -> Relations:
    """Everything about how the signals go together with length, groups and targets.

    Args:
        table: with the observed pass rates.
        apart: pairs of a signal and a target that were made from one another, and say nothing.
    """
    signals, targets = table.names("signal"), table.names(*TARGETS)
    pairs = [(signal, target) for signal in signals for target in targets if (signal, target) not in apart]
    level = 1 - (1 - LEVEL) / max(1, len(pairs))
    lengths, explained, shares = dict[str, Estimate](), dict[str, float | None](), list[GroupShare]()
    bins = length_bins(table.values[LENGTH])
    for name in [column.name for column in table.columns]:
        sample = Sample(table, ~np.isnan(table.values[name]), level)
        if name in signals:
            lengths[name], _ = sample.both(name, LENGTH)
            explained[name] = between(sample.ranked(name), _strata(bins[sample.rows]))
        if table.groups is not None:
            shares.append(_share(sample, name, _strata(table.groups.codes[sample.rows])))
    made = {
        pair: judged
        for rows, some in by_rows(table, pairs)
        for pair, judged in _judge(table, rows, some, level)
    }
    return Relations(lengths, explained, shares, [made[pair] for pair in pairs], len(pairs), level)


def _share(sample: Sample, name: str, groups: Strata) -> GroupShare:
    """How much of a column's order is its group."""
    chance = (len(groups) - 1) / (sample.count - 1) if sample.count > 1 else None
    return GroupShare(name, len(groups), sample.count, between(sample.ranked(name), groups), chance)


def _judge(table: Table, rows: Rows, pairs: list[Pair], level: float) -> Iterator[tuple[Pair, Judged]]:
    """Pairs that have the same rows, with all of their controls."""
    lengths, groups = table.values[LENGTH][rows], table.groups
    over_all = _controls(Sample(table, rows, level), length_bins(lengths), pairs)
    inside = dict[Pair, _Controls]()
    if groups is not None:
        sample = Sample(table, rows, level, groups.codes[rows])
        inside = _controls(sample, length_bins_inside(lengths, sample.strata), pairs)
    whole = Sample(table, rows, level)
    for pair in pairs:
        overall, given, beyond, binned, in_bins = over_all[pair]
        within, given_inside, both = None, None, None
        if pair in inside:
            within, given_inside, beyond, both, in_bins = inside[pair]
        length, _ = whole.both(LENGTH, pair[1])
        relation = Relation(*pair, overall, given, binned, within, given_inside, both, length)
        yield pair, Judged(relation, beyond, in_bins)


def _controls(sample: Sample, bins: Codes, pairs: list[Pair]) -> dict[Pair, _Controls]:
    """The correlation, that given length at 95 % and at the level of all looks, and both in `bins`."""
    given = {pair: (sample.both(*pair)[0], *sample.both(*pair, given_length=True)) for pair in pairs}
    binned = Sample(sample.table, sample.rows, sample.level, bins)
    return {pair: (*given[pair], *binned.both(*pair)) for pair in pairs}


class Sample:
    """Some rows of a table in strata, with their columns' ranks.

    Args:
        table: the columns.
        rows: which rows, `[rows]`.
        level: of the intervals that decide, besides those of 95 %.
        codes: each of these rows' stratum; None for a single one.
    """

    def __init__(self, table: Table, rows: Rows, level: float, codes: Codes | None = None) -> None:
        self.table, self.rows, self.level = table, rows, level
        self.count = int(rows.sum())
        self.strata = _strata(np.zeros(self.count, np.int64) if codes is None else codes)
        self._ranked: dict[str, Ranked] = {}
        self._with_length: dict[str, Correlation | None] = {}

    def ranked(self, name: str) -> Ranked:
        """A column's ranks inside the strata."""
        if name not in self._ranked:
            self._ranked[name] = Ranked(self.table.values[name][self.rows], self.strata)
        return self._ranked[name]

    def both(self, first: str, second: str, *, given_length: bool = False) -> tuple[Estimate, Estimate]:
        """Their correlation pooled over the strata, at 95 % and at the level of all looks together."""
        pair = correlate(self.ranked(first), self.ranked(second))
        if given_length:
            pair = partial(pair, self._length(first), self._length(second))
        if pair is None:
            return (Estimate(None, None, None, self.count),) * 2
        return pair.estimate(), pair.estimate(level=self.level)

    def _length(self, name: str) -> Correlation | None:
        if name not in self._with_length:
            self._with_length[name] = correlate(self.ranked(name), self.ranked(LENGTH))
        return self._with_length[name]


def _strata(codes: Codes) -> Strata:
    """The rows in the strata that have rows."""
    present = np.bincount(codes) > 0
    return Strata((np.cumsum(present) - 1)[codes])


def by_rows(table: Table, pairs: Iterable[Pair]) -> list[tuple[Rows, list[Pair]]]:
    """Pairs of columns by the rows that have both; in order of the first pair of each."""
    by_key = dict[bytes, tuple[Rows, list[Pair]]]()
    for first, second in pairs:
        rows = ~(np.isnan(table.values[first]) | np.isnan(table.values[second]))
        by_key.setdefault(np.packbits(rows).tobytes(), (rows, []))[1].append((first, second))
    return list(by_key.values())


def length_bins(lengths: Floats, most: int = _MOST_BINS) -> Codes:
    """Each row's bin of like length, shortest first, `[rows]`: about equal counts of 50 rows at least.

    Rows of one length stay together.
    """
    count = max(1, min(most, len(lengths) // _BIN_ROWS))
    if count == 1:
        return np.zeros(len(lengths), np.int64)
    return _strata(even_bins(lengths, count)).codes


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
