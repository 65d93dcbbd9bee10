"""Which settings of a comparison that was begun may change, with the training left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sets
from gaincurate.compare.config import checked_comparison
from gaincurate.compare.results import FACTS
from gaincurate.compare.runner import compare
from gaincurate.errors import OutputError

pytest.importorskip("trl")


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Begins a comparison of two small sets in one folder, with these settings changed."""
    for name in ("roll_out", "_work", "collect"):
        monkeypatch.setattr(f"gaincurate.compare.runner.{name}", lambda *given: None)
    for name in ("scored", "heldout"):
        sets.make_set(tmp_path / name, [[sets.scored_row(f"{name}{k}", f"{name} {k}?") for k in range(40)]])

    def begun(**changes: Any) -> dict[str, Any]:
        given: dict[str, Any] = {
            "scored": str(tmp_path / "scored"),
            "heldout": str(tmp_path / "heldout"),
            "model": "the-model",
            "verifier": "exact",
            "budget_tokens": 1000,
            "step_prompts": 4,
            "arms": [{"name": "angle", "strategy": "file-order"}],
        }
        compare(checked_comparison(given | changes), tmp_path / "out")
        facts: dict[str, Any] = json.loads((tmp_path / "out" / FACTS).read_bytes())
        return facts

    return begun


@pytest.mark.parametrize(
    "change",
    [{"success": 0.5}, {"budget_tokens": 2000}, {"marks": 2}, {"group": 4}, {"prefill_weight": 0.5},
     {"max_tokens": 8}, {"evaluation": {"samples": 2}}, {"train": {"learning_rate": 1e-3}}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_what_all_arms_share_cannot_change(begin: Any, change: dict[str, Any]) -> None:
    begin()
    with pytest.raises(OutputError, match=rf"holds another comparison: comparison\.{next(iter(change))}"):
        begin(**change)


def test_an_arm_that_was_left_out_keeps_its_name(begin: Any) -> None:
    begin()
    left_out = begin(arms=[], seeds=[4])
    assert sorted(left_out["begun"]) == ["angle", "length", "uniform"]
    with pytest.raises(OutputError, match=r"holds another comparison: arms\.angle\.strategy differ"):
        begin(arms=[{"name": "angle", "strategy": "length"}])
