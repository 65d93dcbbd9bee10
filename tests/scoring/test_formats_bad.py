from __future__ import annotations

import gzip
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gaincurate.errors import GaincurateError, SourceError
from gaincurate.scoring.readers import files
from gaincurate.scoring.readers.files import open_file
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
    assert len(read(write(tmp_path, "a.jsonl", most))) == 1


CSV_BAD: dict[str, tuple[bytes, str]] = {
    "a row too long": (b"p,v\nx,1\ny,2,3\n", "CSV parse error: Row #3: Expected 2"),
    "latin-1 below": ("p,v\nx,1\n\xe9,2\n".encode("latin-1"), "UTF"),
    "latin-1 late": (b"p,v\n" + b"xxxxxxxx,1\n" * 3000 + b"\xe9,2\n", "UTF"),
    "UTF-16": ("p,v\nx,1\n".encode("utf-16"), "UTF-8"),
}


@pytest.mark.parametrize("case", CSV_BAD, ids=str)
def test_a_bad_csv_file_says_what_is_wrong(case: str, tmp_path: Path) -> None:
    content, sentence = CSV_BAD[case]
    text = refused(write(tmp_path, "a.csv", content))
    assert text.startswith(" is no readable CSV file in UTF-8: ")
    assert sentence in text


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has two columns named 'p'; rename one"):
        open_source(str(write(tmp_path, "a.csv", b"p,v,p\nx,1,y\n")))


def test_a_csv_row_over_the_block_or_a_quote_never_closed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_CSV_BLOCK", 1 << 12)
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


def test_a_file_that_goes_away_or_changes_between_two_readings_is_a_sentence(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", b'{"v": 1}\n{"v": 2}\n')
    reader = open_file(path)
    path.write_bytes(b'{"v": 1}\n{"v": "two"}\n')
    with pytest.raises(SourceError, match="line 1 to line 2: a value does not fit"):
        list(reader.batches(reader.schema, 0))
    path.unlink()
    with pytest.raises(GaincurateError, match=f"cannot read {path}: no such file or directory"):
        list(reader.batches(reader.schema, 0))
    path = write(tmp_path, "a.csv", b"v\n1\n2\n")
    other = open_file(path)
    path.write_bytes(b"v\n1\ntwo\n")
    with pytest.raises(SourceError, match="is no readable CSV file"):
        list(other.batches(other.schema, 0))


def test_a_line_without_an_end_is_refused_before_all_of_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gzip makes gigabytes of a few kilobytes: what is read of them is bounded."""
    monkeypatch.setattr(files, "LONGEST_LINE", 1 << 12)
    monkeypatch.setattr(files, "_CSV_BLOCK", 1 << 12)
    monkeypatch.setattr(files, "_LONGEST_ARRAY", 1 << 12)
    read_so_far: list[int] = []
    unpacked = gzip.GzipFile.read

    def counted(file: gzip.GzipFile, size: int | None = -1) -> bytes:
        data: bytes = unpacked(file, size)
        read_so_far.append(len(data))
        return data

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    bomb = b"a" * (1 << 22)
    for name, content, said in [
        ("a.jsonl.gz", b'{"p": 1}\n{"prompt": "' + bomb, ", line 2: broken JSON (more than 4,096 bytes)"),
        (
            "a.json.gz",
            b'[{"p": 1}, {"prompt": "' + bomb,
            ", the array: broken JSON (more than 4,096 bytes)",
        ),
    ]:
        assert said in refused(write(tmp_path, name, gzip.compress(content)))
    assert sum(read_so_far) < 1 << 16


def test_a_value_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    deeper = b"[" * 64 + b"1" + b"]" * 64
    for content in (b'{"m": %s}\n' % deeper, b"[" + b'{"m": %s}' % deeper + b"]"):
        text = refused(write(tmp_path, "b.jsonl", content))
        assert "lists or objects stand more than 64 deep inside each other" in text
