"""What an arm has spent, counted over runs without a model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import runs
from gaincurate.compare.arm import STEP, ArmJob, Marks
from gaincurate.core.scored_set import ScoredSet
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.run import Run


def marks(run: Run) -> Marks:
    comparison = SimpleNamespace(mark_tokens=[100], prefill_weight=0.5)
    job: Any = SimpleNamespace(comparison=comparison, scoring=lambda: 7)
    return Marks(job, run, 0.0)


def test_a_step_is_counted_from_its_own_lines_the_last_of_each_rollout(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, strategy="uniform")
    mixed, alike, unjudged, other = run.ids(0)[:4]
    rollouts = [
        (mixed, 0, 0.0, 1), (mixed, 1, 1.0, 1), (alike, 0, 1.0, 1), (alike, 1, 1.0, 1),
        (unjudged, 0, None, 1), (unjudged, 1, None, 1), (other, 0, 1.0, 2), (other, 1, 0.0, 2),
    ]  # fmt: skip
    lines = [
        {"gc_id": gc_id, "reward": reward, "round": 0, "sample": sample, "step": step, "tokens": 5}
        for gc_id, sample, reward, step in rollouts
    ]
    runs.write(run, 0, lines)
    found = marks(run).measure(1)
    assert (found["rollouts"], found["prompts"], found["completion_tokens"]) == (6, 3, 30)
    assert found["effective"] == pytest.approx(1 / 3)
    assert found["reward"] == 0.75
    scored = {row: run.scored.row(row)["gc_prompt_tokens"] for row in (mixed, alike, unjudged)}
    assert found["prompt_tokens"] == 2 * sum(scored.values())


def test_with_three_quarters_of_a_step_replayed_four_generated_rollouts_go_with_twelve() -> None:
    entry = {"step": 1, "num_tokens": 9.0, "replay/share": 0.75, STEP: {"rollouts": 4}}
    job: Any = SimpleNamespace(comparison=SimpleNamespace(marks=1), key={}, cost=lambda k: {"steps": [entry]})
    assert ArmJob.step_rows(job)[0]["replayed"] == 12


def test_a_scoring_pass_is_charged_to_the_rounds_that_were_drawn_after_it(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, strategy="uniform")
    for round_ in (0, 1):
        runs.some_set(run.folder / "scores" / f"{round_:05d}", rows=6)
    one = sum(ScoredSet(run.folder / "scores/00000").column("gc_prompt_tokens").to_pylist())
    for _ in range(2):
        runs.report(run)
        advance(run)
    counted = marks(run)
    for counted._round, passes in ((0, 0), (2, 2), (1, 1)):
        parts = {"scoring": 7, "rescoring": round(passes * one / 2), "references": 0, "training": 0}
        assert counted.spent() == {"tokens": sum(parts.values()), **parts}
