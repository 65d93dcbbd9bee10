"""Counts against plain loops: nothing is lost, and nothing grows with the rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.report.build import BINS, QUARTILES, scatter


@given(st.lists(st.tuples(st.integers(1, 4000), st.floats(-10, 10) | st.just(float("nan"))), max_size=60))
def test_a_scatter_holds_every_row_in_its_bin(rows: list[tuple[int, float]]) -> None:
    lengths, signal = np.array([*rows, (7, 1.0)], float).T
    found = scatter("s", signal, lengths)
    known = ~np.isnan(signal)
    assert sum(map(sum, found.counts)) == known.sum()
    assert found.x_edges == sorted(found.x_edges)
    assert len(found.counts) == len(found.quartiles) == len(found.x_edges) - 1 <= BINS
    assert all(len(row) == len(found.y_edges) - 1 == BINS for row in found.counts)
    ends = [-np.inf, *found.x_edges[1:-1], np.inf]
    for low, high, counts, quartiles in zip(ends[:-1], ends[1:], found.counts, found.quartiles, strict=True):
        inside = known & (lengths >= low) & (lengths < high)
        assert sum(counts) == inside.sum()
        assert len(quartiles) == (3 if inside.sum() >= 10 else 0)
        if quartiles:
            assert quartiles == pytest.approx(np.quantile(signal[inside], QUARTILES))
