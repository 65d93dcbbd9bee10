"""The module against a second implementation in plain float64 numpy, and its gradients against differences."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gaincurate.difficulty.predictor import (
    CLIP,
    CONFIG,
    WEIGHTS,
    AdapterShape,
    DifficultyPredictor,
    load_adapter,
    probability,
    save_adapter,
)
from gaincurate.errors import InputError, OutputError

Floats = npt.NDArray[np.float64]
SHAPE = AdapterShape(5, hidden=7)


def made(shape: AdapterShape, seed: int = 0) -> DifficultyPredictor:
    torch.manual_seed(seed)
    return DifficultyPredictor(shape).double().eval()


def data(queries: int = 4, references: int = 6, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    random = np.random.default_rng(seed)
    q, r = random.normal(size=(queries, 5)), random.normal(size=(references, 5))
    return q, r, random.integers(0, 9, references) / 8


def tensors(*arrays: Floats) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def plain_adapter(weights: dict[str, Any], z: Floats) -> Floats:
    """Row by row, no dropout, a layer norm at the end."""
    rows = []
    for row in z:
        for layer in (0, 3, 6):
            linear = f"adapter.{layer}"
            row = weights[f"{linear}.weight"] @ row + weights[f"{linear}.bias"]
            if layer < 6:  # GELU
                row = np.array([x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in row])
        row = (row - row.mean()) / np.sqrt(((row - row.mean()) ** 2).mean() + 1e-5)
        rows.append(row * weights["adapter.7.weight"] + weights["adapter.7.bias"])
    return np.array(rows)


def plain(predictor: DifficultyPredictor, queries: Floats, references: Floats, d: Floats) -> Floats:
    """The paper's formulas, one prompt at a time."""
    weights = {name: value.numpy() for name, value in predictor.state_dict().items()}
    q, r = (plain_adapter(weights, z) for z in (queries, references))
    k = len(d)
    mean = sum(d) / k
    spread = math.sqrt(sum((x - mean) ** 2 for x in d) / k)
    inner = np.maximum(weights["calibration.0.weight"] @ [mean, spread] + weights["calibration.0.bias"], 0)
    raw = weights["calibration.2.weight"] @ inner + weights["calibration.2.bias"]
    w, b = math.log(1 + math.exp(raw[0])), math.tanh(raw[1])
    found = []
    for row in q:
        e = [math.exp(sum(row * other) / math.sqrt(len(row))) for other in r]
        mixed = sum(a * x for a, x in zip(e, d, strict=True)) / sum(e)
        mixed = min(max(mixed, CLIP), 1 - CLIP)
        found.append(1 / (1 + math.exp(-(w * math.log(mixed / (1 - mixed)) + b))))
    return np.array(found)


@pytest.mark.parametrize("seed", range(3))
def test_predictions_equal_a_plain_implementation(seed: int) -> None:
    predictor, (q, r, d) = made(SHAPE, seed), data(seed=seed)
    with torch.no_grad():
        for parameter in predictor.parameters():  # norms too, whose weights begin as ones and zeros
            parameter.add_(0.1 * torch.randn_like(parameter))
        found = probability(predictor(*tensors(q, r, d))).numpy()
    np.testing.assert_allclose(found, plain(predictor, q, r, d), atol=1e-6)


def test_a_reference_left_out_by_mask_is_as_if_it_were_not_there() -> None:
    predictor, (q, r, d) = made(SHAPE), tensors(*data())
    seen = torch.ones(4, 6, dtype=torch.bool)
    seen[:, 2] = False
    others = [0, 1, 3, 4, 5]
    with torch.no_grad():
        masked = predictor.mix(predictor.encode(q), predictor.encode(r), d, seen)
        without = predictor(q, r[others], d[others])
    torch.testing.assert_close(masked, without, rtol=0, atol=1e-12)
    d[2] = 1 - d[2]
    with torch.no_grad():
        again = predictor.mix(predictor.encode(q), predictor.encode(r), d, seen)
        torch.testing.assert_close(again, masked, rtol=0, atol=0)


@given(
    st.lists(st.sampled_from([0.0, 0.125, 0.5, 1.0]), min_size=1, max_size=8),
    st.integers(0, 100),
    st.floats(0.01, 100),
)
def test_predictions_stay_inside_0_and_1_and_are_the_same_in_any_order(
    rates: list[float], seed: int, size: float
) -> None:
    predictor = made(SHAPE, seed).float()
    q, r, _ = data(3, len(rates), seed)
    queries, references = (torch.from_numpy(size * x).float() for x in (q, r))
    d = torch.tensor(rates)
    with torch.no_grad():
        found = probability(predictor(queries, references, d))
        other = probability(predictor(queries, references.flip(0), d.flip(0)))
    assert ((found > 0) & (found < 1)).all()
    torch.testing.assert_close(found, other, rtol=0, atol=1e-4)


def test_the_papers_adapter_is_the_default() -> None:
    predictor = DifficultyPredictor(AdapterShape(1536))
    kinds = [type(layer).__name__ for layer in predictor.adapter]
    assert kinds == ["Linear", "GELU", "Dropout", "Linear", "GELU", "Dropout", "Linear", "LayerNorm"]
    widths = [tuple(p.shape) for name, p in predictor.adapter.named_parameters() if p.dim() == 2]
    assert widths == [(896, 1536), (896, 896), (896, 896)]
    assert [layer.p for layer in predictor.adapter if isinstance(layer, torch.nn.Dropout)] == [0.1, 0.1]


EMBEDDING = {"model": "m", "weights": "w", "width": 6}
SMALL = AdapterShape(6, hidden=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_adapter(tmp_path / "adapter", DifficultyPredictor(SMALL), EMBEDDING, {"seed": 1})
    return tmp_path / "adapter"


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    predictor = DifficultyPredictor(SMALL)
    saved = save_adapter(tmp_path / "a", predictor, EMBEDDING, {"seed": 1})
    found = load_adapter(tmp_path / "a")
    assert (found.predictor.shape, found.embedding, found.how) == (SMALL, EMBEDDING, {"seed": 1})
    assert found.digest == saved.digest
    assert not found.predictor.training
    z, d = torch.randn(5, 6), torch.rand(5)
    with torch.no_grad():
        assert found.predictor(z, z, d).equal(predictor.eval()(z, z, d))
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [WEIGHTS, CONFIG]
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    save_adapter(tmp_path / "a", found.predictor, found.embedding, found.how)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


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
        save_adapter(tmp_path, DifficultyPredictor(SMALL), EMBEDDING, {})
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_what_a_killed_writer_left_is_nothing_else(tmp_path: Path) -> None:
    (tmp_path / f".{WEIGHTS}.4711.tmp").write_bytes(b"half")
    save_adapter(tmp_path, DifficultyPredictor(SMALL), EMBEDDING, {})
    assert load_adapter(tmp_path).predictor.shape == SMALL
