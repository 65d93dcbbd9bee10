from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.scoring.readers.files import BATCH_ROWS, Reader, open_file

ROWS = [
    {
        "prompt": f'question {i}, "quoted"\nsecond line é',
        "level": i,
        "share": i / 7,
        "note": None if i % 3 else "",
    }
    for i in range(2500)
]
SCHEMA = pa.schema(
    [("prompt", pa.string()), ("level", pa.int64()), ("share", pa.float64()), ("note", pa.string())]
)


def json_lines() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def json_array() -> bytes:
    return json.dumps(ROWS, indent=1).encode()


def comma_separated() -> bytes:
    sink = io.StringIO(newline="")
    writer = csv.DictWriter(sink, SCHEMA.names)
    writer.writeheader()
    writer.writerows(ROWS)
    return sink.getvalue().encode()


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS, SCHEMA), sink, row_group_size=700)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def arrow(new: Callable[..., Any], chunk: int) -> bytes:
    sink = pa.BufferOutputStream()
    with new(sink, SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(ROWS, SCHEMA), max_chunksize=chunk)
    data: bytes = sink.getvalue().to_pybytes()
    return data


FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "lines": ("a.jsonl", json_lines),
    "lines called .json": ("a.json", json_lines),
    "array": ("a.json", json_array),
    "array called .jsonl": ("a.jsonl", json_array),
    "lines, gzip": ("a.jsonl.gz", lambda: gzip.compress(json_lines())),
    "array, gzip": ("a.json.gz", lambda: gzip.compress(json_array())),
    "CSV": ("a.csv", comma_separated),
    "CSV, gzip": ("a.csv.gz", lambda: gzip.compress(comma_separated())),
    "Parquet": ("a.parquet", parquet),
    "Arrow file": ("a.arrow", lambda: arrow(pa.ipc.new_file, 900)),
    "Arrow file, one batch": ("a.arrow", lambda: arrow(pa.ipc.new_file, 10_000)),
    "Arrow stream": ("a.arrow", lambda: arrow(pa.ipc.new_stream, 900)),
}


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table(reader: Reader, skip: int = 0) -> pa.Table:
    return pa.Table.from_batches(list(reader.batches(reader.schema, skip)), reader.schema)


@pytest.mark.parametrize("case", FILES, ids=str)
def test_every_format_gives_the_same_rows_and_types_from_any_row_on(case: str, tmp_path: Path) -> None:
    name, make = FILES[case]
    reader = open_file(write(tmp_path, name, make()))
    # A CSV cannot tell an empty text from a null.
    expected = [{**row, "note": ""} for row in ROWS] if ".csv" in name else ROWS
    assert reader.schema.equals(SCHEMA)
    assert reader.rows == len(ROWS)
    for skip in (0, 700, 1024, 2499, 9999):
        assert table(reader, skip).to_pylist() == expected[skip:]
    sizes = [batch.num_rows for batch in reader.batches(reader.schema, 0)]
    assert max(sizes) <= BATCH_ROWS
    assert min(sizes) > 0


@pytest.mark.parametrize("case", ["array", "CSV", "Parquet", "Arrow stream"])
def test_a_wider_schema_fills_and_casts_in_every_format(case: str, tmp_path: Path) -> None:
    name, make = FILES[case]
    reader = open_file(write(tmp_path, name, make()))
    wide = pa.schema(
        [("extra", pa.list_(pa.int8())), ("level", pa.float64()), ("prompt", pa.large_string())]
        + [(n, SCHEMA.field(n).type) for n in ("share", "note")]
    )
    found = pa.Table.from_batches(list(reader.batches(wide, 2400)), wide)
    assert found.column("extra").null_count == 100
    assert found.column("level").to_pylist() == [float(i) for i in range(2400, 2500)]
    assert found.column("prompt").to_pylist() == [row["prompt"] for row in ROWS[2400:]]


@pytest.mark.parametrize("kind", ["lines", "array"])
def test_json_types_are_those_of_the_whole_file(kind: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"p": "x", "n": 3, "late": None, "s": {"a": [[]]}} for _ in range(3000)]
    rows.append({"p": "y", "n": 0.5, "late": {"k": [1]}, "s": {"b": 1.5, "a": [[{"c": "z"}]]}, "new": True})
    content = json.dumps(rows) if kind == "array" else "\n".join(map(json.dumps, rows))
    reader = open_file(write(tmp_path, "a.json", content))
    assert {field.name: str(field.type) for field in reader.schema} == {
        "p": "string",
        "n": "double",
        "late": "struct<k: list<item: int64>>",
        "s": "struct<a: list<item: list<item: struct<c: string>>>, b: double>",
        "new": "bool",
    }
    found = table(reader).to_pylist()
    assert found[0] == {"p": "x", "n": 3.0, "late": None, "s": {"a": [[]], "b": None}, "new": None}
    last = {"p": "y", "n": 0.5, "late": {"k": [1]}, "s": {"a": [[{"c": "z"}]], "b": 1.5}, "new": True}
    assert found[-1] == last


@given(data=st.data())
def test_json_columns_of_one_type_come_back_as_they_were(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    kinds: list[st.SearchStrategy[Any]] = [
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        text,
        st.lists(st.lists(st.integers(-5, 5), max_size=2), max_size=2),
    ]
    names = data.draw(st.lists(text, min_size=1, max_size=4, unique=True))
    chosen = [data.draw(st.sampled_from(kinds)) for _ in names]
    row = st.fixed_dictionaries({n: st.none() | kind for n, kind in zip(names, chosen, strict=True)})
    rows = data.draw(st.lists(row, min_size=1, max_size=12))
    path = tmp_path_factory.mktemp("json") / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    reader = open_file(path)
    assert table(reader).to_pylist() == rows


CSV_TYPES: dict[str, tuple[list[str], str, list[Any]]] = {
    "whole numbers": (["1", "-20", "0"], "int64", [1, -20, 0]),
    "with empty": (["1", "", "3"], "int64", [1, None, 3]),
    "all empty": (["", "", ""], "string", ["", "", ""]),
    "fractions": (["1", "2.5", "-3e2"], "double", [1.0, 2.5, -300.0]),
    "leading zeros": (["007", "12", "010"], "string", ["007", "12", "010"]),
    "leading zeros before a point": (["007.5", "1", "1"], "string", ["007.5", "1", "1"]),
    "signs and spaces": (["+5", " 6", "7"], "string", ["+5", " 6", "7"]),
    "beyond 64 bits": (["12345678901234567890", "3", "4"], "string", ["12345678901234567890", "3", "4"]),
    "beyond a double": (["9007199254740993", "0.5", ""], "string", ["9007199254740993", "0.5", ""]),
    "too large for a double": (["1e400", "1", "2"], "string", ["1e400", "1", "2"]),
    "names of numbers": (["nan", "inf", "1"], "string", ["nan", "inf", "1"]),
    "hexadecimal": (["0x10", "1", "2"], "string", ["0x10", "1", "2"]),
    "words": (["true", "false", "null"], "string", ["true", "false", "null"]),
}


@pytest.mark.parametrize("case", CSV_TYPES, ids=str)
def test_a_csv_column_is_a_number_only_where_nothing_is_lost(case: str, tmp_path: Path) -> None:
    cells, kind, expected = CSV_TYPES[case]
    path = write(tmp_path, "a.csv", "prompt,v\n" + "".join(f"x,{cell}\n" for cell in cells))
    reader = open_file(path)
    assert str(reader.schema.field("v").type) == kind
    assert table(reader).column("v").to_pylist() == expected


@pytest.mark.parametrize(("last", "kind"), [("0.5", "double"), ("n/a", "string"), ("07", "string")])
def test_a_csv_type_that_the_last_row_decides_holds_for_the_first(
    last: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaincurate.scoring.readers.files._CSV_BLOCK", 1 << 12)
    path = write(tmp_path, "a.csv", "prompt,v\n" + "some text,12\n" * 3000 + f"x,{last}\n")
    reader = open_file(path)
    assert str(reader.schema.field("v").type) == kind
    found = table(reader).column("v").to_pylist()
    assert found[0] == ("12" if kind == "string" else 12.0)
    assert found[-1] == (last if kind == "string" else 0.5)


cell = st.text(st.sampled_from('ab1,"\n\r é'), max_size=6).filter(lambda v: v != "")


@given(rows=st.lists(st.tuples(cell, cell), min_size=1, max_size=8), end=st.sampled_from(["\n", "\r\n"]))
def test_quoted_csv_text_comes_back_as_python_wrote_it(
    rows: list[tuple[str, str]], end: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerows([("prompt", "v"), *rows, ("text", "text")])
    found = table(open_file(path)).to_pylist()
    assert [(row["prompt"], row["v"]) for row in found] == [*rows, ("text", "text")]
