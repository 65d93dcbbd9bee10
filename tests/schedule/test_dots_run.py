"""Whole runs of DOTS with a tiny model that really generates: driven, by hand, with a server, killed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import chat_server
import dots_runs
import runs
import tiny
from command import run as gaincurate
from gaincurate.difficulty.rollout_set import RolloutSet, pass_rates
from gaincurate.errors import GaincurateError, InputError
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.run import Run
from gaincurate.trainers.session import RunSession

ROLLOUT: dict[str, Any] = {
    "verifier": "bad_verifiers:parity", "samples": 3, "max_tokens": 5, "on_error": "skip", "threads": 1,
    "verify_workers": 1, "device": "cpu",
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    return dots_runs.in_process(monkeypatch)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    rows = tiny.write_jsonl(folder / "rows.jsonl", tiny.questions(30))
    result = gaincurate(
        "score", rows, "-m", model, "-o", folder / "set", "--signals", "angle,embedding", "--answer-column",
        "answer", "--threads", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    return folder / "set"


def start(folder: Path, scored: Path, *more: object, **rollout: Any) -> Run:
    result = gaincurate(
        "schedule", "start", scored, "--run", folder, "--strategy", "dots", "--set", "step_prompts=3", "--rounds", 3,
        "--references", 8, "--rollout", json.dumps({**ROLLOUT, **rollout}), "--set", "reuse_references=0.25", *more,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "opened; its strategy waits for something before round 0" in result.stdout
    assert "round 0 is planned once its references are rolled out" in result.stderr
    return Run(folder)


def command(model: Path) -> list[str]:
    return [*runs.COMMAND[:2], "--model", str(model), *runs.COMMAND[2:]]


def test_a_driven_run_rolls_out_each_checkpoint(
    tmp_path: Path, scored: Path, model: Path, commands: list[list[str]]
) -> None:
    run = start(tmp_path / "run", scored)
    result = gaincurate("schedule", "run", run.folder, "--", *command(model))
    assert result.exit_code == 0, result.stderr
    assert run.state["finished"]
    assert [c[4] for c in commands] == ["rollout"] * 3
    trained_with = [c[c.index("--model") + 1] for c in commands]
    assert trained_with[0] == str(model)
    for round_ in (1, 2):
        checkpoint = run.round_folder(round_ - 1) / f"output/checkpoint-{round_}"
        assert trained_with[round_] == str(checkpoint.resolve())
    for round_ in range(3):
        plan, folder = run.plan(round_), run.references_folder(round_)
        told, rollouts = plan["references"], RolloutSet(folder / "rollouts")
        rates = pass_rates(folder / "rollouts").to_pylist()
        assert [row["gc_id"] for row in rates] == told["ids"]
        observed = {row["gc_id"]: row for row in rates if row["samples"]}
        assert (told["observed"], told["left_out"]) == (len(observed), 8 - len(observed))
        assert (told["rollouts"], told["unjudged"]) == (24, rollouts.manifest["unjudged"])
        assert told["completion_tokens"] == rollouts.manifest["tokens"]
        assert told["policy"] == rollouts.manifest["identity"]["engine"]["model"]
        near = [i for i, row in observed.items() if abs(row["losses"] / row["samples"] - 0.5) <= 0.25]
        assert told["reusable"]["ids"] == near
        assert told["reusable"]["rollouts"] == f"difficulty/{round_:05d}/rollouts"
        assert (run.folder / told["reusable"]["rollouts"] / "manifest.json").exists()
        assert not set(told["ids"]) & set(plan["ids"])
        assert told["checkpoint"] == (
            str(model) if round_ == 0 else f"rounds/{round_ - 1:05d}/output/checkpoint-{round_}"
        )
        assert told["predictor"]["method"] == "gp"
        assert len(plan["predicted"]) == len(plan["ids"]) == 6
    found = json.loads(gaincurate("schedule", "status", run.folder, "--json").stdout)["difficulty"]
    assert found["cost"]["rollouts"] == 72
    assert found["cost"]["rollout_seconds"] == 0.75
    shown = " ".join(gaincurate("schedule", "status", run.folder).stdout.split())
    assert "references: 72 rollouts (the trainer's: 72)" in shown
    assert not (scored / "columns").exists()


def test_before_round_0_a_name_will_do(tmp_path: Path, scored: Path, commands: list[list[str]]) -> None:
    run = start(tmp_path / "run", scored, "--model", "some/name")
    with pytest.raises(GaincurateError, match="^rolling out for round 0 failed"):  # there is no such model
        advance(run)
    assert commands[0][commands[0].index("--model") + 1] == "some/name"


def test_a_checkpoint_is_held(tmp_path: Path, scored: Path, model: Path, commands: list[list[str]]) -> None:
    run = start(tmp_path / "run", scored)
    advance(run)
    runs.report(run)
    output = tmp_path / "output"
    shutil.copytree(model, output / "checkpoint-4")
    (output / "checkpoint-4/trainer_state.json").write_text(json.dumps({"global_step": 4}))
    result = gaincurate("schedule", "next", run.folder, "--trainer", "trl", "--checkpoint", output)
    assert result.exit_code == 0, result.stderr
    used = commands[1][commands[1].index("--model") + 1]
    assert used == str(run.folder / "held/00000/checkpoint-4")
    assert not Path(used).exists()  # of no use any more
    told = run.plan(1)["references"]
    assert told["checkpoint"] == str(output / "checkpoint-4")
    assert told["policy"]["weights"] == run.plan(0)["references"]["policy"]["weights"]


@pytest.mark.slow
def test_killed_at_any_file_plans_are_the_same(
    tmp_path: Path, scored: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, run = start(tmp_path / "reference", scored), start(tmp_path / "killed", scored)
    advance(Run(reference.folder))
    before = tmp_path / "before"
    shutil.copytree(run.folder, before)
    attempt = dots_runs.killed_at_each_write(monkeypatch, lambda: advance(Run(run.folder)), after=False)
    number, kills = 1, 0
    while attempt(number):
        kills += 1
        if not number % 4:  # go on from a few; each takes rollouts
            advance(Run(run.folder))
            assert runs.plans(run) == runs.plans(reference)
        shutil.rmtree(run.folder)
        shutil.copytree(before, run.folder)
        number += 1
    assert kills >= 8
    assert runs.plans(run) == runs.plans(reference)


def test_rollouts_that_are_there_are_not_made_twice_and_those_of_another_policy_are(
    tmp_path: Path, scored: Path, model: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(tmp_path / "run", scored)
    advance(run)
    runs.report(run)
    other = tiny.save_model(tmp_path / "other")

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    def interrupted(checkpoint: Path) -> int:
        before = len(commands)
        with monkeypatch.context() as patch:
            patch.setattr(Run, "commit", killed)
            with pytest.raises(KeyboardInterrupt):
                advance(Run(run.folder), str(checkpoint))
        return len(commands) - before

    with pytest.raises(InputError) as caught:
        advance(run)
    assert str(caught.value) == (
        "the references of round 1 are rolled out with a checkpoint (--rollout) and there is none: give "
        "--checkpoint to `schedule next`, or let the trainer write one below {output}."
    )
    assert interrupted(other) == 1
    assert interrupted(other) == 0
    other.rename(tmp_path / "away")  # as a trainer deletes what it has no use for
    assert interrupted(other) == 0
    (tmp_path / "away").rename(other)
    half = tmp_path / "half"
    shutil.copytree(other, half)
    (half / "model.safetensors").write_bytes((half / "model.safetensors").read_bytes()[:999])
    with pytest.raises(InputError, match=r"the checkpoint of round 0 cannot be used: .* is not finished\."):
        advance(run, str(half))
    assert interrupted(model) >= 1
    shutil.rmtree(other)  # trained past: another checkpoint counts now
    advance(Run(run.folder), str(model))
    assert run.plan(1)["references"]["checkpoint"] == str(model)


def test_by_hand_with_a_rollout_set_and_with_next(tmp_path: Path, scored: Path, model: Path) -> None:
    asked: tuple[object, ...] = ("schedule", "start", scored, "--run", tmp_path / "run")
    asked += ("--strategy", "dots", "--set", "step_prompts=3")
    result = gaincurate(*asked, "--rounds", 2, "--references", 8, "--set", "target=variance", "--json")
    waiting = json.loads(result.stdout)["references"]
    run = Run(tmp_path / "run")
    assert waiting == {
        "round": 0,
        "prompts": str(run.folder / "difficulty/00000/references.parquet"),
        "outcomes": str(run.folder / "difficulty/00000/references.jsonl"),
        "rolls_out": False,
    }
    run.round_folder(0).mkdir(parents=True)  # as a start that was killed late leaves it
    result = gaincurate("schedule", "next", run.folder)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: round 0 waits for the outcomes of its 8 reference prompts" in result.stderr
    told = json.loads((run.references_folder(0) / "references.json").read_text())
    made = gaincurate(
        "difficulty", "rollout", scored, "--model", model, "--out", tmp_path / "rollouts", "--reference", 8,
        "--seed", told["seed"], "--samples", 4, "--verifier", "bad_verifiers:parity", "--max-tokens", 5,
        "--on-error", "skip", "--threads", 1, "--verify-workers", 1,
    )  # fmt: skip
    assert made.exit_code == 0, made.stderr
    result = gaincurate("schedule", "next", run.folder, "--reference-outcomes", tmp_path / "rollouts")
    assert (result.exit_code, result.stdout.strip()) == (0, str(run.round_folder(0))), result.stderr
    plan = run.plan(0)
    assert plan["references"]["ids"] == told["ids"]
    assert plan["references"]["outcomes"]["file"] == str(tmp_path / "rollouts")
    assert plan["references"]["predictor"]["meaning"].startswith("p (1 - p)")
    status = json.loads(gaincurate("schedule", "status", run.folder, "--json").stdout)
    assert (status["difficulty"]["waiting"], status["waiting"]["round"]) == (None, 0)


def test_a_server_serves_driven_and_live_trainers(tmp_path: Path, scored: Path, model: Path) -> None:
    with chat_server.ChatServer() as server:
        rollout = {"verifier": "exact", "samples": 2, "server": server.url, "verify_workers": 1}
        made = gaincurate(
            "schedule", "start", scored, "--run", tmp_path / "run", "--strategy", "dots", "--set", "step_prompts=3",
            "--rounds", 2, "--references", 8, "--rollout", json.dumps(rollout),
        )  # fmt: skip
        assert made.exit_code == 0, made.stderr
        with RunSession(tmp_path / "run") as live:
            for _ in range(4):
                rows = live.take(3)
                live.report({"gc_id": row["gc_id"], "reward": 1, "sample": k} for row in rows for k in (0, 1))
            assert live.take(3) == []
            assert live.finished
        run = Run(tmp_path / "run")
        assert [run.plan(k)["references"]["rollouts"] for k in (0, 1)] == [16, 16]
        assert run.plan(1)["references"]["checkpoint"] is None
        assert run.plan(1)["references"]["policy"] is not None


def test_live_needs_a_server_or_checkpoints(tmp_path: Path, scored: Path, commands: list[list[str]]) -> None:
    run = start(tmp_path / "run", scored)
    refused = "observes references between rounds, and a trainer that follows it live does not wait for their"
    with pytest.raises(InputError, match=refused):
        RunSession(run.folder)
    with RunSession(run.folder, checkpoints=True) as live:
        assert live.round == 0
    assert [command[4] for command in commands] == ["rollout"]
    by_hand = dots_runs.begin(tmp_path / "other")
    for checkpoints in (False, True):
        with pytest.raises(InputError, match=refused):
            RunSession(by_hand.folder, checkpoints=checkpoints)
