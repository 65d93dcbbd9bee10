"""Which files a path to logs means, and which were taken before; takes paths and runs, yields files.

Knows nothing of what is in them beyond their kind.
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path

from gaincurate.errors import OutcomeError
from gaincurate.files import digest_bytes, digest_file, reading
from gaincurate.schedule.run import Run, read_json
from gaincurate.trainers.logs_formats import FORMATS, PATTERNS, format_of

TAKEN = "logs.json"
"""Beside a round's outcomes: the files that were taken for it."""


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file that was taken: its place, size in bytes, hash and kind, and how many rows and lines it gave."""

    path: str
    bytes: int
    hash: str
    format: str
    rows: int = 0
    lines: int = 0

    @classmethod
    def of(cls, path: Path, kind: str) -> LogFile:
        """A file as it is now."""
        with reading(path):
            return cls(str(path.resolve()), path.stat().st_size, digest_file(path), kind)

    def begins(self, path: Path) -> bool:
        """Whether a file is this one with more lines behind."""
        if self.path != str(path.resolve()) or path.suffix == ".parquet":
            return False
        with reading(path), path.open("rb") as file:
            return digest_bytes(file.read(self.bytes)) == self.hash


def is_cut(path: Path) -> bool:
    """Whether a file with lines ends within one."""
    with reading(path), path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def taken(run: Run, round_: int) -> list[LogFile]:
    """The files that were taken for a round."""
    path = run.round_folder(round_) / TAKEN
    if not path.exists():
        return []
    return [LogFile(**entry) for entry in read_json(path)["files"]]


def find_files(path: Path, format_: str | None) -> list[tuple[Path, str]]:
    """The logs that a path names, in the order of their numbers, each with its kind.

    Args:
        path: a file, a folder (logs are looked for in it by name) or a glob.
        format_: one of `FORMATS`; None to see it in the files.

    Raises:
        OutcomeError: there are none, none that is known, or logs of several trainers.
        StorageError: one cannot be read.
    """
    if format_ is not None and format_ not in FORMATS:
        raise OutcomeError(f"--from {format_}: logs can be those of {', '.join(FORMATS)}.")
    ones = [path] if path.exists() else [Path(name) for name in glob.glob(str(path), recursive=True)]
    found = {file for one in ones for file in (_below(one, format_) if one.is_dir() else [one])}
    if not found:
        kinds = ", ".join(PATTERNS.values()) if format_ is None else PATTERNS[format_]
        raise OutcomeError(f"--outcomes {path}: there is no such file, and none like {kinds} below it.")
    return [(file, format_ or format_of(file)) for file in sorted(found, key=_natural)]


def _below(folder: Path, format_: str | None) -> list[Path]:
    """The logs in a folder, of one kind."""
    if format_ is not None:
        return sorted(folder.rglob(PATTERNS[format_]))
    kinds = {kind: sorted(folder.rglob(pattern)) for kind, pattern in PATTERNS.items()}
    there = [kind for kind, files in kinds.items() if files]
    if len(there) > 1:
        raise OutcomeError(
            f"--outcomes {folder} holds logs of {' and '.join(there)}; say which with --from, or name files.",
            path=str(folder),
        )
    return kinds[there[0]] if there else []


def _natural(path: Path) -> list[tuple[int, str]]:
    """Numbers in a path by their size: 2.jsonl before 10.jsonl."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]
