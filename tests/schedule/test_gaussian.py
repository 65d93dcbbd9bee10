"""Gaussians over ranks and over pass rates, against their closed forms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import column_sets
import runs
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError
from gaincurate.schedule.base import Context, Observed, Pool
from gaincurate.schedule.rounds import selector_of
from gaincurate.schedule.run import Run
from gaincurate.schedule.strategies.gaussian import Falling, GainRL, GaussianOptions


def selector(rows: int = 5000, budget: int = 1000, **options: Any) -> GainRL:
    return GainRL(Pool(rows, budget, seed=1), GaussianOptions(**options))


def observed(accuracy: float, concentration: float) -> Observed:
    nothing = np.zeros(0)
    return Observed(0, nothing.astype(np.int64), nothing, nothing, accuracy, concentration)


def expected_counts(rows: int, mu: float, sigma: float, draws: int) -> np.ndarray:
    """Closed form, in plain probabilities."""
    weights = np.exp(-((np.arange(rows) - mu) ** 2) / (2 * sigma**2))
    found: np.ndarray = draws * weights / weights.sum()
    return found


@pytest.mark.parametrize("mu", [0.0, 150.0, 299.0])
def test_the_first_drawn_rank_has_the_closed_forms_distribution(mu: float) -> None:
    rows, sigma, draws = 300, 30.0, 12_000
    chosen = selector(rows, 4, sigma=sigma)
    chosen.mu = mu
    counts = np.bincount([chosen.draw(round_)[0] for round_ in range(draws)], minlength=rows)
    expected = expected_counts(rows, mu, sigma, draws)
    bins = np.cumsum(expected) // 100  # cells of about a hundred expected draws
    seen = np.bincount(bins.astype(int), counts)
    wanted = np.bincount(bins.astype(int), expected)
    full = wanted > 20
    statistic = ((seen - wanted)[full] ** 2 / wanted[full]).sum()
    degrees = full.sum() - 1
    assert statistic < degrees + 3.1 * math.sqrt(2 * degrees) + 5  # about the .999 quantile


def test_known_steps() -> None:
    # notes on the released code, n = 1000: C .1 .2 .3 .5 and accuracy .25 .5 .75 1
    for concentration, step in ((0.1, 99), (0.2, 190), (0.3, 269), (0.5, 381)):
        assert selector().step(0.5, concentration) == pytest.approx(step, abs=0.7)
    for accuracy, step in ((0.25, -231), (0.5, 0), (0.75, 231), (1.0, 381)):
        assert selector().step(accuracy, 0.0) == pytest.approx(step, abs=0.7)


def test_the_released_codes_variant_never_goes_back() -> None:
    plain, released = selector(rows=10**6), selector(rows=10**6, step_low=0, step_high=1000, scale=500)
    for chosen in (plain, released):
        chosen.mu = 5000.0
        chosen.observe(observed(0.0, -0.5))
    assert plain.mu < 5000
    assert released.mu == 5000
    capped = selector(scale=5000, step_high=1000)
    capped.observe(observed(1.0, 1.0))
    assert capped.mu == 1000


@given(
    st.integers(1, 40),
    st.data(),
    st.sampled_from(["1", "1e-6", "1000", "0.1N", "1e12", "3N"]),
    st.lists(st.tuples(st.floats(0, 1), st.floats(-2, 2)), max_size=5),
    st.sampled_from([0.0, 1.0, 1e9]),
)
def test_mu_stays_in_the_list_and_every_draw_is_distinct(
    rows: int, data: st.DataObject, sigma: str, steps: list[tuple[float, float]], scale: float
) -> None:
    budget = data.draw(st.integers(1, rows))
    chosen = selector(rows, budget, sigma=sigma, scale=scale)
    for round_, (accuracy, concentration) in enumerate([*steps, (1.0, 2.0)]):
        ranks = chosen.draw(round_)
        assert len(set(ranks.tolist())) == budget
        assert 0 <= ranks.min() <= ranks.max() < rows
        chosen.observe(observed(accuracy, concentration))
        assert 0 <= chosen.mu <= rows - 1
        first, last = chosen.reach(1)
        assert 0 <= first <= chosen.mu <= last <= rows - 1


def test_every_mu_that_a_round_can_reach_is_in_its_window() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        chosen = GainRL(Pool(3000, 100, 1, (0.2, 1.4)), GaussianOptions(sigma="10"))
        chosen.mu = float(random.integers(0, 3000))
        first, last = chosen.reach(3)
        for _ in range(3):
            chosen.observe(observed(random.random(), random.uniform(0.2, 1.4)))
            assert first + 29 <= chosen.mu + 30 <= last + 31


PASS_RATES = np.arange(61)[:60] / 60


def begin(folder: Path, rates: Any = 1 - PASS_RATES, column: str = "gc_difficulty", **options: Any) -> Run:
    scored = ScoredSet(runs.some_set(folder / "set"))
    scored.add_column(column, scored.column("gc_id").to_pylist(), pa.array(rates, pa.float64()), {})
    given: dict[str, Any] = {"strategy": "falling", "budget": 6, "rounds": 5}
    return runs.begin(folder, **(given | options))


def pass_rates(run: Run, round_: int) -> Any:
    return PASS_RATES[run.rows(round_)]


def test_the_mean_falls_from_the_first_round_to_the_last(tmp_path: Path) -> None:
    run = begin(tmp_path, options={"first": 0.9, "last": 0.1, "sigma": 0.02})
    for round_, mean in enumerate([0.9, 0.7, 0.5, 0.3, 0.1]):
        assert run.plan(round_)["metrics"]["mean"] == pytest.approx(mean)
        assert np.abs(pass_rates(run, round_) - mean).max() < 0.1
        runs.step(run)
    assert run.state["finished"]


def test_prompts_are_drawn_by_the_gaussian(tmp_path: Path) -> None:
    run = begin(tmp_path, options={"first": 0.6, "last": 0.6, "sigma": 0.2}, budget=1)
    selector, count = selector_of(run), 8000
    selector.prepare(Context(run, 0, run.state["order"]))
    order = run.order(run.state["order"]).rows
    drawn = np.bincount([order[selector.draw(round_)[0]] for round_ in range(count)], minlength=60)
    expected = np.exp(-0.5 * ((PASS_RATES - 0.6) / 0.2) ** 2)
    expected *= count / expected.sum()
    assert ((drawn - expected) ** 2 / expected).sum() < 98.3  # .999 quantile of chi-square, 59 degrees


def test_a_column_of_pass_rates_is_read_as_one_and_what_always_passes_is_dropped(tmp_path: Path) -> None:
    rates = np.where(np.arange(60) < 30, 1.0, PASS_RATES)
    rates[30:34] = np.nan
    run = begin(tmp_path, rates, "gc_rate", by="gc_rate", budget=26, rounds=2, options={"first": 1.0})
    assert sorted(run.rows(0)) == list(range(34, 60))
    assert run.plan(0)["metrics"]["left_out"] == 34
    with pytest.raises(InputError, match="a round has 27 prompts, and 26 of 60 can be drawn"):
        runs.begin(tmp_path / "b", scored=tmp_path / "set", strategy="falling", by="gc_rate", budget=27)


def test_a_group_that_cannot_fill_its_share_leaves_the_rest_to_the_others(tmp_path: Path) -> None:
    rows = 200
    failure = np.linspace(0.05, 0.95, rows)
    failure[:15] = 0  # of the 20 of the small group: these always pass
    task = pa.array(["small"] * 20 + ["large"] * 180)
    lengths, angles = np.full(rows, 9), {"gc_angle": np.linspace(0, 1, rows)}
    scored = ScoredSet(column_sets.column_set(tmp_path / "set", lengths, angles, {"task": task}))
    scored.add_column("gc_difficulty", scored.column("gc_id").to_pylist(), pa.array(failure), {})
    run = runs.begin(tmp_path, strategy="falling", stratify="task", budget=100)
    for round_ in range(3):
        drawn = run.rows(round_)
        assert not set(drawn) & set(range(15))
        assert run.plan(round_)["groups"]["prompts"] == {"small": 5, "large": 95}  # and not 10 and 90
        runs.step(run)
    given: dict[str, Any] = {"scored": scored.folder, "stratify": "task", "budget": 100}
    with pytest.raises(InputError, match="drew 95 prompts of group 'large', and with .* has 90 of"):
        runs.begin(tmp_path / "b", strategy=f"{__name__}:Unmarked", **given)


class Unmarked(Falling):
    """A strategy that leaves ranks out and does not say so."""

    leaves_out = False


def test_values_that_are_no_rates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs rates from 0 to 1, and gc_question_tokens has "):
        begin(tmp_path, by="gc_question_tokens")
