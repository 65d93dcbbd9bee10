from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import runs
from command import run as gaincurate
from gaincurate.schedule.run import Run
from gaincurate.trainers.session import RunSession


def start(folder: Path, *more: object) -> Any:
    scored = folder / "set"
    if not scored.exists():
        runs.some_set(scored)
    options = ("--strategy", "gain-rl", "--budget", 8, "--rounds", 3, "--sigma", "0.1N")
    return gaincurate("schedule", "start", scored, "--run", folder / "run", *options, *more)


def test_start_next_and_status_as_a_user_meets_them(tmp_path: Path) -> None:
    result = start(tmp_path)
    assert result.exit_code == 0
    assert "round 0 of 3 is planned: 8 of 60 prompts" in result.stdout
    run = Run(tmp_path / "run")
    result = gaincurate("schedule", "next", run.folder)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: round 0 has no outcomes" in result.stderr
    for _ in range(2):
        runs.report(run)
        result = gaincurate("schedule", "next", run.folder)
        assert result.stdout.strip() == str(run.round_folder(run.state["round"]))
    told = json.loads(gaincurate("schedule", "status", run.folder, "--json").stdout)
    assert [(row["accuracy"], row["effective"]) for row in told["rounds"][:2]] == [(0.5, 1.0)] * 2
    assert told["rounds"][2]["mu"] > told["rounds"][1]["mu"] > 0
    assert told["waiting"] == {"round": 2, "prompts": 0, "of": 8, "accuracy": None, "problem": None}
    runs.write(run, 2, [{"gc_id": "?", "reward": 1, "round": 2}])
    shown = gaincurate("schedule", "status", run.folder).stdout
    assert "round 2 (3/3) is in progress" in shown
    assert "'?' is not among the prompts of round 2" in shown
    run.outcomes(2).unlink()
    runs.report(run)
    result = gaincurate("schedule", "next", run.folder, "--json")
    assert json.loads(result.stdout) == {"finished": True, "round": 2}
    assert "; finished" in gaincurate("schedule", "status", run.folder).stdout


def test_a_status_has_the_columns_that_have_values_and_says_how_long_the_rest_takes(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, strategy="uniform", rounds=4)
    runs.report(run)
    assert gaincurate("schedule", "next", run.folder).exit_code == 0
    run.log(what="training", round=0, seconds=50.0, ended_well=True)
    run.log(what="scoring", round=0, seconds=10.0)
    (run.round_folder(1) / "trainer.log").write_text("$ python train.py\nstep 3: reward 0.5\n")
    facts = json.loads(gaincurate("schedule", "status", run.folder, "--json").stdout)
    assert facts["seconds_left"] == 3 * 60.0  # rounds 1, 2 and 3
    assert facts["last_line"] == "step 3: reward 0.5"
    shown = gaincurate("schedule", "status", run.folder).stdout
    head = "round accuracy groups differ all wrong all right mean angle rollouts prompt tokens training s scoring s"
    assert shown.splitlines()[1].split() == head.split()
    assert "  about 3 min left, as the last rounds went" in shown
    assert "  the trainer's log ends: step 3: reward 0.5" in shown


def test_run_drives_a_trainer_and_says_how_each_round_went(tmp_path: Path) -> None:
    start(tmp_path, "--rescore", "off")
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    ended = gaincurate("schedule", "run", tmp_path / "run", "--timeout", 1, "--", *sleeping)
    assert "took longer than 1 s (--timeout) and was ended" in ended.stderr
    command = [*runs.COMMAND[:2], "{data}", "{round}", "x", "{outcomes}", "{output}"]
    result = gaincurate("schedule", "run", tmp_path / "run", "--timeout", "60", "--", *command)
    assert result.exit_code == 0, result.output
    assert [line.split(":")[0] for line in result.stderr.splitlines() if "accuracy" in line] == [
        "round 0 (1/3)",
        "round 1 (2/3)",
        "round 2 (3/3)",
    ]
    assert "of training" in result.stdout


@pytest.mark.parametrize(
    ("number", "exit_code", "what"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM")],
)
def test_a_signal_ends_the_trainer_and_it_says_how_to_go_on(
    tmp_path: Path, number: signal.Signals, exit_code: int, what: str
) -> None:
    start(tmp_path)
    ready = tmp_path / "ready"
    code = f"import pathlib, time; pathlib.Path({str(ready)!r}).touch(); time.sleep(600)"
    main = f"import sys; sys.path[:0] = {sys.path!r}; from gaincurate.cli.app import main; main()"
    driver = subprocess.Popen(
        [sys.executable, "-c", main, "schedule", "run", tmp_path / "run", "--", sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
    )
    while not ready.exists() and driver.poll() is None:
        pass
    driver.send_signal(number)
    _, said = driver.communicate()
    assert driver.returncode == exit_code
    assert f"{what}. Run the same command again to go on: gaincurate schedule run" in said
    run = Run(tmp_path / "run")
    assert run.state["round"] == 0


def test_a_dry_run_prints_the_newest_rounds_command_and_keeps_nothing(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    asked = ["schedule", "run", run.folder, "--dry-run"]
    command = [sys.executable, "t.py", "{round}", "{checkpoint}", "{outcomes}"]
    shown = gaincurate(*asked, "--json", "--", *command)
    filled = [sys.executable, "t.py", "0", "the-model", str(run.outcomes(0))]
    assert json.loads(shown.stdout) == {"round": 0, "command": filled}
    assert gaincurate(*asked, "--", *command).stdout.startswith(f"round 0 (1/3): {sys.executable} t.py 0 the")
    assert not (run.folder / "command.json").exists()
    assert "no command: gaincurate schedule run" in gaincurate(*asked).stderr
    finished = runs.begin(tmp_path / "short", rounds=1)
    runs.report(finished)
    assert gaincurate("schedule", "next", finished.folder).exit_code == 0
    refused = gaincurate("schedule", "run", finished.folder, "--dry-run", "--", *command)
    assert (refused.exit_code, "is finished: no round is left" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--scoring", "--foo"], "--scoring '--foo': it takes --device, --dtype, --backend, "),
        (["--scoring", "--threads 2 --limit 3"], "--trust-remote-code, and not --limit."),
        (["--scoring", "--device 'cuda"], "no closing quotation."),
        (["--scoring", "--threads x"], "Invalid value for '--threads': "),
        (["--scoring", "--dtype int8"], "Invalid value for '--dtype': "),
        (["--scoring", "--device gpu"], "--device gpu: expected auto, cpu, cuda or cuda:N."),
        (["--set", "beta"], "--set beta: expected NAME=VALUE."),
        (["--reward-range", "5"], "--reward-range 5: expected two numbers, LO,HI."),
        (["--seed", str(2**64)], f"--seed {2**64}: it should be less than"),
    ],
)
def test_bad_options_are_one_sentence(tmp_path: Path, options: list[str], sentence: str) -> None:
    result = start(tmp_path, *options)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not (tmp_path / "run").exists()


def test_options_of_the_strategy_and_of_re_scoring_reach_the_run(tmp_path: Path) -> None:
    scoring = ["--device", "cpu", "--threads", "1", "--trust-remote-code"]
    options = ["--set", "alpha=3", "--set", "step_low=0", "--set", "scale=500"]
    result = start(tmp_path, *options, "--rescore", "round", "--scoring", " ".join(scoring))
    assert (result.exit_code, result.stderr) == (0, "")
    run = Run(tmp_path / "run")
    assert run.config.rescore.options == scoring
    assert run.facts["params"] == {
        "sigma": "0.1N", "alpha": 3.0, "beta": 0.5, "scale": 500.0, "step_low": 0.0, "step_high": None
    }  # fmt: skip


def test_next_keeps_out_of_a_run_that_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaincurate.core.process._FREED", 0.0)
    run = runs.begin(tmp_path)
    runs.report(run)
    with RunSession(run.folder):
        result = gaincurate("schedule", "next", run.folder)
        assert result.exit_code == 1
        assert "is still at work" in result.stderr
        assert run.state["round"] == 0
    assert gaincurate("schedule", "next", run.folder).exit_code == 0
