"""CSV files: their types, what text comes back, and files that are refused."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_files import refused, table, write
from gaincurate.errors import SourceError
from gaincurate.scoring.readers import files
from gaincurate.scoring.readers.files import open_file
from gaincurate.scoring.readers.source import open_source

TYPES: dict[str, tuple[list[str], str, list[Any]]] = {
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


@pytest.mark.parametrize("case", TYPES, ids=str)
def test_a_csv_column_is_a_number_only_where_nothing_is_lost(case: str, tmp_path: Path) -> None:
    cells, kind, expected = TYPES[case]
    reader = open_file(write(tmp_path, "a.csv", "prompt,v\n" + "".join(f"x,{cell}\n" for cell in cells)))
    assert str(reader.schema.field("v").type) == kind
    assert table(reader).column("v").to_pylist() == expected


@pytest.mark.parametrize(("last", "kind"), [("0.5", "double"), ("n/a", "string"), ("07", "string")])
def test_the_last_row_decides(last: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_CSV_BLOCK", 1 << 12)
    reader = open_file(write(tmp_path, "a.csv", "prompt,v\n" + "some text,12\n" * 3000 + f"x,{last}\n"))
    assert str(reader.schema.field("v").type) == kind
    values = table(reader).column("v").to_pylist()
    assert values[0] == ("12" if kind == "string" else 12.0)
    assert values[-1] == (last if kind == "string" else 0.5)


cell = st.text(st.sampled_from('ab1,"\n\r é'), max_size=6).filter(lambda v: v != "")


@given(rows=st.lists(st.tuples(cell, cell), min_size=1, max_size=8), end=st.sampled_from(["\n", "\r\n"]))
def test_quoted_csv_text_comes_back_as_python_wrote_it(
    rows: list[tuple[str, str]], end: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerows([("prompt", "v"), *rows, ("text", "text")])
    found = [(row["prompt"], row["v"]) for row in table(open_file(path)).to_pylist()]
    assert found == [*rows, ("text", "text")]


MARKED = [
    b"\xef\xbb\xbfp,v\nx,1\ny,2\n", b'\xef\xbb\xbf"p","v"\r\n"x","1"\r\n"y","2"\r\n', b"p,v\rx,1\ry,2\r",
    b"\n\np,v\nx,1\n\ny,2", b"p,v\r\n\r\nx,1\r\ny,2\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("content", MARKED)
def test_csv_marks_line_ends_and_blank_lines_are_no_data(content: bytes, tmp_path: Path) -> None:
    rows = table(open_file(write(tmp_path, "a.csv", content))).to_pylist()
    assert rows == [{"p": "x", "v": 1}, {"p": "y", "v": 2}]


BAD: dict[str, tuple[bytes, str]] = {
    "a row too long": (b"p,v\nx,1\ny,2,3\n", "CSV parse error: Row #3: Expected 2"),
    "latin-1 below": ("p,v\nx,1\n\xe9,2\n".encode("latin-1"), "UTF"),
    "latin-1 in the header": ("p,\xe9\nx,1\n".encode("latin-1"), "codec can't decode byte 0xe9"),
    "latin-1 late": (b"p,v\n" + b"xxxxxxxx,1\n" * 3000 + b"\xe9,2\n", "UTF"),
    "UTF-16": ("p,v\nx,1\n".encode("utf-16"), "UTF-8"),
    "a quote never closed": (b'p,v\nx,1\n"' + b"line\n" * 5000, "or a quote is never closed"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_a_bad_csv_file_says_why(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_CSV_BLOCK", 1 << 12)
    content, sentence = BAD[case]
    text = refused(write(tmp_path, "a.csv", content))
    assert text.startswith(" is no readable CSV file in UTF-8: ")
    assert sentence in text


def test_a_csv_with_a_name_twice_or_other_rows_on_the_second_reading_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has two columns named 'p'; rename one"):
        open_source(str(write(tmp_path, "a.csv", b"p,v,p\nx,1,y\n")))
    path = write(tmp_path, "a.csv", b"v\n1\n2\n")
    reader = open_file(path)
    path.write_bytes(b"v\n1\ntwo\n")
    with pytest.raises(SourceError, match="is no readable CSV file"):
        list(reader.batches(reader.schema, 0))
