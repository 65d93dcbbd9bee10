from __future__ import annotations

import gzip
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gaincurate.errors import GaincurateError, SourceError, StorageError
from gaincurate.scoring.readers import files as csv_rows
from gaincurate.scoring.readers.files import CsvReader, JsonReader, open_file
from gaincurate.scoring.readers.source import open_source


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    reader = open_file(path)
    found = pa.Table.from_batches(list(reader.batches(reader.schema, 0)), reader.schema)
    rows: list[dict[str, Any]] = found.to_pylist()
    return rows


def refused(path: Path) -> str:
    with pytest.raises(SourceError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    return text.removeprefix(str(path))


LINES = b"".join(b'{"prompt": "question %d"}\n' % i for i in range(3000))
CSV = b"prompt,level\n" + b"".join(b"question %d,%d\n" % (i, i) for i in range(3000))


def damaged_gzip(data: bytes) -> bytes:
    # A stored block with its length word spoiled: the decompressor itself refuses it.
    raw = struct.pack("<BHH", 1, len(data[:1000]), 0) + data[:1000]
    header = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"
    return header + raw + struct.pack("<II", zlib.crc32(data[:1000]), 1000)


@pytest.mark.parametrize(("name", "data"), [("a.jsonl.gz", LINES), ("a.csv.gz", CSV)])
def test_a_gzip_file_that_is_cut_damaged_or_none_says_so(name: str, data: bytes, tmp_path: Path) -> None:
    whole = gzip.compress(data)
    for spoiled in (whole[:-4], whole[: len(whole) // 2], damaged_gzip(data), data, whole + b"garbage"):
        assert refused(write(tmp_path, name, spoiled)).startswith(" is no readable gzip file: ")


def test_two_gzip_members_are_one_file(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl.gz", gzip.compress(LINES) + gzip.compress(LINES))
    assert len(read(path)) == 6000


MIXED: dict[str, tuple[list[bytes], str]] = {
    "number, then text": ([b"1", b'"two"'], "line 2: column 'v' mixes types: \"two\" after int64 before."),
    "true, then number": ([b"true", b"1"], "line 2: column 'v' mixes types: 1 after bool before."),
    "list, then text": ([b"[1]", b'"a"'], "line 2: column 'v' mixes types: \"a\" after list<item: int64>"),
    "within one list": (
        [b"1", b'[1, "a"]'],
        "line 2: column 'v' mixes types: [1, \"a\"] after int64 before.",
    ),
    "beyond 64 bits": (
        [b"1", b"9223372036854775808"],
        "line 2: column 'v' holds a whole number beyond 64 bits",
    ),
    "half a pair": ([b'"x"', rb'"\ud800"'], "line 2: column 'v' holds half of a surrogate pair"),
    "half a pair in a mixed list": (
        [b"[]", rb'[1, "\ud800"]'],
        "line 2: column 'v' holds half of a surrogate",
    ),
    "half a pair below": ([b"[]", rb'["\ud800"]'], "line 2: column 'v' holds half of a surrogate pair"),
}


@pytest.mark.parametrize("case", MIXED, ids=str)
@pytest.mark.parametrize("before", [0, 1500])
def test_mixed_types_are_named_with_their_line(case: str, before: int, tmp_path: Path) -> None:
    (first, second), sentence = MIXED[case]
    rows = [b'{"v": ' + first + b"}"] * (before + 1) + [b'{"v": ' + second + b"}"]
    text = refused(write(tmp_path, "a.jsonl", b"\n".join(rows)))
    assert sentence.replace("line 2", f"line {before + 2}") in text


@pytest.mark.parametrize("apart", [0, 2000])
def test_a_whole_number_that_a_fraction_elsewhere_would_round_is_refused(apart: int, tmp_path: Path) -> None:
    rows = [b'{"v": 1}', b'{"v": 9007199254740993}', *[b'{"v": 2}'] * apart, b'{"v": 0.5}']
    assert refused(write(tmp_path, "a.jsonl", b"\n".join(rows))).startswith(
        ", line 2: a value does not fit the type that the rest of its column has (Integer value 9007199254740993"
    )


def test_a_cast_between_files_that_would_round_is_refused(tmp_path: Path) -> None:
    wide = pa.schema([("v", pa.float64())])
    table = pa.table({"v": [2**53 + 1]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    write(tmp_path, "a.csv", b"v\n9007199254740993\n")
    for name in ("a.parquet", "a.arrow", "a.csv"):
        with pytest.raises(SourceError, match="column 'v': a value does not fit the type that the rest"):
            list(open_file(tmp_path / name).batches(wide, 0))


WIDE = json.dumps({f"k{k}": k for k in range(4097)}).encode()
LARGE: dict[str, tuple[str, bytes, str]] = {
    "keys of a line": ("a.jsonl", WIDE, "have 4,097 different keys up to line 1, more than 4,096"),
    "keys of each line": (  # took minutes
        "a.jsonl",
        b"\n".join(json.dumps({f"k{row}_{k}": 0 for k in range(2000)}).encode() for row in range(10)),
        "have 20,000 different keys up to line 10, more than 4,096",
    ),
    "columns of CSV": ("a.csv", b",".join(b"c%d" % k for k in range(4097)), "the header names 4,097 columns"),
}


@pytest.mark.parametrize("case", LARGE, ids=str)
def test_what_would_take_hours_or_gigabytes_is_refused(case: str, tmp_path: Path) -> None:
    name, content, sentence = LARGE[case]
    assert sentence in refused(write(tmp_path, name, content + b"\n"))


def test_as_many_keys_as_there_may_be_are_read(tmp_path: Path) -> None:
    rows = {f"k{k}": k for k in range(4096)}
    assert len(read(write(tmp_path, "a.jsonl", json.dumps(rows).encode() + b"\n"))) == 1
    text = ",".join(rows) + "\n" + ",".join(map(str, rows.values())) + "\n"
    assert len(read(write(tmp_path, "c.csv", text.encode()))) == 1


CSV_BAD: dict[str, tuple[bytes, str]] = {
    "a row too long": (b"p,v\nx,1\ny,2,3\n", " is no readable CSV file: CSV parse error: Row #3: Expected 2"),
    "a row too short": (b"p,v\nx\n", " is no readable CSV file: CSV parse error: Row #2: Expected 2"),
    "latin-1 below": ("p,v\nx,1\n\xe9,2\n".encode("latin-1"), "not UTF-8"),
    "latin-1 header": ("\xe9,v\nx,1\n".encode("latin-1"), ": not UTF-8. Convert the file first"),
    "latin-1 late": (b"p,v\n" + b"xxxxxxxx,1\n" * 3000 + b"\xe9,2\n", "text that is not UTF-8; convert it"),
    "UTF-16": ("p,v\nx,1\n".encode("utf-16"), ": not UTF-8."),
    "a name of 200,000 letters": (b"p," + b"v" * 200_000 + b"\nx,1\n", "field larger than field limit"),
    "a name twice": (b"p,v,p\nx,1,y\n", ": the header names column 'p' twice; rename one."),
}


@pytest.mark.parametrize("case", CSV_BAD, ids=str)
def test_a_bad_csv_file_says_what_is_wrong(case: str, tmp_path: Path) -> None:
    content, sentence = CSV_BAD[case]
    assert sentence in refused(write(tmp_path, "a.csv", content))


def test_a_csv_row_over_the_block_or_a_quote_never_closed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_rows, "_CSV_BLOCK", 1 << 12)
    content = b'p,v\nx,1\n"' + b"line\n" * 5000
    assert "or a quote is never closed" in refused(write(tmp_path, "a.csv", content))


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfp,v\nx,1\ny,2\n",
        b'\xef\xbb\xbf"p","v"\r\n"x","1"\r\n"y","2"\r\n',
        b"p,v\rx,1\ry,2\r",
        b"\n\np,v\nx,1\n\ny,2",
        b"p,v\r\n\r\nx,1\r\ny,2\r\n\r\n",
    ],
    ids=["BOM", "BOM, quotes, CRLF", "CR", "blank lines", "CRLF, blank lines"],
)
def test_csv_marks_line_ends_and_blank_lines_are_no_data(content: bytes, tmp_path: Path) -> None:
    assert read(write(tmp_path, "a.csv", content)) == [{"p": "x", "v": 1}, {"p": "y", "v": 2}]


def test_files_without_rows_have_none(tmp_path: Path) -> None:
    empty = pa.schema([("prompt", pa.string())]).empty_table()
    pq.write_table(empty, tmp_path / "a.parquet")
    with pa.ipc.new_file(tmp_path / "a.arrow", empty.schema) as writer:
        writer.write_table(empty)
    with pa.ipc.new_stream(tmp_path / "b.arrow", empty.schema):
        pass
    write(tmp_path, "a.csv", b"prompt,level\n")
    write(tmp_path, "b.csv", b"\n\n")
    write(tmp_path, "a.json", b"[ ]\n")
    write(tmp_path, "a.jsonl", b"\n \r\n")
    for path in tmp_path.iterdir():
        reader = open_file(path)
        assert reader.rows == 0
        assert list(reader.batches(reader.schema, 0)) == []


def test_objects_without_keys_are_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", b'{}\n{"v": {}}\n{"v": {"a": []}}\n{"v": null}\n')
    assert read(path) == [{"v": None}, {"v": {"a": None}}, {"v": {"a": []}}, {"v": None}]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_binary_file_that_is_cut_or_something_else_says_so(name: str, tmp_path: Path) -> None:
    table = pa.table({"prompt": ["x"] * 5000})
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    whole = path.read_bytes()
    kind = "Parquet" if name == "a.parquet" else "Arrow"
    for content in (whole[:-9], whole[: len(whole) // 2], b"PK\x03\x04" * 30, LINES):
        path.write_bytes(content)
        assert refused(path).startswith(f" is no readable {kind} file: ")


def test_a_cut_arrow_stream_says_so(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["x"] * 5000})
    path = tmp_path / "a.arrow"
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    path.write_bytes(path.read_bytes()[:-500])
    assert refused(path).startswith(" is no readable Arrow file: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.csv.gz", "a.parquet", "a.arrow"])
def test_a_file_that_may_not_be_read_says_permission_denied(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, LINES)
    path.chmod(0)
    with pytest.raises(StorageError, match=r"cannot read .*: permission is denied\."):
        open_file(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.csv.gz", "a.parquet", "a.arrow"])
def test_a_file_that_goes_away_between_two_readings_is_a_sentence(name: str, tmp_path: Path) -> None:
    table = pa.table({"prompt": ["x", "y"]})
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(table, path)
    elif name == "a.arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    else:
        plain = b"prompt\nx\n" if ".csv" in name else b'{"prompt": "x"}'
        path.write_bytes(gzip.compress(plain) if name.endswith(".gz") else plain)
    reader = open_file(path)
    path.unlink()
    with pytest.raises(GaincurateError, match=f"cannot read {path}: no such file or directory"):
        list(reader.batches(reader.schema, 0))


def test_a_line_without_an_end_is_refused_before_all_of_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gzip makes gigabytes of a few kilobytes: what is read of them is bounded."""
    monkeypatch.setattr(csv_rows, "LONGEST_LINE", 1 << 12)
    monkeypatch.setattr(csv_rows, "_CSV_BLOCK", 1 << 12)
    monkeypatch.setattr(csv_rows, "_LONGEST_ARRAY", 1 << 12)
    read_so_far: list[int] = []
    unpacked = gzip.GzipFile.read

    def counted(file: gzip.GzipFile, size: int | None = -1) -> bytes:
        data: bytes = unpacked(file, size)
        read_so_far.append(len(data))
        return data

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    bomb = b"a" * (1 << 22)
    for name, content, said in [
        ("a.jsonl.gz", b'{"p": 1}\n{"prompt": "' + bomb, ", line 2: the line has more than 4,096 bytes"),
        (
            "a.json.gz",
            b'[{"p": 1}, {"prompt": "' + bomb,
            ": the array has more than 4,096 bytes. Write one object",
        ),
    ]:
        assert said in refused(write(tmp_path, name, gzip.compress(content)))
    assert sum(read_so_far) < 1 << 16


def nested(depth: int) -> bytes:
    return b"[" * depth + b"1" + b"]" * depth


def test_a_value_that_is_too_deep_is_refused_when_the_source_is_opened(tmp_path: Path) -> None:
    assert open_source(str(write(tmp_path, "a.jsonl", b'{"m": %s}\n' % nested(63)))).rows == 1
    assert open_source(str(write(tmp_path, "a.json", b'[{"m": %s}]\n' % nested(63)))).rows == 1
    for name, content in [("b.jsonl", b'{"m": %s}\n'), ("b.json", b'[{"m": 1}, {"m": %s}]\n')]:
        said = "lists or objects stand more than 64 deep inside each other"
        assert said in refused(write(tmp_path, name, content % nested(64)))
    kind = pa.int64()
    for _ in range(64):
        kind = pa.struct([("m", kind)])
    pq.write_table(pa.table({"m": pa.nulls(1, kind)}), tmp_path / "c.parquet")
    with pytest.raises(SourceError) as caught:
        open_source(str(tmp_path / "c.parquet"))
    said = "in column 'm' lists or objects stand more than 63 deep inside each other. Write it as a text"
    assert said in str(caught.value)


def test_a_key_that_no_text_can_hold_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", rb'{"prompt": "x", "\ud800": 1}')
    assert "line 1: column '\\ud800' holds half of a surrogate pair" in refused(path)


def test_a_file_that_changes_between_two_readings_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", b'{"v": 1}\n{"v": 2}\n')
    reader = JsonReader.open(path)
    path.write_bytes(b'{"v": 1}\n{"v": "two"}\n')
    with pytest.raises(SourceError, match="line 2: a value does not fit"):
        list(reader.batches(reader.schema, 0))
    path = write(tmp_path, "a.csv", b"v\n1\n2\n")
    other = CsvReader.open(path)
    path.write_bytes(b"v\n1\ntwo\n")
    with pytest.raises(SourceError, match="is no readable CSV file"):
        list(other.batches(other.schema, 0))
