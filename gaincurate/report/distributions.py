"""How a column is spread: its quantiles, its histogram, and counts of it against question length.

Bins span the middle of a column, because one far value would leave all others in one bin. What lies beyond
is counted beside them, and the number of bins does not depend on the number of rows.
"""

from __future__ import annotations

import numpy as np

from gaincurate.core.stats import Estimate, Floats
from gaincurate.report.document import QUANTILES, Band, Distribution, Histogram, Scatter

BINS = 40
SCATTER_BINS = 32
_TAIL = 0.002  # of the rows to either side may lie beyond the bins
_FAR = 1.5  # times the middle's width: a column that is wider than that has far tails
_LEAST = 10  # rows of a band


def distribution(column: str, values: Floats) -> Distribution:
    """One column's, `[rows]`, NaN where it has no value."""
    present = np.sort(values[~np.isnan(values)])
    missing = len(values) - len(present)
    if not len(present):
        return Distribution(column, 0, missing, 0, None, [], Histogram([], [], 0, 0))
    distinct = int(np.count_nonzero(np.diff(present))) + 1
    quantiles = np.quantile(present, QUANTILES).tolist()
    return Distribution(
        column,
        len(present),
        missing,
        distinct,
        float(present.mean()),
        quantiles,
        histogram(present, distinct),
    )


def histogram(present: Floats, distinct: int) -> Histogram:
    """Of sorted values: a bin for each of few evenly spaced ones, else equal bins over the middle."""
    edges = _own_bins(present) if distinct <= BINS else None
    if edges is None:
        edges = np.linspace(*_middle(present), BINS + 1)
    counts, _ = np.histogram(present, edges)
    below, above = int(np.searchsorted(present, edges[0])), int((present > edges[-1]).sum())
    return Histogram(edges.tolist(), counts.tolist(), below, above)


def _own_bins(present: Floats) -> Floats | None:
    """Edges halfway between values that are a step apart, such as levels; None for others."""
    values = np.unique(present)
    if len(values) == 1:
        return np.array([values[0] - 0.5, values[0] + 0.5])
    step = float(np.diff(values).min())
    if values[-1] - values[0] > BINS * step:
        return None
    places = (values - values[0]) / step
    count = round(float(places[-1])) + 1
    if count > BINS or not np.allclose(places, np.round(places), atol=1e-6):
        return None
    edges: Floats = values[0] + step * (np.arange(count + 1) - 0.5)
    return edges


def _middle(present: Floats) -> tuple[float, float]:
    """Where bins begin and end: at the ends, unless a few rows lie far out."""
    low, high = np.quantile(present, [_TAIL, 1 - _TAIL])
    first, last = float(present[0]), float(present[-1])
    if last - first <= _FAR * (high - low) or high <= low:
        low, high = first, last
    if high <= low:
        return first - 0.5, first + 0.5
    return float(low), float(high)


def scatter(signal: str, values: Floats, lengths: Floats, correlation: Estimate) -> Scatter:
    """A signal against length, both `[rows]`; rows without a value are left out."""
    present = ~np.isnan(values)
    y, x = values[present], lengths[present]
    if not len(y):
        return Scatter(signal, [], [], [], 0, [], correlation)
    x_edges, y_edges = _log_edges(x), np.linspace(*_middle(np.sort(y)), SCATTER_BINS + 1)
    counts, _, _ = np.histogram2d(x, y, [x_edges, y_edges])
    column = np.clip(np.searchsorted(x_edges, x, side="right") - 1, -1, len(x_edges) - 1)
    column[x == x_edges[-1]] = len(x_edges) - 2
    bands = [_band(y[column == place]) for place in range(len(x_edges) - 1)]
    table = counts.astype(int).tolist()
    return Scatter(
        signal, x_edges.tolist(), y_edges.tolist(), table, len(y) - int(counts.sum()), bands, correlation
    )


def _log_edges(lengths: Floats) -> Floats:
    """Even on a log axis, with no bin narrower than one token."""
    low, high = _middle(np.sort(lengths))
    low, high = max(low, 0.5), max(high, 1.0)
    edges = np.geomspace(low, high, SCATTER_BINS + 1) if high > low else np.array([low - 0.5, low + 0.5])
    whole = np.unique(np.round(edges[1:-1]) + 0.5)
    inner = whole[(whole > low) & (whole < high)]
    return np.concatenate([[edges[0]], inner, [edges[-1]]])


def _band(values: Floats) -> Band:
    if len(values) < _LEAST:
        return Band(len(values), None, None, None)
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return Band(len(values), low, median, high)
