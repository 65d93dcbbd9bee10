"""The model that a round begins with: the newest whole checkpoint, or the one that scored the set."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from safetensors.numpy import save_file

import tiny
from base_install import HEAVY, run_without
from command import run as gaincurate
from gaincurate.schedule.checkpoints import Finder, why_incomplete

newest, why_none = Finder().newest, Finder().why_none


def checkpoint(folder: Path, step: int | None = None, shards: int = 0) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    if shards:
        names = [f"model-{k}.safetensors" for k in range(shards)]
        for name in names:
            save_file({name: np.zeros((3, 4), np.float32)}, folder / name)
        index = {"weight_map": {name: name for name in names}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        save_file(
            {"w": np.zeros((3, 4), np.float32), "v": np.zeros(0, np.int64)}, folder / "model.safetensors"
        )
    if step is not None:
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return folder


def aged(folder: Path, seconds: float) -> Path:
    os.utime(folder / "model.safetensors", (seconds, seconds))
    return folder


def test_the_newest_is_the_one_whose_weights_were_written_last(tmp_path: Path) -> None:
    for age, step in ((1, 9), (3, 10), (2, 20)):
        aged(checkpoint(tmp_path / f"checkpoint-{step}", step), age)
    assert newest(tmp_path, 0) == tmp_path / "checkpoint-10"
    # What a trainer saves at its end counts too, though it has no step.
    last = aged(checkpoint(tmp_path / "final"), 4)
    assert newest(tmp_path, 0) == last
    for step in (9, 10, 20):
        aged(tmp_path / f"checkpoint-{step}", 4)
    assert newest(tmp_path, 0) == tmp_path / "checkpoint-20"


def test_what_was_there_before_is_left_out_though_copies_look_old(tmp_path: Path) -> None:
    aged(checkpoint(tmp_path / "checkpoint-5", 5), 1)
    since = (tmp_path / "checkpoint-5/model.safetensors").stat().st_ctime
    assert newest(tmp_path, since) == tmp_path / "checkpoint-5"
    assert newest(tmp_path, since + 1e-3) is None


def test_folders_below_and_the_folder_itself_count(tmp_path: Path) -> None:
    assert newest(tmp_path / "none", 0) is None
    assert newest(checkpoint(tmp_path / "a", shards=2), 0) == tmp_path / "a"
    checkpoint(tmp_path / "b/global_step_3/actor")
    assert newest(tmp_path / "b", 0) == tmp_path / "b/global_step_3/actor"
    aged(checkpoint(tmp_path / "c/x"), 2e9)
    checkpoint(tmp_path / "c/y")
    assert newest(tmp_path / "c", 0) == tmp_path / "c/x"


def test_every_prefix_of_a_weight_file_is_unfinished(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    data = (folder / "model.safetensors").read_bytes()
    assert why_incomplete(folder) is None
    for size in range(len(data)):
        (folder / "model.safetensors").write_bytes(data[:size])
        assert why_incomplete(folder) == f"{folder / 'model.safetensors'} is not finished"
        assert newest(tmp_path, 0) is None


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("config.json", None, "has no config.json"),
        ("model-1.safetensors", None, "has no model-1.safetensors"),
        ("model.safetensors.index.json", "{", "is not finished"),
        ("model.safetensors.index.json", json.dumps({"weight_map": {"w": "x" * 300}}), "is not finished"),
        ("trainer_state.json", '{"global_st', "trainer_state.json is not finished"),
        ("trainer_state.json", '{"global_step": Infinity}', "trainer_state.json is not finished"),
        ("trainer_state.json", '{"global_step": "4"}', "trainer_state.json is not finished"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, name: str, text: str | None, why: str) -> None:
    folder = checkpoint(tmp_path / "checkpoint-4", 4, shards=2)
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    found = why_incomplete(folder)
    assert found is not None
    assert why in found
    assert newest(tmp_path, 0) is None
    assert why_none(tmp_path) == found


def test_a_name_that_no_file_of_ours_can_hold_is_passed_over(tmp_path: Path) -> None:
    older = checkpoint(tmp_path / "checkpoint-4")
    odd = checkpoint(tmp_path / os.fsdecode(b"checkpoint-\xff9"))
    assert newest(tmp_path, 0) == older
    assert why_incomplete(odd) == f"{odd} has a name that is no UTF-8"


def test_a_state_is_not_needed_and_an_adapter_is_no_model(tmp_path: Path) -> None:
    assert why_none(tmp_path) == "this attempt wrote none"
    folder = checkpoint(tmp_path / "checkpoint-4")
    assert newest(tmp_path, 0) == folder
    (folder / "config.json").rename(folder / "adapter_config.json")
    assert newest(tmp_path, 0) is None
    assert why_none(tmp_path) == f"{folder} has only an adapter; let the trainer save the merged model"


def scored_with(folder: Path, model: str) -> Path:
    rows = tiny.write_jsonl(folder / "rows.jsonl", tiny.questions(12))
    result = gaincurate("score", rows, "--model", model, "--out", folder / "set", "--threads", 1)
    assert result.exit_code == 0, result.stderr
    return folder / "set"


def other_model(folder: Path) -> Path:
    """As the tiny model, with other weights."""
    config = transformers.LlamaConfig(**tiny.COMMON)
    tiny.model(config, seed=1).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def start(scored: Path, run: Path, *more: object) -> Any:
    options = ["--strategy", "uniform", "--budget", 4, "--rounds", 2]
    return gaincurate("schedule", "start", scored, "--run", run, *options, *more)


def model_of(run: Path) -> str:
    found: str = json.loads((run / "run.json").read_text())["config"]["model"]
    return found


def test_a_relative_path_is_kept(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_model, tmp_path / "here/models/m")
    monkeypatch.chdir(tmp_path / "here")
    scored = scored_with(tmp_path, "models/m")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    other_model(tmp_path / "there/models/m")  # another model by the same name
    assert start(scored, tmp_path / "run").exit_code == 0
    assert model_of(tmp_path / "run") == str(tmp_path / "here/models/m")


def test_another_model_in_its_place_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    scored = scored_with(tmp_path, str(model))
    shutil.rmtree(model)
    gone = start(scored, tmp_path / "run")
    assert gone.exit_code == 2
    assert gone.stderr.startswith(f"error: {model} is not the model that scored {scored}: ")
    other_model(model)
    other = start(scored, tmp_path / "run")
    assert other.exit_code == 2
    assert other.stderr.startswith(f"error: {model} is not the model that scored {scored}: its weights have")
    (model / "config.json").unlink()
    assert "has no config.json" in start(scored, tmp_path / "run").stderr
    assert not (tmp_path / "run").exists()
    named = start(scored, tmp_path / "run", "--model", str(tiny_model))
    assert named.exit_code == 0  # who names one is asked


def test_a_machine_without_torch_compares_too(tmp_path: Path, tiny_model: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    scored = scored_with(tmp_path, str(model))
    options = ["--strategy", "uniform", "--budget", 4, "--rounds", 2]
    (same,) = run_without(HEAVY, [("schedule", "start", scored, "--run", tmp_path / "run", *options)])
    assert same["code"] == 0, same
    assert model_of(tmp_path / "run") == str(model)
    (model / "model.safetensors").write_bytes(b"another")
    (other,) = run_without(HEAVY, [("schedule", "start", scored, "--run", tmp_path / "run2", *options)])
    assert "its weights have another hash" in other["stderr"]


def test_code_of_a_model_that_was_trusted_is_a_part_of_its_hash(tmp_path: Path, tiny_model: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (model / "own.py").write_text("x = 1\n")
    for name, trust in {"trusted": ["--trust-remote-code"], "plain": []}.items():
        rows = tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.questions(4))
        out = tmp_path / name
        assert gaincurate("score", rows, "--model", model, "--out", out, *trust).exit_code == 0
        assert start(out, tmp_path / f"run-{name}").exit_code == 0
