from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.core import rng
from gaincurate.core.rng import draw_within, gumbel_keys, largest_within, permutation, uniforms
from gaincurate.schedule.base import Pool


def test_uniforms_are_these_numbers_on_every_machine() -> None:
    # From Philox4x64-10 itself (Salmon et al., SC'11), not from NumPy's distributions.
    found = uniforms(7, 3, 0, 0, 4)
    assert found.tolist() == [_philox(7, 3, 0, block)[i] for block, i in ((1, 0), (1, 1), (1, 2), (1, 3))]
    assert uniforms(7, 3, 2, 4, 6).tolist() == _philox(7, 3, 2, 2)[:2]
    for seed in (2**53 + 1, 2**63 + 1, 2**64 - 1):
        assert uniforms(seed, 0, 0, 0, 4).tolist() == _philox(seed, 0, 0, 1)


def _philox(seed: int, round_: int, stream: int, block: int) -> list[float]:
    """Ten rounds on the counter (block, 0, round, stream), written from the paper."""
    mask = 2**64 - 1
    counter, key = [block, 0, round_, stream], [seed, 0]
    for _ in range(10):
        first = 0xD2E7470EE14C6C93 * counter[0]
        second = 0xCA5A826395121157 * counter[2]
        counter = [
            (second >> 64) ^ counter[1] ^ key[0],
            second & mask,
            (first >> 64) ^ counter[3] ^ key[1],
            first & mask,
        ]
        key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
    return [((value >> 12) + 0.5) / 2**52 for value in counter]


@given(st.integers(0, 2**64 - 1), st.integers(0, 10**6), st.integers(0, 30), st.integers(0, 40))
def test_any_part_of_a_stream_is_the_same_numbers(seed: int, round_: int, start: int, count: int) -> None:
    whole = uniforms(seed, round_, 1, 0, 4 * start + count)
    assert np.array_equal(uniforms(seed, round_, 1, 4 * start, 4 * start + count), whole[4 * start :])
    assert ((whole > 0) & (whole < 1)).all()


def test_a_permutation_has_everything_once_and_is_another_each_time() -> None:
    first, second = permutation(1, 0, 0, 1000), permutation(1, 1, 0, 1000)
    assert sorted(first.tolist()) == list(range(1000))
    assert (first == second).mean() < 0.02


def test_draws_do_not_depend_on_how_the_items_are_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    weights = random.normal(size=1000)
    kinds = random.integers(0, 3, 1000).astype(np.int32)

    def all_of() -> list[list[int]]:
        sizes = np.array([5, 50, 2000])
        items, _ = draw_within(sizes, lambda a, b: weights[a:b], kinds, seed=3, round_=1)
        return [items[kinds[items] == kind].tolist() for kind in range(3)]

    whole = all_of()
    monkeypatch.setattr(rng, "_BLOCK", 64)
    assert all_of() == whole
    # Brute force: all keys at once.
    keys = weights - np.log(-np.log(uniforms(3, 1, 0, 0, 1000)))
    assert gumbel_keys(weights, seed=3, round_=1).tolist() == keys.tolist()
    for kind, size in enumerate([5, 50, 2000]):
        places = np.flatnonzero(kinds == kind)
        assert whole[kind] == places[np.argsort(-keys[places])][:size].tolist()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-3, 2)), max_size=60), st.integers(1, 7), st.data())
def test_the_largest_of_each_group_are_those_of_a_sort(
    items: list[tuple[int, int]], chunk: int, data: st.DataObject
) -> None:
    sizes = np.array(data.draw(st.lists(st.integers(0, 9), min_size=4, max_size=4)))
    labels = np.array([group for group, _ in items], np.int32)
    keys = np.array([-np.inf if key == -3 else key for _, key in items], float)  # many equal ones
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rng, "_BLOCK", chunk)
        largest, their_keys = largest_within(sizes, lambda a, b: keys[a:b], labels)
    expected = []
    for group, size in enumerate(sizes.tolist()):
        places = np.flatnonzero(labels == group).tolist()
        expected += sorted(places, key=lambda place: (-keys[place], place))[:size]
    assert largest.tolist() == expected
    assert their_keys.tolist() == keys[expected].tolist()


@given(st.integers(1, 60), st.data(), st.floats(-1e300, 1e300))
def test_any_weights_give_distinct_items(count: int, data: st.DataObject, extreme: float) -> None:
    size = data.draw(st.integers(1, count))
    weights = np.where(np.arange(count) % 3 == 0, extreme, 0.0)
    found = Pool(count, size, seed=5).draw(weights, 2)
    assert len(set(found.tolist())) == size
    assert set(found.tolist()) <= set(range(count))


def test_drawn_one_after_the_other_with_these_weights() -> None:
    p = np.array([0.5, 0.25, 0.15, 0.07, 0.03])
    rounds = 20_000
    pairs = np.zeros((5, 5))
    for round_ in range(rounds):
        first, second = Pool(5, 2, seed=11).draw(np.log(p), round_)
        pairs[first, second] += 1
    expected = rounds * p[:, None] * p[None, :] / (1 - p[:, None])
    np.fill_diagonal(expected, 0)
    off = ~np.eye(5, dtype=bool)
    chi_square = ((pairs - expected)[off] ** 2 / expected[off]).sum()
    assert pairs.trace() == 0
    assert chi_square < 43.8  # .999 quantile of chi-square with 19 degrees of freedom
