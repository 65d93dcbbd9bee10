"""What an arm has spent, counted over runs without a model."""

from __future__ import annotations

from pathlib import Path

import pytest

import compare_results
import runs
from gaincurate.compare.arm import COST, MARKS, STEP, ArmJob, Costs
from gaincurate.core.files import write_json
from gaincurate.core.scored_set import ScoredSet


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
    found = Costs(run, 1.0).step(0, 1)
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
    costs = Costs(run, 0.5)
    assert [costs.rescoring(newest) for newest in range(3)] == [0, round(one / 2), one]


def test_what_was_drawn_is_counted_by_task_up_to_the_last_mark(tmp_path: Path) -> None:
    """Steps that were made again count once, steps after the last mark not at all."""
    comparison = compare_results.comparison(["uniform", "length"], marks=1)
    run = runs.begin(tmp_path, strategy="uniform")
    a, b, c, later = run.ids(0)[:4]
    lines = [(a, 1), (b, 1), (a, 2), (c, 2), (a, 2), (later, 3)]
    runs.write(
        run,
        0,
        [
            {
                "gc_id": gc_id,
                "reward": 1.0,
                "round": 0,
                "sample": f"{place}-{sample}",
                "step": step,
                "tokens": 5,
            }
            for place, (gc_id, step) in enumerate(lines)
            for sample in range(2)
        ],
    )
    spent = {"round": 0, "tokens": 0, "training": 0, "rollouts": 4, "seconds": 1.0}
    steps = [{"step": step, "num_tokens": 9, STEP: spent} for step in (1, 2)]
    cost = tmp_path / MARKS / "0"
    cost.mkdir(parents=True)
    names = ("tokens", "scoring", "rescoring", "references", "training", "step", "seconds")
    write_json(cost / COST, {**dict.fromkeys(names, 0), "steps": steps})
    job = ArmJob(comparison, comparison.arms[0], 0, tmp_path)
    key = {"arm": "uniform", "seed": 0}
    assert job.drawn_rows({a: "sums", b: "sums", c: "words"}) == [
        {**key, "task": "sums", "groups": 3, "prompts": 2},
        {**key, "task": "words", "groups": 1, "prompts": 1},
    ]
    assert job.drawn_rows({}) == [{**key, "task": "", "groups": 4, "prompts": 3}]
