"""One file of a ledger: takes a path, yields its rollout groups and where the last whole batch ends.

An Arrow IPC stream without its end mark, so that it can grow: the schema, then record batches. Knows nothing
of other files, of locks or of ages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from gaincurate.errors import OutputError
from gaincurate.files import reading
from gaincurate.replay.group import RolloutGroup
from gaincurate.replay.rows import SCHEMA, check_schema, groups_of

_MARK = b"\xff\xff\xff\xff"  # what an Arrow message begins with, at a multiple of 8 bytes


@dataclass(frozen=True, slots=True)
class Extent:
    """`end` is where the last whole batch ends, in bytes, 0 where not even the schema is whole; `size` is the
    file's. `low` and `high` are the policy versions in it, None where it has no group.
    """

    end: int
    size: int
    low: int | None
    high: int | None


def name(index: int) -> str:
    """`segment-00000000.arrows`, ..."""
    return f"segment-{index:08d}.arrows"


def indexes(folder: Path) -> list[int]:
    """The segments in a folder, the oldest first."""
    with reading(folder):
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return sorted(int(hit[1]) for one in names if (hit := re.fullmatch(r"segment-(\d{8,})\.arrows", one)))


def beginning() -> bytes:
    """What a segment begins with."""
    data: bytes = SCHEMA.serialize().to_pybytes()
    return data


def extent(path: Path, *, growing: bool) -> Extent:
    """How far a segment is whole; every group of a growing one is checked.

    Args:
        path: the file.
        growing: whether it is the newest, which a killed writer may have left with a piece of a batch.

    Raises:
        OutputError: it is damaged where no killed writer did it.
        StorageError: it cannot be read.
    """
    end, versions, size = 0, set[int](), _size(path)
    for batch, stop in _batches(path, growing=growing):
        if growing and batch is not None and not _intact(batch, path, last=stop == size):
            break
        end = stop
        if batch is not None:
            versions |= set(batch.column("policy_version").to_pylist())
    return Extent(end, size, min(versions, default=None), max(versions, default=None))


def groups(path: Path, *, growing: bool) -> Iterator[RolloutGroup]:
    """The groups of a segment in order; those of a growing one up to the last whole batch.

    Raises:
        OutputError: it is damaged.
        StorageError: it cannot be read.
    """
    size = _size(path)
    for batch, stop in _batches(path, growing=growing):
        if batch is None or (growing and not _intact(batch, path, last=stop == size)):
            continue
        yield from groups_of(batch, str(path))


def _size(path: Path) -> int:
    with reading(path):
        return path.stat().st_size


def _intact(batch: pa.RecordBatch, path: Path, *, last: bool) -> bool:
    """Whether a batch is what was written; the last one may be a write that was cut off.

    Raises:
        OutputError: it is not, and it is not the last.
    """
    try:
        for _ in groups_of(batch, str(path)):
            pass
    except OutputError:
        if not last:
            raise
        return False
    return True


def _another_behind(path: Path, start: int) -> bool:
    """Whether a whole batch stands behind what cannot be read, so that it is no unfinished write."""
    data = path.read_bytes()[start:]
    whole, place = pa.py_buffer(data), data.find(_MARK, 8)
    while place >= 0:
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        if place % 8 == 0 and 0 < length <= len(data) - place:
            try:
                message = pa.ipc.read_message(whole.slice(place))
                batch = pa.ipc.read_record_batch(message, SCHEMA)
                batch.validate(full=True)
            except (EOFError, OSError, ValueError, pa.ArrowException):
                pass
            else:
                return True
        place = data.find(_MARK, place + 8 - place % 8)
    return False


def _batches(path: Path, *, growing: bool) -> Iterator[tuple[pa.RecordBatch | None, int]]:
    """First None for the schema, then the batches, each with the place behind it.

    Read, not mapped: a writer that cuts a mapped file would end the process that reads it.
    """
    with reading(path), closing(pa.OSFile(str(path))) as file:
        size, start = file.size(), 0
        while start < size:
            try:
                message = pa.ipc.read_message(file)
                batch = None
                if start == 0:
                    schema = pa.ipc.read_schema(message)
                else:
                    batch = pa.ipc.read_record_batch(message, SCHEMA)
                    batch.validate(full=True)
            except (EOFError, OSError, ValueError, pa.ArrowException) as error:
                if growing and not _another_behind(path, start):
                    return
                raise OutputError(
                    f"{path} is damaged at byte {start}: take that file away to read the others.",
                    path=str(path),
                    byte=start,
                ) from error
            if start == 0:
                check_schema(schema, str(path))
            start = file.tell()
            yield batch, start
