"""An append-only file of JSON lines that survives a kill at any instant: takes values, yields them again.

What `append` returned from is on the disk. Knows nothing of what the lines say.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gaincurate.errors import OutputError, storage_error
from gaincurate.files import json_lines, sync_folder, to_lines


class Journal:
    """One file of lines, open for appending; its writer holds the folder's lock.

    A piece of a line that a killed writer left at the end is cut off when it is opened.

    Raises:
        StorageError: the file system refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = not path.exists()
            self._file = path.open("ab+")
            self._cut()
            if fresh:
                sync_folder(path.parent)
        except OSError as error:
            raise storage_error(path, error) from error

    def _cut(self) -> None:
        end = self._file.seek(0, os.SEEK_END)
        place = end
        while place > 0:
            begin = max(0, place - (1 << 16))
            self._file.seek(begin)
            hit = self._file.read(place - begin).rfind(b"\n")
            place = begin + hit + 1
            if hit >= 0:
                break
        if place < end:
            self._file.truncate(place)

    def entries(self) -> Iterator[dict[str, Any]]:
        """What the file holds.

        Raises:
            OutputError: a line that is no JSON object; says which.
            StorageError: it cannot be read.
        """
        for number, value in json_lines(self.path):
            if value is None:
                raise OutputError(
                    f"{self.path}, line {number} is damaged. Delete that line and run the same command "
                    "again: only what it held is made again.",
                    path=str(self.path),
                    line=number,
                )
            yield value

    def append(self, values: Iterable[dict[str, Any]]) -> None:
        """Add lines, in one write.

        Raises:
            StorageError: the file system refused; the file may then end with a piece of a line.
        """
        try:
            self._file.write(to_lines(values))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise storage_error(self.path, error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()
