"""Figures against other implementations and against draws from a known truth."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gaincurate.core.rng import uniforms
from gaincurate.core.stats import brier, pearson, reliability
from gaincurate.difficulty.metrics import (
    beta_cdf,
    beta_quantile,
    interval,
    no_better_than_a_constant,
    noise_ceiling,
    quality,
    quality_of_halves,
)


def test_what_is_not_defined_is_none() -> None:
    two, three = np.array([0.0, 1.0]), np.array([0.0, 0.5, 1.0])
    assert pearson(two, two) is None
    assert pearson(three, np.ones(3)) is None
    assert brier(two[:0], two[:0]) is None
    assert noise_ceiling(np.ones(5), np.zeros(5)) is None  # one rollout each
    assert noise_ceiling(np.full(5, 8.0), np.zeros(5)) is None  # all equal
    assert noise_ceiling(8 * three, 8 * three[::-1]) == pytest.approx(math.sqrt(20 / 21))
    assert interval(pearson, three, np.ones(3)) is None


@pytest.mark.parametrize("rollouts", [2, 4, 8, 32])
def test_the_ceiling_is_what_the_truth_itself_reaches(rollouts: int) -> None:
    random = np.random.default_rng(0)
    truth = random.beta(0.8, 1.2, 40_000)
    losses = random.binomial(rollouts, truth).astype(float)
    ceiling = noise_ceiling(rollouts - losses, losses)
    assert ceiling == pytest.approx(pearson(truth, losses / rollouts), abs=0.01)
    # And what theory says of this truth.
    mean = 0.8 / 2.0
    variance = mean * (1 - mean) / 3.0
    noise = (mean * (1 - mean) - variance) / rollouts
    assert ceiling == pytest.approx(math.sqrt(variance / (variance + noise)), abs=0.01)


def test_the_ceiling_takes_prompts_with_several_numbers_of_rollouts_and_leaves_single_ones_out() -> None:
    random = np.random.default_rng(1)
    truth, counts = random.random(20_000), random.choice([1, 4, 16], 20_000)
    losses = random.binomial(counts, truth).astype(float)
    reached = pearson(truth[counts > 1], (losses / counts)[counts > 1])
    assert noise_ceiling(counts - losses, losses) == pytest.approx(reached, abs=0.01)


def test_reliability_counts_everyone_once() -> None:
    predicted, observed = np.array([0.0, 0.19, 0.2, 0.5, 1.0]), np.array([0.0, 0.5, 0.25, 1.0, 0.75])
    found = [(b.low, b.count, b.predicted, b.observed) for b in reliability(predicted, observed)]
    assert found == [
        (0.0, 2, pytest.approx(0.095), 0.25),
        (0.2, 1, pytest.approx(0.2), 0.25),
        (0.4, 1, 0.5, 1.0),
        (0.8, 1, 1.0, 0.75),
    ]


def test_an_interval_is_of_rows_drawn_by_philox() -> None:
    values = np.random.default_rng(0).normal(size=50)
    means = []
    for draw in range(1000):
        rows = np.floor(uniforms(3, draw, 7, 0, 50) * 50).astype(int)
        assert 0 <= rows.min() <= rows.max() < 50
        means.append(values[rows].mean())
    found = interval(lambda v: float(v.mean()), values, seed=3)
    assert found == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-12)
    assert found is not None
    assert interval(pearson, *np.repeat([[0.0, 1.0]] * 2, 2, axis=1)) is not None  # few draws have none
    assert interval(pearson, *np.eye(5)[:2]) is None  # most have none
    half = 1.96 * values.std() / math.sqrt(50)
    assert found[1] - found[0] == pytest.approx(2 * half, rel=0.15)


def test_all_figures_are_of_the_failure_rate() -> None:
    random = np.random.default_rng(0)
    truth = random.beta(0.5, 1.5, 200)  # a quarter fails: d and 1 - d differ
    losses = random.binomial(8, truth).astype(float)
    right, wrong = (quality(rate, 8 - losses, losses) for rate in (truth, 1 - truth))
    assert right.pearson.value == pytest.approx(right.ceiling.value, abs=0.03)
    assert wrong.pearson.value == pytest.approx(-(right.pearson.value or 0))
    assert right.brier_of_mean is not None
    assert (right.brier.value or 1) < right.brier_of_mean < (wrong.brier.value or 0)
    assert right.pearson.interval is not None
    assert right.pearson.interval[0] < (right.pearson.value or 0) < right.pearson.interval[1]
    assert quality(truth, 8 - losses, losses, counted=False).ceiling.value is None


def test_figures_of_halves_are_means_over_halves_and_intervals_hold_their_spread() -> None:
    random = np.random.default_rng(0)
    losses = random.binomial(8, random.random(40)).astype(float)
    observed, halves = losses / 8, []
    for _ in range(3):
        order = random.permutation(40)
        for rows in (np.sort(order[:20]), np.sort(order[20:])):
            halves.append((rows, np.clip(observed[rows] + random.normal(size=20) * 0.2, 0, 1)))
    found = quality_of_halves(halves, 8 - losses, losses, seed=1)
    assert found is not None
    each = [np.corrcoef(predicted, observed[rows])[0, 1] for rows, predicted in halves]
    errors = [np.mean((predicted - observed[rows]) ** 2) for rows, predicted in halves]
    assert found.pearson.value == pytest.approx(np.mean(each))
    assert found.brier.value == pytest.approx(np.mean(errors))
    assert found.brier_of_mean == pytest.approx(np.mean([observed[rows].var() for rows, _ in halves]))
    draws = []
    for draw in range(1000):
        rows, predicted = halves[draw % 6]
        again = np.floor(uniforms(1, draw, 7, 0, 20) * 20).astype(int)
        draws.append(np.corrcoef(predicted[again], observed[rows][again])[0, 1])
    assert found.pearson.interval == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))
    assert (found.count, sum(bin_.count for bin_ in found.reliability)) == (40, 40)
    assert found.ceiling.value == pytest.approx(noise_ceiling(8 - losses, losses))
    assert quality_of_halves([], 8 - losses, losses) is None


def test_predictions_that_a_constant_matches_are_named() -> None:
    wins = np.random.default_rng(0).integers(0, 9, 200).astype(float)
    observed = 1 - wins / 8
    nearly = np.full(200, observed.mean()) + 1e-3 * (observed - observed.mean())
    assert no_better_than_a_constant(asdict(quality(observed, wins, 8 - wins))) is None
    for predicted, verdict in ((1 - observed, "are no better"), (nearly, "are not shown to be better")):
        sentence = no_better_than_a_constant(asdict(quality(predicted, wins, 8 - wins)))
        assert sentence == (
            f"these predictions {verdict} than a constant: their Brier score is "
            f"{np.mean((predicted - observed) ** 2):.4f}, and that of the observed mean for every prompt is "
            f"{np.var(observed):.4f}."
        )


SIZES = st.floats(0.5, 200)


@given(st.floats(0, 1), SIZES, SIZES)
def test_the_distribution_function_is_scipys(x: float, a: float, b: float) -> None:
    assert beta_cdf(x, a, b) == pytest.approx(stats.beta(a, b).cdf(x), abs=1e-11)


@given(st.sampled_from([0.025, 0.5, 0.975]), SIZES, SIZES)
def test_a_quantile_has_its_share_below_it(share: float, a: float, b: float) -> None:
    assert beta_quantile(share, a, b) == pytest.approx(stats.beta(a, b).ppf(share), abs=1e-10)
