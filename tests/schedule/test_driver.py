"""Driven runs: to their end, after failures, killed at random instants, and a real run of TRL."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import runs
import tiny
from gaincurate.core.progress import View
from gaincurate.errors import InputError, OutcomeError, TrainerError
from gaincurate.schedule import driver
from gaincurate.schedule.checkpoints import Finder, checkpoint_before
from gaincurate.schedule.driver import Schedule, drive, newest_command
from gaincurate.schedule.observations import status
from gaincurate.schedule.run import Run

SCRIPT, PLACES = runs.COMMAND[:2], runs.COMMAND[2:]


def command(*options: str) -> list[str]:
    return [*SCRIPT, *options, *PLACES]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A checkpoint that is complete and tiny."""
    import numpy as np
    from safetensors.numpy import save_file

    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"w": np.zeros(3, np.float32)}, folder / "model.safetensors")
    return folder


def test_a_search_that_fails_costs_no_training(tmp_path: Path, weights: Path) -> None:
    run = runs.begin(tmp_path, rounds=1)

    class Failing(Finder):
        def newest(self, output: Path, since: float) -> Path | None:
            raise InputError("the disk is odd")

    with pytest.raises(InputError, match="the disk is odd"):
        drive(run, command("--model", str(weights)), finder=Failing())
    trained = run.outcomes(0).read_bytes()
    drive(run, [])
    assert run.state["finished"]
    assert run.outcomes(0).read_bytes() == trained


def test_a_run_is_driven_to_its_end_and_the_folder_tells_the_story(tmp_path: Path, weights: Path) -> None:
    run = runs.begin(tmp_path)

    events: list[Any] = []

    class Heard(View):
        def training(self, round_: int, attempt: int, command: Any) -> None:
            events.append((round_, attempt, command[-3]))

        def round_done(self, round_: int, seconds: float) -> None:
            events.append(round_)

    drive(run, command("--model", str(weights)), view=Heard())
    outputs = [str(run.round_folder(k).resolve() / "output" / f"checkpoint-{k + 1}") for k in range(3)]
    assert events == [(0, 1, "the-model"), 0, (1, 1, outputs[0]), 1, (2, 1, outputs[1]), 2]
    found = status(run)
    assert found["finished"]
    assert [row["round"] for row in found["rounds"]] == [0, 1, 2]
    assert all(row["training_seconds"] > 0 and 0 <= row["accuracy"] <= 1 for row in found["rounds"])
    assert found["rounds"][2]["mu"] > 0
    assert found["waiting"] is None
    assert "round 1 begins with" in (run.round_folder(1) / "trainer.log").read_text()


def test_an_attempt_that_died_is_replaced_and_the_plans_are_the_same(tmp_path: Path) -> None:
    whole, broken = runs.begin(tmp_path / "a"), runs.begin(tmp_path / "b")
    drive(whole, [*SCRIPT, *PLACES[:2], "none", *PLACES[3:]])
    dying = [*SCRIPT, "--mode", "die", *PLACES[:2], "none", *PLACES[3:]]
    for _ in range(3):
        with pytest.raises(TrainerError, match=r"round \d: the trainer failed with exit code 1; its log is"):
            drive(Run(broken.folder), dying)
    left = broken.round_folder(2) / ".trained.json.1.tmp"
    left.touch()  # a driver was killed there
    drive(Run(broken.folder), [])  # the same command again
    assert not left.exists()
    assert runs.plans(whole) == runs.plans(broken)
    inputs = [row["void"] for row in status(broken)["rounds"]]
    assert inputs == [8, 8, 8]  # two prompts of four rollouts were taken back each round


def test_failures_name_round_and_log_and_lose_nothing(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    for mode, error, sentence in (
        ("fail", TrainerError, "round 0: the trainer failed with exit code 3; its log is"),
        ("hang", TrainerError, "round 0: the trainer took longer than 0.5 s (--timeout) and was ended"),
        ("silent", OutcomeError, "round 0 has no outcomes"),
    ):
        with pytest.raises(error) as caught:
            drive(Run(run.folder), command("--mode", mode), timeout=0.5 if mode == "hang" else None)
        assert sentence in str(caught.value)
        assert f"Nothing is lost: `gaincurate schedule run {run.folder}`" in str(caught.value)
    assert run.state["round"] == 0
    # Its trainer ended well, so the same command is not run again, and a corrected one is.
    attempts = json.loads((run.round_folder(0) / "attempt.json").read_text())["attempt"]
    with pytest.raises(OutcomeError, match="round 0 has no outcomes"):
        drive(Run(run.folder), [])
    with pytest.raises(OutcomeError, match="outcomes for 2 of its 8 prompts"):
        drive(Run(run.folder), command("--mode", "few"))
    with pytest.raises(OutcomeError, match="outcomes for 2 of its 8 prompts"):
        drive(Run(run.folder), command())  # outcomes are there, so it is for the next round
    assert json.loads((run.round_folder(0) / "attempt.json").read_text())["attempt"] == attempts + 1
    # What was wrong in an attempt's lines does not stand in the way of one that is trained again.
    runs.write(run, 0, ["no JSON"])
    with pytest.raises(OutcomeError, match="is broken"):
        drive(Run(run.folder), [])
    with pytest.raises(TrainerError, match="round 0: its trainer ended well but left no complete checkpoint"):
        drive(Run(run.folder), command(), again=True)
    assert "no JSON" in (run.round_folder(0) / "outcomes-1.jsonl").read_text()


def test_data_that_were_tidied_away_are_written_again_as_they_were(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, strategy="posterior", options={"group_sizes": [2, 20]})
    before = run.data(0).read_bytes()
    run.data(0).unlink()
    drive(Run(run.folder), [*SCRIPT, *PLACES[:2], "none", *PLACES[3:]])
    assert run.data(0).read_bytes() == before


def test_without_the_checkpoints_name_none_is_needed(tmp_path: Path, weights: Path) -> None:
    run = runs.begin(tmp_path, rounds=2)
    drive(run, [*SCRIPT, *PLACES[:2], "none", *PLACES[3:]])
    assert run.state["finished"]
    # But one that was left is gone on from, or missed: training must not fall back to the model in silence.
    run = runs.begin(tmp_path, rounds=3, run=tmp_path / "other")
    code = (
        "import os, subprocess, sys; more = ['--model', sys.argv[1]] if os.environ['GAINCURATE_ROUND'] == '0' else []\n"
        "sys.exit(subprocess.run([sys.executable, sys.argv[2], *more, *sys.argv[3:]]).returncode)"
    )
    with pytest.raises(TrainerError, match="round 1: its trainer ended well but left no complete checkpoint"):
        drive(run, [sys.executable, "-c", code, str(weights), SCRIPT[1], *PLACES[:2], "none", *PLACES[3:]])


def test_a_checkpoint_given_to_next_is_where_run_goes_on(tmp_path: Path, weights: Path) -> None:
    run = runs.begin(tmp_path)
    runs.step(run, checkpoint=weights)
    assert checkpoint_before(run, 1, []) == str(weights)


def test_an_old_checkpoint_is_none(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs.begin(tmp_path)
    drive_one = command("--model", str(weights))
    with pytest.raises(TrainerError, match="round 1: the trainer failed"):
        drive(run, [*drive_one[:2], "--fail-from", "1", *drive_one[2:]])
    trained = json.loads((run.round_folder(0) / "trained.json").read_text())
    assert trained["checkpoint"].endswith("checkpoint-1")
    stale = run.round_folder(1) / "output/checkpoint-99"
    shutil.copytree(weights, stale)
    (stale / "trainer_state.json").write_text('{"global_step": 99}')
    monkeypatch.setattr(driver, "_CLOCKS", 0.0)
    drive(run, drive_one)
    trained = json.loads((run.round_folder(1) / "trained.json").read_text())
    assert trained["checkpoint"].endswith("checkpoint-2")


def test_an_option_that_there_is_not_is_no_trainer(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    with pytest.raises(InputError, match="--agian is no option of `schedule run` and no program"):
        drive(run, ["--agian"])
    with pytest.raises(InputError, match="the trainer 'no-such' cannot be started: there is no such program"):
        drive(run, ["no-such"])
    with pytest.raises(InputError, match=r"no command: gaincurate schedule run .* -- python train.py"):
        drive(run, [])
    for refused in (drive, lambda run, command: newest_command(run, command, Finder())):
        with pytest.raises(InputError, match="{rond} in the command is none of {data}, {round}, {checkpoi"):
            refused(run, [sys.executable, "train.py", "{rond}"])
    assert not (run.folder / "command.json").exists()


def test_a_deleted_checkpoint_is_missed_before_the_next_training(tmp_path: Path, weights: Path) -> None:
    run = runs.begin(tmp_path)
    with pytest.raises(TrainerError):
        drive(run, command("--model", str(weights), "--mode", "fail"))
    stop = [*command("--model", str(weights)), "{round}"]

    class StopAtTwo(View):
        def training(self, round_: int, attempt: int, command: Any) -> None:
            if round_ == 1:
                (run.round_folder(0) / "output/checkpoint-1/model.safetensors").unlink()
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(run, stop[:-1], view=StopAtTwo())
    with pytest.raises(TrainerError, match="round 1 would begin with the checkpoint of round 0, which is"):
        drive(Run(run.folder), [])


def test_the_environment_has_the_names_too(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rounds=1)
    code = (
        "import os, json, pyarrow.parquet as pq; e = os.environ\n"
        "ids = pq.read_table(e['GAINCURATE_DATA'])['gc_id'].to_pylist()\n"
        "rows = [{'gc_id': i, 'reward': 1, 'round': int(e['GAINCURATE_ROUND'])} for i in ids]\n"
        "open(e['GAINCURATE_OUTCOMES'], 'w').write('\\n'.join(map(json.dumps, rows)) + '\\n')\n"
        "print(e['GAINCURATE_CHECKPOINT'], os.path.isdir(e['GAINCURATE_OUTPUT']), e['GAINCURATE_ATTEMPT'])"
    )
    drive(run, [sys.executable, "-c", code])
    assert "the-model True 1" in (run.round_folder(0) / "trainer.log").read_text()


def test_a_programs_own_loop_goes_through_the_rounds_that_are_left(tmp_path: Path) -> None:
    scored = runs.some_set(tmp_path / "set")
    schedule = Schedule.start(scored, tmp_path / "run", strategy="uniform", budget=8, rounds=3)
    assert repr(schedule) == f"Schedule('{tmp_path}/run': uniform, round 0 (1/3))"
    walked = []
    for round_ in schedule:
        walked.append(round_)
        assert schedule.data().column("gc_id").to_pylist() == schedule.ids
        if round_ == 1:
            break  # as an exception would
        schedule.report({"gc_id": gc_id, "reward": 1.0} for gc_id in schedule.ids)
    for round_ in Schedule(tmp_path / "run"):
        walked.append(round_)
        schedule.report({"gc_id": gc_id, "reward": 1.0} for gc_id in schedule.ids)
    assert walked == [0, 1, 1, 2]
    assert schedule.finished
    assert repr(schedule) == f"Schedule('{tmp_path}/run': uniform, round 2 (3/3), finished)"
    assert list(schedule) == []
    other = Schedule.start(scored, tmp_path / "other", strategy="uniform", budget=8, rounds=3)
    with pytest.raises(OutcomeError, match="round 0 has no outcomes"):
        list(other)


PROGRAM = Path(__file__).parent.parent / "kills.py"


@pytest.mark.parametrize(
    ("strategy", "kills"),
    [
        ("gain-rl", 3),
        pytest.param("gain-rl", 30, marks=pytest.mark.slow),
        pytest.param("posterior", 30, marks=pytest.mark.slow),
    ],
)
def test_runs_killed_at_any_instant_come_to_the_same_plans(tmp_path: Path, strategy: str, kills: int) -> None:
    paths = json.dumps(sys.path)
    code = f"import sys, json, runpy; sys.path[:] = json.loads({paths!r}); sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(PROGRAM), "runs", str(tmp_path), strategy, str(kills)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["finished"]
    assert found["kills"] >= kills
    assert len(found["files"]) == 1 + 3 * 5
    assert found["differing"] == []
    if kills > 3:
        assert len(set(found["left"])) > 2  # early and late in the run


DEMO = Path(__file__).parent.parent.parent / "docs/examples/demo_schedule.sh"


@pytest.mark.slow
def test_three_rounds_of_grpo_with_one_rescoring(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    tiny.write_jsonl(tmp_path / "prompts.jsonl", tiny.questions(64))
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", DEMO, tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": programs, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run(tmp_path / "run")
    program = [sys.executable, "-m", "gaincurate", "schedule", "status", str(run.folder), "--json"]
    told = json.loads(subprocess.run(program, capture_output=True, check=True).stdout)
    assert told["finished"]
    first, second, third = told["rounds"]
    for row in (first, second, third):
        assert row["rollouts"] == 16 * 4
        assert 0 < row["accuracy"] < 1
        assert row["training_seconds"] > 0
    assert 0 == first["mu"] < second["mu"] < third["mu"]
    # The one re-scoring: after the second round, with its own checkpoint.
    assert [row["rescored"] for row in told["rounds"]] == [None, "scores/00001", None]
    assert -1 <= second["drift"] < 0.999
    assert run.plan(2)["order"]["ordered_by"] == "scores/00001"
    execution = json.loads((run.folder / "scores/00001/execution.jsonl").read_text())
    assert execution["model"] == str(run.round_folder(1).resolve() / "output/checkpoint-16")
    # The trainer saw each round's rows in the plan's order, and went on from the last checkpoint.
    for round_ in range(3):
        lines = [json.loads(line) for line in run.outcomes(round_).read_text().splitlines()]
        seen = list(dict.fromkeys(line["gc_id"] for line in lines))
        assert seen == run.ids(round_) == pq.read_table(run.data(round_)).column("gc_id").to_pylist()
        steps = {line["step"] for line in lines}
        assert steps == set(range(8 * round_, 8 * round_ + 8))
        found = Finder().newest(run.round_folder(round_) / "output", 0)
        assert found is not None
        assert found.name == f"checkpoint-{8 * (round_ + 1)}"
