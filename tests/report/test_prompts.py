"""Prompts in a report: the right rows, and their texts as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from column_sets import column_set
from gaincurate.report.prompts import LONGEST, extremes
from gaincurate.report.table import read_table
from gaincurate.scored_set import ScoredSet


def a_set(folder: Path, questions: Any, values: np.ndarray | None = None) -> ScoredSet:
    rows = len(questions)
    scores = {"gc_angle": np.arange(rows, dtype=float) if values is None else values}
    return ScoredSet(column_set(folder / "set", np.full(rows, 7), scores, questions=questions))


def test_the_ends_and_the_middle_of_a_signal(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = random.permutation(31).astype(float)
    scored = a_set(tmp_path, [f"q{k}" for k in range(31)], values)
    found = extremes(scored, read_table(scored), "gc_angle", 3)
    assert [prompt.value for prompt in found.top] == [30, 29, 28]
    assert [prompt.value for prompt in found.middle] == [16, 15, 14]
    assert [prompt.value for prompt in found.bottom] == [2, 1, 0]
    for prompt in [*found.top, *found.middle, *found.bottom]:
        row = int(prompt.gc_id.removeprefix("id"))
        assert (prompt.text, prompt.value, prompt.question_tokens) == (f"q{row}", values[row], 7)


@pytest.mark.parametrize("rows", range(1, 12))
def test_few_rows_are_shown_once(tmp_path: Path, rows: int) -> None:
    scored = a_set(tmp_path, [f"q{k}" for k in range(rows)])
    found = extremes(scored, read_table(scored), "gc_angle", 3)
    shown = [prompt.gc_id for part in (found.top, found.middle, found.bottom) for prompt in part]
    assert len(set(shown)) == len(shown) == min(rows, 9)
    assert len(found.top) >= len(found.bottom) >= len(found.middle)


def test_rows_without_a_value_are_not_shown_and_ties_stand_in_source_order(tmp_path: Path) -> None:
    scored = a_set(tmp_path, list("abcd"), np.array([1.0, np.nan, 1.0, 1.0]))
    found = extremes(scored, read_table(scored), "gc_angle", 2)
    assert [prompt.gc_id for prompt in [*found.top, *found.bottom]] == ["id00000", "id00002", "id00003"]


def test_a_text_is_shortened_and_otherwise_left_alone(tmp_path: Path) -> None:
    markup = "<script>alert(1)</script> & \x1b[31m\u202e {braces} %s"
    scored = a_set(tmp_path, ["x" * (LONGEST + 1), "y" * LONGEST, markup])
    shown = {prompt.gc_id: prompt for prompt in extremes(scored, read_table(scored), "gc_angle").top}
    assert (shown["id00000"].text, shown["id00000"].cut) == ("x" * LONGEST, True)
    assert (shown["id00001"].text, shown["id00001"].cut) == ("y" * LONGEST, False)
    assert shown["id00002"].text == markup


def chat(*contents: str) -> list[dict[str, str]]:
    roles = ["system", "user", "assistant", "user"]
    return [{"role": roles[k % 4], "content": text} for k, text in enumerate(contents)]


def test_of_a_chat_the_last_user_message_is_shown(tmp_path: Path) -> None:
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    rows = [chat("s", "q"), chat("other", "q"), chat("s", "q"), chat("s", "q", "a", "again")]
    scored = a_set(tmp_path, pa.array(rows, kind))
    assert [p.text for p in extremes(scored, read_table(scored), "gc_angle").top] == ["again", "q", "q", "q"]
