"""A signal without what length tells: takes two number columns, yields a third. Knows nothing of sets.

`residual` is what is left of the signal when its usual value at that length is taken off; `rank_in_bin` is
where it stands among prompts of about the same length. Values that are not there (NaN) stay so.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gaincurate.errors import InputError
from gaincurate.stats import Floats, even_bins, ranks

Ints = npt.NDArray[np.int64]
KNOTS = 5
_DEGREE = 3


def residual(signal: Floats, length: Floats) -> Floats:
    """What a signal is above its usual value at that length.

    The usual value is a cubic spline on log length, fitted by least squares, with five inner knots at
    quantiles of the distinct lengths (fewer where there are few). A spline and no isotonic fit, because a
    signal may rise with length and fall again.

    Args:
        signal: `[rows]`, NaN where there is none.
        length: `[rows]`, in tokens; NaN where there is none.

    Returns:
        `[rows]`, in the signal's unit; NaN where one of the two is missing.

    Raises:
        InputError: a length of zero or less, or scipy is not installed.
    """
    there = np.isfinite(signal) & np.isfinite(length)
    if (length[there] <= 0).any():
        raise InputError(
            f"a length of {length[there].min():g} has no logarithm; take --length-free rank-in-bin."
        )
    found = np.full(len(signal), np.nan)
    if there.any():
        distinct, inverse = np.unique(length[there], return_inverse=True)
        counts = np.bincount(inverse)
        means = np.bincount(inverse, signal[there]) / counts
        found[there] = signal[there] - _spline(np.log(distinct), means, counts)[inverse]
    return found


def _spline(x: Floats, means: Floats, counts: Ints) -> Floats:
    """The fit at each distinct length. Means weighted by their rows give the fit over all rows."""
    try:
        from scipy.interpolate import make_lsq_spline
    except ImportError as error:
        raise InputError(
            "a residual needs scipy: `pip install 'gaincurate[derive]'`. rank-in-bin does not."
        ) from error
    degree = min(_DEGREE, len(x) - 1)
    if degree < 1:
        return means
    inner = max(min(KNOTS, (len(x) - degree - 1) // 2), 0)
    knots = np.quantile(x, np.arange(1, inner + 1) / (inner + 1))
    ends = np.repeat(x[[0, -1]], degree + 1)
    t = np.concatenate([ends[: degree + 1], knots, ends[degree + 1 :]])
    fitted: Floats = make_lsq_spline(x, means, t, k=degree, w=np.sqrt(counts))(x)
    return fitted


def rank_in_bin(signal: Floats, length: Floats, bins: int) -> Floats:
    """Where a signal stands among the rows of its length bin: in (0, 1), evenly spread within each bin.

    Args:
        signal: `[rows]`, NaN where there is none.
        length: `[rows]`; NaN where there is none.
        bins: how many, of about equally many rows.

    Returns:
        `[rows]`: (rank + 1/2) / rows of the bin, rank from 0, ties at their mean; NaN where one is missing.

    Raises:
        InputError: fewer than one bin.
    """
    if bins < 1:
        raise InputError(f"--bins {bins}: at least one.")
    there = np.isfinite(signal) & np.isfinite(length)
    values, bin_of = signal[there], even_bins(length[there], bins)
    placed = np.empty(len(values))
    order = np.argsort(bin_of, kind="stable")
    begins = np.flatnonzero(np.diff(bin_of[order], prepend=-1))
    for rows in np.split(order, begins[1:]) if len(order) else []:
        placed[rows] = (ranks(values[rows]) + 0.5) / len(rows)
    found = np.full(len(signal), np.nan)
    found[there] = placed
    return found
