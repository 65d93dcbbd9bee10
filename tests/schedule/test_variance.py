from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from gaincurate.errors import InputError
from gaincurate.schedule.base import Observed, Pool, build
from gaincurate.schedule.strategies.beta import expected_variance
from gaincurate.schedule.strategies.variance import Variance, VarianceOptions


def selector(rows: int = 200, budget: int = 40, **options: Any) -> Variance:
    return Variance(Pool(rows, budget, seed=2), VarianceOptions(**options))


def observed(rates: dict[int, float], count: int = 8, round_: int = 0, late: Any = None) -> Observed:
    rows = np.array(list(rates), np.int64)
    wins = np.array(list(rates.values())) * count
    extra = {} if late is None else {"late": late}
    return Observed(round_, rows, wins, count - wins, 0.5, 0.0, **extra)


def test_the_weight_is_the_beta_posteriors_mean_of_p_times_one_minus_p() -> None:
    random = np.random.default_rng(0)
    for wins, losses in ((0.0, 0.0), (4.0, 4.0), (7.5, 0.5), (0.0, 30.0)):
        p = random.beta(1 + wins, 1 + losses, 400_000)
        chosen, row = selector(prior=1.0), np.array([3])
        chosen.observe(Observed(0, row, np.array([wins]), np.array([losses]), 0.5, 0.0))
        (weight,) = expected_variance(*chosen._posterior(row))
        assert weight == pytest.approx((p * (1 - p)).mean(), rel=0.01)


def test_prompts_of_middling_rates_are_drawn_more_often() -> None:
    # 200 prompts, all seen often: a third fails, a third is even, a third succeeds.
    rates = {row: (0.1 * (row % 2), 0.5, 1 - 0.1 * (row % 2))[row % 3] for row in range(200)}
    chosen = selector(power=1.0, memory=1.0, budget=30)
    for round_ in range(4):
        chosen.observe(observed(rates, 16, round_))
    counts = np.zeros(3)
    for round_ in range(200):
        counts += np.bincount(chosen.draw(round_) % 3, minlength=3)
    assert counts[1] > 2.5 * counts[0]
    assert counts[1] > 2.5 * counts[2]
    assert counts.min() > 0


def test_floors_keep_every_pool_in_each_round() -> None:
    rates = {row: 0.0 if row < 60 else 1.0 if row < 120 else 0.5 for row in range(180)}
    chosen = selector(budget=40, unseen=0.2, easy=0.1, hard=0.1, power=50.0, memory=1.0)
    for round_ in range(3):
        chosen.observe(observed(rates, 20, round_))
    for round_ in range(20):
        ranks = chosen.draw(round_)
        assert len(set(ranks.tolist())) == 40
        assert (ranks < 60).sum() == 4
        assert ((ranks >= 60) & (ranks < 120)).sum() == 4
        assert (ranks >= 180).sum() >= 8


def test_a_share_of_less_than_a_prompt_comes_every_few_rounds() -> None:
    chosen = selector(rows=60, budget=16, power=40.0, memory=1.0, unseen=0.0)
    for round_ in range(3):
        chosen.observe(observed({row: 0.0 if row < 30 else 0.5 for row in range(60)}, 20, round_))
    hard = [int((chosen.draw(round_) < 30).sum()) for round_ in range(50)]
    assert sum(hard) == int(0.05 * 16 * 50)
    assert set(hard) == {0, 1}


def test_a_pool_that_is_smaller_than_its_floor_gives_what_it_has() -> None:
    chosen = selector(rows=20, budget=20, unseen=0.9)
    chosen.observe(observed(dict.fromkeys(range(18), 0.5)))
    assert sorted(chosen.draw(1).tolist()) == list(range(20))


def test_old_outcomes_fade_and_late_ones_count() -> None:
    chosen = selector(memory=0.5)
    chosen.observe(observed({3: 1.0}, 8))
    chosen.observe(observed({5: 0.25}, 4, 1, late=(np.array([3]), np.array([1.0]), np.array([2.0]))))
    state = chosen.state_dict()
    assert state == {"rows": [3, 5], "wins": [5.0, 1.0], "losses": [2.0, 3.0]}
    again = selector(memory=0.5)
    again.load_state_dict(json.loads(json.dumps(state)))
    assert again.draw(2).tolist() == chosen.draw(2).tolist()
    assert again.metrics() == chosen.metrics() == {"seen": 2, "easy": 0, "hard": 0}


def test_a_prompt_that_could_not_be_judged_is_still_unseen() -> None:
    chosen = selector()
    nothing = np.zeros(1)
    chosen.observe(Observed(0, np.array([4]), nothing, nothing, 0.5, 0.0))
    assert chosen.metrics()["seen"] == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"unseen": 0.6, "easy": 0.5}, "the shares unseen, easy and hard are over 1 together"),
        ({"memory": 0}, "memory = 0: Input should be greater than 0"),
        ({"prior": -1}, "prior = -1: Input should be greater than or equal to 0.000000001"),
        ({"prior": 1e308}, "Input should be less than or equal to 1000000000"),
    ],
)
def test_bad_options_are_refused(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        build("variance", Pool(10, 2, 0), options)
    assert sentence in str(caught.value)
