"""What `compare --dry-run` says, against sums by hand; nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from command import run, tree
from compare_command import small_sets, toml
from gaincurate.compare.arm import COST, MARKS, PROGRESS, ROLLOUTS
from gaincurate.compare.config import checked_comparison
from gaincurate.compare.results import FACTS
from gaincurate.compare.runner import JOBS, estimate, stated
from gaincurate.core.artifact import MANIFEST
from gaincurate.core.files import write_json
from gaincurate.errors import InputError, OutputError

pytest.importorskip("trl")


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Three arms and two seeds; each step has 4 prompts of 8 rollouts of up to 64 tokens."""
    return small_sets(tmp_path) | {"seeds": [0, 1], "marks": 2, "evaluation": {"samples": 3}}


def test_trainings_tokens_and_answers_are_counted(settings: dict[str, Any], tmp_path: Path) -> None:
    arms = [{"name": "angle", "strategy": "gain-rl"}]
    comparison = checked_comparison(settings | {"budget_tokens": 5000, "prefill_weight": 10, "arms": arms})
    before = tree(tmp_path)
    facts = estimate(comparison, tmp_path / "out")
    assert tree(tmp_path) == before
    scored = 10 * sum(map(int, [3] * 40))  # of `small_sets`: 3 tokens in each of 40 prompts
    assert (facts["trainings"], facts["done"], facts["tokens"]) == (6, 0, 2 * (3 * 5000 - scored))
    assert facts["judged"] == (6 * 2 + 1) * 40 * 3
    assert facts["seconds"] is None
    tuned = estimate(comparison, tmp_path / "out", tune=True)
    assert (tuned["tuning"], tuned["trainings"]) == (36, 42)


def test_the_time_is_that_of_what_is_done_there(settings: dict[str, Any], tmp_path: Path) -> None:
    comparison, out = checked_comparison(settings), tmp_path / "out"
    out.mkdir()
    write_json(out / FACTS, stated(comparison, out)[0])
    for arm, seconds in (("uniform", 50.0), ("length", 150.0)):
        for k in range(2):
            mark = out / JOBS / arm / "seed-0" / MARKS / str(k)
            (mark / ROLLOUTS).mkdir(parents=True)
            write_json(mark / ROLLOUTS / MANIFEST, {})
            write_json(mark / COST, {"seconds": seconds, "training": 500})
    (out / JOBS / "angle" / "seed-0").mkdir(parents=True)
    write_json(out / JOBS / "angle" / "seed-0" / PROGRESS, {"share": 0.5})
    facts = estimate(comparison, out, 2)
    # 0.2 s a token, two trainings at a time; of six of 1,000 tokens, two are done and one is half done.
    assert facts["seconds"] == pytest.approx(3.5 * 1000 * 0.2 / 2)
    assert (facts["done"], facts["tokens"]) == (2, 3500)
    with pytest.raises(OutputError, match="budget_tokens differ"):
        estimate(checked_comparison(settings | {"budget_tokens": 900}), out)


def test_what_the_comparison_would_refuse_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such field"):
        estimate(checked_comparison(settings | {"train": {"learning_rat": 1}}), tmp_path / "out")
    for right in ({"scale_rewards": False}, {"scale_rewards": "batch"}, {"bf16": False}, {"weight_decay": 0}):
        estimate(checked_comparison(settings | {"train": right}), tmp_path / "out")
    arm = {"name": "mine", "strategy": "gain-rl", "options": {"sigmaa": "3"}}
    with pytest.raises(InputError, match="sigmaa"):
        estimate(checked_comparison(settings | {"arms": [arm]}), tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").write_text("")
    with pytest.raises(OutputError, match="holds 'a.txt'"):
        estimate(checked_comparison(settings), tmp_path / "out")


def test_the_command_prints_it(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(toml(settings))
    asked = ("compare", tmp_path / "c.toml", "-o", tmp_path / "out", "--dry-run")
    said = "6 trainings, 0 done; 6,000 tokens to generate in training, and 1,560 answers to judge; nothing"
    assert said in " ".join(run(*asked).stdout.split())
    assert not (tmp_path / "out").exists()
    assert json.loads(run(*asked, "--json").stdout)["trainings"] == 6
