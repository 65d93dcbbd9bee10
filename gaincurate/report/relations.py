"""How signals go together with length, groups and targets, and what batches by them would carry.

A relation has three controls: the partial correlation given length, correlations inside bins of like
length, which assume nothing of the relation's form, and correlations inside groups. Two columns are
compared over the rows that have both, so pairs are put together by which rows those are.

A batch selected by a column is measured by its mean p (1 - p), which is what GRPO learns from, and not by its
mean pass rate.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gaincurate.core.stats import (
    DIFFERING,
    LEVEL,
    Correlation,
    Estimate,
    Floats,
    Ranked,
    Strata,
    between,
    correlate,
    differing,
    estimate,
    even_bins,
    partial,
)
from gaincurate.report.document import ENDS, GroupShare, Lift, Relation
from gaincurate.report.table import LENGTH, Table

TARGETS = ("difficulty", "pass-rate", "learnability")
Rows = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.integer]
Pair = tuple[str, str]
_Twice = tuple[Estimate, Estimate]
"""A correlation at 95 %, and at the level of all looks together."""
_MOST_BINS, _BIN_ROWS = 20, 50
SHARE = 0.1  # of the prompts, in a batch
_NEAR = 0.25  # of the batch: how far around its border the mean there is taken


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
class Evidence:
    """All that is known of one signal.

    Attributes:
        signal: its name.
        rows: that have it; `constant` if they have one value.
        length: its correlation with length.
        explained: its rank variance between bins of like length, 0 to 1.
        share: that between groups.
        judged: its relations with targets.
        lifts: of it and of length.
    """

    signal: str
    rows: int
    constant: bool
    length: Estimate
    explained: float | None
    share: GroupShare | None
    judged: Sequence[Judged]
    lifts: Sequence[Lift]


@dataclass(frozen=True, slots=True)
class Relations:
    """See `relate`. `level` is the confidence of each of `looks` intervals that decide, 95 % over all."""

    evidence: list[Evidence]
    shares: list[GroupShare]
    relations: list[Relation]
    lifts: list[Lift]
    looks: int
    level: float


def relate(table: Table, apart: Collection[Pair] = ()) -> Relations:
    """Everything about how the signals go together with length, groups and targets.

    A signal is judged by its relations with pass rates where there are any, else by those with levels.

    Args:
        table: with the observed pass rates.
        apart: pairs of a signal and a target that were made from one another, and say nothing.
    """
    signals, targets = table.names("signal"), table.names(*TARGETS)
    deciding = table.names("pass-rate", "learnability") or targets
    pairs = [(signal, target) for signal in signals for target in targets if (signal, target) not in apart]
    level = 1 - (1 - LEVEL) / max(1, len(pairs))
    made = {
        pair: judged
        for rows, some in by_rows(table, pairs)
        for pair, judged in _judge(table, rows, some, level)
    }
    batches, shares, evidence = lifts(table), list[GroupShare](), list[Evidence]()
    bins = length_bins(table.values[LENGTH], Strata.one(table.rows))
    for name in [column.name for column in table.columns]:
        rows = ~np.isnan(table.values[name])
        sample = Sample(table, rows, level, np.zeros(int(rows.sum()), np.int64))
        if table.groups is not None:
            groups = _strata(table.groups.codes[rows])
            chance = (len(groups) - 1) / (sample.count - 1) if sample.count > 1 else None
            explains = between(sample.ranked(name), groups)
            shares.append(GroupShare(name, len(groups), sample.count, explains, chance))
        if name in signals:
            by = [target for target in deciding if (name, target) in made]
            evidence.append(
                Evidence(
                    signal=name,
                    rows=sample.count,
                    constant=bool(np.ptp(table.values[name][rows]) == 0),
                    length=sample.both(name, LENGTH)[0],
                    explained=between(sample.ranked(name), _strata(bins[rows])),
                    share=shares[-1] if shares else None,
                    judged=[made[name, target] for target in targets if target in by],
                    lifts=[lift for lift in batches if lift.column in (name, LENGTH) and lift.target in by],
                )
            )
    return Relations(evidence, shares, [made[p].relation for p in pairs], batches, len(pairs), level)


def _judge(table: Table, rows: Rows, pairs: list[Pair], level: float) -> Iterator[tuple[Pair, Judged]]:
    """Pairs that have the same rows, with all of their controls."""
    lengths, strata = table.values[LENGTH][rows], Strata.one(int(rows.sum()))

    def correlations(codes: Codes) -> tuple[list[_Twice], list[_Twice]]:
        """Of each pair inside strata, also given length. The ranks are forgotten, which take much memory."""
        sample = Sample(table, rows, level, codes)
        given = [sample.both(*pair, given_length=True) for pair in pairs]
        return [sample.both(*pair) for pair in pairs], given

    overall, given = correlations(strata.codes)
    binned, _ = correlations(length_bins(lengths, strata))
    beyond, in_bins, inside = given, binned, None
    if table.groups is not None:
        groups = _strata(table.groups.codes[rows])
        inside, beyond = correlations(groups.codes)
        in_bins, _ = correlations(length_bins(lengths, groups))
    whole = Sample(table, rows, level, strata.codes)
    for k, pair in enumerate(pairs):
        relation = Relation(
            *pair,
            overall=overall[k][0],
            given_length=given[k][0],
            within_length_bins=binned[k][0],
            within_groups=None if inside is None else inside[k][0],
            given_length_within_groups=None if inside is None else beyond[k][0],
            within_length_bins_and_groups=None if inside is None else in_bins[k][0],
            length=whole.both(LENGTH, pair[1])[0],
        )
        yield pair, Judged(relation, beyond[k][1], in_bins[k][1])


class Sample:
    """Some rows of a table in strata, with their columns' ranks.

    Args:
        table: the columns.
        rows: which rows, `[rows]`.
        level: of the intervals that decide, besides those of 95 %.
        codes: each of these rows' stratum.
    """

    def __init__(self, table: Table, rows: Rows, level: float, codes: Codes) -> None:
        self.table, self.rows, self.level = table, rows, level
        self.count, self.strata = len(codes), _strata(codes)
        self._ranked: dict[str, Ranked] = {}
        self._with_length: dict[str, Correlation | None] = {}

    def ranked(self, name: str) -> Ranked:
        """A column's ranks inside the strata."""
        if name not in self._ranked:
            self._ranked[name] = Ranked(self.table.values[name][self.rows], self.strata)
        return self._ranked[name]

    def both(self, first: str, second: str, *, given_length: bool = False) -> _Twice:
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


def length_bins(lengths: Floats, groups: Strata) -> Codes:
    """Each row's bin of like length among the rows of its group, no two groups in one, `[rows]`.

    Bins have about equal counts, of 50 rows at least, and rows of one length stay together.
    """
    order = np.argsort(groups.codes, kind="stable")
    codes, before = np.zeros(len(lengths), np.int64), 0
    for here in np.split(order, np.cumsum(groups.sizes)[:-1]):
        count = max(1, min(_MOST_BINS, len(here) // _BIN_ROWS))
        bins = _strata(even_bins(lengths[here], count))
        codes[here] = before + bins.codes
        before += len(bins)
    return codes


def lifts(table: Table) -> list[Lift]:
    """The ends and the middle of each signal and of length, for each column of p (1 - p)."""
    measured = []
    for target in table.names("learnability"):
        for column in [*table.names("signal"), LENGTH]:
            values, outcome = table.values[column], table.values[target]
            both = ~(np.isnan(values) | np.isnan(outcome))
            for end in ENDS:
                ratio = lift(towards(values[both], end), outcome[both])
                measured.append(Lift(column, target, end, SHARE, ratio))
    return measured


def towards(values: Floats, end: str) -> Floats:
    """Values that are highest where `end` is."""
    if end == "middle" and len(values):
        return -np.abs(Ranked(values, Strata.one(len(values))).scores)
    return -values if end == "lowest" else values


def lift(values: Floats, outcome: Floats, share: float = SHARE) -> Estimate:
    """Mean `outcome` over the `share` of rows with the highest values, over its mean over all rows.

    Rows with the value at the border count in part. `rows` of the estimate are those that were picked.
    """
    rows = len(values)
    overall = float(outcome.mean()) if rows else 0.0
    picked = max(1, round(rows * share))
    if rows < 10 or overall <= 0 or np.ptp(values) == 0:
        return Estimate(None, None, None, min(picked, rows))
    border = np.partition(values, rows - picked)[rows - picked]
    weights = (values > border).astype(float)
    equal = values == border
    weights[equal] = (picked - weights.sum()) / equal.sum()
    part = picked / rows
    top = float(np.mean(weights * outcome)) / part
    # The border moves with the rows too: one more row above it pushes one like those at the border out.
    at_border = _near(values, outcome, picked)
    above = (weights * (outcome - at_border) - np.mean(weights * (outcome - at_border))) / part
    ratio = top / overall
    influence = above / overall - ratio * (outcome - overall) / overall
    interval = estimate(ratio, influence, scale="log", spent=2)
    if picked < 10 or differing(outcome) < DIFFERING:
        return Estimate(ratio, None, None, picked)
    return Estimate(interval.value, interval.low, interval.high, picked)


def _near(values: Floats, outcome: Floats, picked: int) -> float:
    """The mean outcome around the border, all rows with the border's values included."""
    reach = max(1, round(picked * _NEAR))
    low, high = max(0, len(values) - picked - reach), min(len(values) - 1, len(values) - picked + reach)
    ends = np.partition(values, (low, high))[[low, high]]
    return float(outcome[(values >= ends[0]) & (values <= ends[1])].mean())
