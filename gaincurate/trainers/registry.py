"""The runs that this process follows: takes a folder, yields the one `Live` that a trainer's parts share.

Knows nothing of what they do with it.
"""

from __future__ import annotations

from pathlib import Path

from gaincurate.files import reading
from gaincurate.schedule.observed import Note, silent
from gaincurate.schedule.run import RUN
from gaincurate.trainers.base import Live

_FOLLOWED: dict[Path, tuple[tuple[int, int], Live]] = {}


def followed(run: str | Path, note: Note = silent, *, checkpoints: bool = False) -> Live:
    """The one `Live` of a run in this process, for parts of a trainer that cannot hand it to each other."""
    path = Path(run).resolve()
    birth = _birth(path)
    known = _FOLLOWED.get(path)
    if known is not None and known[0] == birth:
        return known[1]
    if known is not None:  # another run was started in its place
        known[1].close()
    _FOLLOWED[path] = (birth, Live(path, note, checkpoints=checkpoints))
    return _FOLLOWED[path][1]


def forget() -> None:
    """Let all runs go, as the end of this process would."""
    for _, live in _FOLLOWED.values():
        live.close()
    _FOLLOWED.clear()


def _birth(run: Path) -> tuple[int, int]:
    """What tells a run from another one in the same place, though it has the same settings."""
    path = run / RUN
    with reading(path):
        found = path.stat() if path.exists() else None
    return (found.st_ino, found.st_mtime_ns) if found else (0, 0)
