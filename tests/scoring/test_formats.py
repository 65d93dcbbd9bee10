from __future__ import annotations

import csv
import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_files import refused, table, write
from gaincurate.errors import GaincurateError, SourceError
from gaincurate.scoring.readers import files
from gaincurate.scoring.readers.files import BATCH_ROWS, open_file

TEXT = 'question {}, "quoted"\nsecond line é'
ROWS = [
    {"prompt": TEXT.format(i), "level": i, "share": i / 7, "note": None if i % 3 else ""} for i in range(2500)
]
SCHEMA = pa.schema(
    [("prompt", pa.string()), ("level", pa.int64()), ("share", pa.float64()), ("note", pa.string())]
)


def json_lines() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def comma_separated() -> bytes:
    sink = io.StringIO(newline="")
    writer = csv.DictWriter(sink, SCHEMA.names)
    writer.writeheader()
    writer.writerows(ROWS)
    return sink.getvalue().encode()


def parquet() -> Any:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS, SCHEMA), sink, row_group_size=700)
    return sink.getvalue().to_pybytes()


def arrow(new: Callable[..., Any], chunk: int) -> Any:
    sink = pa.BufferOutputStream()
    with new(sink, SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(ROWS, SCHEMA), max_chunksize=chunk)
    return sink.getvalue().to_pybytes()


FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "lines": ("a.jsonl", json_lines),
    "lines called .json": ("a.json", json_lines),
    "array": ("a.json", lambda: json.dumps(ROWS, indent=1).encode()),
    "array called .jsonl": ("a.jsonl", lambda: json.dumps(ROWS).encode()),
    "lines, gzip": ("a.jsonl.gz", lambda: gzip.compress(json_lines())),
    "array, gzip": ("a.json.gz", lambda: gzip.compress(json.dumps(ROWS).encode())),
    "CSV": ("a.csv", comma_separated),
    "CSV, gzip": ("a.csv.gz", lambda: gzip.compress(comma_separated())),
    "Parquet": ("a.parquet", parquet),
    "Arrow file": ("a.arrow", lambda: arrow(pa.ipc.new_file, 900)),
    "Arrow file, one batch": ("a.arrow", lambda: arrow(pa.ipc.new_file, 10_000)),
    "Arrow stream": ("a.arrow", lambda: arrow(pa.ipc.new_stream, 900)),
}


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
    if case == "array":  # Arrow 17 casts no structs that have other fields
        assert next(reader.raw(wide, 0)).schema.equals(wide)


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
def test_json_columns_come_back(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
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


LINES = b"".join(b'{"prompt": "question %d"}\n' % i for i in range(3000))


def damaged_gzip(data: bytes) -> bytes:
    # A stored block with its length word spoiled: the decompressor itself refuses it.
    raw = struct.pack("<BHH", 1, len(data[:1000]), 0) + data[:1000]
    header = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"
    return header + raw + struct.pack("<II", zlib.crc32(data[:1000]), 1000)


def test_a_gzip_file_that_is_cut_damaged_or_none_says_so(tmp_path: Path) -> None:
    whole = gzip.compress(LINES)
    for spoiled in (whole[:-4], whole[: len(whole) // 2], damaged_gzip(LINES), LINES, whole + b"garbage"):
        assert refused(write(tmp_path, "a.jsonl.gz", spoiled)).startswith(" is no readable gzip file: ")


MIXED: dict[str, list[bytes]] = {
    "number, then text": [b"1", b'"two"'],
    "list, then text": [b"[1]", b'"a"'],
    "within one list": [b"1", b'[1, "a"]'],
    "beyond 64 bits": [b"1", b"9223372036854775808"],
    "half a pair": [b'"x"', rb'"\ud800"'],
    "half a pair in a mixed list": [b"[]", rb'[1, "\ud800"]'],
}


@pytest.mark.parametrize("case", MIXED, ids=str)
@pytest.mark.parametrize("before", [0, 1500])
def test_mixed_types_are_named_with_their_column_and_lines(case: str, before: int, tmp_path: Path) -> None:
    first, second = MIXED[case]
    rows = [b'{"v": ' + first + b"}"] * (before + 1) + [b'{"v": ' + second + b"}"]
    text = refused(write(tmp_path, "a.jsonl", b"\n".join(rows)))
    lines = f", line {1 if not before else 1025} to line {before + 2}: "
    assert text.startswith(f"{lines}column 'v' mixes types, or holds a value that no column can (")


@pytest.mark.parametrize("apart", [0, 2000])
def test_a_whole_number_that_a_fraction_elsewhere_would_round_is_refused(apart: int, tmp_path: Path) -> None:
    rows = [b'{"v": 1}', b'{"v": 9007199254740993}', *[b'{"v": 2}'] * apart, b'{"v": 0.5}']
    assert "(Integer value 9007199254740993" in refused(write(tmp_path, "a.jsonl", b"\n".join(rows)))


def test_keys_that_would_take_hours_are_refused(tmp_path: Path) -> None:
    for row in ({f"k{k}": k for k in range(4097)}, {"m": {f"k{k}": k for k in range(4097)}}):
        content = b"\n".join([json.dumps(row).encode()] * 1025)
        assert "more than 4,096 different keys" in refused(write(tmp_path, "a.jsonl", content))
    most = json.dumps({f"k{k}": k for k in range(4096)}).encode()
    assert open_file(write(tmp_path, "a.jsonl", most)).rows == 1


def test_files_without_rows_have_none(tmp_path: Path) -> None:
    empty = pa.schema([("prompt", pa.string())]).empty_table()
    pq.write_table(empty, tmp_path / "a.parquet")
    with pa.ipc.new_file(tmp_path / "a.arrow", empty.schema) as writer:
        writer.write_table(empty)
    with pa.ipc.new_stream(tmp_path / "b.arrow", empty.schema):
        pass
    write(tmp_path, "a.json", b"[ ]\n")
    write(tmp_path, "a.jsonl", b"\n \r\n")
    write(tmp_path, "a.csv", b"prompt,level\n")
    write(tmp_path, "b.csv", b"\n\n")
    for path in tmp_path.iterdir():
        reader = open_file(path)
        assert reader.rows == 0
        assert list(reader.batches(reader.schema, 0)) == []


@pytest.mark.parametrize(("case", "kind"), [("Parquet", "Parquet"), ("Arrow file", "Arrow")])
def test_a_binary_file_that_is_cut_or_something_else_says_so(case: str, kind: str, tmp_path: Path) -> None:
    name, make = FILES[case]
    whole = make()
    for content in (whole[:-9], whole[: len(whole) // 2], b"PK\x03\x04" * 30, LINES):
        assert refused(write(tmp_path, name, content)).startswith(f" is no readable {kind} file: ")


def test_a_file_that_goes_away_or_changes_between_two_readings_is_a_sentence(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", b'{"v": 1}\n{"v": 2}\n')
    reader = open_file(path)
    path.write_bytes(b'{"v": 1}\n{"v": "two"}\n')
    with pytest.raises(SourceError, match="line 1 to line 2: a value does not fit"):
        list(reader.batches(reader.schema, 0))
    path.unlink()
    with pytest.raises(GaincurateError, match=f"cannot read {path}: no such file or directory"):
        list(reader.batches(reader.schema, 0))


def test_a_line_without_an_end_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gzip makes gigabytes of a few kilobytes: what is read of them is bounded."""
    monkeypatch.setattr(files, "LONGEST_LINE", 1 << 12)
    monkeypatch.setattr(files, "_LONGEST_ARRAY", 1 << 12)
    read_so_far, unpacked = list[int](), gzip.GzipFile.read

    def counted(file: gzip.GzipFile, size: int | None = -1) -> bytes:
        data: bytes = unpacked(file, size)
        read_so_far.append(len(data))
        return data

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    bomb = b"a" * (1 << 22)
    for start, place in ((b'{"p": 1}\n{"prompt": "', "line 2"), (b'[{"p": 1}, {"prompt": "', "the array")):
        said = refused(write(tmp_path, "a.json.gz", gzip.compress(start + bomb)))
        assert f", {place}: broken JSON (more than 4,096 bytes)" in said
    assert sum(read_so_far) < 1 << 16
