"""The border for JSON, YAML and TOML: what it refuses, and that it is quick to refuse."""

from __future__ import annotations

import io
import json
import math
import os
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.core import foreign
from gaincurate.core.files import digest_file, json_lines
from gaincurate.core.foreign import (
    DEEPEST,
    Malformed,
    json_value,
    read_bytes,
    read_text,
    toml_value,
    yaml_value,
)
from gaincurate.errors import StorageError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


@given(PLAIN)
def test_what_json_can_hold_comes_back(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        for data in (text, text.encode(), b"\xef\xbb\xbf" + text.encode()):
            assert json_value(data) == value


def outcome(read: Callable[[], Any]) -> str:
    """What was read, or that nothing was. NaN is equal to itself here."""
    try:
        return repr(read())
    except (ValueError, RecursionError):
        return "refused"


def by_the_standard_library(data: bytes) -> Any:
    """What JSON of a usual depth holds, if its texts are texts."""
    value = json.loads(data.decode("utf-8-sig"))
    json.dumps(value, ensure_ascii=False).encode()
    return value


PIECES = [
    "{", "}", "[", "]", ",", ":", '"a"', '"', "-0.5e3", "null", "NaN", "\\ud800", "\\ude00", " ", "\ufeff",
]  # fmt: skip
NEARLY_JSON = st.lists(st.sampled_from(PIECES), max_size=20).map(lambda parts: "".join(parts).encode())
NEARLY_TOML = st.lists(
    st.sampled_from(["a", ".", "=", "1", "[", "]", "{", "}", '"', "'", "\n", ",", "1979-05-27", "inf", "#"]),
    max_size=20,
).map("".join)
ANY = st.binary(max_size=200) | NEARLY_JSON | PLAIN.map(json.dumps).map(str.encode)


@given(ANY)
def test_any_bytes_are_the_json_value_that_they_hold_or_a_value_error(data: bytes) -> None:
    expected = outcome(lambda: by_the_standard_library(data))
    assert outcome(lambda: json_value(data)) == expected
    with suppress(UnicodeDecodeError):
        text = data.decode()
        assert outcome(lambda: json_value(text)) == ("refused" if text.startswith("\ufeff") else expected)


@given(st.text(max_size=200) | NEARLY_TOML)
def test_any_text_is_the_toml_or_yaml_value_that_it_holds_or_a_value_error(text: str) -> None:
    assert outcome(lambda: toml_value(text)) == outcome(lambda: tomllib.loads(text))
    by_yaml = outcome(lambda: yaml_value(text))
    try:
        assert by_yaml == repr(yaml.load(text, yaml.CSafeLoader))
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError):
        assert by_yaml == "refused"


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + "1" + closing * depth


def test_the_depth_is_counted_in_lists_and_objects_and_not_in_texts() -> None:
    assert json_value(nested(DEEPEST)) == json.loads(nested(DEEPEST))
    assert json_value(nested(DEEPEST, '{"a":', "}"))
    assert json_value(json.dumps(["[{" * 1000] * 100)) == ["[{" * 1000] * 100
    assert json_value(json.dumps([[]] * 1000)) == [[]] * 1000
    assert yaml_value(nested(DEEPEST)) == json.loads(nested(DEEPEST))
    assert toml_value(f"a = {nested(DEEPEST - 1)}") == {"a": json.loads(nested(DEEPEST - 1))}
    deep: list[Callable[[], Any]] = [
        lambda: json_value(nested(DEEPEST + 1)),
        lambda: json_value(nested(DEEPEST + 1, '{"a":', "}")),
        lambda: json_value('["]]]]", ' * 70 + "1" + "]" * 70),
        lambda: json_value("[" * 1_000_000),
        lambda: yaml_value(nested(DEEPEST + 1)),
        lambda: yaml_value("- " * 200_000),
        lambda: toml_value(f"a = {nested(DEEPEST)}"),
        lambda: toml_value("a = " + "[" * 200_000),
        lambda: yaml_value("&a [*a, *a]"),
        lambda: yaml_value("a: &a {b: *a}"),
    ]
    for read in deep:
        with pytest.raises(Malformed, match="stand more than 64 deep inside each other"):
            read()
    with pytest.raises(Malformed, match=r"than 64 deep|maximum nesting depth"):  # PyYAML 6.0.4's is 1,000
        yaml_value("[" * 200_000)


def test_no_number_becomes_infinity() -> None:
    for text in ("1e999", "[-1.5E+400]", '{"a": ' + "9" * 400 + ".0}"):
        with pytest.raises(Malformed, match="in it is larger than a float of 64 bits"):
            json_value(text)
    assert json_value("[1e308, 1e-999, Infinity, 10" + "0" * 400 + "]") == [1e308, 0.0, math.inf, 10**401]


@pytest.mark.parametrize(
    "text",
    [
        "!!timestamp x", "!!bool x", "!!int ''", "!!float x", "2001-99-99", "1:" * 400 + "1.5", "!!binary x",
        "!!python/object/apply:os.system [ls]", "? [a]\n: b", "a: *b", "---\n1\n---\n2", "\x00",
        pytest.param("#" * 524_289, id="too long"),
    ],
)  # fmt: skip
def test_what_yaml_has_no_value_for_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="."):
        yaml_value(text)


@pytest.mark.parametrize("data", [b'"\\ud800"', b'["a", {"\\udfff": 1}]', '"\\ud800"'])
def test_half_of_a_surrogate_pair_is_refused_or_let_through(data: bytes | str) -> None:
    with pytest.raises(Malformed, match="half of a surrogate pair"):
        json_value(data)
    assert json_value(data, surrogates=True) is not None
    assert json_value(b'"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


def test_json_is_utf_8() -> None:
    for data in (b'"\xff"', b'"\xed\xa0\x80"', '["a"]'.encode("utf-16"), '["a"]'.encode("utf-32")):
        with pytest.raises(ValueError, match="."):
            json_value(data)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/full")):
        for read in (read_bytes, read_text, foreign.json_file):
            with pytest.raises(OSError, match="it is no regular file"):
                read(path)
        with pytest.raises(StorageError, match="it is no regular file"):
            list(json_lines(path))
        with pytest.raises(StorageError, match="it is no regular file"):
            digest_file(path)
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path)
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "file").write_bytes(b"12345\xff")
    assert read_bytes(tmp_path / "link", 6) == b"12345\xff"
    with pytest.raises(OSError, match="more than 5 bytes"):
        read_bytes(tmp_path / "file", 5)
    with pytest.raises(Malformed, match="byte 6 is not UTF-8"):
        read_text(tmp_path / "file")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no files of the kernel")
def test_a_file_whose_size_is_not_known_has_a_bound() -> None:
    assert Path("/proc/self/status").stat().st_size == 0
    assert b"\nPid:" in read_bytes(Path("/proc/self/status"))
    for path, most in (("/proc/self/status", 10), ("/proc/self/pagemap", 1 << 16)):
        with pytest.raises(OSError, match=f"more than {most:,} bytes"):
            read_bytes(Path(path), most)


def test_a_line_has_a_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "LONGEST_LINE", 8)
    lines = list(foreign.lines_of(io.BytesIO(b"a\n1234567\n12345678\n" + b"x" * 33 + b"\n\nlast")))
    expected = [b"a\n", b"1234567\n", None, None, b"\n", b"last"]
    assert lines == list(zip(expected, [2, 8, 9, 34, 1, 4], strict=True))
