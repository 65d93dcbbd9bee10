"""RunSession TRL runs whose references are rolled out with the trainer's own checkpoints, ended and killed anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trl

import dots_runs
import runs
import tiny
import trl_pair
import trl_run
from adapters import forget
from command import run as gaincurate
from gaincurate.schedule import rescore
from gaincurate.schedule.run import Run
from gaincurate.trainers.session import RunSession
from gaincurate.trainers.trl.live import attach, dataset
from trl_run import Ender, Ends

pytestmark = pytest.mark.usefixtures("one_thread")

ROUNDS, STEPS = 3, 2  # two steps a round: four prompts each, two rollouts of each prompt
ROLLOUT: dict[str, Any] = {
    "verifier": "bad_verifiers:parity", "samples": 2, "max_tokens": 4, "on_error": "skip", "threads": 1,
    "verify_workers": 1, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, and a set scored with it."""
    folder = tmp_path_factory.mktemp("base")
    tiny.save_model(folder / "model")
    rows = tiny.write_jsonl(folder / "rows.jsonl", tiny.questions(30))
    result = gaincurate(
        "score", rows, "-m", folder / "model", "-o", folder / "set", "--signals", "angle,embedding",
        "--answer-column", "answer", "--threads", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    return folder


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Rollouts run in this process, to save their imports."""
    return dots_runs.in_process(monkeypatch)


def begin(folder: Path, base: Path, rounds: int = ROUNDS) -> Run:
    given = {"references": 8, "rollout": ROLLOUT}
    return runs.begin(
        folder, scored=base / "set", strategy="dots", options=given, rounds=rounds, align_to=4,
        model=str(base / "model"),
    )  # fmt: skip


def make(base: Path, run: Run, **options: Any) -> Any:
    given: dict[str, Any] = {"max_steps": run.config.rounds * STEPS, "save_steps": STEPS, **options}
    made = trl.GRPOTrainer(
        model=str(base / "model"),
        reward_funcs=trl_run.reward,
        args=trl_run.config(run.folder.parent / "out", **given),
        train_dataset=dataset(run.folder),
    )
    attach(made, run.folder)
    return made


def models_of(commands: list[list[str]]) -> list[str]:
    """What references were rolled out with, in order."""
    return [command[command.index("--model") + 1] for command in commands if command[4] == "rollout"]


def plans(run: Run) -> list[Any]:
    """All plans, with checkpoints by their names alone: two trainings lie in two folders."""
    found = [run.plan(round_) for round_ in range(run.config.rounds)]
    for plan in found:
        plan["references"]["checkpoint"] = Path(plan["references"]["checkpoint"]).name
    return found


def test_references_are_of_the_checkpoint(tmp_path: Path, base: Path, commands: list[list[str]]) -> None:
    run = begin(tmp_path, base)
    assert run.state["round"] == -1
    made = make(base, run, save_steps=1)
    assert (run.state["round"], models_of(commands)) == (0, [str(base / "model")])
    made.train()
    assert run.state["finished"]
    assert [command[4] for command in commands] == ["rollout"] * ROUNDS
    ends = [f"checkpoint-{STEPS * round_}" for round_ in range(1, ROUNDS)]
    held = [str(run.folder / f"held/{round_:05d}/{name}") for round_, name in enumerate(ends)]
    assert models_of(commands)[1:] == held
    assert not list((run.folder / "held").glob("*"))
    for round_, name in enumerate(ends, 1):
        plan, checkpoint = run.plan(round_), tmp_path / "out" / name
        assert plan["references"]["checkpoint"] == str(checkpoint)
        command = [checkpoint if part == held[round_ - 1] else part for part in commands[round_]]
        command[command.index("--out") + 1] = tmp_path / name
        assert gaincurate(*command[3:]).exit_code == 0
        ours, theirs = (
            json.loads((folder / "manifest.json").read_text())
            for folder in (tmp_path / name, run.references_folder(round_) / "rollouts")
        )
        assert ours["shards"] == theirs["shards"]
        assert ours["identity"]["engine"]["model"]["weights"] == plan["references"]["policy"]["weights"]
    weights = {run.plan(round_)["references"]["policy"]["weights"] for round_ in range(ROUNDS)}
    assert len(weights) == ROUNDS
    told = json.loads(gaincurate("schedule", "status", run.folder, "--json").stdout)["difficulty"]
    assert told["cost"]["rollouts"] == ROUNDS * 8 * 2
    for round_ in range(ROUNDS):
        lines = [json.loads(line) for line in run.outcomes(round_).read_text().splitlines()]
        failed = [1 - (lines[k]["reward"] + lines[k + 1]["reward"]) / 2 for k in range(0, len(lines), 2)]
        off = [(p - d) ** 2 for p, d in zip(run.plan(round_)["predicted"], failed, strict=True)]
        assert told["rounds"][round_]["on_drawn"]["brier"] == pytest.approx(sum(off) / len(off))
        assert told["rounds"][round_]["on_references"]["brier"] is not None


def ends_at(patch: pytest.MonkeyPatch, place: str) -> None:
    """Have what makes round 1 end at a place."""
    turn: Callable[..., bool] = RunSession.turn
    train: Callable[..., float] = vars(rescore)["run_command"]

    def turned(live: RunSession, *arguments: Any) -> bool:
        planned = live.round == 0
        if planned and place == "before the turn":
            raise Ends
        there = turn(live, *arguments)
        if planned and place == "behind the plan":
            raise Ends
        return there

    def called(command: list[str], *arguments: Any, **options: Any) -> float:
        first = "difficulty/00001/" in " ".join(command)
        if first and place == f"before {command[4]}":
            raise Ends
        return train(command, *arguments, **options)

    patch.setattr(RunSession, "turn", turned)
    patch.setattr(rescore, "run_command", called)


@pytest.mark.slow
def test_ended_nothing_is_rolled_out_twice(tmp_path: Path, base: Path, commands: list[list[str]]) -> None:
    whole = begin(tmp_path / "whole", base)
    make(base, whole).train()
    for place in ("before the turn", "before rollout", "behind the plan", "in round 1"):
        forget()
        commands.clear()
        run = begin(tmp_path / place.replace(" ", "-"), base)
        made = make(base, run)
        made.add_callback(Ender(STEPS + 1))
        with pytest.MonkeyPatch.context() as patch:
            ends_at(patch, place)
            with pytest.raises(Ends):
                made.train()
        forget()
        make(base, run).train(resume_from_checkpoint=True)
        assert plans(run) == plans(whole), place
        assert run.state["finished"]
        assert [command[4] for command in commands] == ["rollout"] * ROUNDS, place
        undone = run.folder / "undone"
        gone = sorted(path.name for path in undone.iterdir()) if undone.exists() else []
        assert gone == (["00001-1"] if place in ("behind the plan", "in round 1") else [])


@pytest.mark.slow
def test_going_back_rolls_references_out_anew(tmp_path: Path, base: Path, commands: list[list[str]]) -> None:
    run = begin(tmp_path, base)
    make(base, run, save_steps=1).train()
    before = plans(run)
    forget()
    commands.clear()
    make(base, run, save_steps=1).train(resume_from_checkpoint=str(tmp_path / "out/checkpoint-1"))
    assert [command[4] for command in commands] == [
        "rollout",
        "rollout",
    ]  # which gave the same to predict from
    assert plans(run) == before


@pytest.mark.slow
def test_killed_while_rolling_out(tmp_path: Path, base: Path, commands: list[list[str]]) -> None:
    whole, run = begin(tmp_path / "whole", base, 2), begin(tmp_path / "cut", base, 2)
    make(base, whole).train()
    options = [f"max_steps={2 * STEPS}", f"save_steps={STEPS}"]
    output = tmp_path / "cut/out"

    def launch(*more: str) -> int:
        return trl_pair.launch(base / "model", run.folder, output, *options, *more, processes=1)

    assert launch("kill_rolling_out=1") == -9
    assert run.state["round"] == 0
    assert (run.references_folder(1) / "rollouts").exists()
    assert launch() == 0, (output / "log-0.txt").read_text()[-2000:]
    assert plans(run) == plans(whole)
    assert run.state["finished"]
