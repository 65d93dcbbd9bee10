"""Verdicts against simulated worlds whose truth is known, and against SciPy-free closed forms."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from compare_results import task_effects, task_of, truth, world
from gaincurate.compare.verdict import (
    Difference,
    bands,
    differences,
    differences_over_tasks,
    first_reach,
    pairs_with,
    reached,
    resample,
    student,
    student_quantile,
    task_count,
    unlike,
)

Floats = npt.NDArray[np.float64]
TOKENS = np.array([0.0, 50.0, 100.0])
NINE = ["uniform", *"abcdefgh"]


def width(interval: tuple[float, float] | None) -> float:
    assert interval is not None
    return interval[1] - interval[0]


def covers(interval: tuple[float, float] | None, value: float) -> bool:
    assert interval is not None
    return interval[0] <= value <= interval[1]


def judged(names: list[str], rates: Floats, draws: int = 600) -> list[Difference]:
    return differences(names, resample(rates, draws=draws), pairs_with(names, "uniform"))


@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.15), (5, 0.0)])
def test_arms_that_are_the_same_rarely_come_out_as_different(seeds: int, spread: float) -> None:
    same = [
        judged(NINE, world([0.0] * 9, seeds=seeds, prompts=60, spread=spread, samples=4, draw=draw), 400)
        for draw in range(40)
    ]
    wrong = sum(any(one.answer != "no difference seen" for one in found) for found in same)
    assert wrong <= 6  # of 40 families of eight comparisons; two are expected, over six has a chance of 0.3 %


def test_an_interval_for_one_arm_covers_the_truth_and_is_not_wider_than_need_be() -> None:
    least, widths, values = float(truth(0.3, 0.1) - truth(0.0, 0.1)), [], []
    covered = 0
    for draw in range(100):
        rates = world([0.0, 0.3], seeds=4, prompts=60, spread=0.1, samples=4, draw=1000 + draw)
        found = judged(["uniform", "a"], rates, 400)[0]
        covered += covers(found.interval, least)
        widths.append(width(found.interval) / 2)
        values.append(found.value)
    assert covered >= 88  # 95 expected; under 88 has a chance of 0.2 %
    # Six degrees of freedom widen by 2.45 / 1.96. Counting the samples' noise twice would be a half above.
    assert np.mean(widths) / (1.96 * np.std(values)) == pytest.approx(2.45 / 1.96, rel=0.25)


def test_a_large_effect_is_seen_with_its_sign_and_the_tokens_it_takes() -> None:
    rates = world([0.0, 1.5, -1.2, 0.0], seeds=3, prompts=120, spread=0.1, samples=4, draw=7)
    names = ["uniform", "good", "bad", "same"]
    found = resample(rates)
    answers = [one.answer for one in differences(names, found, pairs_with(names, "uniform"))]
    assert answers == ["better", "worse", "no difference seen"]
    base, good, bad, _ = reached(names, np.tile(TOKENS, (4, 1)), 100.0, found, "uniform")
    assert good.spent
    assert base.spent
    assert good.share == good.spent / 100 < 0.7
    assert good.ratio == pytest.approx(good.spent / base.spent)
    assert (base.ratio, base.ratio_interval) == (1.0, (1.0, 1.0))
    assert (bad.spent, bad.share, bad.ratio) == (None, None, None)
    assert bad.missed
    assert bad.missed > 0.9


def test_an_effect_as_large_as_the_detectable_one_is_seen_about_as_often_as_said() -> None:
    of = {"seeds": 3, "prompts": 60, "spread": 0.1, "samples": 4}
    said = np.mean([_other(0.0, draw, of).detectable or 0 for draw in range(20)])
    effect = next(e for e in np.arange(0, 2, 0.01) if truth(e, 0.1) - truth(0, 0.1) >= said)
    seen = sum(_other(float(effect), 100 + draw, of).answer == "better" for draw in range(60))
    assert 38 <= seen <= 58  # 48 expected


def _other(effect: float, draw: int, of: dict[str, float]) -> Difference:
    rates = world([0.0, effect, 0.0, 0.0], draw=draw, **of)  # type: ignore[arg-type]
    return judged(["uniform", "a", "b", "c"], rates, 300)[0]


def test_one_seed_gives_no_verdict() -> None:
    rates = world([0.0, 3.0], seeds=1, prompts=50, spread=0.1, samples=4, draw=1)
    found = resample(rates, draws=50)
    one = differences(["uniform", "good"], found, [(1, 0)])[0]
    assert (one.answer, one.interval, one.joint, one.detectable) == ("cannot say", None, None, None)
    assert bands(found) is None
    told = reached(["uniform", "good"], np.tile(TOKENS, (2, 1)), 100.0, found, "uniform")[1]
    assert told.spent is not None
    assert (told.share_interval, told.missed) == (None, None)


def test_the_joint_interval_is_the_wider_one_and_one_arm_alone_needs_none() -> None:
    rates = world([0.0] * 9, seeds=3, prompts=60, spread=0.15, samples=4, draw=3)
    for found in judged(NINE, rates):
        assert width(found.joint) > width(found.interval)
    (alone,) = judged(["uniform", "a"], rates[:2])
    assert alone.joint == alone.interval


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062047), (2, 4.3026527), (16, 2.1199053), (101, 1.9837310)]
)
def test_the_factor_makes_a_normal_number_students(freedom: int, quantile: float) -> None:
    chance = np.random.default_rng(freedom)
    numbers = chance.uniform(size=(40_000, freedom + 2))
    draws = chance.normal(size=40_000) * [student(freedom, row) for row in numbers]
    assert np.mean(abs(draws) > quantile) == pytest.approx(0.05, abs=0.0045)  # four standard errors


def test_the_spread_of_draws_is_the_closed_form() -> None:
    # Two-way layout without interaction: Var = seeds' part / S + prompts' part / Q.
    chance = np.random.default_rng(0)
    by_seed, by_prompt = chance.normal(0, 0.03, (2, 50)), chance.normal(0, 0.2, 40)
    rates = 0.5 + by_seed[:, None, :, None] + by_prompt[None, None, None, :]
    found = resample(rates, draws=4000)
    residuals = by_seed - by_seed.mean(axis=1, keepdims=True)
    seeds = (residuals**2).mean() * 50 / 49 / 50 * 98 / 96  # Student's variance
    prompts = by_prompt.var(ddof=1) / 40
    assert found.draws[:, 0, 0].std() == pytest.approx(math.sqrt(seeds + prompts), rel=0.05)
    difference = found.draws[:, 0, 0] - found.draws[:, 1, 0]
    assert difference.std() == pytest.approx(math.sqrt(2 * seeds), rel=0.05)  # prompts are the same ones


def test_the_noise_of_samples_is_counted_once() -> None:
    # Nothing but noise of each answer: Var of an arm's mean is p (1 - p) / (S n Q), of a difference twice that.
    chance = np.random.default_rng(4)
    rates = chance.binomial(4, 0.5, (6, 1, 40, 300)) / 4
    draws = resample(rates, draws=2000).draws[:, :, 0]
    difference = np.mean([(draws[:, k] - draws[:, 0]).std() for k in range(1, 6)])
    assert difference == pytest.approx(math.sqrt(2 * 0.25 / (4 * 40 * 300)), rel=0.12)


def test_an_arm_whose_seeds_differ_far_more_does_not_blur_the_others() -> None:
    spread = [0.05] * 8 + [2.0]
    rates = world([0.0] * 9, seeds=5, prompts=100, spread=spread, samples=8, draw=5)
    found = resample(rates)
    assert found.apart == [8]
    widths = [width(one.interval) for one in judged(NINE, rates)]
    assert widths[-1] > 4 * max(widths[:-1])


@pytest.mark.parametrize(
    ("variances", "apart"),
    [([1.0, 1.0, 1.0, 30.0], [3]), ([1.0, 1.2, 0.5, 2.0], []), ([0.0, 0.0, 0.0], []), ([1.0, 99.0], [])],
)
def test_which_arms_have_a_spread_of_their_own(variances: list[float], apart: list[int]) -> None:
    assert unlike(np.array(variances), 5) == apart


def test_cochrans_test_is_wrong_as_rarely_as_it_says() -> None:
    chance = np.random.default_rng(9)
    wrong = sum(bool(unlike(chance.normal(size=(9, 3)).var(axis=1), 3)) for _ in range(1000))
    assert 25 <= wrong <= 80  # 50 expected


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(0, 1))
def test_a_curve_reaches_a_target_where_a_fine_walk_does(curve: list[float], target: float) -> None:
    tokens = np.arange(len(curve), dtype=np.float64) * 10
    found = first_reach(tokens, np.array(curve), target)
    fine = np.linspace(0, tokens[-1], 2001)
    above = np.flatnonzero(np.interp(fine, tokens, curve) >= target)
    if math.isinf(found):
        assert max(curve) < target
    else:
        assert np.interp(found, tokens, curve) == pytest.approx(target, abs=1e-9) or found == 0
        assert len(above) == 0 or found <= fine[above[0]] + 1e-9


SIZES = [24, 12, 10, 20, 16, 20, 40, 24, 12, 12, 24, 48, 32]


def world_of_tasks(draw: int, task_taste: float, seed_task: float = 0.0) -> Floats:
    """Nine equal arms of five seeds on tasks of these sizes, at the end of their training."""
    of = {"spread": 0.15, "taste": 0.2, "task_taste": task_taste, "seed_task": seed_task}
    return world([0.0] * 9, seeds=5, prompts=294, samples=4, draw=draw, marks=1, tasks=SIZES, **of)


def judged_over_tasks(rates: Floats, tasks: npt.NDArray[np.int64]) -> list[Difference]:
    return differences_over_tasks(NINE, rates[:, -1], tasks, pairs_with(NINE, "uniform"))


@pytest.mark.parametrize("seed_task", [0.0, 0.5])
@pytest.mark.parametrize("task_taste", [0.0, 0.5])
def test_a_verdict_about_other_tasks_is_rarely_wrong_whatever_arms_and_seeds_do_to_tasks(
    seed_task: float, task_taste: float
) -> None:
    falsely = 0
    for draw in range(60):
        rows = judged_over_tasks(world_of_tasks(draw, task_taste, seed_task), task_of(SIZES, 294))
        falsely += any(row.answer != "no difference seen" for row in rows)
    assert falsely <= 8  # of 60; with a rate of 5 % over 8 has a chance of 0.3 %


def test_a_verdict_about_these_tasks_covers_what_these_tasks_have() -> None:
    """Arms that truly differ on these tasks are no false verdicts of this claim; missing their truth is."""
    missed, apart = 0, 0
    for draw in range(20):
        found = resample(world_of_tasks(draw, task_taste=0.5), task_of(SIZES, 294), draws=400)
        rows = differences(NINE, found, pairs_with(NINE, "uniform"))
        by_arm = truth(task_effects(9, SIZES, 0.5, draw), 0.25) @ np.array(SIZES) / 294
        apart += sum(row.answer != "no difference seen" for row in rows)
        values = by_arm[1:] - by_arm[0]
        missed += sum(not covers(row.joint, value) for row, value in zip(rows, values, strict=True))
    assert missed <= 4  # of 160
    assert apart > 20


def test_an_effect_in_all_tasks_is_seen_over_other_tasks() -> None:
    effects = [0.0, 0.8, -0.8, *[0.0] * 6]
    rates = world(effects, seeds=5, prompts=294, spread=0.05, samples=4, draw=3, tasks=SIZES, task_taste=0.1)
    answers = [row.answer for row in judged_over_tasks(rates, task_of(SIZES, 294))]
    assert answers == ["better", "worse", *["no difference seen"] * 6]


def test_an_interval_over_tasks_of_equal_size_is_that_of_their_mean() -> None:
    accuracy = np.zeros((2, 2, 6))  # both seeds alike
    accuracy[1] = [0.1, 0.3, 0.2, 0.2, 0.6, 0.4]  # tasks' means: 0.2, 0.2, 0.5
    tasks = np.array([0, 0, 1, 1, 2, 2])
    (found,) = differences_over_tasks(["uniform", "a"], accuracy, tasks, [(1, 0)])
    mean = scipy.stats.ttest_1samp([0.2, 0.2, 0.5], 0).confidence_interval(0.95)
    assert found.value == pytest.approx(0.3)
    assert found.interval == found.joint == pytest.approx((mean.low, mean.high))
    assert found.detectable == pytest.approx(
        (scipy.stats.t.ppf(0.975, 2) + scipy.stats.t.ppf(0.8, 2)) * 0.1, rel=1e-6
    )


def test_what_seeds_do_to_all_tasks_alike_is_added_once() -> None:
    """Seeds that shift all tasks by the same leave nothing between tasks, and their own variance is all."""
    shift = np.array([[0.0, 0.1, 0.2], [0.3, 0.5, 0.4], [0.2, 0.6, 0.7]])  # [arms, seeds]
    accuracy, own = np.repeat(shift[:, :, None], 12, axis=2), shift.var(axis=1, ddof=1) / 3
    alone = own[0] + own[1:].mean()  # the baseline's seeds apart
    for apart, variance, freedom in (([], 2 * own.mean(), 5), ([2], own[:2].sum(), 5), ([0], alone, 2)):
        (found,) = differences_over_tasks(list("uab"), accuracy, np.arange(12) % 6, [(1, 0)], apart)
        assert found.interval is not None
        reach = scipy.stats.t.ppf(0.975, freedom) * math.sqrt(variance)
        assert found.interval[1] - found.value == pytest.approx(reach)


def test_a_family_over_tasks_is_bonferronis() -> None:
    rates = world([0.0] * 9, seeds=3, prompts=60, spread=0.15, samples=4, draw=3, tasks=6)
    for row in judged_over_tasks(rates, task_of(6, 60)):
        ratio = width(row.joint) / width(row.interval)
        assert ratio == pytest.approx(scipy.stats.t.ppf(1 - 0.025 / 8, 5) / scipy.stats.t.ppf(0.975, 5))


def test_one_task_and_one_seed_say_nothing_of_others() -> None:
    rates = np.full((2, 1, 4), 0.5)
    (found,) = differences_over_tasks(["uniform", "a"], rates, np.array([0, 0, 1, 1]), [(1, 0)])
    assert found.answer == "cannot say"
    with pytest.raises(ValueError, match="one task gives no evidence about others"):
        differences_over_tasks(["uniform", "a"], np.full((2, 2, 4), 0.5), np.zeros(4, np.int64), [(1, 0)])


@pytest.mark.parametrize(("sizes", "count"), [([5, 5, 5], 3), ([4, 4, 1, 1], 100 / 34), ([9], 1)])
def test_tasks_are_counted_by_size(sizes: list[int], count: float) -> None:
    assert task_count(task_of(sizes, sum(sizes))) == pytest.approx(count)


@given(st.floats(0.01, 0.9999), st.floats(1, 200))
def test_students_quantile_is_scipys(mass: float, freedom: float) -> None:
    expected = scipy.stats.t.ppf(0.5 + mass / 2, freedom)
    assert student_quantile(mass, freedom) == pytest.approx(expected, rel=1e-6)


def test_prompts_are_drawn_within_their_tasks() -> None:
    """Tasks of one difficulty each: other prompts of these tasks give the same accuracy, other tasks would not."""
    rates = np.empty((2, 1, 2, 40))
    rates[...] = np.repeat([0.1, 0.4, 0.6, 0.9], 10)
    rates[1] += np.repeat([0.05, 0, 0, -0.05], 10)
    tasks = np.repeat(np.arange(4), 10)
    assert np.ptp(resample(rates, tasks, draws=50).draws, axis=0).max() < 1e-12
    assert np.ptp(resample(rates, draws=50).draws, axis=0).max() > 0.05
