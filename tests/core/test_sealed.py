"""Files that only this package writes: whole, or refused with what to do."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.errors import OutputError, StorageError

CONTENT = {"rows": [1, 2], "name": "é", "deep": {"b": None, "a": [0.1, 1e-300, True]}}


@given(st.integers(0, 1 << 16), st.integers(1, 255))
def test_any_changed_byte_is_found_unless_the_content_is_the_same(place: int, change: int) -> None:
    path = Path(tempfile.gettempdir()) / f"sealed-{os.getpid()}.json"
    write_sealed(path, CONTENT)
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= change
    path.write_bytes(data)
    content: Any = CONTENT
    with suppress(OutputError):
        content = read_sealed(path)
    path.unlink()
    # It is read only where white space changed, or the name of the digest's key.
    assert {key: content[key] for key in CONTENT} == CONTENT


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "[" * 100_000, '{"digest": "0"}', "\udcff"])
def test_what_is_no_whole_object_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text, errors="surrogateescape")
    with pytest.raises(OutputError, match=r"a\.json is damaged; make it again\.$"):
        read_sealed(tmp_path / "a.json", "make it again")


def test_a_file_from_before_files_had_digests_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(CONTENT))
    assert read_sealed(tmp_path / "a.json") == CONTENT
    with pytest.raises(StorageError, match="cannot read"):
        read_sealed(tmp_path / "b.json")
