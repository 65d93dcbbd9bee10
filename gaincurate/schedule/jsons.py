"""JSON files of a run: takes paths, yields objects; appends lines. Knows nothing of what they mean."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from gaincurate.errors import OutputError, storage_error
from gaincurate.files import reading
from gaincurate.shards import Json


def read_json(path: Path) -> Json:
    """A JSON object of ours.

    Raises:
        OutputError: it is missing or damaged.
        StorageError: it cannot be read.
    """
    try:
        with reading(path):
            found: Json = json.loads(path.read_bytes())
    except ValueError as error:
        raise OutputError(f"{path} is damaged; restore it from a copy.", path=str(path)) from error
    return found


def append_line(path: Path, value: object) -> None:
    """Append one line of JSON; see `append_lines`."""
    append_lines(path, [value])


def append_lines(path: Path, values: Iterable[object]) -> None:
    """Append lines of JSON in one write, behind a line break where a killed writer left a piece.

    Raises:
        StorageError: the file system refused.
    """
    try:
        with path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode())
    except OSError as error:
        raise storage_error(path, error) from error
