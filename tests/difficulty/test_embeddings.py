"""Whitening against other decompositions."""

from __future__ import annotations

import numpy as np
import pytest

from gaincurate.difficulty.embeddings import DIRECTIONS, evenly_spaced, whitening


def make_sample(rows: int, width: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    random = np.random.default_rng(0)
    scales = np.arange(1, width + 1) ** -1.0
    points = (random.normal(size=(rows, width)) * scales) @ random.normal(size=(width, width)) + 5
    return points.astype(np.float32)


def test_directions_that_are_not_there_are_not_made_up() -> None:
    flat = np.outer(np.arange(10), [1, 2, 3]).astype(np.float32)
    space = whitening(flat)
    assert space.directions is not None
    assert space.directions.shape == (3, 1)
    same = whitening(np.ones((5, 3), np.float32))
    assert same.directions is not None
    assert same.directions.shape == (3, 0)
    assert np.isfinite(same(np.ones((2, 3), np.float32))).all()


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("rows", "width"), [(400, 30), (60, 300)])  # more rows than width, and fewer
def test_cosines_are_those_of_an_svd(rows: int, width: int, exponent: float) -> None:
    random = np.random.default_rng(0)
    sample = (random.normal(size=(rows, width)) * random.uniform(0.1, 9, width)).astype(np.float32)
    space = whitening(sample, exponent=exponent)
    u, spread, _ = np.linalg.svd(sample - sample.mean(0, dtype=np.float64), full_matrices=False)
    keep = np.flatnonzero(spread > spread[0] * 1e-6)[:DIRECTIONS]
    scaled = u[:, keep] * spread[keep] ** (1 - exponent)
    scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
    exact, single = space(sample.astype(np.float64)), space(sample)
    np.testing.assert_allclose(exact @ exact.T, scaled @ scaled.T, atol=1e-9)
    np.testing.assert_allclose(single @ single.T, scaled @ scaled.T, atol=1e-4)
    assert exact.dtype == np.dtype(np.float64)
    assert single.dtype == np.dtype(np.float32)


@pytest.mark.parametrize(("rows", "most"), [(1, 5), (5, 5), (6, 5), (10_007, 1024)])
def test_evenly_spaced_places_are_distinct_and_reach_both_ends(rows: int, most: int) -> None:
    places = evenly_spaced(rows, most)
    assert len(places) == min(rows, most)
    assert (places[0], places[-1]) == (0, rows - 1)
    assert len(set(np.diff(places).tolist())) <= 2
