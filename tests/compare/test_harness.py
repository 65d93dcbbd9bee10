"""Comparisons with real training runs of a tiny model, in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from gaincurate.compare.config import Comparison, checked_comparison
from gaincurate.compare.harness import JOBS, View, compare
from gaincurate.compare.measures import document
from gaincurate.config import ScoreConfig
from gaincurate.scoring.pipeline import score_dataset

pytest.importorskip("trl")


@pytest.fixture(scope="module")
def sets_of(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    rows = tiny.questions(30)
    for name, part in (("scored", rows[:22]), ("heldout", rows[22:])):
        data = tiny.write_jsonl(folder / f"{name}.jsonl", part)
        score_dataset(ScoreConfig(data=str(data), model=str(tiny_model), out=folder / name, threads=1))
    return folder


def asked(folder: Path, **changes: Any) -> Comparison:
    given: dict[str, Any] = {
        "scored": folder / "scored",
        "heldout": folder / "heldout",
        "verifier": "compare_world:even",
        "budget_tokens": 120,
        "marks": 2,
        "seeds": [0, 1],
        "step_prompts": 2,
        "round_steps": 2,
        "group": 2,
        "max_tokens": 4,
        "train": {"learning_rate": 1e-3, "use_cpu": True, "bf16": False},
        "evaluation": {"samples": 2},
        "arms": [],
    }
    return checked_comparison(given | changes)


def test_it_all(sets_of: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent.parent)
    arms = [{"name": "high-angle", "strategy": "gain-rl", "options": {"sigma": "0.2N"}}]
    asked_for = asked(sets_of, arms=arms, prefill_weight=0.01)
    found = compare(asked_for, tmp_path / "out", View())
    assert found.arms == ["uniform", "length", "high-angle"]
    assert found.accuracy.shape == (3, 3, 2, 8)
    assert (found.tokens[:, 1] >= 60).all()
    assert (found.tokens[:, 2] >= 120).all()
    out = document(found)
    json.dumps(out, allow_nan=False)
    assert len(out["sentences"]) == 2
    assert len(list((tmp_path / "out" / JOBS).glob("*/*/marks/1/*.safetensors"))) == 6
    np.testing.assert_array_equal(found.right, compare(asked_for, tmp_path / "out").right)
