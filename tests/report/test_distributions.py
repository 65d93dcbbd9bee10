"""Counts against plain loops: nothing is lost, and nothing grows with the rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.report.build import BINS, QUARTILES, SCATTER_BINS, distribution, scatter
from gaincurate.report.document import QUANTILES

values = st.lists(
    st.one_of(st.floats(-1e6, 1e6), st.integers(-3, 3).map(float), st.just(float("nan"))), max_size=80
)


@given(values, st.floats(-1e6, 1e6))
def test_every_row_is_counted_once(drawn: list[float], one: float) -> None:
    array = np.array([*drawn, one], float)
    known = array[~np.isnan(array)]
    found = distribution("c", array)
    assert (found.rows, found.missing) == (len(known), len(array) - len(known))
    assert sum(found.counts) == len(known)
    assert len(found.counts) == len(found.edges) - 1 == BINS
    assert found.edges == sorted(found.edges)
    inside = slice(1, -1)
    expected, _ = np.histogram(known, found.edges)
    assert found.counts[inside] == expected[inside].tolist()
    assert found.quantiles == pytest.approx(np.quantile(known, QUANTILES))


def test_far_tails_are_in_the_outer_bins() -> None:
    tailed = distribution("s", np.append(np.linspace(0, 1, 2000), 1e9))
    assert (tailed.edges[0], tailed.edges[-1]) == pytest.approx((0, 1), abs=0.01)
    assert sum(tailed.counts) == 2001


@given(st.lists(st.tuples(st.integers(1, 4000), st.floats(-10, 10) | st.just(float("nan"))), max_size=60))
def test_a_scatter_holds_every_row_in_its_bin(rows: list[tuple[int, float]]) -> None:
    lengths, signal = np.array([*rows, (7, 1.0)], float).T
    found = scatter("s", signal, lengths)
    known = ~np.isnan(signal)
    assert sum(map(sum, found.counts)) == known.sum()
    assert found.x_edges == sorted(found.x_edges)
    assert len(found.counts) == len(found.quartiles) == len(found.x_edges) - 1 <= SCATTER_BINS
    assert all(len(row) == len(found.y_edges) - 1 == SCATTER_BINS for row in found.counts)
    ends = [-np.inf, *found.x_edges[1:-1], np.inf]
    for low, high, counts, quartiles in zip(ends[:-1], ends[1:], found.counts, found.quartiles, strict=True):
        inside = known & (lengths >= low) & (lengths < high)
        assert sum(counts) == inside.sum()
        assert len(quartiles) == (3 if inside.sum() >= 10 else 0)
        if quartiles:
            assert quartiles == pytest.approx(np.quantile(signal[inside], QUARTILES))
