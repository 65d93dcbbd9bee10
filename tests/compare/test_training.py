"""What is told of an arm's steps, against plain sums and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gaincurate.compare.results import PER_STEP
from gaincurate.compare.training import Steps, over_time, with_angle
from gaincurate.stats import spearman_given


def steps_of(count: int, **columns: object) -> Steps:
    made = {name: np.ones(count) for name in PER_STEP}
    made |= {"step": np.arange(1.0, count + 1), "tokens": np.arange(1.0, count + 1) * 10}
    return made | {name: np.asarray(values, np.float64) for name, values in columns.items()}


def test_shares_are_weighted_by_prompts_and_rollouts() -> None:
    nan = float("nan")
    first = steps_of(2, effective=[0.5, 1.0], prompts=[6, 2], reward=[0.1, nan], rollouts=[8, 8])
    second = steps_of(1, effective=[0.0], prompts=[2], reward=[0.4], rollouts=[4], replayed=[6])
    found = over_time([first, second], 20.0)
    assert found["effective"] == pytest.approx((0.5 * 6 + 1.0 * 2 + 0.0 * 2) / 10)
    assert found["reward"] == pytest.approx((0.1 * 8 + 0.4 * 4) / 12)
    assert found["replayed"] == pytest.approx(8 / 28)  # 1 + 1 + 6 of them and 20 generated
    assert found["rollouts"] == 10
    assert found["response_tokens"] == pytest.approx(3 / 20)
    tenths = {part["until"]: part["effective"] for part in found["parts"]}
    assert tenths[0.5] == pytest.approx((0.5 * 6 + 0.0 * 2) / 8)
    assert tenths[1.0] == 1.0
    assert tenths[0.1] is None


def test_a_step_past_the_budget_is_in_the_last_tenth() -> None:
    found = over_time([steps_of(1, tokens=[120.0], effective=[0.5])], 100.0)
    assert found["parts"][-1]["effective"] == 0.5


def test_the_correlation_is_spearmans_of_each_seed() -> None:
    chance = np.random.default_rng(0)
    seeds = [
        steps_of(30, angle=(angle := chance.normal(size=30)), grad_norm=angle + chance.normal(size=30) * k)
        for k in (0.1, 2.0)
    ]
    found = with_angle(seeds)
    each = [stats.spearmanr(steps["angle"], steps["grad_norm"]).statistic for steps in seeds]
    assert found["spearman"] == pytest.approx(np.mean(each))
    assert found["seeds"] == 2


def test_what_both_have_from_time_is_taken_out() -> None:
    chance = np.random.default_rng(1)
    step = np.arange(1.0, 201)
    steps = steps_of(
        200, angle=-step + chance.normal(size=200) * 9, grad_norm=-step + chance.normal(size=200) * 9
    )
    found = with_angle([steps])
    assert found["spearman"] > 0.9
    assert abs(found["given_step"]) < 0.25
    ranks = [stats.rankdata(steps[name]) for name in ("angle", "grad_norm", "step")]
    left = [r - np.polyval(np.polyfit(ranks[2], r, 1), ranks[2]) for r in ranks[:2]]
    assert found["given_step"] == pytest.approx(stats.pearsonr(*left).statistic)


def test_without_angles_or_with_few_steps_nothing_is_said() -> None:
    none = {"spearman": None, "given_step": None, "seeds": 0}
    assert with_angle([steps_of(50, angle=[float("nan")] * 50)]) == none
    assert with_angle([steps_of(50)]) == none
    assert with_angle([steps_of(9, angle=np.arange(9), grad_norm=np.arange(9))]) == none
    line = np.arange(20.0)
    assert spearman_given(line, -line, line) is None
