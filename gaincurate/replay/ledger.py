"""The ledger: rollout groups on the disk, in segments that only grow.

A segment is an Arrow IPC stream without its end mark: the schema, then record batches. Without the mark a
killed writer leaves a file that is whole up to some batch, and the next writer cuts off the rest and goes on.
Damage that no killed writer can have done is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pyarrow as pa

from gaincurate.core.files import reading, sync_folder
from gaincurate.core.foreign import open_regular, read_bytes
from gaincurate.core.locks import Split, writing
from gaincurate.errors import OutputError, StorageError, storage_error
from gaincurate.replay.config import at_least
from gaincurate.replay.group import RolloutGroup
from gaincurate.replay.rows import SCHEMA, batches_of, check_schema, groups_of

_SEGMENT = 64 << 20
_KEPT = "What was appended before is kept"
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


def segment_name(index: int) -> str:
    """`segment-00000000.arrows`, ..."""
    return f"segment-{index:08d}.arrows"


def segment_indexes(folder: Path) -> list[int]:
    """The segments in a folder, the oldest first."""
    with reading(folder):
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return sorted(int(hit[1]) for name in names if (hit := re.fullmatch(r"segment-(\d{8,})\.arrows", name)))


def stream_head() -> bytes:
    """What a segment begins with."""
    data: bytes = SCHEMA.serialize().to_pybytes()
    return data


def segment_extent(path: Path, *, growing: bool) -> Extent:
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


def segment_groups(path: Path, *, growing: bool) -> Iterator[RolloutGroup]:
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
    with reading(path), open_regular(path) as file:
        return os.fstat(file.fileno()).st_size


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


def _of_kind(message: pa.Message, kind: str) -> pa.Message:
    """The same message. Arrow reads one of another kind from where nothing is."""
    if message.type != kind:
        raise pa.ArrowInvalid(f"{message.type} in place of {kind}")
    return message


def _batch_of(message: pa.Message) -> pa.RecordBatch:
    batch = pa.ipc.read_record_batch(_of_kind(message, "record batch"), SCHEMA)
    batch.validate(full=True)
    return batch


def _whole_batch_follows(path: Path, start: int) -> bool:
    """Whether a whole batch follows what cannot be read, so that it is no unfinished write."""
    data = read_bytes(path)[start:]
    whole, place = pa.py_buffer(data), data.find(_MARK, 8)
    while place >= 0:
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        if place % 8 == 0 and 0 < length <= len(data) - place:
            try:
                message = pa.ipc.read_message(whole.slice(place))
                _batch_of(message)
            except (EOFError, OSError, ValueError, pa.ArrowException):
                pass
            else:
                return True
        place = data.find(_MARK, place + 8 - place % 8)
    return False


def _batches(path: Path, *, growing: bool) -> Iterator[tuple[pa.RecordBatch | None, int]]:
    """First None for the schema, then the batches, each with the place after it.

    Read, not mapped: a writer that cuts a mapped file would end the process that reads it.
    """
    with reading(path), closing(pa.OSFile(str(path))) as file:
        size, start = file.size(), 0
        while start < size:
            try:
                message = pa.ipc.read_message(file)
                batch = None
                if start == 0:
                    schema = pa.ipc.read_schema(_of_kind(message, "schema"))
                else:
                    batch = _batch_of(message)
            except (EOFError, OSError, ValueError, pa.ArrowException) as error:
                if growing and not _whole_batch_follows(path, start):
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


class Ledger:
    """The one writer of a ledger; also a context manager, which closes it.

    Args:
        folder: the ledger's; made where it is missing.
        keep_versions: groups older than the newest by more policy versions are not kept; None keeps all. They
            go by whole segments, none of which spans more than a quarter of `keep_versions`.
        segment_bytes: a segment ends after the append that makes it this large.

    Raises:
        InputError: sizes that cannot be.
        LockedError: another process writes it.
        OutputError: a segment is damaged, or of another format.
        StorageError: the file system refused.
    """

    def __init__(
        self, folder: str | Path, *, keep_versions: int | None = None, segment_bytes: int = _SEGMENT
    ) -> None:
        if keep_versions is not None:
            at_least("keep_versions", keep_versions, 1)
        at_least("segment_bytes", segment_bytes, 1)
        self.folder = Path(folder)
        self._keep, self._limit = keep_versions, segment_bytes
        self.cut = 0
        """Bytes of an unfinished write that opening cut off."""
        self._newest: dict[int, int] = {}
        """The newest version of each segment that has groups."""
        self._low: int | None = None
        """The oldest version of the segment that grows."""
        self._file: int | None = None
        self._index = self._end = 0
        with ExitStack() as stack:
            stack.enter_context(writing(self.folder, Split(), _KEPT))
            self._open()
            self._held = stack.pop_all()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process write."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._held.close()

    def _open(self) -> None:
        indexes = segment_indexes(self.folder) or [0]
        for index in indexes:
            path, last = self.folder / segment_name(index), index == indexes[-1]
            if not path.exists():
                self._begin(index, 0)
            elif last or self._keep is not None:  # only what may be deleted has to be read
                extent = segment_extent(path, growing=last)
                if extent.high is not None:
                    self._newest[index] = extent.high
                if last:
                    self.cut, self._low = extent.size - extent.end, extent.low
                    self._begin(index, extent.end)

    def _begin(self, index: int, end: int) -> None:
        """Go on with a segment whose first `end` bytes are whole; a new one has none."""
        path = self.folder / segment_name(index)
        was = (self._file, self._index, self._end)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._index, self._end = index, end
            try:
                os.ftruncate(self._file, end)
                if end == 0:
                    self._write(stream_head())
                    sync_folder(self.folder)
            except BaseException:
                os.close(self._file)
                self._file, self._index, self._end = was
                raise
        except OSError as error:
            raise storage_error(path, error) from error
        if was[0] is not None:
            os.close(was[0])

    def _write(self, data: bytes) -> None:
        """Add bytes and wait for the disk; where it refuses, none of them stay."""
        assert self._file is not None  # open until `close`
        left = memoryview(data)
        try:
            while left:
                left = left[os.pwrite(self._file, left, self._end + len(data) - len(left)) :]
            os.fsync(self._file)
        except BaseException:
            os.ftruncate(self._file, self._end)
            raise
        self._end += len(data)

    def append(self, groups: Sequence[RolloutGroup]) -> None:
        """Keep groups; they are on the disk when this returns.

        Raises:
            StorageError: the file system refused; none of the groups are kept.
        """
        try:
            if groups:
                self._append(groups)
        except StorageError as error:
            error.going_on(_KEPT)
            raise

    def _append(self, groups: Sequence[RolloutGroup]) -> None:
        versions = [group.policy_version for group in groups]
        if self._full():
            self._begin(self._index + 1, 0)
            self._low = None
        self._drop_old(max([*versions, *self._newest.values()]))
        try:
            self._write(b"".join(batch.serialize().to_pybytes() for batch in batches_of(groups)))
        except OSError as error:
            raise storage_error(self.folder / segment_name(self._index), error) from error
        self._low = min([*versions, *([] if self._low is None else [self._low])])
        self._newest[self._index] = max([*versions, self._newest.get(self._index, 0)])

    def _full(self) -> bool:
        if self._low is None:
            return False
        if self._end >= self._limit:
            return True
        span = self._newest[self._index] - self._low
        return self._keep is not None and span >= max(1, self._keep // 4)

    def _drop_old(self, newest: int) -> None:
        if self._keep is None:
            return
        for index, version in list(self._newest.items()):
            if newest - version > self._keep and index != self._index:
                path = self.folder / segment_name(index)
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise storage_error(path, error) from error
                del self._newest[index]


def read(folder: str | Path) -> Iterator[RolloutGroup]:
    """All groups of a ledger in the order of their appends, each checked; another process may be writing it.

    A batch that is being written is left out, and so is a segment that is deleted meanwhile. A run that went
    back to a checkpoint has appended the steps after it a second time. Both are there, the later one last.

    Raises:
        OutputError: it is damaged, of another format, or there is none.
        StorageError: it cannot be read.
    """
    place = Path(folder)
    indexes = segment_indexes(place)
    if not indexes:
        raise OutputError(f"{place} holds no ledger of rollout groups.", path=str(place))
    for index in indexes:
        path = place / segment_name(index)
        try:
            yield from segment_groups(path, growing=index == indexes[-1])
        except StorageError:
            if path.exists():
                raise
