"""Comparisons with real training runs of a tiny model, in processes of their own."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

import tiny
from gaincurate.compare.config import Comparison, checked_comparison
from gaincurate.compare.harness import RESULTS, compare
from gaincurate.compare.tables import read_tables
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
    compare(asked_for, tmp_path / "out", workers=2)
    found = read_tables(tmp_path / "out" / RESULTS)
    assert found.evaluations.column("arm").unique().to_pylist() == ["uniform", "length", "high-angle"]
    assert len(found.evaluations) == 3 * 2 * 3 * 8
    for row in found.marks.to_pylist():
        assert row["tokens"] >= row["asked"]
        parts = [row[name] for name in ("scoring", "rescoring", "references", "training")]
        assert row["tokens"] == sum(parts)
    steps = found.steps.to_pylist()
    for (arm, seed), rows in itertools.groupby(steps, lambda row: (row["arm"], row["seed"])):
        told = list(rows)
        assert [row["step"] for row in told] == list(range(1, len(told) + 1))
        counted = itertools.accumulate(row["prompt_tokens"] + row["completion_tokens"] for row in told)
        assert list(counted) == [row["trainer_tokens"] for row in told], (arm, seed)
