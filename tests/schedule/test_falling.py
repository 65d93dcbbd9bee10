"""The strategy `falling`: a Gaussian over pass rates, against its closed form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import column_sets
import runs
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError
from gaincurate.schedule.context import Context
from gaincurate.schedule.groups import Strata
from gaincurate.schedule.rounds import selector_of
from gaincurate.schedule.run import Run
from gaincurate.schedule.strategies.gaussian import Falling

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


def test_each_group_has_its_own_gaussian(tmp_path: Path) -> None:
    # A group of hard prompts and one of easy ones: both are drawn from near the mean as far as they go.
    run = begin(tmp_path, options={"first": 0.5, "last": 0.5, "sigma": 0.01}, budget=4)
    halves = Strata.coded((PASS_RATES >= 0.5).astype(np.int32), ["hard", "easy"])
    strata = halves.by_rank(run.order(run.state["order"]).rows)
    selector = selector_of(run)
    selector.pool = type(selector.pool)(60, 4, 0, strata=strata)
    selector.prepare(Context(run, 0, run.state["order"]))
    rates = np.sort(PASS_RATES[run.order(run.state["order"]).rows[selector.draw(0)]])
    assert (rates < 0.5).tolist() == [True, True, False, False]
    assert np.abs(rates - 0.5).max() < 0.1


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
    with pytest.raises(
        InputError, match="drew 95 prompts of group 'large', and with --stratify .* has 90 of"
    ):
        runs.begin(tmp_path / "b", strategy=f"{__name__}:Unmarked", **given)


class Unmarked(Falling):
    """A strategy that leaves ranks out and does not say so."""

    leaves_out = False


def test_values_that_are_no_rates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs rates from 0 to 1, and gc_question_tokens has "):
        begin(tmp_path, by="gc_question_tokens")
