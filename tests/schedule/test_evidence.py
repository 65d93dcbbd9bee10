"""Laws of labels against a search written out with SciPy, and outcomes of earlier training by id and by text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import special

import runs
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError
from gaincurate.schedule.context import Context
from gaincurate.schedule.strategies.posterior import best_labels, law_of

PULLS, STRENGTHS = (0.25, 1, 4, 16), (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)


def by_hand(labels: Any, outcomes: Any, prior: float, history: Any) -> tuple[Any, float]:
    """The law of every prompt, prompt by prompt in float64."""
    every = outcomes + history
    mean = every[0].sum() / every.sum()
    judges = np.flatnonzero(outcomes.sum(0))
    fits, rates = {}, {}
    for pull in PULLS:
        for row in np.arange(len(labels)):
            others = [
                every[side][(labels == labels[row]) & (np.arange(len(labels)) != row)].sum()
                for side in (0, 1)
            ]
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
        assert set(best_labels({**noise, "source": source, "level": level}, outcomes, 0.05)) & {
            "source",
            "level",
        }
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
    assert made.facts["history"] == {"prompts": seen, "never_differed": alike}
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
