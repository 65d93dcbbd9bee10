"""What an arm has spent, counted over runs without a model."""

from __future__ import annotations

from pathlib import Path

import pytest

import runs
from gaincurate.compare.arm import Costs
from gaincurate.core.scored_set import ScoredSet
from gaincurate.schedule.rounds import advance


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
    found = Costs(run).step(0, 1)
    assert (found["rollouts"], found["prompts"], found["completion_tokens"]) == (6, 3, 30)
    assert found["effective"] == pytest.approx(1 / 3)
    assert found["reward"] == 0.75
    scored = {row: run.scored.row(row)["gc_prompt_tokens"] for row in (mixed, alike, unjudged)}
    assert found["prompt_tokens"] == 2 * sum(scored.values())


def test_a_scoring_pass_is_charged_to_the_rounds_that_were_drawn_after_it(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, strategy="uniform")
    for round_ in (0, 1):
        runs.some_set(run.folder / "scores" / f"{round_:05d}", rows=6)
    one = sum(ScoredSet(run.folder / "scores/00000").column("gc_prompt_tokens").to_pylist())
    for _ in range(2):
        runs.report(run)
        advance(run)
    costs = Costs(run)
    assert [costs.to_draw(newest) for newest in (0, 2, 1)] == [(0, 0), (0, 2 * one), (0, one)]
