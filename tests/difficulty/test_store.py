"""Saving and loading a fitted predictor, and what is not loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gaincurate.core.files import digest_bytes
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


@pytest.mark.parametrize(
    "shape", [Shape(6, hidden=8), Shape(6, hidden=8, towers="two", scale="divide", spread="sample")]
)
def test_what_is_saved_is_loaded(tmp_path: Path, shape: Shape) -> None:
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


@pytest.mark.parametrize("name", ["adapter.pt", "pytorch_model.bin", "a.pkl", "a.ckpt"])
def test_pickled_weights_are_refused_wherever_they_lie(tmp_path: Path, folder: Path, name: str) -> None:
    torch.save({}, tmp_path / name)
    with pytest.raises(InputError, match=r"has pickled weights, which run code when they are loaded"):
        load_adapter(tmp_path / name)
    torch.save({}, folder / name)
    with pytest.raises(InputError, match="has pickled weights"):
        load_adapter(folder)


def test_what_is_no_adapter_or_a_damaged_one_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match=r"is no fitted predictor: .* `gaincurate difficulty fit SCORED"):
        load_adapter(tmp_path)
    good = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text("{")
    with pytest.raises(InputError, match=r"its config\.json cannot be read; fit it again"):
        load_adapter(folder)
    (folder / CONFIG).write_text(json.dumps(json.loads(good) | {"format": 9}))
    with pytest.raises(InputError, match="has format 9, this version reads 1"):
        load_adapter(folder)
    other = json.loads(good)
    other["shape"]["hidden"] = 9
    (folder / CONFIG).write_text(json.dumps(other))
    with pytest.raises(InputError, match=r"config\.json and adapter\.safetensors do not belong together"):
        load_adapter(folder)
    (folder / CONFIG).write_text(good)
    weights = load_file(folder / WEIGHTS)
    weights["adapter.0.bias"] += 1
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(InputError, match=r"adapter\.safetensors does not match the hash in config\.json"):
        load_adapter(folder)


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("shape", "dropout"), 10, "config.json: shape.dropout is 10: input should be less than 1"),
        (
            ("shape", "hidden"),
            1 << 40,
            "config.json: shape.hidden is 1099511627776: input should be less than or equal to 1048576",
        ),
        (
            ("shape", "hidden"),
            1 << 20,  # 4 TiB, if it were made before it is compared
            "config.json and adapter.safetensors do not belong together",
        ),
        (("shape", "width"), "6", "config.json: shape.width is '6': input should be a valid integer"),
        (("shape", "depth"), 3, "config.json: shape.depth is 3: unexpected keyword argument"),
        (
            ("embedding", "weights"),
            [],
            "config.json: embedding.weights is []: input should be a valid string",
        ),
        (("how",), None, "config.json: how is None: input should be a valid dictionary"),
        (("weights",), 7, "config.json: weights is 7: input should be a valid string"),
    ],
)
def test_a_hostile_configuration_is_one_sentence(
    folder: Path, path: tuple[str, ...], value: object, why: str
) -> None:
    config = json.loads((folder / CONFIG).read_text())
    at = config
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(InputError) as caught:
        load_adapter(folder)
    assert str(caught.value) == f"--adapter {folder} is damaged: {why}; fit it again."


def test_weights_of_another_precision_are_read_as_float32(folder: Path) -> None:
    save_file({name: value.double() for name, value in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    config = json.loads((folder / CONFIG).read_text())
    config["weights"] = digest_bytes((folder / WEIGHTS).read_bytes())
    (folder / CONFIG).write_text(json.dumps(config))
    predictor = load_adapter(folder).predictor
    assert {value.dtype for value in predictor.state_dict().values()} == {torch.float32}
    assert predictor(torch.randn(5, 6), torch.randn(5, 6), torch.rand(5)).shape == (5,)


def test_another_folder_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="already holds something else"):
        save_adapter(tmp_path, DifficultyPredictor(Shape(6, hidden=8)), EMBEDDING, {})
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_what_a_killed_writer_left_is_nothing_else(tmp_path: Path) -> None:
    (tmp_path / f".{WEIGHTS}.4711.tmp").write_bytes(b"half")
    save_adapter(tmp_path, DifficultyPredictor(Shape(6, hidden=8)), EMBEDDING, {})
    assert load_adapter(tmp_path).predictor.shape == Shape(6, hidden=8)


def test_a_weight_that_is_no_number_is_damage(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    name = next(iter(weights))
    save_file(weights | {name: torch.full_like(weights[name], math.nan)}, folder / WEIGHTS)
    config = json.loads((folder / CONFIG).read_text())
    config["weights"] = digest_bytes((folder / WEIGHTS).read_bytes())
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(InputError, match="has a weight that is no number; fit it again"):
        load_adapter(folder)
