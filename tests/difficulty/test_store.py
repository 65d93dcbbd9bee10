"""Saving and loading a fitted predictor, and what is not loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gaincurate.difficulty.predictor import (
    CONFIG,
    WEIGHTS,
    DifficultyPredictor,
    Shape,
    load_adapter,
    save_adapter,
)
from gaincurate.errors import InputError, OutputError

EMBEDDING = {"model": "m", "weights": "w", "width": 6}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_adapter(tmp_path / "adapter", DifficultyPredictor(Shape(6, hidden=8)), EMBEDDING, {"seed": 1})
    return tmp_path / "adapter"


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    shape = Shape(6, hidden=8)
    predictor = DifficultyPredictor(shape)
    saved = save_adapter(tmp_path / "a", predictor, EMBEDDING, {"seed": 1})
    found = load_adapter(tmp_path / "a")
    assert (found.predictor.shape, found.embedding, found.how) == (shape, EMBEDDING, {"seed": 1})
    assert found.digest == saved.digest
    assert not found.predictor.training
    z, d = torch.randn(5, 6), torch.rand(5)
    with torch.no_grad():
        assert found.predictor(z, z, d).equal(predictor.eval()(z, z, d))
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [WEIGHTS, CONFIG]
    assert set(load_file(tmp_path / "a" / WEIGHTS)) == set(predictor.state_dict())


def test_the_same_module_gives_the_same_bytes_and_can_be_written_over(tmp_path: Path, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    found = load_adapter(folder)
    save_adapter(folder, found.predictor, found.embedding, found.how)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_is_no_adapter_or_a_damaged_one_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match=r"is no fitted predictor: .* `gaincurate difficulty fit SCORED"):
        load_adapter(tmp_path)
    good = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(good.replace('"seed": 1', '"seed": 2'))
    with pytest.raises(InputError, match=r"config\.json is damaged; fit the predictor again\.$"):
        load_adapter(folder)
    (folder / CONFIG).write_text(json.dumps({**json.loads(good), "format": 9, "digest": None}))
    with pytest.raises(InputError, match="has format 9, this version reads 2"):
        load_adapter(folder)
    (folder / CONFIG).write_text(good)
    weights = load_file(folder / WEIGHTS)
    weights["adapter.0.bias"] += 1
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(InputError, match=r"adapter\.safetensors does not match the hash in config\.json"):
        load_adapter(folder)


def test_another_folder_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="already holds something else"):
        save_adapter(tmp_path, DifficultyPredictor(Shape(6, hidden=8)), EMBEDDING, {})
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_what_a_killed_writer_left_is_nothing_else(tmp_path: Path) -> None:
    (tmp_path / f".{WEIGHTS}.4711.tmp").write_bytes(b"half")
    save_adapter(tmp_path, DifficultyPredictor(Shape(6, hidden=8)), EMBEDDING, {})
    assert load_adapter(tmp_path).predictor.shape == Shape(6, hidden=8)
