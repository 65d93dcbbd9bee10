"""Lines of JSON in a file that is whole or not there: takes values, yields how many they were."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gaincurate.errors import storage_error
from gaincurate.files import write_stream


def write_lines(path: Path, values: Iterable[Any]) -> int:
    """Write one line for each value; the file gets its name at the end.

    Raises:
        StorageError: the file system refused.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error
    count = 0
    with write_stream(path) as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
            count += 1
    return count
