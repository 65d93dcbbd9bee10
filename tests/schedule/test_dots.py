"""The draw of DOTS, against closed forms and brute force."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.core.rng import log_softmin
from gaincurate.difficulty.prompts import draw_references
from gaincurate.errors import InputError
from gaincurate.schedule import base
from gaincurate.schedule.base import Pool
from gaincurate.schedule.strategies.dots import Dots, DotsOptions, seed_of


def drawn(
    values: Any, budget: int, rounds: int, references: Any = (), seed: int = 0, **options: Any
) -> list[list[int]]:
    """What so many rounds draw with these predictions."""
    selector = Dots(Pool(len(values), budget, seed), DotsOptions(**options))
    selector.inform(np.asarray(values, float), np.asarray(references, np.int64))
    return [selector.draw(round_).tolist() for round_ in range(rounds)]


def test_pairs_are_drawn_as_by_successive_sampling() -> None:
    d, count = np.array([0.2, 0.5, 0.55, 0.7]), 20_000
    weight = np.exp(-np.abs(d - 0.4) / 0.2)
    pairs = drawn(d, 2, count, seed=5, temperature=0.2, target_difficulty=0.4)
    for i, j in itertools.permutations(range(4), 2):
        expected = weight[i] / weight.sum() * weight[j] / (weight.sum() - weight[i])
        found = sum(pair == [i, j] for pair in pairs) / count
        assert found == pytest.approx(expected, abs=4 * np.sqrt(expected / count))


def test_a_target_of_a_quarter_tells_the_failure_rate_from_the_pass_rate() -> None:
    d = np.linspace(0, 1, 101)
    (rows,) = drawn(d, 5, 1, target_difficulty=0.25, temperature=1e-6)
    assert sorted(rows) == [23, 24, 25, 26, 27]
    assert rows[0] == 25


def test_the_variance_is_drawn_by_its_own_size() -> None:
    v = np.array([0.0, 0.1, 0.25, 0.2, 0.24])
    (rows,) = drawn(v, 3, 1, target="variance")
    assert rows == [2, 4, 3]
    expected = np.exp(v / 0.1) / np.exp(v / 0.1).sum()
    first = [one[0] for one in drawn(v, 1, 20_000, target="variance", temperature=0.1)]
    assert np.abs(np.bincount(first, minlength=5) / len(first) - expected).max() < 0.015


@pytest.mark.parametrize("temperature", [1.0, 1e-3, 1e-18, 1e-310])
@pytest.mark.parametrize("where", [0.5, 0.0, 1.0])
def test_equal_rates_are_equally_likely(temperature: float, where: float) -> None:
    d = np.full(40, where)
    d[::4] = 0.9 * where  # a level of its own, farther or nearer
    counts = np.zeros(40)
    for rows in drawn(d, 10, 400, temperature=temperature):
        counts[rows] += 1
    for level in (np.arange(40) % 4 == 0, np.arange(40) % 4 > 0):
        mean = counts[level].mean()
        assert np.abs(counts[level] - mean).max() <= 5 * np.sqrt(max(mean, 1e-9))


@given(
    st.lists(st.floats(0, 1, width=32), min_size=2, max_size=30),
    st.floats(1e-320, 1e3),
    st.integers(0, 2**31),
)
def test_cut_gaps_change_no_draw(rates: list[float], temperature: float, seed: int) -> None:
    distance = np.abs(np.array(rates) - 0.5)
    found = log_softmin(distance, temperature)
    assert np.isfinite(found).all()
    assert found.max() == 0
    for i, j in itertools.combinations(range(len(rates)), 2):
        true = (float(distance[i]) - float(distance[j])) / temperature
        if abs(true) < 41:  # what noise can bridge is as it was
            assert found[j] - found[i] == pytest.approx(true, rel=1e-6, abs=1e-6)
        else:
            assert np.sign(found[j] - found[i]) == np.sign(true)
            assert abs(found[j] - found[i]) > 40.9


def test_references_are_never_drawn_and_are_those_of_the_command() -> None:
    pool = Pool(50, 30, seed=2**64 - 1)
    selector = Dots(pool, DotsOptions(references=20))
    values = np.full(50, 0.9)
    seen = set()
    for round_ in range(20):
        references = selector.references(round_)
        assert references.tolist() == draw_references(50, 20, seed_of(pool.seed, round_)).tolist()
        values[references] = 0.5  # observed right at the target
        selector.inform(values, references)
        assert set(selector.draw(round_).tolist()) == set(range(50)) - set(references.tolist())
        seen.add(tuple(references))
    assert len(seen) == 20
    assert 0 <= seed_of(0, 0) < 2**63


@pytest.mark.parametrize(
    ("given_", "sentence"),
    [
        ({"temperature": 0}, "strategy dots: temperature = 0: Input should be greater than 0."),
        ({"references": 2}, "strategy dots: references = 2: Input should be greater than or equal to 3."),
        ({"alpha": 1}, "strategy dots has no option 'alpha'; it has: target_difficulty, temperature, "),
        (
            {"adapter": "a", "group_column": "b"},
            "strategy dots: adapter and group_column are two predictors",
        ),
        (
            {"target": "variance", "target_difficulty": 0.5},
            "strategy dots: target_difficulty goes with target = difficulty",
        ),
    ],
)
def test_options_are_checked(given_: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        base.check_options("dots", base.load("dots"), given_)
    assert str(caught.value).startswith(sentence)


def test_a_round_is_the_steps_that_one_draw_is_for() -> None:
    assert DotsOptions(step_prompts=64).round_size(None) == 128
    assert DotsOptions(step_prompts=64, refresh_every=3).round_size(192) == 192
    assert DotsOptions().round_size(128) == 128
    for options, budget in ((DotsOptions(step_prompts=64), 100), (DotsOptions(), 101), (DotsOptions(), None)):
        with pytest.raises(InputError, match="draws prompts for refresh_every = 2 steps: give step_prompts"):
            options.round_size(budget)
