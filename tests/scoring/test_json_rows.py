from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.errors import SourceError
from gaincurate.scoring.readers.files import json_rows

NAME = Path("rows.json")

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
rows = st.lists(st.dictionaries(text, values, max_size=4), max_size=6)


def read(data: bytes) -> list[dict[str, Any]]:
    return [row for _, row in json_rows(NAME, io.BytesIO(data))]


STARTS = st.sampled_from([b"", b"\xef\xbb\xbf", b" \r\n\t"])


@given(rows, st.sampled_from([None, 0, 3]), st.booleans(), STARTS)
def test_an_array_is_what_json_loads_says(
    expected: list[dict[str, Any]], indent: int | None, ascii_only: bool, before: bytes
) -> None:
    data = before + json.dumps(expected, indent=indent, ensure_ascii=ascii_only).encode() + b"\r\n"
    assert read(data) == expected


@given(rows, st.sampled_from([b"\n", b"\r\n", b"\n\n \t\n"]), st.booleans(), st.booleans())
def test_lines_are_what_json_loads_says_whatever_ends_them(
    expected: list[dict[str, Any]], end: bytes, ascii_only: bool, mark: bool
) -> None:
    lines = [json.dumps(row, ensure_ascii=ascii_only).encode() for row in expected]
    assert read(b"\xef\xbb\xbf" * mark + end.join(lines)) == expected


def test_an_array_and_lines_give_the_same_odd_values() -> None:
    objects = [
        '{"v": NaN, "w": -Infinity}',
        '{"v": 1e308}',
        '{"a": 1, "a": 2}',
        '{"v": 123456789012345678901234567890}',
        r'{"v": "\ud83d\ude00 \u0000"}',
        r'{"v": "\ud800"}',
    ]
    array = read(("[" + ",".join(objects) + "]").encode())
    lines = read("\n".join(objects).encode())
    assert repr(array) == repr(lines)
    assert array[2] == {"a": 2}
    assert array[4]["v"] == "\U0001f600 \0"
    assert array[5]["v"] == "\ud800", "half a pair must reach the check, not become a question mark"


def test_places_are_line_numbers_of_the_file_and_item_numbers_of_the_array() -> None:
    lines = json_rows(NAME, io.BytesIO(b'\n{"a":1}\r\n\n{"a":2}'))
    assert [place for place, _ in lines] == ["line 2", "line 4"]
    items = json_rows(NAME, io.BytesIO(b'\n[{"a":1},\n{"a":2}]'))
    assert [place for place, _ in items] == ["item 1", "item 2"]


BROKEN: dict[str, tuple[bytes, str]] = {
    "an array that is cut": (b'[{"a": 1},\n{"a": "x', "the array: broken JSON (Unterminated string"),
    "latin-1": ('[{"a": 1}, {"a": "é"}]'.encode("latin-1"), "can't decode byte 0xe9 in position 18"),
    "a number as item": (b"[1]", "item 1: holds int where an object (one row) is expected."),
    "a line that is cut": (b'{"a": 1}\n{"a": ', "line 2: broken JSON (Expecting value"),
    "two on a line": (b'{"a": 1} {"a": 2}\n', "line 1: broken JSON (Extra data"),
    "UTF-16": ('{"a": 1}\n'.encode("utf-16"), "line 1: broken JSON ('utf-8' codec can't decode"),
    "nested too deeply": (b'{"a": ' + b"[" * 99_999 + b"]" * 99_999 + b"}", "64 deep inside each other"),
    "a number of 5,000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "line 1: broken JSON (Exceeds the limit"),
}


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_what_is_broken_is_refused_with_its_place(case: str) -> None:
    data, sentence = BROKEN[case]
    with pytest.raises(SourceError) as caught:
        read(data)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("rows.json")
