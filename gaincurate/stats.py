"""Rank statistics in numpy: takes arrays, yields numbers. Knows nothing of prompts or scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def ranks(values: npt.ArrayLike) -> Floats:
    """Ranks from 0, ties at their mean; `values` is `[rows]`."""
    array = np.asarray(values)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: Floats = last - (counts + 1) / 2
    found: Floats = means[inverse]
    return found


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> float | None:
    """Spearman's rank correlation; None for fewer than three rows or a constant column."""
    a, b = ranks(first), ranks(second)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} rows")
    a, b = a - a.mean() if len(a) else a, b - b.mean() if len(b) else b
    scale = float(np.sqrt((a @ a) * (b @ b)))
    if len(a) < 3 or scale == 0.0:
        return None
    return float(a @ b) / scale


def even_bins(values: npt.ArrayLike, bins: int) -> npt.NDArray[np.int64]:
    """`[rows]`: which of `bins` bins of about equally many rows, lowest first; equal values are in one bin.

    A bin may be empty, where a value has more rows than a bin's share.
    """
    array = np.asarray(values)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    found: npt.NDArray[np.int64] = (middle * bins // max(len(array), 1)).astype(np.int64)[inverse]
    return found


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic with its 95 % interval over prompts.

    `value` is None where the statistic is not defined (a constant column, fewer than three rows); `low` and
    `high` are None where no interval can be given (fewer than ten rows). `rows` is how many rows it rests on.
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
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} rows")
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    a, b = first - first.mean(), second - second.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def brier(predicted: Floats, observed: Floats) -> float | None:
    """Mean squared difference; None without rows."""
    return float(np.mean((predicted - observed) ** 2)) if len(observed) else None


def reliability(predicted: Floats, observed: Floats, width: float = 0.2) -> list[Bin]:
    """Parts of [0, 1] of equal width by what was predicted; those without a prediction are left out."""
    bins = round(1 / width)
    places = np.minimum((predicted * bins).astype(int), bins - 1)
    return [
        Bin(
            place / bins,
            (place + 1) / bins,
            int(here.sum()),
            float(predicted[here].mean()),
            float(observed[here].mean()),
        )
        for place in range(bins)
        if (here := places == place).any()
    ]


def spearman_given(first: Floats, second: Floats, known: Floats) -> float | None:
    """Correlation of the ranks of two columns after a third's ranks have been taken out of both."""
    time = ranks(known)
    time = time - time.mean()
    left = []
    for values in (ranks(first), ranks(second)):
        centred = values - values.mean()
        left.append(centred - time * (centred @ time) / (time @ time))
    a, b = left
    scale = float(np.sqrt((a @ a) * (b @ b)))
    small = 1e-9 * len(time) ** 3  # what rounding leaves of a column that is the third one
    return float(a @ b) / scale if scale > small else None
