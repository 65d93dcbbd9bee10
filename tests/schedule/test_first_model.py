"""A run begins with the model that scored its set, whatever lies in the folder where it is started."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

import tiny
from base_install import HEAVY, run_without
from command import run as gaincurate


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


def checkpoint(run: Path) -> str:
    found: str = json.loads((run / "run.json").read_text())["config"]["model"]
    return found


def test_a_relative_path_is_the_folder_of_that_time(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model, tmp_path / "here/models/m")
    monkeypatch.chdir(tmp_path / "here")
    scored = scored_with(tmp_path, "models/m")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    other_model(tmp_path / "there/models/m")  # another model by the same name
    assert start(scored, tmp_path / "run").exit_code == 0
    assert checkpoint(tmp_path / "run") == str(tmp_path / "here/models/m")


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
    assert (
        start(scored, tmp_path / "run", "--model", str(tiny_model)).exit_code == 0
    )  # who names one is asked


def test_a_machine_without_torch_compares_too(tmp_path: Path, tiny_model: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    scored = scored_with(tmp_path, str(model))
    options = ["--strategy", "uniform", "--budget", 4, "--rounds", 2]
    (same,) = run_without(HEAVY, [("schedule", "start", scored, "--run", tmp_path / "run", *options)])
    assert same["code"] == 0, same
    assert checkpoint(tmp_path / "run") == str(model)
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
