"""verl's own `fit`, killed and resumed: each planned prompt once, and the plans of a run that never stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl.trainer.ppo.checkpoint_callback", reason="needs verl 0.9.1: make test-verl")

import transformers

import runs
import tiny
import verl_made as made
from command import run as gaincurate
from gaincurate.core.scored_set import ScoredSet
from gaincurate.schedule.run import Run
from gaincurate.trainers.verl.settings import overrides
from verl_trainer import reward

TRAINER = Path(__file__).parent.parent / "verl_trainer.py"


def fit(work: Path, *more: str, kill_at: int | None = None) -> list[dict[str, Any]]:
    """Train until the end, or until a kill; the steps that were trained, in all calls."""
    command = [
        sys.executable,
        str(TRAINER),
        str(work),
        *overrides(work / "run", 4),
        *made.around(work),
        *more,
    ]
    environment = os.environ | {"KILL_AT": str(kill_at), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == (0 if kill_at is None else -signal.SIGKILL), (
        done.stdout[-2000:] + done.stderr[-4000:]
    )
    return [json.loads(line) for line in (work / "trained.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that verl trained without a stop."""
    work = tmp_path_factory.mktemp("whole")
    run = made.begin(work)
    (work / "failing").write_text(run.ids(0)[2])
    steps = fit(work, "trainer.save_freq=1")
    assert [step["step"] for step in steps] == list(range(1, 9))
    return run


def planned(run: Run) -> list[list[str]]:
    """The ids of each step that have a rollout, by the plans."""
    ids = [gc_id for round_ in range(4) for gc_id in run.ids(round_)]
    steps = [sorted(ids[first : first + 4]) for first in range(0, 32, 4)]
    steps[0].remove(run.ids(0)[2])  # it fails, there and only there
    return steps


def test_verl_trains_on_the_planned_ids_and_its_rewards_make_the_plans(whole: Run) -> None:
    steps = [json.loads(line) for line in (whole.folder.parent / "trained.jsonl").read_text().splitlines()]
    assert [step["ids"] for step in steps] == planned(whole)
    assert [step["mu"] for step in steps[::2]] == [whole.plan(round_)["mu"] for round_ in range(4)]
    assert whole.state["finished"]


def test_the_outcomes_are_those_of_the_rollouts(whole: Run) -> None:
    failed = whole.ids(0)[2]
    for round_ in range(4):
        lines = [json.loads(line) for line in whole.outcomes(round_).read_text().splitlines()]
        expected = [
            {
                "round": round_,
                "gc_id": gc_id,
                "reward": reward(gc_id, sample),
                "sample": sample,
                "tokens": 3 if sample == 0 else 7,  # the second rollout is of two trajectories, 3 and 4 long
                "step": 1 + round_ * 2 + place // 4,
            }
            for place, gc_id in enumerate(whole.ids(round_))
            for sample in (0, 1)
            if gc_id != failed or round_
        ]
        key = json.dumps
        judged = [line for line in lines if line.get("reward") is not None]
        assert sorted(judged, key=key) == sorted(expected, key=key)
    null = {"round": 0, "gc_id": failed, "reward": None, "step": 1}
    assert null in [json.loads(line) for line in whole.outcomes(0).read_text().splitlines()]
    assert whole.plan(1)["inputs"]["unjudged"] == 1


@pytest.mark.parametrize(
    ("save_freq", "kill_at", "resumed"), [(3, 4, 3), (2, 5, 4)], ids=["middle of a round", "border of two"]
)
def test_killed_and_resumed_the_plans_are_those_of_a_run_that_never_stopped(
    whole: Run, tmp_path: Path, save_freq: int, kill_at: int, resumed: int
) -> None:
    run = made.begin(tmp_path)
    (tmp_path / "failing").write_text(run.ids(0)[2])
    before = fit(tmp_path, f"trainer.save_freq={save_freq}", kill_at=kill_at)
    assert [step["step"] for step in before] == list(range(1, kill_at + 1))
    after = fit(tmp_path, f"trainer.save_freq={save_freq}")[kill_at:]
    assert [step["step"] for step in after] == list(range(resumed + 1, 9))
    assert [step["ids"] for step in [*before[:resumed], *after]] == planned(run)
    assert runs.plans(run) == runs.plans(whole)
    assert run.state["finished"]


def test_a_re_scoring_takes_the_weights_that_verl_saved_also_after_a_kill(tmp_path: Path) -> None:
    tiny.save_model(tmp_path / "model")  # what the workers save
    rows = tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.questions(40))
    first = tiny.save_model(
        tmp_path / "first", transformers.LlamaConfig(**tiny.COMMON | {"rope_theta": 50.0})
    )
    assert gaincurate("score", rows, "-m", first, "-o", tmp_path / "set").exit_code == 0
    run = made.begin(
        tmp_path, rescore={"what": "round", "every": 2}, scored=tmp_path / "set", model=str(first)
    )
    fit(tmp_path, kill_at=4)  # behind the checkpoint that is to be scored
    assert run.state["round"] == 1
    fit(tmp_path)
    assert run.plan(2)["inputs"]["rescored"] == "scores/00001"
    assert run.state_of(2)["checkpoint"] == str(tmp_path / "checkpoints/global_step_4/actor/huggingface")
    assert run.plan(2)["inputs"]["drift"] < 1.0
    angles = ScoredSet(run.set_folder("scores/00001")).column("gc_angle").to_pylist()
    assert run.plan(2)["inputs"]["concentration"] == pytest.approx(sum(angles) / len(angles))
    assert run.state["finished"]
