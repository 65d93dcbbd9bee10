"""The ledger of rollout groups: takes groups as they are made, yields them again, also to other processes.

A folder of segments, each an Arrow IPC stream that only grows. What `append` returned from is on the disk; a
piece of a batch that a killed writer left is cut off at the next opening. Segments whose groups are all too
old are deleted whole. Knows nothing of buffers or trainers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from gaincurate.errors import InputError, OutputError, StorageError, storage_error
from gaincurate.files import sync_folder
from gaincurate.locks import Split, writing
from gaincurate.replay import segments
from gaincurate.replay.group import RolloutGroup
from gaincurate.replay.rows import batches_of

_SEGMENT = 64 << 20
_KEPT = "What was appended before is kept"


class Ledger:
    """The one writer of a ledger; also a context manager, which closes it.

    Args:
        folder: the ledger's; made where it is missing.
        keep_versions: groups older than the newest by more policy versions are not kept; None keeps all. They
            go by whole segments, none of which spans more than a quarter of `keep_versions`.
        segment_bytes: a segment ends behind the append that makes it this large.

    Raises:
        InputError: sizes that cannot be.
        LockedError: another process writes it.
        OutputError: a segment is damaged, or of another format.
        StorageError: the file system refused.
    """

    def __init__(
        self, folder: str | Path, *, keep_versions: int | None = None, segment_bytes: int = _SEGMENT
    ) -> None:
        if keep_versions is not None and keep_versions < 1:
            raise InputError(f"keep_versions is {keep_versions}; it is 1 or more.")
        if segment_bytes < 1:
            raise InputError(f"segment_bytes is {segment_bytes}; it is 1 or more.")
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
        found = segments.indexes(self.folder) or [0]
        for index in found:
            path, last = self.folder / segments.name(index), index == found[-1]
            if not path.exists():
                self._begin(index, 0)
            elif last or self._keep is not None:  # only what may be deleted has to be read
                extent = segments.extent(path, growing=last)
                if extent.high is not None:
                    self._newest[index] = extent.high
                if last:
                    self.cut, self._low = extent.size - extent.end, extent.low
                    self._begin(index, extent.end)

    def _begin(self, index: int, end: int) -> None:
        """Go on with a segment whose first `end` bytes are whole; a new one has none."""
        path = self.folder / segments.name(index)
        was = (self._file, self._index, self._end)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._index, self._end = index, end
            try:
                os.ftruncate(self._file, end)
                if end == 0:
                    self._write(segments.beginning())
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
            raise storage_error(self.folder / segments.name(self._index), error) from error
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
                path = self.folder / segments.name(index)
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise storage_error(path, error) from error
                del self._newest[index]


def read(folder: str | Path) -> Iterator[RolloutGroup]:
    """All groups of a ledger in the order of their appends, each checked; another process may be writing it.

    A batch that is being written is left out, and so is a segment that is deleted meanwhile. A run that went
    back to a checkpoint has appended the steps behind it a second time; both are there, the later one last.

    Raises:
        OutputError: it is damaged, of another format, or there is none.
        StorageError: it cannot be read.
    """
    place = Path(folder)
    found = segments.indexes(place)
    if not found:
        raise OutputError(f"{place} holds no ledger of rollout groups.", path=str(place))
    for index in found:
        path = place / segments.name(index)
        try:
            yield from segments.groups(path, growing=index == found[-1])
        except StorageError:
            if path.exists():
                raise
