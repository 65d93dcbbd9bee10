"""Shared statistics: ranks, correlations with intervals, and the quality of predictions.

Intervals need no resampling. A row's influence is the derivative of the statistic by that row's weight,
times the number of rows. Its mean square over the number of rows is the variance that a bootstrap over rows
tends to (the infinitesimal jackknife), so a million rows cost one pass.

Rank correlations are over all rows or within strata. Ranks are taken within each stratum, with ties at their
mean, as fractions of its rows, and centred. A pooled correlation is Pearson's over these ranks of all strata,
so the weight of a stratum is its number of rows, or 0 if a column is constant in it. With one stratum it is
Spearman's. The influence of a row includes its effect on the ranks of the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Scale = Literal["plain", "fisher", "log"]

LEVEL = 0.95
LEAST = 10  # rows; fewer have no interval
DIFFERING = 5  # rows without the commonest value; with fewer, many resamples would have none
_LARGEST_EXPONENT = 50.0  # e to it is 5e21, and an interval that wide says nothing
_NOTHING_LEFT = 1e-9  # of a rank variance, of which a control takes the rest: what remains is rounding


def ranks(values: npt.ArrayLike) -> Floats:
    """Ranks from 0, ties at their mean; `values` is `[rows]`."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    means: Floats = np.cumsum(counts) - (counts + 1) / 2
    by_row: Floats = means[inverse]
    return by_row


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> float | None:
    """Spearman's rank correlation; None for fewer than three rows or a constant column."""
    return pearson(ranks(first), ranks(second))


def even_bins(values: npt.ArrayLike, bins: int) -> npt.NDArray[np.int64]:
    """The bin of each row, `[rows]`, of `bins` of about equal size, lowest first; equal values share one."""
    middle = ranks(values) + 0.5
    return (middle * bins // max(len(middle), 1)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic over `rows` prompts with its 95 % interval.

    `value` is None if the statistic is not defined (a constant column, fewer than three rows); `low` and
    `high` are None if there is no interval (fewer than `LEAST` rows, or `DIFFERING` ones).
    """

    value: float | None
    low: float | None
    high: float | None
    rows: int


@dataclass(frozen=True, slots=True)
class Bin:
    """Predictions from `low` to `high`: how many, their mean and the mean of what was observed."""

    low: float
    high: float
    count: int
    predicted: float
    observed: float


def pearson(first: Floats, second: Floats) -> float | None:
    """Pearson's correlation; None for fewer than three rows or a constant column."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    a, b = first - first.mean(), second - second.mean()
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))  # rounding reaches beyond


def brier(predicted: Floats, observed: Floats) -> float | None:
    """Mean squared difference; None without rows."""
    return float(np.mean((predicted - observed) ** 2)) if len(observed) else None


def reliability(predicted: Floats, observed: Floats, width: float = 0.2) -> list[Bin]:
    """A reliability diagram: equal-width bins of the predictions in [0, 1], without empty ones."""
    bins = round(1 / width)
    places, reliabilities = np.minimum((predicted * bins).astype(int), bins - 1), []
    for place in np.unique(places).tolist():
        here = places == place
        means = float(predicted[here].mean()), float(observed[here].mean())
        reliabilities.append(Bin(place / bins, (place + 1) / bins, int(here.sum()), *means))
    return reliabilities


def spearman_given(first: Floats, second: Floats, control: Floats) -> float | None:
    """The partial rank correlation of two columns given a third.

    It is (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2)). None if one of the three is undefined, as for
    a constant column, or if the third column determines one of the others.
    """
    xy, xz, yz = spearman(first, second), spearman(first, control), spearman(second, control)
    if xy is None or xz is None or yz is None:
        return None
    left = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / math.sqrt(left) if left > _NOTHING_LEFT else None


def estimate(
    value: float | None,
    influence: Floats,
    *,
    scale: Scale = "plain",
    level: float = LEVEL,
    spent: int = 1,
) -> Estimate:
    """A statistic with its interval, by the influence of each row, `[rows]`, with mean 0.

    The interval is symmetric on the scale: "fisher" for correlations, "log" for ratios. `spent` is the number
    of degrees of freedom that strata and controls use. Fewer rows than `LEAST` have no interval.
    """
    rows = len(influence)
    if value is None or rows < LEAST or rows <= spent:
        return Estimate(value, None, None, rows)
    error = math.sqrt(float(np.square(influence).sum()) / rows / (rows - spent))
    low, high = bounds(value, error, scale=scale, level=level, freedom=rows - spent)
    return Estimate(value, low, high, rows)


def bounds(
    value: float, error: float, *, scale: Scale, level: float = LEVEL, freedom: int
) -> tuple[float, float]:
    """The interval of a statistic with this standard error."""
    reach = student(level, freedom) * error
    if scale == "fisher":
        room = 1 - value * value
        if room < 1e-12:
            return value, value
        centre = math.atanh(value)
        return math.tanh(centre - reach / room), math.tanh(centre + reach / room)
    if scale == "log" and value > 0 and reach / value < _LARGEST_EXPONENT:
        return value * math.exp(-reach / value), value * math.exp(reach / value)
    low = value - reach
    return max(0.0, low) if scale == "log" else low, value + reach  # plain, or too wide for the log scale


def student(level: float, freedom: int) -> float:
    """Student's quantile by its expansion in 1 / freedom, right to a percent from 8 degrees of freedom on."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2


def mean(values: Floats, *, level: float = LEVEL) -> Estimate:
    """The mean of `[rows]`."""
    if not len(values):
        return Estimate(None, None, None, 0)
    centre = float(np.mean(values))
    if differing(values) < DIFFERING:
        return Estimate(centre, None, None, len(values))
    return estimate(centre, values - centre, level=level)


def differing(values: Floats) -> int:
    """The number of values, `[rows]`, that differ from the commonest one."""
    return len(values) - int(np.unique(values, return_counts=True)[1].max(initial=0))


class Strata:
    """Rows in strata: the code of each row from 0, `[rows]`; every number up to the largest has a row."""

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
        by_stratum: Floats = np.bincount(self.codes, values, len(self)) / self.sizes
        return by_stratum


class Ranked:
    """The ranks of a column inside strata; `values` is `[rows]`, finite."""

    def __init__(self, values: Floats, strata: Strata) -> None:
        self.strata = strata
        order = np.lexsort((values, strata.codes)).astype(np.int32)  # by value inside each stratum
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
        self._codes = at = codes[self._ends[:-1]]
        self.scores: Floats = ((middle - begins[at]) / strata.sizes[at] - 0.5)[tie]
        largest = np.zeros(len(strata), np.int64)
        np.maximum.at(largest, at, np.diff(self._ends))
        self.differing = strata.sizes - largest  # rows that do not have their stratum's commonest, `[strata]`

    @cached_property
    def variances(self) -> Floats:
        """Of the scores in each stratum, `[strata]`."""
        return self.strata.means(self.scores**2)

    @cached_property
    def variance(self) -> float:
        """Of the scores of all rows."""
        return float(np.mean(self.scores**2))

    @cached_property
    def influence(self) -> Floats:
        """Each row's on half the logarithm of `variance`, which must not be 0."""
        parts = 2 * self.moved(self) + self.scores**2  # a row's own, and by the ranks of the others
        return _centred(parts, self.variances, self.variance, self.strata) / (2 * self.variance)

    def moved(self, other: Ranked) -> Floats:
        """The influence of each row on the mean product with `other`, by its effect on the ranks here."""
        # Rows above gain a whole place, equal ones half. `other` sums to 0 over a stratum, so the sum over
        # what is above is minus the sum up to here, and sums begin at 0 in each stratum.
        sums = np.concatenate([[0.0], np.cumsum(other.scores[self._order])])
        ties = -(sums[self._ends[:-1]] + sums[self._ends[1:]]) / 2 / self.strata.sizes[self._codes]
        added: Floats = ties[self._tie]
        return added


@dataclass(frozen=True, slots=True)
class Correlation:
    """A correlation, each row's influence on it, `[rows]`, and `differing` of the column that varies less."""

    value: float
    influence: Floats
    strata: int
    differing: int

    def estimate(self, *, level: float = LEVEL) -> Estimate:
        """With its interval."""
        if self.differing < DIFFERING:
            return Estimate(self.value, None, None, len(self.influence))
        return estimate(self.value, self.influence, scale="fisher", level=level, spent=self.strata + 1)


def correlate(first: Ranked, second: Ranked) -> Correlation | None:
    """Pooled over strata; None for fewer than three rows or a column that is constant in every stratum."""
    strata = first.strata
    if len(first.scores) < 3:
        return None
    scale = math.sqrt(first.variance * second.variance)
    if scale <= 0:
        return None
    # A stratum's mean of this product is three times its covariance.
    product = first.moved(second) + second.moved(first) + first.scores * second.scores
    covariance = float(np.mean(product)) / 3
    value = _bounded(covariance / scale)
    influence = _centred(product, strata.means(product) / 3, covariance, strata) / scale
    influence -= value * (first.influence + second.influence)
    return Correlation(value, influence, len(strata), int(min(first.differing.sum(), second.differing.sum())))


def _centred(parts: Floats, moments: Floats, pooled: float, strata: Strata) -> Floats:
    """Each row's influence on a moment that is pooled over strata, whose sizes vary too."""
    return parts - ((2 * moments)[strata.codes] + pooled)


def _bounded(value: float) -> float:
    """A correlation with rounding errors near -1 and 1 removed."""
    return math.copysign(1.0, value) if abs(value) > 1 - 1e-12 else value


def partial(xy: Correlation | None, xz: Correlation | None, yz: Correlation | None) -> Correlation | None:
    """The correlation of the ranks of x and y given z; that of x and y if z is constant.

    None if the correlation of x and y is undefined, or if z determines one of them.
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
    return Correlation(_bounded(value), influence, xy.strata + 1, xy.differing)


def between(column: Ranked, groups: Strata) -> float | None:
    """Eta squared of a column's ranks over all rows: the share of their variance between `groups`.

    None for a constant column, for fewer than three rows, and where all are in one group.
    """
    total = float(column.variances[0])
    if total <= 0 or len(column.scores) < 3 or len(groups) < 2:
        return None
    means = groups.means(column.scores)
    return float((groups.sizes / len(column.scores)) @ means**2) / total
