"""Counts against plain loops: nothing is lost, and nothing grows with the rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.core.stats import Estimate
from gaincurate.report.build import BINS, SCATTER_BINS, distribution, scatter
from gaincurate.report.document import QUANTILES

NONE = Estimate(None, None, None, 0)
values = st.lists(
    st.one_of(st.floats(-1e6, 1e6), st.integers(-3, 3).map(float), st.just(float("nan"))), max_size=80
)


@given(values)
def test_every_row_is_counted_once(drawn: list[float]) -> None:
    array = np.array(drawn, float)
    known = array[~np.isnan(array)]
    found = distribution("c", array)
    assert (found.rows, found.missing) == (len(known), len(array) - len(known))
    shown = found.histogram
    assert sum(shown.counts) + shown.below + shown.above == len(known)
    assert found.distinct == len(np.unique(known))
    assert len(shown.counts) <= BINS
    if len(known):
        assert shown.edges == sorted(shown.edges)
        assert shown.below == (known < shown.edges[0]).sum()
        assert shown.above == (known > shown.edges[-1]).sum()
        assert found.quantiles == pytest.approx(np.quantile(known, QUANTILES))
        assert found.mean == pytest.approx(known.mean())


def test_levels_have_a_bin_each_and_far_tails_are_counted_beside() -> None:
    levels = distribution("level", np.array([1.0, 1, 2, 5, 5, 5])).histogram
    assert levels.edges == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert levels.counts == [2, 1, 0, 0, 3]
    tailed = distribution("s", np.append(np.linspace(0, 1, 2000), 1e9)).histogram
    assert (tailed.edges[0], tailed.edges[-1]) == pytest.approx((0, 1), abs=0.01)
    assert tailed.above > 0
    flat = distribution("f", np.full(7, 3.0)).histogram
    assert (flat.edges, flat.counts) == ([2.5, 3.5], [7])


@given(st.lists(st.tuples(st.integers(1, 4000), st.floats(-10, 10) | st.just(float("nan"))), max_size=60))
def test_a_scatter_holds_every_row_in_its_bin(rows: list[tuple[int, float]]) -> None:
    lengths, signal = np.array(rows, float).reshape(-1, 2).T
    found = scatter("s", signal, lengths, NONE)
    known = ~np.isnan(signal)
    assert sum(map(sum, found.counts)) + found.outside == known.sum()
    if not known.any():
        return
    assert found.x_edges == sorted(found.x_edges)
    assert len(found.counts) == len(found.bands) == len(found.x_edges) - 1 <= SCATTER_BINS
    assert all(len(row) == len(found.y_edges) - 1 == SCATTER_BINS for row in found.counts)
    for place, (low, high) in enumerate(zip(found.x_edges[:-1], found.x_edges[1:], strict=True)):
        last = place == len(found.bands) - 1
        inside = known & (lengths >= low) & ((lengths <= high) if last else (lengths < high))
        band = found.bands[place]
        assert band.rows == inside.sum()
        assert (band.median is None) == (band.rows < 10)
        if band.median is not None:
            assert band.median == np.median(signal[inside])
