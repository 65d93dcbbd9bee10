"""The strategy against the papers' own bookkeeping, prompt by prompt, and closed forms of what it draws."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

import embedded
import runs
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError
from gaincurate.schedule.base import Observed, Pool, build
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.rounds import advance, start
from gaincurate.schedule.run import Run
from gaincurate.schedule.strategies.posterior import Posterior
from gaincurate.schedule.strategies.posterior_options import PRESETS, PosteriorOptions

NO_FLOORS: dict[str, Any] = {"unseen": 0, "easy": 0, "hard": 0}


def selector(rows: int = 200, budget: int = 20, seed: int = 2, **options: Any) -> Posterior:
    return Posterior(Pool(rows, budget, seed), PosteriorOptions(**options))


def outcome(
    rows: npt.ArrayLike, wins: npt.ArrayLike, count: Any = 8, round_: int = 0, **more: Any
) -> Observed:
    won = np.asarray(wins, float)
    return Observed(round_, np.asarray(rows, np.int64), won, count - won, 0.5, 0.0, **more)


def context(round_: int = 0, embeddings: Any = None, **columns: Any) -> Any:
    """What `prepare` reads, without a run."""
    return SimpleNamespace(
        round=round_,
        column=lambda name: pa.chunked_array([pa.array(columns[name])]),
        embeddings=lambda rows: embeddings[rows],
    )


def posterior(chosen: Posterior, rows: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """a and b, `[2, rows]`."""
    return np.array(chosen._posterior(np.asarray(rows, np.int64)))


# Evidence.


@given(st.lists(st.dictionaries(st.integers(0, 5), st.integers(0, 8), min_size=1), max_size=8), st.data())
def test_outcomes_fade_as_each_paper_has_it(rounds: list[dict[int, int]], data: Any) -> None:
    memory, prior = data.draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])), data.draw(st.sampled_from([0.5, 1.0]))
    by_visits = selector(6, 2, memory=memory, prior=prior, fade="visits")
    by_rounds = selector(6, 2, memory=memory, prior=prior, fade="rounds")
    visited, everywhere = np.full((2, 6), prior), np.full((2, 6), prior)
    for number, round_ in enumerate(rounds):
        everywhere = memory * everywhere + (1 - memory) * prior
        for row, wins in round_.items():  # MoPPS, update of alpha and beta: only of the batch's prompts
            visited[:, row] = memory * visited[:, row] + (1 - memory) * prior + [wins, 8 - wins]
            everywhere[:, row] += [wins, 8 - wins]
        for chosen in (by_visits, by_rounds):
            chosen.observe(outcome(list(round_), list(round_.values()), round_=number))
    np.testing.assert_allclose(posterior(by_visits, range(6)), visited, rtol=1e-12)
    np.testing.assert_allclose(posterior(by_rounds, range(6)), everywhere, rtol=1e-12)


def test_late_outcomes_count_and_what_could_not_be_judged_does_not() -> None:
    chosen = selector(memory=0.5, fade="visits")
    chosen.observe(outcome([3, 4], [6, 0], [8, 0]))
    chosen.observe(outcome([5], [1], round_=1, late=(np.array([3, 3]), np.ones(2), np.array([0.0, 2]))))
    assert posterior(chosen, [3, 4, 5]).tolist() == [[9, 1, 2], [5, 1, 8]]
    assert chosen.metrics()["seen"] == 2


def test_a_prediction_counts_as_rollouts_and_a_missing_one_does_not() -> None:
    chosen = selector(4, 2, prior=0.001, prior_column="d", prior_weight=4, memory=1)
    chosen.observe(outcome([2], [3]))
    chosen.prepare(context(d=[0.25, None, 0.5, 1.0]))
    expected = [[3.001, 0.001, 5.001, 0.001], [1.001, 0.001, 7.001, 4.001]]  # ThinkPrior's prior
    np.testing.assert_allclose(posterior(chosen, range(4)), expected, rtol=1e-12)


def test_groups_speak_for_the_others_of_theirs_and_for_no_more_than_they_saw() -> None:
    chosen = selector(6, 2, group_column="task", group_weight=10)
    chosen.observe(outcome([0, 1, 3], [8, 4, 1]))
    chosen.prepare(context(task=["a", "a", "a", "b", "b", None]))
    a, b = posterior(chosen, range(6))
    # Row 0 hears of row 1 (4 of 8), row 1 of row 0 (8 of 8), row 2 of both (12 of 16), row 4 of row 3 (1 of 8).
    np.testing.assert_allclose(a, [9 + 4, 5 + 8, 1 + 7.5, 2, 1 + 1, 1])
    np.testing.assert_allclose(b, [1 + 4, 5 + 0, 1 + 2.5, 8, 1 + 7, 1])


def test_neighbours_speak_by_the_kernel_and_not_of_a_prompt_itself() -> None:
    random = np.random.default_rng(0)
    centres = np.array([[9.0, 0, 0], [0, 9, 0], [0, 0, 9], [0, 0, 0]])  # all directions tell kinds apart
    kinds = random.integers(0, 4, 120)
    embeddings = (centres[kinds] + random.normal(0, 0.05, (120, 3))).astype(np.float32)
    chosen = selector(120, 10, neighbours=3, neighbour_weight=6, memory=1)
    seen = np.arange(0, 120, 2)
    wins = np.array([0, 3, 6, 8])[kinds[seen]]
    chosen.observe(outcome(seen, wins))
    chosen.prepare(context(1, embeddings))
    a, b = posterior(chosen, range(120))
    own_wins, own = np.zeros(120), np.zeros(120)
    own_wins[seen], own[seen] = wins, 8
    np.testing.assert_allclose(a - 1 - own_wins, 6 * np.array([0, 3, 6, 8])[kinds] / 8, atol=1e-6)
    np.testing.assert_allclose(a + b - 2 - own, 6, atol=1e-9)


@pytest.mark.parametrize("said", ["true", "noise", "wrong"])
def test_a_prediction_weighs_as_much_as_it_is_worth(said: str) -> None:
    random = np.random.default_rng(1)
    p = random.uniform(0.02, 0.98, 400)
    failure = {"true": 1 - p, "noise": random.uniform(0, 1, 400), "wrong": p}[said]
    wins = random.binomial(8, p).astype(float)
    chosen = selector(400, 20, prior_column="d", memory=1)
    chosen.observe(outcome(np.arange(400), wins))
    chosen.prepare(context(d=failure))

    def likelihood(weight: float) -> float:  # by SciPy, on the same grid
        a, b = 1 + weight * (1 - failure), 1 + weight * failure
        return float((special.betaln(a + wins, b + 8 - wins) - special.betaln(a, b)).sum())

    best = max((0, 0.5, 1, 2, 4, 8, 16, 32), key=likelihood)
    assert chosen.metrics()["prior_weight"] == best
    assert {"true": best >= 16, "noise": best <= 0.5, "wrong": best == 0}[said]


def test_until_there_are_outcomes_a_prediction_counts_for_four_rollouts() -> None:
    chosen = selector(50, 5, prior_column="d")
    chosen.prepare(context(d=np.full(50, 0.5)))
    assert chosen.metrics()["prior_weight"] == 4


# Aims and draws.


@pytest.mark.parametrize(("aim", "power"), [("groups", 1.0), ("expected", 2.0), ("mean", 3.0)])
def test_a_single_draw_is_in_proportion_to_the_worth(aim: str, power: float) -> None:
    wins = np.array([0, 1, 2, 4, 6, 8])
    chosen = selector(7, 1, aim=aim, power=power, memory=1, **NO_FLOORS)
    chosen.observe(outcome(np.arange(6), wins))
    counts = np.zeros(7)
    for round_ in range(1500):
        counts[chosen.draw(round_)] += 1
    a, b = np.append(1 + wins, 1.0), np.append(9 - wins, 1.0)
    law = stats.beta(a, b)
    worth = {
        "groups": 1 - stats.betabinom(8, a, b).pmf(0) - stats.betabinom(8, a, b).pmf(8),
        "expected": law.mean() - law.moment(2),
        "mean": law.mean() * (1 - law.mean()),
    }[aim] ** power
    assert stats.chisquare(counts, 1500 * worth / worth.sum()).pvalue > 0.001


def test_mopps_takes_the_samples_nearest_to_its_target() -> None:
    chosen = selector(40, 1, preset="mopps", candidates=40)
    rates = np.repeat([0.0, 0.5, 1.0], 13)
    for round_ in range(3):
        chosen.observe(outcome(np.arange(39), rates * 8, round_=round_))
    # 13 are Beta(1, 25), 13 Beta(13, 13), 13 Beta(25, 1), one Beta(1, 1): whose sample is the nearest, by SciPy.
    random = np.random.default_rng(0)
    a, b = np.append(1 + 24 * rates, 1), np.append(25 - 24 * rates, 1)
    first = np.argmin(np.abs(random.beta(a, b, (20_000, 40)) - 0.5), axis=1)
    expected = np.bincount(first // 13, minlength=4) / 20_000
    found = np.bincount([chosen.draw(round_)[0] // 13 for round_ in range(1000)], minlength=4)
    assert expected[[0, 2]].max() < 0.001
    assert found[[0, 2]].sum() <= 2
    assert abs(found[3] / 1000 - expected[3]) < 4 * np.sqrt(expected[3] / 1000)


def test_of_equals_the_best_are_taken_at_random() -> None:
    chosen = selector(1000, 20, aim="groups", top=True, candidates=16)
    places = np.concatenate([chosen.draw(round_) for round_ in range(50)])
    assert stats.kstest(places / 1000, "uniform").pvalue > 0.001


def test_candidates_are_every_prompts_chance_alike() -> None:
    chosen = selector(60, 3, candidates=4)
    counts = np.zeros(60)
    for round_ in range(1000):
        candidates = chosen._candidates(round_)
        assert len(np.unique(candidates)) == 12
        counts[candidates] += 1
    assert stats.chisquare(counts).pvalue > 0.001
    assert set(chosen.draw(7)) <= set(chosen._candidates(7))


def test_weights_and_neighbours_go_by_the_newest_outcomes() -> None:
    chosen = selector(neighbours=2)
    for round_, rows in enumerate([[5, 9], [3, 5], [8]]):
        chosen.observe(outcome(rows, np.full(len(rows), 4), round_=round_))
    assert chosen._rows[chosen._newest(3)].tolist() == [3, 5, 8]


def test_floors_hold_among_the_candidates() -> None:
    chosen = selector(400, 20, candidates=5, unseen=0.2, easy=0.1, hard=0.1, power=40, memory=1)
    wins = np.repeat([0, 8, 4], 100)
    for round_ in range(3):
        chosen.observe(outcome(np.arange(300), wins, round_=round_))
    for round_ in range(20):
        drawn = chosen.draw(round_)
        assert set(drawn) <= set(chosen._candidates(round_))
        assert np.bincount(drawn // 100, minlength=4)[[0, 1, 3]].tolist() >= [2, 2, 4]


def test_a_plan_says_what_failure_rates_are_expected() -> None:
    chosen = selector(memory=1)
    chosen.observe(outcome([3, 7], [8, 1]))
    assert chosen.plan_facts(np.array([7, 0, 3])) == {
        "predicted": [0.8, 0.5, 0.1], "predicted_rollouts": [10, 2, 10]
    }  # fmt: skip


# The run.

SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"preset": name} for name in PRESETS},
    "groups": {"aim": "groups", "group_column": "task", "prior_column": "d"},
    "neighbours": {"neighbours": 4, "top": True},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_selector_that_is_restored_goes_on_to_the_same_draws(name: str) -> None:
    random = np.random.default_rng(0)
    p, embeddings = random.random(150), random.normal(size=(150, 9)).astype(np.float32)
    columns = {"task": [f"t{row % 6}" for row in range(150)], "d": 1 - p}
    one, restored = selector(150, 12, **SETTINGS[name]), selector(150, 12, **SETTINGS[name])
    for round_ in range(16):  # more than a pass
        for chosen in (one, restored):
            chosen.prepare(context(round_, embeddings, **columns))
        rows = one.draw(round_)
        assert rows.tolist() == restored.draw(round_).tolist()
        assert one.plan_facts(rows) == restored.plan_facts(rows)
        assert one.metrics() == restored.metrics()
        state = json.dumps(restored.state_dict())
        restored = selector(150, 12, **SETTINGS[name])
        restored.load_state_dict(json.loads(state))
        wins = random.binomial(8, p[rows])
        for chosen in (one, restored):
            chosen.observe(outcome(rows, wins, round_=round_, tokens=50.0 + rows))


DIGESTS = {
    "variance": "5433cf6ce2607032",
    "mopps": "99a4392aab4a372e",
    "mapp": "a88047540fd6df6b",
}
"""Of the draws of twelve rounds, as they were when the strategy was written."""


@pytest.mark.parametrize("name", PRESETS)
def test_plans_are_the_same_on_every_machine(name: str) -> None:
    chosen = selector(3000, 40, preset=name)
    drawn = []
    for round_ in range(12):
        rows = chosen.draw(round_)
        drawn.append(rows)
        chosen.observe(outcome(rows, (rows * 7 + round_) % 9, round_=round_))
    digest = hashlib.sha256(np.concatenate(drawn).astype("<i8").tobytes()).hexdigest()[:16]
    assert digest == DIGESTS[name]


def begin(folder: Path, rows: int = 60, **options: Any) -> Run:
    """A run over a set with embeddings, `question` a group."""
    vectors = np.random.default_rng(0).normal(size=(rows, 8))
    scored = embedded.make_set(folder / "set", vectors)
    return start(
        ScheduleConfig(
            scored=scored, run=folder / "run", strategy="posterior", budget=8, rounds=4, options=options
        )
    )


def test_a_run_learns_from_neighbours_and_groups_and_says_what_it_expected(tmp_path: Path) -> None:
    run = begin(tmp_path, neighbours=5, group_column="question")
    for round_ in range(4):
        lines = [
            {"gc_id": name, "reward": sample % 2, "round": round_, "sample": sample}
            for name in run.ids(round_)
            for sample in range(4)
        ]
        runs.write(run, round_, lines)
        advance(run)
    assert run.state["finished"]
    plan = run.plan(3)
    assert len(plan["predicted"]) == 8
    assert {"neighbour_weight", "group_weight", "expected_effective"} < plan["metrics"].keys()
    assert plan["inputs"]["calibration"]["count"] == 8


def test_what_is_given_comes_before_a_preset() -> None:
    options = PosteriorOptions(preset="mopps", memory=0.5, candidates=8)
    assert (options.aim, options.memory, options.candidates, options.fade) == ("thompson", 0.5, 8, "visits")
    assert PosteriorOptions(preset="variance").model_dump(
        exclude={"preset"}
    ) == PosteriorOptions().model_dump(exclude={"preset"})


@pytest.mark.parametrize(
    "options", [{"preset": name} for name in PRESETS] + [{"preset": "mapp", "top": True}]
)
def test_options_are_read_again_from_what_a_run_writes_of_them(options: dict[str, Any]) -> None:
    chosen = PosteriorOptions(**options)
    assert PosteriorOptions(**chosen.model_dump(mode="json")) == chosen


@pytest.mark.parametrize(
    ("options", "charged"),
    [
        ({}, False),
        ({"preset": "mopps"}, False),
        ({"neighbours": 4}, True),
        ({"prior_column": "gc_difficulty"}, True),
        ({"group_column": "task"}, False),
    ],
)
def test_it_goes_by_scores_where_its_evidence_does(options: dict[str, Any], charged: bool) -> None:
    assert Posterior.goes_by_scores(options) is charged


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"unseen": 0.6, "easy": 0.5}, "the shares unseen, easy and hard are over 1 together"),
        ({"aim": "thompson"}, "aim thompson takes the best of its samples: give top=true with it"),
        ({"top": True, "power": 1}, "top=true takes the best whatever power is: leave one of the two out"),
        ({"preset": "mopps", "power": 2}, "top=true takes the best whatever power is"),
        ({"preset": "mopp"}, "preset = 'mopp': Input should be 'variance', 'mopps' or 'mapp'"),
        ({"prior": 1e-320}, "Input should be greater than or equal to 0.000000001"),
        ({"preset": "mopps", "prior_weight": 1.7e308}, "Input should be less than or equal to 1000000000"),
        ({"neighbors": 4}, "strategy posterior has no option 'neighbors'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        build("posterior", Pool(10, 2, 0), options)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"group_column": "task"}, "task"),
        ({"group_column": "gc_embedding"}, "group_column = gc_embedding: it holds "),
        ({"group_column": "gc_angle"}, "group_column = gc_angle: it holds float, not names of groups"),
        ({"prior_column": "question"}, "prior_column = question: it holds no numbers"),
        ({"prior_column": "gc_prompt_tokens"}, "and failure rates are from 0 to 1"),
    ],
)
def test_a_set_that_lacks_something_is_refused(
    tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError) as caught:
        begin(tmp_path, **options)
    assert sentence in str(caught.value)


def test_neighbours_need_embeddings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neighbours = 4: .* has no gc_embedding; score it with"):
        runs.begin(tmp_path, strategy="posterior", options={"neighbours": 4})


def test_predicted_difficulty_that_was_added_to_a_set_is_read(tmp_path: Path) -> None:
    scored = ScoredSet(runs.some_set(tmp_path / "set"))
    ids = scored.column("gc_id").to_pylist()
    scored.add_column("gc_difficulty", ids, pa.array([k / 59 for k in range(60)]), {})
    run = runs.begin(
        tmp_path, strategy="posterior", options={"prior_column": "gc_difficulty", "top": True, **NO_FLOORS}
    )
    assert run.plan(0)["metrics"]["prior_weight"] == 4
    places = [ids.index(name) for name in run.ids(0)]
    assert sorted(places) == list(range(26, 34))  # the eight nearest to one half
