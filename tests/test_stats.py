from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from gaincurate.stats import ranks, spearman

VALUES = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=30)


def counted(values: list[int]) -> list[float]:
    return [sum(v < w for v in values) + (values.count(w) - 1) / 2 for w in values]


@given(VALUES)
def test_spearman_is_the_correlation_of_ranks_counted_one_by_one(pairs: list[tuple[int, int]]) -> None:
    first, second = counted([a for a, _ in pairs]), counted([b for _, b in pairs])
    found = spearman([a for a, _ in pairs], [b for _, b in pairs])
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(np.corrcoef(first, second)[0, 1], abs=1e-12)


def test_ranks_share_their_mean_among_equals() -> None:
    assert ranks([3.0, 1.0, 3.0, 2.0]).tolist() == [2.5, 0.0, 2.5, 1.0]


def test_too_few_rows_have_no_correlation() -> None:
    assert spearman([1, 2], [2, 1]) is None
    assert spearman([], []) is None


def test_columns_of_different_length_are_a_bug() -> None:
    with pytest.raises(ValueError, match="3 and 2 rows"):
        spearman([1, 2, 3], [1, 2])
