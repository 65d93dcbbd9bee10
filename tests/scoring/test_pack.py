from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.scoring.batching import packed_batches, padded_batches

LENGTHS = st.lists(st.integers(1, 300), max_size=60)
BUDGET = st.integers(1, 1000)


@given(LENGTHS, BUDGET)
def test_every_place_is_in_exactly_one_batch_and_no_batch_is_empty(lengths: list[int], budget: int) -> None:
    batches = padded_batches(lengths, budget)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    assert all(batches)


@pytest.mark.parametrize(
    ("lengths", "budget", "batches"),
    [
        ([], 10, []),
        ([5, 5, 5], 10, [[0, 1], [2]]),
        ([9, 1, 9, 1], 18, [[1, 3], [0, 2]]),
        ([20, 3], 10, [[1], [0]]),
    ],
)
def test_known_groupings(lengths: list[int], budget: int, batches: list[list[int]]) -> None:
    assert padded_batches(lengths, budget) == batches


@given(LENGTHS, BUDGET)
def test_packed_batches_keep_the_order_and_the_budget_and_take_what_fits(
    lengths: list[int], budget: int
) -> None:
    batches = packed_batches(lengths, budget)
    assert [place for batch in batches for place in batch] == list(range(len(lengths)))
    for batch in batches:
        assert sum(lengths[place] for place in batch) <= budget or len(batch) == 1
    for batch, after in pairwise(batches):
        assert sum(lengths[place] for place in batch) + lengths[after[0]] > budget
