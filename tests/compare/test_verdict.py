"""Verdicts against simulated worlds whose truth is known, and against SciPy-free closed forms."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.compare.resample import resample
from gaincurate.compare.verdict import Verdict, first_reach, judge

Floats = npt.NDArray[np.float64]
TOKENS = np.array([0.0, 50.0, 100.0])


def world(
    effects: list[float], *, seeds: int, prompts: int, spread: float, samples: int, draw: int
) -> Floats:
    """Accuracies `[arms, 3, seeds, prompts]`: prompts of all difficulties, seeds that differ by `spread`."""
    chance = np.random.default_rng(draw)
    level = chance.normal(0, 1.5, prompts)
    shift = np.array(effects)[:, None] + chance.normal(0, spread, (len(effects), seeds))
    start = 1 / (1 + np.exp(-level))
    rates = np.empty((len(effects), 3, seeds, prompts))
    rates[:, 0] = chance.binomial(samples, start) / samples
    for mark, share in ((1, 0.5), (2, 1.0)):
        p = 1 / (1 + np.exp(-(level + share * (0.6 + shift[:, :, None]))))
        rates[:, mark] = chance.binomial(samples, p) / samples
    return rates


def of(verdict: Verdict, arm: str) -> str:
    return next(found.answer for found in verdict.differences if found.arm == arm)


def test_arms_that_are_the_same_rarely_come_out_as_different() -> None:
    names = ["uniform", *"abcdefgh"]
    wrong = sum(
        any(
            found.answer != "no difference seen"
            for found in judge(
                names,
                TOKENS,
                world([0.0] * 9, seeds=3, prompts=60, spread=0.15, samples=4, draw=draw),
            ).differences
        )
        for draw in range(40)
    )
    assert wrong <= 4  # of 40 families of eight comparisons; 5 % each is two


def test_an_interval_for_one_arm_covers_the_truth() -> None:
    # The truth is over seeds and over prompts like these: the logistic mean at each effect, by quadrature.
    nodes = np.linspace(-9, 9, 4001)
    weight = np.exp(-(nodes**2) / (2 * 1.5**2))

    def mean(effect: float) -> float:
        spread = nodes[:, None] + 0.6 + effect + 0.15 * np.linspace(-4, 4, 81)[None, :]
        inner = np.exp(-(np.linspace(-4, 4, 81) ** 2) / 2)
        p = (1 / (1 + np.exp(-spread))) @ (inner / inner.sum())
        return float((p * weight).sum() / weight.sum())

    truth = mean(0.3) - mean(0.0)
    covered = 0
    for draw in range(60):
        found = judge(
            ["uniform", "a"],
            TOKENS,
            world([0.0, 0.3], seeds=4, prompts=60, spread=0.15, samples=4, draw=1000 + draw),
        ).differences[0]
        assert found.interval is not None
        covered += found.interval[0] <= truth <= found.interval[1]
    assert covered >= 52  # 57 expected; under 52 has a chance of 1 %


def test_a_large_effect_is_seen_with_its_sign() -> None:
    rates = world([0.0, 1.5, -1.2, 0.0], seeds=3, prompts=120, spread=0.1, samples=4, draw=7)
    found = judge(["uniform", "good", "bad", "same"], TOKENS, rates)
    assert [of(found, arm) for arm in ("good", "bad", "same")] == ["better", "worse", "no difference seen"]
    good = next(row for row in found.reached if row.arm == "good")
    bad = next(row for row in found.reached if row.arm == "bad")
    assert good.share is not None
    assert good.share < 0.7
    assert bad.tokens is None
    assert bad.missed > 0.9


def test_one_seed_gives_no_verdict() -> None:
    rates = world([0.0, 3.0], seeds=1, prompts=50, spread=0.1, samples=4, draw=1)
    found = judge(["uniform", "good"], TOKENS, rates)
    assert found.differences[0].answer == "cannot say"
    assert found.differences[0].interval is None
    assert found.final["good"][1] is None


def test_the_joint_interval_is_the_wider_one() -> None:
    rates = world([0.0] * 9, seeds=3, prompts=60, spread=0.15, samples=4, draw=3)
    for found in judge(["uniform", *"abcdefgh"], TOKENS, rates).differences:
        assert found.interval is not None
        assert found.joint is not None
        assert found.joint[1] - found.joint[0] > found.interval[1] - found.interval[0]


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062047), (2, 4.3026527), (16, 2.1199053), (100, 1.9839715)]
)
def test_the_widening_is_students_quantile(freedom: int, quantile: float) -> None:
    rates = np.zeros((freedom, 1, 2, 3))
    assert resample(rates, draws=1).widening == pytest.approx(quantile / 1.959963984540054, rel=1e-6)


def test_the_spread_of_draws_is_the_closed_form() -> None:
    # Two-way layout without interaction: Var = seeds' part / S + prompts' part / Q.
    chance = np.random.default_rng(0)
    by_seed, by_prompt = chance.normal(0, 0.03, (2, 5)), chance.normal(0, 0.2, 40)
    rates = 0.5 + by_seed[:, None, :, None] + by_prompt[None, None, None, :]
    found = resample(rates, draws=4000)
    residuals = by_seed - by_seed.mean(axis=1, keepdims=True)
    seeds = (residuals**2).mean() * 5 / 4 / 5
    prompts = by_prompt.var() / 40
    assert found.draws[:, 0, 0].std() == pytest.approx(math.sqrt(seeds + prompts), rel=0.05)
    difference = found.draws[:, 0, 0] - found.draws[:, 1, 0]
    assert difference.std() == pytest.approx(math.sqrt(2 * seeds), rel=0.05)  # prompts are the same ones


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=6),
    st.floats(0, 1),
)
def test_a_curve_reaches_a_target_where_a_fine_walk_does(curve: list[float], target: float) -> None:
    tokens = np.arange(len(curve), dtype=np.float64) * 10
    found = first_reach(tokens, np.array(curve), target)
    fine = np.linspace(0, tokens[-1], 2001)
    above = np.flatnonzero(np.interp(fine, tokens, curve) >= target)
    if found is None:
        assert max(curve) < target
    else:
        assert np.interp(found, tokens, curve) == pytest.approx(target, abs=1e-9) or found == 0
        assert len(above) == 0 or found <= fine[above[0]] + 1e-9
