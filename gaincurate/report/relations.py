"""Correlations of signals with length, groups and targets, and the p (1 - p) of batches selected by them.

A relation has three controls: the partial correlation given length, correlations inside bins of similar
length, which assume no form of the relation, and correlations inside groups. Two columns are compared over
the rows that have both, so pairs with the same rows are computed together.

A batch selected by a column is measured by its mean p (1 - p), which GRPO learns from, and not by its mean
pass rate.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from gaincurate.core import stats
from gaincurate.core.stats import Correlation, Estimate, Floats, Ranked, Strata, correlate
from gaincurate.report.document import ENDS, GroupShare, Lift, Relation
from gaincurate.report.table import LENGTH, NumericTable

TARGETS = ("difficulty", "pass-rate", "learnability")
Rows = npt.NDArray[np.bool_]
Pair = tuple[str, str]
Twice = tuple[Estimate, Estimate]
"""A correlation with its 95 % interval, and with the interval that holds for all looks together."""
_MOST_BINS, _BIN_ROWS = 20, 50
SHARE = 0.1  # of the prompts, in a batch
_NEAR = 0.25  # of the batch: rows to either side of its border that give the mean there


@dataclass(frozen=True, slots=True)
class Judged:
    """A relation, and the correlations that decide its verdict, with intervals for all looks together."""

    relation: Relation
    beyond: Estimate  # the correlation given length, inside groups where there are any
    in_bins: Estimate  # the one inside bins of similar length, of each group where there are any


@dataclass(frozen=True, slots=True)
class SignalEvidence:
    """The statistics of one signal that its verdict is based on."""

    signal: str
    rows: int  # that have it
    constant: bool  # whether they have one value
    length: Estimate  # its correlation with length
    explained: float | None  # share of its rank variance between bins of similar length, 0 to 1
    share: GroupShare | None  # the same between groups
    judged: Sequence[Judged]  # its relations with targets
    lifts: Sequence[Lift]  # of it and of length
    looks: int = 1  # pairs of a signal and a target that are judged
    level: float = stats.LEVEL  # confidence of each interval, 95 % over all looks


Relations = tuple[list[SignalEvidence], list[GroupShare], list[Relation], list[Lift]]


def relate(table: NumericTable, apart: Collection[Pair] = ()) -> Relations:
    """The evidence for each signal, and the shares, relations and lifts of the document.

    A signal is judged by its relations with pass rates if there are any, else by those with levels. Pairs in
    `apart` are left out: a signal and a target of which one was made from the other.
    """
    signals, targets = table.names("signal"), table.names(*TARGETS)
    deciding = table.names("pass-rate", "learnability") or targets
    pairs = [(signal, target) for signal in signals for target in targets if (signal, target) not in apart]
    level = 1 - (1 - stats.LEVEL) / max(1, len(pairs))
    by_rows = dict[bytes, tuple[Rows, list[Pair]]]()
    for first, second in pairs:
        rows = ~(np.isnan(table.values[first]) | np.isnan(table.values[second]))
        by_rows.setdefault(np.packbits(rows).tobytes(), (rows, []))[1].append((first, second))
    made = dict[Pair, Judged]()
    for rows, alike in by_rows.values():
        made.update(_judge(table, rows, alike, level))
    batches, shares, evidence = lifts(table), list[GroupShare](), list[SignalEvidence]()
    lengths = table.values[LENGTH]
    bins = length_bins(lengths, Strata.one(table.rows)).codes
    for name, values in table.values.items():
        rows = ~np.isnan(values)
        whole = Strata.one(int(rows.sum()))
        count, ranked = len(whole.codes), Ranked(values[rows], whole)
        if table.groups is not None:
            groups = _strata(table.groups.codes[rows])
            chance = (len(groups) - 1) / (count - 1) if count > 1 else None
            shares.append(GroupShare(name, len(groups), count, stats.between(ranked, groups), chance))
        if name in signals:
            by = [target for target in deciding if (name, target) in made]
            evidence.append(
                SignalEvidence(
                    signal=name,
                    rows=count,
                    constant=bool(np.ptp(values[rows]) == 0),
                    length=_twice(correlate(ranked, Ranked(lengths[rows], whole)), count, level)[0],
                    explained=stats.between(ranked, _strata(bins[rows])),
                    share=shares[-1] if shares else None,
                    judged=[made[name, target] for target in by],
                    lifts=[lift for lift in batches if lift.column in (name, LENGTH) and lift.target in by],
                    looks=len(pairs),
                    level=level,
                )
            )
    return evidence, shares, [made[pair].relation for pair in pairs], batches


def _judge(table: NumericTable, rows: Rows, pairs: list[Pair], level: float) -> Iterator[tuple[Pair, Judged]]:
    """The relations of pairs that have the same rows, with all controls."""
    count = int(rows.sum())
    lengths, whole = table.values[LENGTH][rows], Strata.one(count)
    groups = None if table.groups is None else _strata(table.groups.codes[rows])

    def inside(strata: Strata | None, *more: Pair) -> dict[Pair, tuple[Twice, Twice]]:
        """The correlation of each pair, pooled over strata, and the same given length.

        Ranks and influences take much memory, so they are not kept.
        """
        if strata is None:
            return {}
        names = {LENGTH, *(name for pair in (*pairs, *more) for name in pair)}
        ranked = {name: Ranked(table.values[name][rows], strata) for name in names}
        by_length = {name: correlate(ranked[name], ranked[LENGTH]) for name in names}
        estimates = dict[Pair, tuple[Twice, Twice]]()
        for first, second in (*pairs, *more):
            pair = correlate(ranked[first], ranked[second])
            given = stats.partial(pair, by_length[first], by_length[second])
            estimates[first, second] = _twice(pair, count, level), _twice(given, count, level)
        return estimates

    overall = inside(whole, *((LENGTH, target) for _, target in pairs))
    binned, grouped = inside(length_bins(lengths, whole)), inside(groups)
    in_both = inside(None if groups is None else length_bins(lengths, groups))
    for pair in pairs:
        (plain, given), (in_bins, _), within = overall[pair], binned[pair], grouped.get(pair)
        beyond, deciding_bins = (given, in_bins) if within is None else (within[1], in_both[pair][0])
        relation = Relation(
            *pair,
            overall=plain[0],
            given_length=given[0],
            within_length_bins=in_bins[0],
            within_groups=None if within is None else within[0][0],
            given_length_within_groups=None if within is None else beyond[0],
            within_length_bins_and_groups=None if within is None else deciding_bins[0],
            length=overall[LENGTH, pair[1]][0][0],
        )
        yield pair, Judged(relation, beyond[1], deciding_bins[1])


def _twice(pair: Correlation | None, rows: int, level: float) -> Twice:
    if pair is None:
        return (Estimate(None, None, None, rows),) * 2
    return pair.estimate(), pair.estimate(level=level)


def _strata(codes: npt.NDArray[np.integer]) -> Strata:
    """The strata of rows with these codes, numbered without gaps."""
    present = np.bincount(codes) > 0
    return Strata((np.cumsum(present) - 1)[codes])


def length_bins(lengths: Floats, groups: Strata) -> Strata:
    """Bins of similar length inside each group.

    Bins have about equal counts, of 50 rows or more if the group has them. Equal lengths share a bin.
    """
    order = np.argsort(groups.codes, kind="stable")
    codes, before = np.zeros(len(lengths), np.int64), 0
    for here in np.split(order, np.cumsum(groups.sizes)[:-1]):
        count = max(1, min(_MOST_BINS, len(here) // _BIN_ROWS))
        bins = _strata(stats.even_bins(lengths[here], count))
        codes[here] = before + bins.codes
        before += len(bins)
    return Strata(codes)


def lifts(table: NumericTable) -> list[Lift]:
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
    picked = max(1, round(rows * share))
    if rows < 10 or np.ptp(values) == 0 or (overall := float(outcome.mean())) <= 0:
        return Estimate(None, None, None, min(picked, rows))
    border = np.partition(values, rows - picked)[rows - picked]
    weights = (values > border).astype(float)
    equal = values == border
    weights[equal] = (picked - weights.sum()) / equal.sum()
    part = picked / rows
    # The border moves with the rows too: one more row above it pushes out a row like those around it.
    reach = max(1, round(picked * _NEAR))
    low, high = max(0, rows - picked - reach), min(rows - 1, rows - picked + reach)
    ends = np.partition(values, (low, high))[[low, high]]
    at_border = float(outcome[(values >= ends[0]) & (values <= ends[1])].mean())
    above = (weights * (outcome - at_border) - np.mean(weights * (outcome - at_border))) / part
    ratio = float(np.mean(weights * outcome)) / part / overall
    influence = above / overall - ratio * (outcome - overall) / overall
    if picked < 10 or stats.differing(outcome) < stats.DIFFERING:
        return Estimate(ratio, None, None, picked)
    return replace(stats.estimate(ratio, influence, scale="log", spent=2), rows=picked)
