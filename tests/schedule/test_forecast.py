"""What a choice of prompts could gain: the distribution of pass rates, the simulations, and the advice."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import column_sets
import command
from gaincurate.core.outcomes import Rules
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.methods import read_rates
from gaincurate.difficulty.pass_rates import PassRates
from gaincurate.errors import InputError
from gaincurate.schedule.base import Options, Pool
from gaincurate.schedule.forecast import (
    GRID,
    SILENT,
    EvidenceSource,
    Forecast,
    ForecastConfig,
    Reach,
    Share,
    _simulate,
    _View,
    advice,
    chance_to_differ,
    forecast,
    likelihoods,
    mixture,
    wasted_groups,
)
from gaincurate.schedule.observations import count_history
from gaincurate.schedule.strategies.posterior import Posterior, PosteriorOptions


@given(st.floats(0, 1), st.integers(2, 12))
def test_the_chance_to_differ_is_the_sum_over_all_mixed_groups(rate: float, group: int) -> None:
    mixed = sum(math.comb(group, k) * rate**k * (1 - rate) ** (group - k) for k in range(1, group))
    assert chance_to_differ(np.array([rate]), group)[0] == pytest.approx(mixed, abs=1e-12)


def test_likelihoods_are_binomial_and_certain_outcomes_allow_certain_rates() -> None:
    values = likelihoods(np.array([3.0, 0.0, 4.0]), np.array([1.0, 4.0, 0.0]))
    expected = GRID**3 * (1 - GRID)
    assert values[0] == pytest.approx(expected / expected.max(), abs=1e-12)
    assert [values[1][0], values[2][-1], values[1][-1]] == [1.0, 1.0, 0.0]


def test_the_mixture_is_at_least_as_likely_as_the_truth_and_finds_its_chance_to_differ() -> None:
    rng = np.random.default_rng(3)
    truth = np.where(rng.random(2000) < 0.5, 0.0, 0.4)
    wins = rng.binomial(8, truth).astype(float)
    likelihood = likelihoods(wins, 8 - wins)
    true_weights = np.where(np.isclose(GRID, 0.0) | np.isclose(GRID, 0.4), 0.5, 0.0)
    early, late = mixture(likelihood, np.ones((2, 2000)), steps=np.array([60, 400]))
    assert np.log(likelihood @ late).sum() >= np.log(likelihood @ true_weights).sum() - 1e-6
    for weights in (early, late):
        assert weights.sum() == pytest.approx(1)
        assert weights @ chance_to_differ(GRID, 8) == pytest.approx(
            chance_to_differ(truth, 8).mean(), abs=0.02
        )
        # What is silent here are the prompts that are never answered.
        assert weights[chance_to_differ(GRID, 8) < SILENT].sum() == pytest.approx(0.5, abs=0.03)


def test_wasted_groups_are_those_of_the_unbiased_count_where_there_are_enough_rollouts() -> None:
    rng = np.random.default_rng(5)
    rates = np.where(rng.random(800) < 0.4, 0.0, rng.beta(1, 2, 800))
    wins = rng.binomial(16, rates).astype(int)
    # Of 16 rollouts a group of 8 without replacement has no success, or no failure, with these chances.
    silent = [(math.comb(k, 8) + math.comb(16 - k, 8)) / math.comb(16, 8) for k in wins.tolist()]
    share = wasted_groups(wins.astype(float), 16.0 - wins)
    assert share.value == pytest.approx(float(np.mean(silent)), abs=0.01)
    assert share.low < share.value < share.high
    assert share.high - share.low == pytest.approx(3.92 * np.std(silent) / math.sqrt(800), rel=0.5)


def test_one_prompt_unlike_all_others_leaves_numbers() -> None:
    wins = np.zeros(300)
    wins[7] = 128
    share = wasted_groups(wins, 128 - wins)
    assert share.value == pytest.approx(1, abs=0.01)
    assert 0.9 < share.low <= share.high <= 1
    impossible = likelihoods(np.array([0.0, 128.0]), np.array([128.0, 0.0]))
    assert np.isfinite(mixture(impossible, np.array([[1.0, 1e-300]]))).all()


def _set(tmp_path: Path, rates: np.ndarray, groups: list[str]) -> Path:
    angles = {"gc_angle": np.linspace(0, 1, len(rates))}
    lengths = np.full(len(rates), 5)
    return column_sets.column_set(tmp_path / "scored", lengths, angles, {"task": pa.array(groups)})


def _references(rates: np.ndarray, count: int, rollouts: int = 8, seed: int = 7) -> PassRates:
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(rates))[:count])
    wins = rng.binomial(rollouts, rates[rows]).astype(float)
    every = column_sets.ids(len(rates))
    return PassRates("references", [every[row] for row in rows], wins, rollouts - wins)


def _config(scored: Path, **options: Any) -> ForecastConfig:
    return ForecastConfig(**{"scored": scored, "outcomes": Path("x"), "rounds": 4, **options})


def _telling(rates: np.ndarray, values: Any, wasted: float) -> float:
    """What means of labels tell of the wasted groups, by the latent rates, as `EvidenceSource` defines it."""
    equal = 1 - chance_to_differ(rates, 8)
    by_label = {value: equal[values == value].mean() for value in np.unique(values)}
    count, ties = round(wasted * len(rates)), np.random.default_rng(0).random(len(rates))
    chosen = equal[np.lexsort((ties, -np.array([by_label[value] for value in values])))[:count]].mean()
    return float((chosen - wasted) / (np.sort(equal)[::-1][:count].mean() - wasted))


def test_sources_tell_as_much_as_the_latent_rates_say_and_reach_the_strategy(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    dead = rng.random(800) < 0.7
    rates = np.where(dead, 0.0, rng.beta(2, 2, 800))
    shown = np.where(rng.random(800) < 0.2, rng.random(800) < 0.7, dead)  # the label is wrong for some
    columns = {
        "task": pa.array(np.where(shown, "hard", "easy")),
        "noise": pa.array(rng.integers(0, 5, 800)),
        "other": pa.array(np.clip(rates + 0.05 * rng.normal(size=800), 0, 1)),
    }
    scored = column_sets.column_set(tmp_path / "s", np.full(800, 5), {"gc_angle": np.zeros(800)}, columns)
    earlier = tmp_path / "earlier.jsonl"
    every = column_sets.ids(800)
    wins = rng.binomial(8, rates).tolist()
    lines = [{"gc_id": every[row], "wins": wins[row], "losses": 8 - wins[row]} for row in range(400)]
    earlier.write_text("\n".join(json.dumps(line) for line in lines))
    references = _references(rates, 256)
    given = _config(scored, history=[earlier], rates=["other"], rounds=3)
    result = forecast(given, references, worlds=4)
    tells = {source.name: source.tells for source in result.sources}
    assert list(tells) == ["labels task", "history", "rates", "all of them"]
    truth = _telling(rates, shown, float(1 - chance_to_differ(rates, 8).mean()))
    assert tells["labels task"].low <= truth <= tells["labels task"].high
    assert tells["labels task"].value == pytest.approx(truth, abs=0.15)
    assert tells["rates"].value > 0.8
    assert tells["history"].value == pytest.approx(0.5, abs=0.25)  # of half of the prompts
    assert tells["all of them"].value > 0.8
    # What `schedule start` would run with the same evidence, on the latent rates themselves.
    opened = ScoredSet(scored)
    history = count_history(given.history, opened, Rules())
    view = _View(opened, np.arange(800), history, read_rates(opened, given.rates))
    truth = float(np.mean([_simulate(given, "posterior", view, seed, rates, 0.05) for seed in range(3)]))
    # References in eight groups say less than all of this evidence.
    assert 0.75 * truth < result.strategies[0].times.value < 1.05 * truth
    bare = given.model_copy(update={"history": [], "rates": [], "strategies": [OUTCOMES, "posterior"]})
    by_label = forecast(bare, references, worlds=4)
    assert [source.name for source in by_label.sources] == ["labels task"]
    assert [each.strategy for each in by_label.strategies] == [OUTCOMES, "posterior"]
    assert 1.1 < by_label.strategies[1].times.value < result.strategies[0].times.value - 0.2
    assert result.advice[0].startswith("Strategy posterior: it can reach")
    assert any("switch replay on" in sentence for sentence in result.advice)


def test_labels_may_tell_nothing_and_where_little_is_wasted_choosing_will_not_pay(tmp_path: Path) -> None:
    rates = np.where(np.arange(400) % 4 == 0, 0.0, 0.5)
    scored = _set(tmp_path, rates, ["a", "b", "c"] * 133 + ["a"])
    result = forecast(_config(scored), _references(rates, 200), worlds=4)
    assert result.wasted.value < 1 / 3
    (source,) = result.sources
    assert source.name == "labels (none noticed)"
    assert source.tells.low < 0.05
    assert source.tells.value < 0.35
    assert result.advice[0].startswith("Choosing prompts will not pay")


OUTCOMES = f"{__name__}:ByOutcomes"


class ByOutcomes(Posterior):
    """Preset `variance` of `posterior`: fast enough for hundreds of forecasts."""

    Options: ClassVar[Any] = Options

    def __init__(self, pool: Pool, options: Options) -> None:
        super().__init__(pool, PosteriorOptions(preset="variance"))


TELLS = {"little": 0.0, "some": 0.5, "much": 2.0}
"""How much of what a predictor reads of a prompt is its pass rate's rank, in times of the noise."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dead", "spread"])
def test_intervals_hold_the_truth_of_simulated_sets(tmp_path: Path, kind: str) -> None:
    """Each line's 95 % interval holds what follows from the latent rates, for 50 samples of references each."""
    held = {tells: _held(tmp_path / tells, kind, tells) for tells in TELLS}
    for name in held["little"]:
        coverage = {tells: float(np.mean(lines[name])) for tells, lines in held.items()}
        # At 95 % fewer than 42 of 50 have a chance of 0.1 %, and fewer than 135 of 150 of 0.6 %.
        assert min(coverage.values()) >= 0.84, (name, coverage)
        assert np.mean(list(coverage.values())) >= 0.9, (name, coverage)


def _held(tmp_path: Path, kind: str, tells: str) -> dict[str, list[bool]]:
    """Whether the interval of each line holds the truth, for ten samples of references of each of five sets."""
    rows, held = 1000, defaultdict(list)
    for number in range(5):
        rng = np.random.default_rng([number, *tells.encode()])
        rates = rng.beta(0.35, 0.65, rows)
        if kind == "dead":
            rates = np.where(rng.random(rows) < 0.5, 0, rng.beta(1.2, 1.6, rows))
        rank = np.argsort(np.argsort(rates + 1e-9 * rng.random(rows))) / rows - 0.5
        shown = rng.normal(size=rows) + TELLS[tells] * math.sqrt(12) * rank
        task = {"task": pa.array(np.argsort(np.argsort(shown)) * 20 // rows)}
        lengths, angles = np.full(rows, 5), {"gc_angle": np.zeros(rows)}
        scored = column_sets.column_set(tmp_path / str(number), lengths, angles, task)
        config = _config(scored, strategies=[OUTCOMES])
        references = [_references(rates, 256, seed=10 * number + k) for k in range(10)]
        truth = _truth(config, rates)
        for k, sample in enumerate(references):
            result = forecast(config, sample, seed=1000 * k)
            reaches = {each.strategy: each for each in (result.uniform, result.oracle, *result.strategies)}
            lines = {f"{name} differ": reach.differ for name, reach in reaches.items()}
            lines |= {f"{name} times": reach.times for name, reach in reaches.items()}
            lines |= {name: getattr(result, name) for name in ("silent", "hopeless", "wasted")}
            for name, share in lines.items():
                held[name].append(share.low - 1e-9 <= truth[name] <= share.high + 1e-9)
    return held


def _truth(config: ForecastConfig, rates: np.ndarray) -> dict[str, float]:
    """Each line of a forecast by the latent rates."""
    chances = chance_to_differ(rates, 8)
    view = _View(ScoredSet(config.scored), np.arange(len(rates)))
    by_outcomes = np.mean([_simulate(config, OUTCOMES, view, seed, rates, 0.05) for seed in range(4)])
    uniform = chances.mean()
    differ = {"uniform": uniform, OUTCOMES: by_outcomes * uniform}
    differ["oracle"] = np.sort(chances)[-len(rates) // 20 :].mean()
    truth = {f"{name} differ": float(value) for name, value in differ.items()}
    truth |= {f"{name} times": float(value / uniform) for name, value in differ.items()}
    silent = chances < SILENT
    hopeless = float((silent & (rates < 0.5)).mean())
    return truth | {"silent": float(silent.mean()), "hopeless": hopeless, "wasted": float(1 - uniform)}


@pytest.mark.parametrize(("tells", "named"), [(0.0, False), (0.4, True)])
def test_advice_names_the_best_evidence_only_where_it_tells_something(tells: float, named: bool) -> None:
    def share(value: float) -> Share:
        return Share(value, value, value)

    reach = Reach("posterior", share(0.4), share(1.5))
    sources = [EvidenceSource("labels (none noticed)", share(tells))]
    silent, hopeless, wasted = share(0.6), share(0.1), share(0.7)
    made = Forecast(64, 512, 8, 10, silent, hopeless, wasted, reach, reach, [reach], sources, advice=[])
    assert ("labels (none noticed)" in advice(made)[0]) == named


def test_what_cannot_be_forecast_is_refused(tmp_path: Path) -> None:
    rates = np.full(100, 0.5)
    scored = _set(tmp_path, rates, ["a"] * 100)
    with pytest.raises(InputError, match=r"20 prompts with rollouts are too few for a forecast; 30 at least"):
        forecast(_config(scored), _references(rates, 20))
    with pytest.raises(InputError, match=r"--budget 101 is more than the 100 prompts"):
        forecast(_config(scored, budget=101), _references(rates, 50))
    for name in ("gain-rl", "dots"):
        with pytest.raises(InputError, match=f"--strategy {name} draws by an order or by references"):
            forecast(_config(scored, strategies=["posterior", name]), _references(rates, 50))
    alike = PassRates("r", column_sets.ids(100)[:40], np.zeros(40), np.full(40, 8.0))
    with pytest.raises(InputError, match=r"every rollout of the 40 prompts has the same reward"):
        forecast(_config(scored), alike)
    strangers = PassRates("r", [f"x{i}" for i in range(40)], np.ones(40), np.ones(40))
    with pytest.raises(InputError, match=r"40 of 40 prompts with outcomes are not in"):
        forecast(_config(scored), strangers)


def test_the_command_prints_the_table_and_writes_json(tmp_path: Path) -> None:
    rates = np.tile([0.0, 0.0, 0.0, 0.5], 100)
    scored = _set(tmp_path, rates, ["a", "b", "c", "d"] * 100)
    references = _references(rates, 200)
    tallies = zip(references.ids, references.wins.tolist(), references.losses.tolist(), strict=True)
    lines = [json.dumps({"gc_id": name, "wins": won, "losses": lost}) for name, won, lost in tallies]
    (tmp_path / "rates.jsonl").write_text("\n".join(lines))
    given = ["difficulty", "forecast", str(scored), "--outcomes", str(tmp_path / "rates.jsonl")]
    refused = command.run(*given, "--success", "1")
    assert (refused.exit_code, "--success goes with a rollout set" in refused.stderr) == (2, True)
    done = command.run(*given, "--rounds", "3")
    assert done.exit_code == 0, done.stderr
    assert "groups of a uniform step that teach nothing" in done.stdout
    assert "labels task: " in done.stdout
    rows = {line.split()[0]: line.split()[1:4] for line in done.stdout.splitlines() if " of 20 " in line}
    assert list(rows) == ["uniform", "posterior", "oracle"]
    written = json.loads(command.run(*given, "--rounds", "3", "--json").stdout)
    assert (written["references"], written["budget"]) == (200, 20)
    differ = written["strategies"][0]["differ"]["value"]
    assert rows["posterior"] == [f"{20 * differ:.0f}", "of", "20"]
    assert written["wasted"]["value"] > 0.6


def test_a_forecast_of_hardly_any_success_has_no_nan(tmp_path: Path) -> None:
    wins = np.zeros(64)
    wins[0] = 1.0
    scored = _set(tmp_path, np.zeros(200), ["a", "b"] * 100)
    result = forecast(_config(scored), PassRates("r", column_sets.ids(200)[:64], wins, 8 - wins), worlds=4)
    assert np.isfinite([each.times.value for each in (*result.strategies, result.oracle)]).all()
    json.dumps(asdict(result), allow_nan=False)
