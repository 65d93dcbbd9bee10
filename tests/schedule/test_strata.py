"""Draws and quotas of groups against exact shares, brute force and closed forms."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.core import rng
from gaincurate.core.rng import draw_within, gumbel_keys, largest_within, permutation, uniforms
from gaincurate.errors import InputError
from gaincurate.schedule.base import Options, Pool
from gaincurate.schedule.groups import PromptGroups
from gaincurate.schedule.strategies.dots import Dots, DotsOptions
from gaincurate.schedule.strategies.uniform import FileOrder, Uniform

_SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=9)
_WEIGHTS = st.lists(st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.5, 40.0]), min_size=9, max_size=9)


def strata_of(labels: Any, weights: Mapping[str, float] | None = None) -> PromptGroups:
    """Groups of prompts by a value of each."""
    values, codes = np.unique(np.asarray(labels), return_inverse=True)
    return PromptGroups.coded(codes.astype(np.int32), [str(value) for value in values], weights)


def groups_of(sizes: list[int], seed: int = 0) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A label for each prompt, in a random order."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


def counts_of(ranks: Any, strata: PromptGroups) -> list[int]:
    """How many of these ranks each group has."""
    counts: list[int] = np.bincount(strata.labels[ranks], minlength=len(strata.names)).tolist()
    return counts


def exact_rates(sizes: list[int], parts: list[Fraction], budget: int) -> list[Fraction]:
    """Each group's share of a round; one that has fewer prompts gives all, and the others share the rest."""
    whole: set[int] = set()
    while True:
        left = budget - sum(sizes[group] for group in whole)
        total = sum(part for group, part in enumerate(parts) if group not in whole)
        rates = [
            Fraction(sizes[group]) if group in whole else part * left / total if total else Fraction(0)
            for group, part in enumerate(parts)
        ]
        over = {group for group in range(len(sizes)) if parts[group] and rates[group] > sizes[group]}
        if not over:
            return rates
        whole |= over


@given(_SIZES, _WEIGHTS, st.booleans(), st.data())
def test_no_group_is_ever_a_whole_prompt_away_from_its_share(
    sizes: list[int], weights: list[float], weighted: bool, data: st.DataObject
) -> None:
    given_weights = dict(zip(map(str, range(len(sizes))), weights, strict=False)) if weighted else None
    if given_weights is not None and not any(given_weights.values()):
        return
    strata = strata_of(groups_of(sizes), given_weights)
    most = sum(size for size, part in zip(sizes, strata.parts.tolist(), strict=True) if part)
    budget = data.draw(st.integers(1, most))
    rates = exact_rates(sizes, [Fraction(part) for part in strata.parts.tolist()], budget)
    taken = [0] * len(sizes)
    for round_ in range(40):
        quotas = strata.quotas(budget, round_).tolist()
        assert sum(quotas) == budget
        assert all(0 <= quota <= size for quota, size in zip(quotas, sizes, strict=True))
        taken = [sum(pair) for pair in zip(taken, quotas, strict=True)]
        assert all(abs(t - (round_ + 1) * rate) < 1 for t, rate in zip(taken, rates, strict=True))


@pytest.mark.parametrize(
    ("sizes", "budget"),
    [
        ([2, 10, 3, 3], 5),
        ([8, 8, 3, 3, 6], 27),
        ([11, 2, 2, 4, 3, 9, 8, 7], 45),
        ([10, 5, 6, 4, 3, 4, 9, 5], 45),
    ],
)
def test_the_earliest_due_alone_would_leave_a_group_behind(sizes: list[int], budget: int) -> None:
    # Found by search: without the rules for ties a group is a whole prompt off here.
    strata = strata_of(np.repeat(np.arange(len(sizes)), sizes))
    taken = np.cumsum([strata.quotas(budget, round_) for round_ in range(60)], axis=0)
    exact = np.arange(1, 61)[:, None] * budget * np.array(sizes) / sum(sizes)
    assert np.abs(taken - exact).max() < 1 - 1e-9


@given(_SIZES, st.data())
def test_what_a_group_cannot_give_goes_to_the_others(sizes: list[int], data: st.DataObject) -> None:
    strata = strata_of(groups_of(sizes))
    room = np.array([data.draw(st.integers(0, size)) for size in sizes])
    budget = data.draw(st.integers(0, int(room.sum())))
    if not budget:
        return
    plain, quotas = strata.quotas(budget, 3), strata.quotas(budget, 3, room)
    assert quotas.sum() == budget
    assert (quotas <= room).all()
    assert (quotas >= np.minimum(plain, room)).all()


def test_weights_are_shares_of_a_round() -> None:
    strata = strata_of(["code"] * 30 + ["math"] * 10, {"code": 0.3, "math": 0.7})
    assert (strata.parts / strata.parts.sum()).tolist() == pytest.approx([0.3, 0.7])
    assert strata.quotas(10, 0).tolist() == [3, 7]
    vast = strata_of(["code"] * 30 + ["math"] * 10, {"code": 1.7e308, "math": 1.7e308})
    assert (vast.parts / vast.parts.sum()).tolist() == [0.5, 0.5]
    # Of 20 prompts 14 would be math's, which has 10.
    assert strata.quotas(20, 0).tolist() == [10, 10]
    only_math = strata_of(["code"] * 30 + ["math"] * 10, {"code": 0, "math": 1})
    assert only_math.quotas(10, 5).tolist() == [0, 10]
    with pytest.raises(InputError, match="a round has 11 prompts, and the groups with a .* have 10"):
        only_math.quotas(11, 0)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"code": 1.0, "maths": 1.0}, "--group-weights: there is no group 'maths'; similar: math"),
        ({"code": 1.0}, "--group-weights has no weight for math; 0 leaves a group out."),
        ({"code": -1.0, "math": 1.0}, "--group-weights: weights are numbers from 0"),
        ({"code": 0.0, "math": 0.0}, "and one of them is over 0."),
    ],
)
def test_weights_that_are_no_shares_are_refused(weights: dict[str, float], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        strata_of(["code", "math"], weights)
    assert sentence in str(caught.value)


@given(_SIZES, st.data(), st.integers(0, 5))
def test_pick_takes_the_best_of_each_group(sizes: list[int], data: st.DataObject, round_: int) -> None:
    rows = sum(sizes)
    strata = strata_of(groups_of(sizes))
    keys = np.array(
        data.draw(st.lists(st.sampled_from([-np.inf, 0.0, 1.0, 2.0]), min_size=rows, max_size=rows))
    )
    budget = data.draw(st.integers(1, rows))
    ranks = Pool(rows, budget, 0, strata=strata).pick(keys, round_)
    quotas = strata.quotas(budget, round_)
    for group, quota in enumerate(quotas.tolist()):
        members = sorted(np.flatnonzero(strata.labels == group), key=lambda rank: (-keys[rank], rank))
        assert ranks[strata.labels[ranks] == group].tolist() == members[:quota]


def test_any_stretch_of_a_round_has_the_shares_too() -> None:
    strata = strata_of(np.repeat(np.arange(4), [10, 20, 30, 40]))
    keys = np.arange(100.0)  # by key alone, the first half of a round would be of the last group
    ranks = Pool(100, 50, 0, strata=strata).pick(keys, 0)
    assert counts_of(ranks, strata) == [5, 10, 15, 20]
    for batch in range(5):
        assert counts_of(ranks[10 * batch : 10 * batch + 10], strata) == [1, 2, 3, 4]


def test_draws_within_a_group_follow_the_closed_form() -> None:
    # Two of group a and one of group b each round; within a, successive sampling by the weights.
    weights, count = np.array([5.0, 3.0, 1.0, 1.0, 7.0, 1.0]), 20_000
    strata = strata_of(list("aaaabb"), {"a": 2, "b": 1})
    pool = Pool(6, 3, seed=4, strata=strata)
    pairs, singles = np.zeros((4, 4)), np.zeros(2)
    for round_ in range(count):
        ranks = pool.draw(np.log(weights), round_)
        first, second = ranks[ranks < 4]
        pairs[first, second] += 1
        singles[ranks[ranks >= 4] - 4] += 1
    p = weights[:4] / 10
    expected = count * p[:, None] * p[None, :] / (1 - p[:, None])
    off = ~np.eye(4, dtype=bool)
    assert ((pairs - expected)[off] ** 2 / expected[off]).sum() < 31.3  # .999 quantile, 11 degrees
    expected_single = count * np.array([7, 1]) / 8
    assert ((singles - expected_single) ** 2 / expected_single).sum() < 10.8  # 1 degree


def test_what_is_left_out_is_never_drawn_and_its_group_gives_what_it_has() -> None:
    strata = strata_of(np.repeat(np.arange(3), [4, 8, 12]))
    pool = Pool(24, 12, seed=0, strata=strata)
    left_out = np.array([3, 0, 1])
    for round_ in range(30):
        ranks = pool.draw(np.linspace(0, 5, 24), round_, leave_out=left_out)
        assert len(set(ranks.tolist())) == 12
        assert not set(ranks.tolist()) & {0, 1, 3}
        assert counts_of(ranks, strata)[0] == 1  # its quota is 2


def test_without_strata_draw_and_pick_are_one_group() -> None:
    weights = np.random.default_rng(3).normal(size=50)
    pool = Pool(50, 20, seed=9)
    keys = weights - np.log(-np.log(uniforms(9, 7, 0, 0, 50)))
    best = np.argsort(-keys, kind="stable")[:20].tolist()
    assert pool.draw(weights, 7).tolist() == best
    assert pool.pick(pool.noisy(weights, 7), 7).tolist() == best
    one = Pool(50, 20, seed=9, strata=strata_of(np.zeros(50)))
    assert one.draw(weights, 7).tolist() == best


@pytest.mark.parametrize(
    ("method", "values", "sentence"),
    [
        ("pick", np.zeros(4), "keys of shape (4,) and type float64; Pool.pick needs numbers of shape (5,)"),
        ("pick", np.array([0, 1, np.nan, 2, 3]), "the key of rank 2 is NaN, and Pool.pick needs numbers"),
        ("draw", [0.0] * 4, "log weights of shape (4,) and type float64; Pool.draw needs numbers of shape (5,)"),
        ("draw", np.array([None, {}, 1, 2, 3]), "log weights of shape (5,) and type object; Pool.draw needs"),
        ("draw", np.array([0, 0, np.inf, -np.inf, 0]), "2 of the 5 log weights are not finite (inf at rank 2)"),
    ],
)  # fmt: skip
def test_keys_and_weights_that_are_no_numbers_are_refused(method: str, values: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        getattr(Pool(5, 2, 0), method)(values, 0)


@given(_SIZES, _WEIGHTS, st.data(), st.sampled_from([Uniform, FileOrder]))
def test_passes_of_a_group_have_each_of_its_prompts_once(
    sizes: list[int], weights: list[float], data: st.DataObject, kind: type[Uniform]
) -> None:
    named = {str(group): weight + 0.01 for group, weight in zip(range(len(sizes)), weights, strict=False)}
    strata = strata_of(groups_of(sizes), data.draw(st.sampled_from([None, named])))
    rows = sum(sizes)
    budget = data.draw(st.integers(1, rows))
    pool = Pool(rows, budget, 3, strata=strata if len(sizes) > 1 or data.draw(st.booleans()) else None)
    chosen, drawn = kind(pool, Options()), []
    for round_ in range(12):
        ranks = chosen.draw(round_)
        assert len(set(ranks.tolist())) == budget
        assert counts_of(ranks, strata) == strata.quotas(budget, round_).tolist()
        drawn.append(ranks)
        again = kind(pool, Options())  # a state restored in another object goes on alike
        again.load_state_dict(json.loads(json.dumps(chosen.state_dict())))
        chosen = again
    every = np.concatenate(drawn)
    assert chosen.metrics()["pass"] == pytest.approx(len(every) / rows)
    for group, size in enumerate(sizes):
        members = every[strata.labels[every] == group]
        whole = len(members) // size
        seen = np.bincount(members[: whole * size], minlength=rows)[strata.labels == group]
        assert seen.tolist() == [whole] * size


def test_dots_draws_within_groups_and_its_references_from_all() -> None:
    strata = strata_of(groups_of([60, 40, 20]))
    pool = Pool(120, 30, 5, strata=strata)
    plain, chosen = (Dots(each, DotsOptions(references=20)) for each in (Pool(120, 30, 5), pool))
    for round_ in range(5):
        references = chosen.references(round_)
        assert references.tolist() == plain.references(round_).tolist()
        chosen.inform(strata.labels / 3 + 0.1, references)  # by itself it would draw group 1 alone
        ranks = chosen.draw(round_)
        assert not set(ranks.tolist()) & set(references.tolist())
        assert counts_of(ranks, strata) == strata.quotas(30, round_).tolist()


def test_file_order_is_the_order_of_the_set() -> None:
    chosen = FileOrder(Pool(5, 2, 0), Options())
    # The third round takes the fourth row of the next pass before its third, which it has already.
    assert [chosen.draw(round_).tolist() for round_ in range(4)] == [[0, 1], [2, 3], [4, 0], [1, 2]]


def test_passes_differ_and_seeds_differ() -> None:
    def draws(seed: int) -> list[list[int]]:
        chosen = Uniform(Pool(50, 50, seed), Options())
        return [chosen.draw(round_).tolist() for round_ in range(2)]

    first, second = draws(0), draws(1)
    assert first == draws(0)
    assert first[0] != first[1]
    assert first[0] != second[0]


def test_every_place_is_equally_likely_to_come_first() -> None:
    counts = np.zeros(10)
    for seed in range(5000):
        counts[Uniform(Pool(10, 1, seed), Options()).draw(0)[0]] += 1
    assert ((counts - 500) ** 2 / 500).sum() < 27.9  # .999 quantile of chi-square with 9 degrees


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
        high, low = (second >> 64) ^ counter[1] ^ key[0], (first >> 64) ^ counter[3] ^ key[1]
        counter = [high, second & mask, low, first & mask]
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
def test_the_largest_are_as_of_a_sort(items: list[tuple[int, int]], chunk: int, data: st.DataObject) -> None:
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
