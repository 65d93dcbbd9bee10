from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gaincurate.core.prompts import plain_rows, questions, write_rows

ASKED = [{"role": "user", "content": "a"}]
FUNCTIONS = [[{"function": {"name": "f", "arguments": {name: 1}}}] for name in "ab"]
CALLS = [{"role": "assistant", "content": None, "tool_calls": calls} for calls in FUNCTIONS]


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": ASKED, "answer": None}, {"prompt": CALLS[:1], "answer": "1"}],
        [{"prompt": CALLS}],
        [{"prompt": CALLS[:1], "meta": {"a": 1}}, {"prompt": CALLS[1:], "meta": {"b": {"c": 2}}}],
        [{"prompt": CALLS[:1], "tools": [{"a": 1}, {"b": [None, 1]}]}],
        [{"prompt": CALLS[:1], "text": '{"a": null}'}],
    ],
)
def test_rows_come_back_without_the_nulls_of_other_rows(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    names = {name: None for row in rows for name in row}
    write_rows(tmp_path / "a.parquet", pa.table({name: [row.get(name) for row in rows] for name in names}))
    assert plain_rows(tmp_path / "a.parquet") == [{name: row.get(name) for name in names} for row in rows]


def test_the_question_is_the_last_user_message_without_white_space_around_it() -> None:
    turns = [*ASKED, {"role": "assistant", "content": "b"}, {"role": "user", "content": " c\n"}]
    rows = pa.table({"prompt": [turns, turns[1:2]]})
    assert questions(rows, {"source": {"prompt_column": "prompt"}}) == ["c", ""]
