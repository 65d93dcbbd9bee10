"""Rank correlations with intervals, over all rows or inside strata: takes columns, yields estimates.

Ranks are taken inside each stratum, ties at their mean, as fractions of its rows, and centred there. A pooled
correlation is Pearson's over these of all strata, so a stratum weighs by its rows (and not at all where a
column is constant in it). With one stratum it is Spearman's. Every figure is a function of such moments; a
row's influence on them includes that it moves the others' ranks. Time is that of sorting each column once and
of a few passes for each pair. Knows nothing of prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from gaincurate.report.intervals import LEVEL, bounds, estimate
from gaincurate.stats import Estimate, Floats

Ints = npt.NDArray[np.int32]
_NOTHING_LEFT = 1e-9  # of a rank variance, of which a control takes the rest: what remains is rounding


class Strata:
    """Rows in strata.

    Args:
        codes: each row's stratum from 0, `[rows]`; every number up to the largest has a row.
    """

    def __init__(self, codes: npt.NDArray[np.integer]) -> None:
        self.codes = codes.astype(np.int32)
        self.sizes = np.bincount(self.codes)

    @classmethod
    def one(cls, rows: int) -> Strata:
        """All rows in one."""
        return cls(np.zeros(rows, np.int32))

    def __len__(self) -> int:
        return len(self.sizes)

    def means(self, values: Floats) -> Floats:
        """Each stratum's mean, `[strata]`."""
        if len(self) == 1:
            return np.array([values.mean()])
        found: Floats = np.bincount(self.codes, values, len(self)) / self.sizes
        return found

    def spread(self, values: Floats) -> Floats:
        """Each stratum's value to each of its rows, `[rows]`."""
        return values[self.codes] if len(self) > 1 else np.broadcast_to(values, len(self.codes))


def by_value(values: Floats) -> Ints:
    """The rows by value, equal ones in their order."""
    return np.argsort(values, kind="stable").astype(np.int32)


class Ranked:
    """One column's ranks inside strata.

    Args:
        values: `[rows]`, finite.
        strata: of the same rows.
        order: the rows by value, where that is known already.
    """

    def __init__(self, values: Floats, strata: Strata, order: Ints | None = None) -> None:
        self.strata = strata
        order = by_value(values) if order is None else order
        if len(strata) > 1:
            # Sorting short integers is a pass over their digits.
            small = strata.codes.astype(np.uint16 if len(strata) < 1 << 16 else np.int32)
            order = order[np.argsort(small[order], kind="stable")]
        inside, codes = values[order], strata.codes[order]
        new = np.ones(len(values), bool)
        new[1:] = (inside[1:] != inside[:-1]) | (codes[1:] != codes[:-1])
        # Rows with equal values in one stratum stand at `ends[k]` to `ends[k + 1]` of the order.
        self._ends = np.append(np.flatnonzero(new), len(values))
        tie = np.empty(len(values), np.int32)
        tie[order] = np.cumsum(new, dtype=np.int32) - 1
        self._order, self._tie = order, tie
        begins = np.concatenate([[0], np.cumsum(strata.sizes)[:-1]])
        middle = (self._ends[:-1] + self._ends[1:]) / 2
        at = codes[self._ends[:-1]]
        self.scores: Floats = ((middle - begins[at]) / strata.sizes[at] - 0.5)[tie]

    @cached_property
    def variances(self) -> Floats:
        """Of the scores in each stratum, `[strata]`."""
        return self.strata.means(self.scores**2)

    @cached_property
    def variance(self) -> float:
        """Of the scores of all rows."""
        return float(np.mean(self.scores**2))

    @cached_property
    def own(self) -> Floats:
        """Each row's part in a stratum's variance: its square, and what it does to the others' ranks."""
        found = self.moved(self)
        found *= 2
        found += self.scores**2
        return found

    @cached_property
    def influence(self) -> Floats:
        """Each row's on half the logarithm of `variance`, which must not be 0."""
        return _centred(self.own, self.variances, self.variance, self.strata) / (2 * self.variance)

    def moved(self, other: Ranked) -> Floats:
        """What each row's value, by moving this column's ranks, adds to the mean product with `other`'s."""
        # Rows above gain a whole place, equal ones half. `other` sums to 0 over a stratum, so the sum over
        # what is above is minus the sum up to here, and sums begin at 0 in each stratum.
        sums = np.concatenate([[0.0], np.cumsum(other.scores[self._order])])
        ties = -(sums[self._ends[:-1]] + sums[self._ends[1:]]) / 2
        if len(self.strata) == 1:
            ties /= len(self._tie)
        found: Floats = ties[self._tie]
        if len(self.strata) > 1:
            found /= self.strata.sizes[self.strata.codes]
        return found


@dataclass(frozen=True, slots=True)
class Correlation:
    """A correlation and each row's influence on it, `[rows]`."""

    value: float
    influence: Floats
    strata: int

    def estimate(self, *, level: float = LEVEL) -> Estimate:
        """With its interval."""
        return estimate(self.value, self.influence, scale="fisher", level=level, spent=self.strata + 1)


def correlate(first: Ranked, second: Ranked) -> Correlation | None:
    """Pooled over strata; None for fewer than three rows or a column that is constant in every stratum."""
    strata, scale = first.strata, math.sqrt(first.variance * second.variance)
    if len(first.scores) < 3 or scale <= 0:
        return None
    product = _product(first, second)
    covariances = strata.means(product) / 3
    covariance = float(np.mean(product)) / 3
    value = _bounded(covariance / scale)
    influence = _centred(product, covariances, covariance, strata)
    influence /= scale
    influence -= value * (first.influence + second.influence)
    return Correlation(value, influence, len(strata))


def _product(first: Ranked, second: Ranked) -> Floats:
    """Each row's part in the covariance; a stratum's mean of it is three times its covariance."""
    found = first.moved(second)
    found += second.moved(first)
    found += first.scores * second.scores
    return found


def _centred(parts: Floats, moments: Floats, pooled: float, strata: Strata) -> Floats:
    """Each row's influence on a moment that is pooled over strata; how many rows a stratum has varies too."""
    return parts - (strata.spread(2 * moments) + pooled)


def _bounded(value: float) -> float:
    """A correlation without what rounding adds at its ends."""
    return math.copysign(1.0, value) if abs(value) > 1 - 1e-12 else value


def partial(xy: Correlation | None, xz: Correlation | None, yz: Correlation | None) -> Correlation | None:
    """The correlation of x and y given z, of their ranks.

    None where x and y have none, or where z leaves nothing of one of them. A constant z takes nothing.
    """
    if xy is None or xz is None or yz is None:
        return xy
    left_x, left_y = 1 - xz.value**2, 1 - yz.value**2
    if left_x < _NOTHING_LEFT or left_y < _NOTHING_LEFT:
        return None
    scale = math.sqrt(left_x * left_y)
    value = (xy.value - xz.value * yz.value) / scale
    influence = (
        xy.influence / scale
        + (value * xz.value / left_x - yz.value / scale) * xz.influence
        + (value * yz.value / left_y - xz.value / scale) * yz.influence
    )
    return Correlation(_bounded(value), influence, xy.strata + 1)


def inside_each(first: Ranked, second: Ranked) -> list[Estimate]:
    """Spearman's correlation in each stratum, `[strata]`."""
    strata = first.strata
    a, b = first.variances, second.variances
    product = _product(first, second)
    covariances = strata.means(product) / 3
    defined = (strata.sizes >= 3) & (a > 0) & (b > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where(defined, covariances / np.sqrt(a * b), 0.0)
        influence = (
            (product - strata.spread(3 * covariances)) / strata.spread(np.sqrt(a * b))
            - strata.spread(values / 2 / a) * (first.own - strata.spread(3 * a))
            - strata.spread(values / 2 / b) * (second.own - strata.spread(3 * b))
        )
    errors = np.sqrt(strata.means(influence**2) / np.maximum(strata.sizes - 2, 1))
    return [
        _one(_bounded(float(values[k])) if defined[k] else None, float(errors[k]), int(rows))
        for k, rows in enumerate(strata.sizes)
    ]


def _one(value: float | None, error: float, rows: int) -> Estimate:
    if value is None or rows < 10:
        return Estimate(value, None, None, rows)
    return Estimate(value, *bounds(value, error, scale="fisher", freedom=rows - 2), rows)


def between(column: Ranked, groups: Strata) -> float | None:
    """Eta squared of the ranks of a column over all rows: the share of their variance between `groups`.

    None for a constant column, for fewer than three rows, and where all are in one group.
    """
    total = float(column.variances[0])
    if total <= 0 or len(column.scores) < 3 or len(groups) < 2:
        return None
    means = groups.means(column.scores)
    return float((groups.sizes / len(column.scores)) @ means**2) / total
