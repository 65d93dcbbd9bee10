"""Which settings of a comparison that was begun may change, with the training left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compare_command import small_sets
from gaincurate.compare.config import checked_comparison
from gaincurate.compare.results import FACTS
from gaincurate.compare.runner import compare, tasks_by_id
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import GaincurateError, InputError, OutputError

pytest.importorskip("trl")


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Begins a comparison of two small sets in one folder, with these settings changed."""
    for name in ("roll_out", "_work", "collect"):
        monkeypatch.setattr(f"gaincurate.compare.runner.{name}", lambda *given: None)
    settings = small_sets(tmp_path)

    def begun(**changes: Any) -> dict[str, Any]:
        compare(checked_comparison(settings | changes), tmp_path / "out")
        return dict(json.loads((tmp_path / "out" / FACTS).read_bytes()))

    return begun


@pytest.mark.parametrize(
    "change",
    [{"success": 0.5}, {"budget_tokens": 2000}, {"evaluation": {"samples": 2}}, {"train": {"learning_rate": 1e-3}}],
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


def test_tasks_may_be_named_later(begin: Any) -> None:
    assert begin(tasks=[])["tasks"] == []
    assert begin(tasks=["source", "level"])["tasks"] == ["source", "level"]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (["sauce"], r"has no column 'sauce'; it has .*source"),
        (["same"], r"has 1 of them for 40 prompts\. Name columns with two tasks or more"),
        (["gc_id"], r"has 40 of them for 40 prompts\."),
    ],
)
def test_columns_that_are_no_tasks_are_refused(begin: Any, columns: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        begin(tasks=columns)


def test_a_task_is_what_its_columns_say_together(begin: Any, tmp_path: Path) -> None:
    begin()
    heldout = ScoredSet(tmp_path / "heldout")
    names = tasks_by_id(heldout, ["source", "level"])
    assert names["heldout3"] == "task 3 1"
    assert len(set(names.values())) == 8
    assert tasks_by_id(heldout, []) == {}


@pytest.mark.parametrize(
    "change",
    [{"verifier": "compare_world:odd"}, {"answer_column": "gold"}, {"model": "nowhere"}],
)
def test_what_cannot_be_trained_with_leaves_nothing_that_refuses_the_corrected_file(
    begin: Any, tmp_path: Path, change: dict[str, Any]
) -> None:
    with pytest.raises(GaincurateError):
        begin(**change)
    assert not (tmp_path / "out" / FACTS).exists()
    begin()
