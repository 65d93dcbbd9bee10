from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gaincurate.difficulty.local_engine import nucleus


def plain(chances: NDArray[np.float64], top_p: float) -> NDArray[np.float64]:
    """One token after the other, the most probable first, of equal ones the first."""
    kept, mass = np.zeros_like(chances), 0.0
    for token in np.argsort(-chances, kind="stable"):
        if mass >= top_p:
            break
        kept[token] = chances[token]
        mass += chances[token]
    return kept


@given(
    st.lists(st.lists(st.integers(0, 8), min_size=7, max_size=7).filter(any), min_size=1, max_size=4),
    st.sampled_from([0.05, 0.3, 0.5, 0.8, 0.95, 0.999]),
)
def test_the_nucleus_is_the_smallest_set_also_among_equals(counts: list[list[int]], top_p: float) -> None:
    chances = np.array(counts, float)
    chances /= chances.sum(1, keepdims=True)
    # Sums of these are not exact: keep away from masses that rounding could put on either side.
    expected = np.stack([plain(row, top_p + 1e-9) for row in chances])
    assert nucleus(torch.from_numpy(chances), top_p + 1e-9).numpy() == pytest.approx(expected, abs=0)


@pytest.mark.parametrize("spread", [0.01, 3.0])
def test_a_nucleus_wider_than_the_likely_tokens_is_whole(spread: float) -> None:
    """Nearly equal logits: the nucleus has thousands of tokens. Steep ones: a few."""
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 5000))) * spread
    chances = torch.softmax(logits, -1)
    found = nucleus(chances, 0.95).numpy()
    expected = np.stack([plain(row, 0.95) for row in chances.numpy()])
    assert np.array_equal(found, expected)
    assert ((found > 0).sum(1) > 1024).all() == (spread < 1)
