"""Strategy `posterior` against brute force, closed forms and a search written out with SciPy."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

import runs
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError
from gaincurate.schedule.base import Context, Observed, Pool
from gaincurate.schedule.groups import PromptGroups
from gaincurate.schedule.strategies.posterior import PRESETS, Posterior, PosteriorOptions, best_labels, law_of
from gaincurate.trainers.session import RunSession


def selector(rows: int = 200, budget: int = 20, seed: int = 2, **options: Any) -> Posterior:
    return Posterior(Pool(rows, budget, seed), PosteriorOptions(**options))


def outcome(
    rows: npt.ArrayLike, wins: npt.ArrayLike, count: Any = 8, round_: int = 0, **more: Any
) -> Observed:
    won = np.asarray(wins, float)
    return Observed(round_, np.asarray(rows, np.int64), won, count - won, 0.5, 0.0, **more)


def context(round_: int = 0, history: Any = None, rates: Any = None, **columns: Any) -> Any:
    """What `prepare` reads, without a run."""
    table = pa.table({"gc_id": [str(row) for row in range(len(next(iter(columns.values()))))], **columns})

    class Scored:
        def __len__(self) -> int:
            return len(table)

        def take(self, rows: Any) -> pa.Table:
            return table.take(pa.array(rows))

    evidence = {"history": history, "rates": rates, "note": lambda text: None}
    return SimpleNamespace(round=round_, scored=Scored(), column=table.column, **evidence)


def posterior(chosen: Posterior, rows: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """a and b, `[2, rows]`."""
    return chosen._posterior(np.asarray(rows, np.int64))


# Evidence.


@given(st.lists(st.dictionaries(st.integers(0, 5), st.integers(0, 8), min_size=1), max_size=8), st.data())
def test_outcomes_fade_when_their_prompt_is_observed_again(rounds: list[dict[int, int]], data: Any) -> None:
    memory, prior = data.draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])), data.draw(st.sampled_from([0.5, 1.0]))
    chosen, expected = selector(6, 2, memory=memory, prior=prior), np.full((2, 6), prior)
    for number, round_ in enumerate(rounds):
        for row, wins in round_.items():  # MoPPS, update of alpha and beta: only of the batch's prompts
            expected[:, row] = memory * expected[:, row] + (1 - memory) * prior + [wins, 8 - wins]
        chosen.observe(outcome(list(round_), list(round_.values()), round_=number))
    np.testing.assert_allclose(posterior(chosen, range(6)), expected, rtol=1e-12)


def test_late_outcomes_count_and_what_could_not_be_judged_does_not() -> None:
    chosen = selector(memory=0.5, prior=1)
    chosen.observe(outcome([3, 4], [6, 0], [8, 0]))
    chosen.observe(outcome([5], [1], round_=1, late=(np.array([3, 3]), np.ones(2), np.array([0.0, 2]))))
    assert posterior(chosen, [3, 4, 5]).tolist() == [[9, 1, 2], [5, 1, 8]]
    assert chosen.metrics()["seen"] == 2


def test_labels_are_noticed_and_tell_dead_prompts_from_live_ones() -> None:
    random = np.random.default_rng(0)
    task, noise = np.arange(400) % 4, random.integers(0, 5, 400)
    level = random.integers(0, 2, 400)
    dead = (task < 2) & (level == 1)
    columns: dict[str, Any] = {"task": [f"t{k}" for k in task], "level": level, "noise": noise}
    columns["text"] = [f"q{k}" for k in range(400)]
    chosen = selector(400, 40)
    chosen.prepare(context(**columns))
    assert chosen.plan_facts(np.arange(3))["evidence"] == {}  # nothing was observed
    seen = random.permutation(400)[:80]
    chosen.observe(outcome(seen, random.binomial(8, np.where(dead, 0.0, 0.6))[seen]))
    chosen.prepare(context(1, **columns))
    assert chosen.plan_facts(np.arange(3))["evidence"] == {"labels": ["task", "level"]}
    worth, unseen = chosen._worth(slice(None), 1), np.isin(np.arange(400), seen, invert=True)
    assert worth[unseen & dead].max() < 0.2
    assert worth[unseen & ~dead].min() > 0.8


def test_a_prompts_own_outcomes_count_once_and_its_labels_are_of_the_others() -> None:
    chosen = selector(4, 2, labels="task", prior=0.5, memory=1)
    chosen.observe(outcome([0, 1, 3], [8, 2, 1]))
    chosen.prepare(context(task=["a", "a", "a", "b"]))
    a, b = posterior(chosen, range(4)) - chosen._outcomes - 0.5
    # Rows of a: row 0 hears of 2 of 8, row 1 of 8 of 8, row 2 of 10 of 16, each drawn to the mean, 11 of 24.
    pulls = [((rates := a / (a + b))[2] * 16 - 10) / (11 / 24 - rates[2])]
    np.testing.assert_allclose(
        rates[:2], [(2 + pulls[0] * 11 / 24) / (8 + pulls[0]), (8 + pulls[0] * 11 / 24) / (8 + pulls[0])]
    )
    np.testing.assert_allclose(rates[3], 11 / 24)


def test_history_is_weighed_by_the_outcomes_that_it_foresees() -> None:
    random = np.random.default_rng(1)
    p = random.choice([0.0, 0.5], 300)
    columns: dict[str, Any] = {"text": [f"q{k}" for k in range(300)]}
    for foretold, weights in ((p, {0.5, 1.0}), (random.permutation(p), {0.0})):
        wins = random.binomial(16, foretold).astype(float)
        chosen = selector(300, 30, memory=1)
        chosen.prepare(context(history=np.array([wins, 16 - wins]), **columns))
        assert chosen.metrics()["history_weight"] == 0.5
        worth = chosen._worth(slice(None), 0)
        assert worth[foretold == 0].max() < worth[foretold > 0].min()
        chosen.observe(outcome(np.arange(100), random.binomial(8, p[:100])))
        chosen.prepare(context(1, history=np.array([wins, 16 - wins]), **columns))
        assert chosen.metrics()["history_weight"] in weights


# Aims and draws.


@given(st.integers(1, 40), st.integers(40, 90), st.integers(0, 1000), st.sampled_from([1, 3]))
def test_a_pass_has_a_prompt_once_at_most(budget: int, rows: int, seed: int, groups: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.unique(random.integers(0, groups, rows), return_inverse=True)[1].astype(np.int32)
    strata = None if groups == 1 else PromptGroups.coded(labels, [str(k) for k in range(labels.max() + 1)])
    for retest in (0.05, 1.0):
        chosen = Posterior(Pool(rows, budget, seed, strata=strata), PosteriorOptions(retest=retest))
        counts = np.zeros(rows, int)
        for round_ in range(2 * rows // budget):
            drawn = chosen.draw(round_)
            assert len(np.unique(drawn)) == budget
            counts[drawn] += 1
            if retest == 1 and strata is None:
                assert counts.max() - counts.min() <= 1
            chosen.observe(outcome(drawn, np.where(drawn % 2 == 0, 0, 4), round_=round_))
        passes = [place["pass"] + 1 for place in chosen._places]
        labels = np.zeros(rows, int) if strata is None else strata.labels
        assert (counts <= np.array(passes)[labels]).all()


def test_in_a_pass_a_prompt_is_drawn_with_its_share_of_the_typical_worth() -> None:
    wins = np.array([0, 0, 0, 1, 4, 8]).repeat(500)
    chosen = selector(3000, 100, labels="none", retest=0.25, prior=0.5)
    chosen.observe(outcome(np.arange(3000), wins))
    a, b = wins + 0.5, 8.5 - wins
    worth = 1 - stats.betabinom(8, a, b).pmf(0) - stats.betabinom(8, a, b).pmf(8)
    chance = np.clip(worth / ((worth**2).sum() / worth.sum()), 0.25, 1)
    counts, round_ = np.zeros(3000), 0
    while chosen._places[0]["pass"] < 4:
        counts[chosen.draw(round_)] += 1
        round_ += 1
    for k in range(6):
        expected, of_kind = chance[500 * k], counts[500 * k : 500 * (k + 1)].sum() / 2000
        assert abs(of_kind - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / 2000) + 100 / 2000


def test_rounds_that_are_nearly_the_set_are_filled() -> None:
    chosen = selector(50, 48, labels="none", prior=1e-6)
    for round_ in range(5):
        drawn = chosen.draw(round_)
        assert len(np.unique(drawn)) == 48
        chosen.observe(outcome(drawn, np.zeros(48), round_=round_))


@pytest.mark.parametrize("aim", ["groups", "variance"])
def test_a_single_weighted_draw_is_in_proportion_to_the_worth(aim: str) -> None:
    wins = np.array([0, 1, 2, 4, 6, 8])
    chosen = selector(7, 1, aim=aim, draw="weights", memory=1, prior=1)
    chosen.observe(outcome(np.arange(6), wins))
    counts = np.zeros(7)
    for round_ in range(1500):
        counts[chosen.draw(round_)] += 1
    a, b = np.append(1 + wins, 1.0), np.append(9 - wins, 1.0)
    law = stats.beta(a, b)
    worth = {
        "groups": 1 - stats.betabinom(8, a, b).pmf(0) - stats.betabinom(8, a, b).pmf(8),
        "variance": law.mean() - law.moment(2),
    }[aim]
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


def test_the_group_size_is_what_came() -> None:
    chosen = selector(4, 1, memory=1, prior=1)
    chosen.observe(outcome([0, 1], [16, 8], 32))
    a, b = np.array([17.0]), np.array([17.0])
    expected = 1 - stats.betabinom(32, a, b).pmf(0) - stats.betabinom(32, a, b).pmf(32)
    np.testing.assert_allclose(chosen._worth(np.array([0]), 0), expected, rtol=1e-9)


def test_uncertain_prompts_get_more_rollouts_and_each_batch_has_the_trainers_number() -> None:
    options = PosteriorOptions(group_sizes=(4, 16), memory=1, prior=0.5)
    chosen = Posterior(Pool(40, 12, 2, align_to=4), options)
    rows = np.arange(12)
    wins = np.array([4, 1, 0, 8, 4, 4, 1, 7, 0, 0, 8, 8])
    chosen.observe(outcome(rows, wins, 8))
    sizes = np.array(chosen.plan_facts(rows)["rollouts"]).reshape(3, 4)
    assert (sizes.sum(1) == 4 * options.group_size).all()
    half, hard, dead, solved = sizes[0]
    assert half < hard  # four rollouts of a prompt at one half differ anyway
    assert abs(dead - solved) <= 1
    assert sizes.min() >= 4
    assert sizes.max() <= 16
    chosen.draw(0)  # unlike sizes that came back do not change the trainer's
    chosen.observe(outcome(rows, wins // 2, 4 * (1 + rows % 4)))
    assert sum(chosen.plan_facts(rows)["rollouts"]) == 12 * options.group_size


def test_a_plan_with_group_sizes_is_expected_and_handed_on(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, strategy="posterior", align_to=4, options={"group_sizes": [2, 20]})
    with RunSession(run.folder) as live:
        for round_ in range(2):
            sizes = run.rollouts(round_)
            assert sizes is not None
            rows = live.take(4) + live.take(4)
            assert [row["gc_rollouts"] for row in rows] == sizes
            assert sum(sizes[:4]) == sum(sizes[4:]) == 32
            live.report(
                {"gc_id": row["gc_id"], "reward": sample % 2, "step": round_, "sample": sample}
                for row in rows
                for sample in range(row["gc_rollouts"])
            )
            live.turn()
    assert run.plan(2)["inputs"]["rollouts"] == 64
    assert run.plan(2)["inputs"]["calibration"]["count"] == 8


# The run.

SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"preset": name} for name in PRESETS},
    "passes": {},
    "label": {"labels": "task"},
    "weights": {"draw": "weights"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_selector_that_is_restored_goes_on_to_the_same_draws(name: str) -> None:
    random = np.random.default_rng(0)
    p = random.random(150)
    columns = {"task": [f"t{row % 6}" for row in range(150)]}
    whole, restored = selector(150, 12, **SETTINGS[name]), selector(150, 12, **SETTINGS[name])
    history = np.array([p, 1 - p]) if name == "passes" else None
    for round_ in range(30):  # more than a pass
        for chosen in (whole, restored):
            chosen.prepare(context(round_, history, **columns))
        rows = whole.draw(round_)
        assert rows.tolist() == restored.draw(round_).tolist()
        assert whole.plan_facts(rows) == restored.plan_facts(rows)
        assert whole.metrics() == restored.metrics()
        state = json.dumps(restored.state_dict())
        restored = selector(150, 12, **SETTINGS[name])
        restored.load_state_dict(json.loads(state))
        wins = random.binomial(8, p[rows])
        for chosen in (whole, restored):
            chosen.observe(outcome(rows, wins, round_=round_, tokens=50.0 + rows))


DIGESTS = {
    "passes": "648a41d1c0fdefed",
    "variance": "620118130d126bdf",
    "mopps": "99a4392aab4a372e",
    "mapp": "a88047540fd6df6b",
}
"""Of the draws of twelve rounds."""


@pytest.mark.parametrize("name", DIGESTS)
def test_plans_are_the_same_on_every_machine(name: str) -> None:
    options: dict[str, Any] = {} if name == "passes" else {"preset": name}
    chosen = selector(3000, 40, **options)
    drawn = []
    for round_ in range(12):
        rows = chosen.draw(round_)
        drawn.append(rows)
        chosen.observe(outcome(rows, (rows * 7 + round_) % 9, round_=round_))
    digest = hashlib.sha256(np.concatenate(drawn).astype("<i8").tobytes()).hexdigest()[:16]
    assert digest == DIGESTS[name]


def test_it_goes_by_scores_where_its_labels_are_scores() -> None:
    assert Posterior.goes_by_scores({"labels": "gc_cluster"})
    assert not Posterior.goes_by_scores({"labels": "task"})


def test_a_set_without_the_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="labels = gc_angle: it holds float, not names of groups"):
        runs.begin(tmp_path, strategy="posterior", options={"labels": "gc_angle"})


PULLS, STRENGTHS = (0.25, 1, 4, 16), (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)


def by_hand(labels: Any, outcomes: Any, prior: float, history: Any) -> tuple[Any, float]:
    """The law of every prompt, prompt by prompt in float64."""
    every = outcomes + history
    mean = every[0].sum() / every.sum()
    judges = np.flatnonzero(outcomes.sum(0))
    fits, rates = {}, {}
    for pull in PULLS:
        for row in np.arange(len(labels)):
            alike = (labels == labels[row]) & (np.arange(len(labels)) != row)
            others = [every[side][alike].sum() for side in (0, 1)]
            rates[pull, row] = np.clip((others[0] + pull * mean) / (sum(others) + pull), 0.001, 0.999)
        for strength in STRENGTHS:
            for row in judges:
                a = prior + history[0, row] + strength * rates[pull, row]
                b = prior + history[1, row] + strength * (1 - rates[pull, row])
                wins, losses = outcomes[:, row]
                fits[pull, strength, row] = special.betaln(a + wins, b + losses) - special.betaln(a, b)

    def total(pull: float, strength: float, rows: Any) -> float:
        return float(sum(fits[pull, strength, row] for row in rows))

    pull = max(PULLS, key=lambda pull: max(total(pull, strength, judges) for strength in STRENGTHS))
    law = np.zeros((2, len(labels)))
    for row in np.arange(len(labels)):
        alike = [judge for judge in judges if labels[judge] == labels[row]]
        strength = max(
            STRENGTHS, key=lambda s: total(pull, s, alike) + 4 * total(pull, s, judges) / len(judges)
        )
        law[:, row] = prior + history[:, row] + strength * np.array([rates[pull, row], 1 - rates[pull, row]])
    return law, max(total(pull, strength, judges) for strength in STRENGTHS)


@pytest.mark.parametrize("with_history", [False, True])
def test_laws_are_those_of_a_search_by_hand(with_history: bool) -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 4, 60)
    p = random.beta(1, 1, 60) * (labels > 0)
    wins = random.binomial(8, p) * (random.random(60) < 0.7)
    outcomes = np.array([wins, np.where(wins > 0, 8 - wins, 8 * (random.random(60) < 0.3))], float) * 0.9
    before = np.zeros((2, 60))
    if with_history:
        before[0, :30] = random.binomial(16, p[:30])
        before[1, :30] = 16 - before[0, :30]
    law = law_of(labels, outcomes, np.full((2, 1), 0.05), before if with_history else None)
    counts, fit = by_hand(labels, outcomes, 0.05, before)
    np.testing.assert_allclose(law.counts, counts, rtol=1e-9)
    np.testing.assert_allclose(law.fit, fit, rtol=1e-9)


def test_without_outcomes_every_prompt_has_the_prior_and_no_labels_are_chosen() -> None:
    law = law_of(np.zeros(5, int), np.zeros((2, 5)), np.full((2, 1), 0.05))
    assert law.counts.tolist() == [[0.05] * 5] * 2
    assert best_labels({"task": np.arange(5)}, np.zeros((2, 5)), 0.05) == ()


def test_random_labels_are_rarely_noticed_in_a_first_round_and_telling_ones_always() -> None:
    """Sets of 80 observed prompts of which 70 % are dead, as in a first round of the lean study's."""
    noticed, random = 0, np.random.default_rng(11)
    for _ in range(20):
        source, level = random.integers(0, 9, 80), random.integers(0, 4, 80)
        dead = np.isin(source, [1, 2, 5, 7]) | (level == 3)
        wins = random.binomial(8, np.where(dead, 0, random.beta(1.2, 1.6, 80))).astype(float)
        outcomes = np.array([wins, 8 - wins])
        noise = {f"of {size}": random.integers(0, size, 80) for size in (2, 5, 13, 40)}
        noticed += best_labels(noise, outcomes, 0.05) != ()
        labels = {"source": source, "level": level}
        assert labels.keys() & best_labels({**noise, **labels}, outcomes, 0.05)
    assert noticed <= 1


# --history and --rates.


def scored_set(folder: Path) -> tuple[ScoredSet, list[str]]:
    scored = ScoredSet(runs.some_set(folder))
    return scored, scored.column("gc_id").to_pylist()


@pytest.mark.parametrize("form", ["lines", "texts", "rates", "run"])
def test_earlier_outcomes_are_found_by_id_and_by_text(tmp_path: Path, form: str) -> None:
    scored, ids = scored_set(tmp_path / "set")
    texts = scored.column("question").to_pylist()
    path, expected = tmp_path / "earlier.parquet", np.zeros((2, len(ids)))
    if form == "run":
        run = runs.begin(tmp_path, scored=tmp_path / "set", run=tmp_path / "earlier", budget=6)
        drawn = [ids.index(name) for name in run.ids(0)]
        runs.report(run, lambda gc_id, sample: 1)
        path, expected[0, drawn] = tmp_path / "earlier", 2
    elif form == "lines":
        path = tmp_path / "earlier.jsonl"
        lines = [{"gc_id": ids[3], "reward": reward} for reward in (1, 0, 0)]
        lines.append({"gc_id": "unknown", "reward": 1})
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        expected[:, 3] = 1, 2
    elif form == "texts":
        pq.write_table(pa.table({"question": [texts[4], "no such"], "wins": [3, 1], "losses": [5, 1]}), path)
        expected[:, 4] = 3, 5
    else:  # of an unknown number of rollouts: eight
        pq.write_table(pa.table({"question": [texts[4], texts[5]], "pass_rate": [0.25, None]}), path)
        expected[:, 4] = 2, 6
    notes: list[str] = []
    made = runs.begin(tmp_path, strategy="posterior", history=[path], note=notes.append)
    counts = Context(made, 0, "").history
    assert counts is not None
    np.testing.assert_allclose(counts, expected)
    seen = int((expected.sum(0) > 0).sum())
    alike = int(((expected.sum(0) > 0) & (expected.min(0) == 0)).sum())
    assert f"{seen} of {len(ids)} prompts have a history; in {alike} of them no outcomes differ" in notes
    assert made.plan(0)["metrics"]["history_weight"] == 0.5


def test_history_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    scored_set(tmp_path / "set")
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"gc_id": ["x"], "wins": [1], "losses": [1]}), path)
    for strategy, sentence in (
        ("posterior", "none of its prompts is in .*, by gc_id or by text"),
        ("uniform", "strategy uniform does not read --history or --rates; posterior does"),
    ):
        with pytest.raises(InputError, match=sentence):
            runs.begin(tmp_path, strategy=strategy, history=[path])


def test_rates_are_pass_rates(tmp_path: Path) -> None:
    scored, ids = scored_set(tmp_path / "set")
    scored.add_column("gc_rate", ids, pa.array([k % 2 for k in range(len(ids))], pa.float64()), {})
    scored.add_column("gc_right", ids, pa.array([float(k) for k in range(len(ids))]), {})
    for name, sentence in {
        "gc_none": "no column .gc_none.",
        "gc_right": "--rates gc_right: id0002 has 2, and a pass rate is from 0 to 1. If the column counts",
        "question": "--rates question: the column has type string, not numbers",
    }.items():
        with pytest.raises(InputError, match=sentence):
            runs.begin(tmp_path, scored=tmp_path / "set", strategy="posterior", rates=[name])


def test_rates_are_those_of_the_day_that_the_run_was_opened(tmp_path: Path) -> None:
    scored, ids = scored_set(tmp_path / "set")
    rates = pa.array([k / 60 for k in range(60)], pa.float64())
    scored.add_column("gc_rate", ids, rates, {})
    run = runs.begin(tmp_path, scored=tmp_path / "set", strategy="posterior", rates="gc_rate, gc_rate")
    ScoredSet(tmp_path / "set").add_column("gc_rate", ids, pa.array([0.5] * 60), {})
    found = Context(run, 0, "").rates
    assert found is not None
    np.testing.assert_allclose(found[:, 0], rates.to_numpy(), rtol=1e-6)


def test_a_pass_is_of_the_rows_that_can_be_drawn(tmp_path: Path) -> None:
    scored_set(tmp_path / "set")
    run = runs.begin(
        tmp_path, scored=tmp_path / "set", strategy="posterior", budget=6, where="gc_prompt_tokens < 40"
    )
    assert run.plan(0)["metrics"]["pass"] == pytest.approx(6 / run.facts["kept"], rel=0.5)
