"""A known trainer's checkpoints in a run, with real scoring of tiny models; scoring and merging in-process."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import runs
import tiny
import trainer_folders as folders
from command import run as gaincurate
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.sealed import read_sealed
from gaincurate.errors import GaincurateError, InputError, ModelError, TrainerError
from gaincurate.schedule import rescore
from gaincurate.schedule.config import RescoreConfig
from gaincurate.schedule.driver import drive
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.run import Run
from gaincurate.trainers import checkpoints as finding
from gaincurate.trainers.checkpoints import TrainerFinder, hold, owner
from gaincurate.trainers.profile import layout_of

TRL = layout_of("trl")
Strike = Callable[[list[str]], None]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    made = tiny.model(transformers.LlamaConfig(**tiny.COMMON))
    for number in range(2):
        made.save_pretrained(folder / str(number))
        tiny.tokenizer().save_pretrained(folder / str(number))
        with torch.no_grad():
            for parameter in made.parameters():
                parameter *= 1.1
    return [folder / "0", folder / "1"]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, models: list[Path]) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    rows = tiny.write_jsonl(folder / "rows.jsonl", tiny.questions(24))
    assert gaincurate("score", rows, "-m", models[0], "-o", folder / "set").exit_code == 0
    return folder / "set"


def begun(folder: Path, scored: Path, **more: Any) -> Run:
    rescore = RescoreConfig(what="round", probe=0)
    made = runs.begin(folder, scored=scored, options={"sigma": "4"}, rescore=rescore, **more)
    runs.report(made)
    return made


@pytest.fixture
def run(tmp_path: Path, scored: Path, models: list[Path]) -> Run:
    return begun(tmp_path, scored, model=str(models[0]))


@pytest.fixture
def strikes(monkeypatch: pytest.MonkeyPatch) -> list[Strike]:
    """What the trainer does while its checkpoint is scored, with the command; scoring runs in this process."""
    found: list[Strike] = []

    def call(command: list[str], log: Path, **options: Any) -> float:
        for strike in found:
            strike(command)
        result = gaincurate(*command[3:])
        log.write_text(result.output)
        if result.exit_code:
            raise TrainerError("failed")
        return 0.5

    monkeypatch.setattr(rescore, "run_command", call)
    return found


def save(root: Path, step: int, model: Path) -> Path:
    """A checkpoint as TRL leaves it."""
    folder = root / f"checkpoint-{step}"
    shutil.copytree(model, folder)
    (folder / "optimizer.pt").write_bytes(b"pickle")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return folder


def following(*arguments: object) -> tuple[int, str]:
    result = gaincurate("schedule", "next", *arguments)
    assert "Traceback" not in result.output
    return result.exit_code, " ".join(result.stderr.split())


def test_a_deleted_one_is_scored(tmp_path: Path, run: Run, models: list[Path], strikes: list[Strike]) -> None:
    root = tmp_path / "output"
    save(root, 5, models[0])
    path = save(root, 10, models[1])
    scored: list[str] = []

    def rotate(command: list[str]) -> None:
        shutil.rmtree(path)
        scored.append(command[command.index("--model") + 1])

    strikes.append(rotate)
    code, said = following(run.folder, "--checkpoint", root, "--trainer", "trl")
    assert code == 0, said
    assert scored == [str(run.folder / "held/00000/checkpoint-10")]
    fresh = ScoredSet(run.folder / "scores/00000")
    assert fresh.identity["model"]["name"] == "checkpoint-10"
    # What the next round begins with is the trainer's own folder, and nothing is held any more.
    assert run.state["checkpoint"] == str(path)
    assert not (run.folder / "held/00000").exists()
    # The trainer is remembered.
    save(root, 15, models[1])
    runs.report(run)
    strikes.clear()
    assert following(run.folder, "--checkpoint", root)[0] == 0
    assert run.state["checkpoint"] == str(root / "checkpoint-15")


def test_the_scores_are_its_own(tmp_path: Path, run: Run, models: list[Path], strikes: list[Strike]) -> None:
    path = save(tmp_path / "output", 10, models[1])
    assert following(run.folder, "--checkpoint", tmp_path / "output", "--trainer", "trl")[0] == 0
    other = begun(tmp_path / "b", run.config.scored)
    advance(other, str(path))
    sets = [ScoredSet(one.folder / "scores/00000") for one in (run, other)]
    assert sets[0].column("gc_angle").equals(sets[1].column("gc_angle"))
    assert sets[0].identity == sets[1].identity
    assert run.plan(1) == other.plan(1)


def test_killed_scoring_goes_on(tmp_path: Path, run: Run, models: list[Path], strikes: list[Strike]) -> None:
    root = tmp_path / "output"
    path = save(root, 10, models[1])

    def kill(command: list[str]) -> None:
        raise KeyboardInterrupt

    strikes.append(kill)
    finder = TrainerFinder(TRL)
    chosen = finder.chosen(run, root)
    with pytest.raises(KeyboardInterrupt):
        advance(run, chosen, held=finder.held)
    shutil.rmtree(path)
    save(root, 20, models[0])  # newer, and not what half of the prompts were scored with
    strikes.clear()
    code, said = following(run.folder, "--checkpoint", root, "--trainer", "trl")
    assert code == 0, said
    assert f"round 0: continues with {path}, which is still held" in said
    assert ScoredSet(run.folder / "scores/00000").identity["model"]["name"] == "checkpoint-10"
    # A checkpoint that is named comes first.
    runs.report(run)
    newer = owner(root / "checkpoint-20", TRL)
    assert newer is not None
    hold(newer, run.folder / "held/00001/checkpoint-20")
    named = save(root, 30, models[1])
    assert following(run.folder, "--checkpoint", named)[0] == 0
    assert run.state["checkpoint"] == str(named)


def test_rewriting_is_refused(tmp_path: Path, run: Run, models: list[Path], strikes: list[Strike]) -> None:
    path = save(tmp_path / "output", 10, models[1])
    strikes.append(lambda command: os.utime(path / "model.safetensors", (1, 1)))
    code, said = following(run.folder, "--checkpoint", tmp_path / "output", "--trainer", "trl")
    assert code == 1
    assert f"error: {path} was written again in place while it was scored (model.safetensors)" in said
    assert run.state["round"] == 0
    strikes.clear()
    assert following(run.folder, "--checkpoint", tmp_path / "output")[0] == 0
    assert run.state["round"] == 1


def test_one_that_is_deleted_before_it_is_held_is_named(
    tmp_path: Path, run: Run, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "output", 10, models[1])

    def rotating(checkpoint: Any, into: Path, *model: Any) -> None:
        shutil.rmtree(path)
        hold(checkpoint, into, *model)

    monkeypatch.setattr(finding, "hold", rotating)
    state = run.state
    code, said = following(run.folder, "--checkpoint", path.parent, "--trainer", "trl")
    assert (code, "checkpoint-10 was deleted before it could be held. Run this again" in said) == (1, True), (
        said
    )
    assert run.state == state


def test_bad_input_is_told_and_nothing_is_changed(tmp_path: Path, run: Run, models: list[Path]) -> None:
    root = folders.write(tmp_path / "output", folders.verl(7, hf=False))
    state = run.state
    for trainer, sentence in (
        ("ver", "--trainer ver: it must be one of"),
        ("trl", f"--checkpoint {root}: there is no checkpoint-* below"),
        ("verl", "global_step_7 are sharded (actor/model_world_size_2_rank"),
    ):
        code, said = following(run.folder, "--checkpoint", root, "--trainer", trainer)
        assert (code, sentence in said) == (2, True), said
    assert run.state == state
    assert not (run.folder / "held").exists()


def test_driven_ones_are_held(tmp_path: Path, run: Run, models: list[Path], strikes: list[Strike]) -> None:
    run.outcomes(0).unlink()
    command = [*runs.COMMAND[:2], "--model", str(models[1]), *runs.COMMAND[2:]]
    held: list[str] = []
    strikes.append(lambda command: held.append(command[command.index("--model") + 1]))
    result = gaincurate("schedule", "run", run.folder, "--trainer", "trl", "--", *command)
    assert result.exit_code == 0, result.output
    assert held == [str(run.folder / f"held/0000{k}/checkpoint-{k + 1}") for k in range(2)]
    assert run.state["checkpoint"] == str(run.round_folder(2).resolve() / "output/checkpoint-3")
    assert read_sealed(run.folder / "trainer.json") == {"trainer": "trl"}
    assert not list((run.folder / "held").iterdir())


SHARDED = """
import pathlib, subprocess, sys
out = pathlib.Path(sys.argv[-1]) / "global_step_7/actor"
(out / "huggingface").mkdir(parents=True)
(out / "model_world_size_1_rank_0.pt").touch()
(out.parents[1] / "latest_checkpointed_iteration.txt").write_text("7")
sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))
"""


def test_a_driven_trainers_sharded_weights_are_taken_when_converted(tmp_path: Path, run: Run) -> None:
    run.outcomes(0).unlink()
    command = [sys.executable, "-c", SHARDED, *runs.COMMAND[1:]]
    finder = TrainerFinder(layout_of("verl"))
    with pytest.raises(TrainerError) as caught:
        drive(run, command, finder=finder)
    step = run.round_folder(0).resolve() / "output/global_step_7"
    assert "round 0: its trainer ended well but left no complete checkpoint" in str(caught.value)
    convert = f"convert them with `python -m verl.model_merger merge --backend fsdp --local_dir {step}/actor"
    assert convert in str(caught.value)
    folders.write(step / "actor/huggingface", [*folders.model(True), *folders.TOKENIZER])
    found = finder.newest(step.parent, 0)
    assert found == step / "actor/huggingface"
    # The same command again takes it, without training the round anew; this one cannot be scored, of course.
    with pytest.raises(GaincurateError, match="scoring the checkpoint of round 0 failed"):
        drive(run, [], finder=finder)
    assert (run.folder / "held/00000/global_step_7/config.json").exists()


def test_a_dry_run_keeps_nothing(run: Run) -> None:
    result = gaincurate("schedule", "run", run.folder, "--trainer", "trl", "--dry-run", "--", "sh", "t")
    assert result.exit_code == 0, result.output
    assert not (run.folder / "trainer.json").exists()


def test_an_adapter_is_merged_once_and_scored(
    tmp_path: Path, run: Run, models: list[Path], strikes: list[Strike], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    from safetensors.torch import save_file

    from gaincurate.trainers.lora import main

    tensors = {}
    for layer in range(3):
        name = f"base_model.model.model.layers.{layer}.mlp.down_proj"
        tensors[f"{name}.lora_A.weight"] = torch.full((4, 48), 0.3)
        tensors[f"{name}.lora_B.weight"] = torch.ones(32, 4)
    path = tmp_path / "output/checkpoint-10"
    path.mkdir(parents=True)
    config: dict[str, Any] = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 4}
    config |= {"base_model_name_or_path": str(models[0]), "target_modules": ["down_proj"]}
    (path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, path / "adapter_model.safetensors")
    (path / "trainer_state.json").write_text('{"global_step": 10}')
    merges: list[list[str]] = []

    def merging(command: list[str], log: Path, **options: Any) -> float:
        merges.append(command)
        assert command[1:3] == ["-m", "gaincurate.trainers.lora"]
        log.write_text("")
        if main(command[3:]):
            raise TrainerError("failed")
        return 0.5

    def kill(command: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(finding, "run_command", merging)
    strikes.append(kill)
    finder = TrainerFinder(TRL)
    with pytest.raises(KeyboardInterrupt):
        advance(run, finder.chosen(run, path.parent), held=finder.held)
    shutil.rmtree(path)  # rotated away; what was merged is gone on with
    strikes.clear()
    code, said = following(run.folder, "--checkpoint", path.parent, "--trainer", "trl")
    assert code == 0, said
    assert len(merges) == 1
    assert run.state["checkpoint"] == str(path)
    fresh = ScoredSet(run.folder / "scores/00000")
    assert fresh.identity["model"]["name"] == "checkpoint-10"
    old = run.scored.take(json.loads((run.round_folder(0) / "state.json").read_text())["rows"])
    assert not fresh.column("gc_angle").equals(old.column("gc_angle"))
    assert not (run.folder / "held/00000").exists()


def test_an_adapter_that_cannot_be_merged(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folders.write(tmp_path / "output", folders.trl(10, folders.adapter()))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    finder = TrainerFinder(TRL)
    chosen = finder.chosen(run, root)
    alone = "has only an adapter, and peft, which merges it for scoring, is not installed"
    with pytest.raises(ModelError, match=alone), finder.held(run, chosen):
        pass
    monkeypatch.undo()
    # As a next round's beginning it is as good as a model: the trainer that wrote it reads it.
    assert finder.why_incomplete(root / "checkpoint-10") is None
    assert finder.why_incomplete(tmp_path) == f"{tmp_path} has no config.json"

    def failing(command: list[str], log: Path, **options: Any) -> float:
        log.write_text("noise\nerror: it does not fit.\n")
        raise TrainerError("failed")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(finding, "run_command", failing)
    with pytest.raises(GaincurateError) as caught, finder.held(run, chosen):
        pass
    log = run.round_folder(0) / "merging.log"
    assert str(caught.value) == f"the adapter was not merged: it does not fit (log: {log})."
    (root / "checkpoint-10/adapter_model.safetensors").write_bytes(b"half")
    unfinished = "cannot be used: .*adapter_model.safetensors is not finished"
    with pytest.raises(InputError, match=unfinished), finder.held(run, chosen):
        pass
