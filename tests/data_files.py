"""Data files of any content, and what their readers make of them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from gaincurate.errors import SourceError
from gaincurate.scoring.readers.files import Reader, open_file


def write(folder: Path, name: str, content: bytes | str) -> Path:
    """A file of this content."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table(reader: Reader, skip: int = 0) -> pa.Table:
    """The rows after so many."""
    return pa.Table.from_batches(list(reader.batches(reader.schema, skip)), reader.schema)


def refused(path: Path) -> str:
    """The sentence without the path, with which it begins."""
    with pytest.raises(SourceError) as caught:
        table(open_file(path))
    text = str(caught.value)
    assert text.startswith(str(path))
    return text.removeprefix(str(path))
