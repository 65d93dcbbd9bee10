"""Rank statistics in numpy: takes arrays, yields numbers. Knows nothing of prompts or scores."""

from __future__ import annotations

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
