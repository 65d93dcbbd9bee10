from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gaincurate.core.prompts import training_rows, write_rows
from gaincurate.errors import OutputError

SHOTS = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]


def shown(
    rows: list[dict[str, Any]], column: str, segmentation: dict[str, Any] | None = None, **options: bool
) -> pa.Table:
    identity = {"source": {"prompt_column": column}, "segmentation": segmentation or {}}
    table = pa.Table.from_pylist([{**row, "gc_id": f"i{k}", "gc_angle": 0.5} for k, row in enumerate(rows)])
    return training_rows(table, identity, **{"bare": False, "with_scores": False, **options})


def test_a_text_becomes_the_messages_that_were_scored() -> None:
    found = shown([{"q": "why?", "level": 3}], "q", {"system": "Think.", "shots": SHOTS})
    assert found.column_names == ["q", "level", "gc_id", "prompt"]
    assert found.column("prompt").to_pylist() == [
        [{"role": "system", "content": "Think."}, *SHOTS, {"role": "user", "content": "why?"}]
    ]
    assert found.column("q").to_pylist() == ["why?"]


def test_a_prompt_column_of_messages_is_replaced_in_its_place() -> None:
    own = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "why?"}]
    found = shown([{"prompt": own, "answer": "x"}], "prompt", {"system": "Ours.", "system_override": True})
    assert found.column_names == ["prompt", "answer", "gc_id"]
    assert found.column("prompt").to_pylist()[0][0] == {"role": "system", "content": "Ours."}
    bare = shown([{"prompt": own}], "prompt", {"system": "Ours.", "system_override": True}, bare=True)
    assert bare.column("prompt").to_pylist() == [own]


def test_another_column_called_prompt_is_kept_beside_it() -> None:
    found = shown([{"prompt": "a template", "extra": {"q": "why?"}}], "extra.q", with_scores=True)
    assert found.column("source_prompt").to_pylist() == ["a template"]
    assert found.column("prompt").to_pylist() == [[{"role": "user", "content": "why?"}]]
    assert "gc_angle" in found.column_names


def test_no_rows_and_a_row_that_cannot_be_are_handled(tmp_path: Path) -> None:
    table = shown([{"q": "why?"}], "q")
    write_rows(tmp_path / "d.parquet", table)
    assert pq.read_table(tmp_path / "d.parquet").equals(table)
    with pytest.raises(OutputError, match="row i0 of the scored set: the prompt is empty"):
        shown([{"q": " "}], "q")
