"""The ledger: every rollout group that a training generated, one Parquet file for each step.

A file is written whole or not at all, so a killed writer leaves no part of a step. Its name holds the newest
policy version in it, by which old files are deleted without being read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from gaincurate.core.files import reading, remove_temporaries, write_atomic
from gaincurate.core.foreign import read_bytes
from gaincurate.core.locks import Split, writing
from gaincurate.errors import OutputError, StorageError, storage_error
from gaincurate.replay.config import at_least
from gaincurate.replay.group import RolloutGroup
from gaincurate.replay.rows import decode, encode

_KEPT = "What was appended before is kept"


def _files(folder: Path) -> list[tuple[int, int, Path]]:
    """Index, newest policy version and path of each file of a ledger, in the order of the appends."""
    with reading(folder):
        paths = list(folder.iterdir()) if folder.exists() else []
    hits = [(re.fullmatch(r"groups-(\d{8,})-v(\d+)\.parquet", path.name), path) for path in paths]
    return sorted((int(hit[1]), int(hit[2]), path) for hit, path in hits if hit)


class Ledger:
    """The one writer of a ledger; also a context manager, which closes it.

    Args:
        folder: the ledger's; made where it is missing.
        keep_versions: a file whose groups are older than the newest by more policy versions is deleted; None
            keeps all.

    Raises:
        InputError: `keep_versions` is no whole number from 1.
        LockedError: another process writes it.
        StorageError: the file system refused.
    """

    def __init__(self, folder: str | Path, *, keep_versions: int | None = None) -> None:
        if keep_versions is not None:
            at_least("keep_versions", keep_versions, 1)
        self.folder, self._keep = Path(folder), keep_versions
        with ExitStack() as stack:
            stack.enter_context(writing(self.folder, Split(), _KEPT))
            remove_temporaries(self.folder)
            self._files = _files(self.folder)
            self._lock = stack.pop_all()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process write."""
        self._lock.close()

    def append(self, groups: Sequence[RolloutGroup]) -> None:
        """Keep groups; they are on the disk when this returns.

        Raises:
            StorageError: the file system refused; none of the groups are kept.
        """
        if not groups:
            return
        index = self._files[-1][0] + 1 if self._files else 0
        version = max(group.policy_version for group in groups)
        path = self.folder / f"groups-{index:08d}-v{version}.parquet"
        try:
            write_atomic(path, encode(groups))
        except StorageError as error:
            error.going_on(_KEPT)
            raise
        self._files.append((index, version, path))
        self._delete_old()

    def _delete_old(self) -> None:
        newest = max(version for _, version, _ in self._files)
        for file in list(self._files):
            if self._keep is not None and newest - file[1] > self._keep:
                try:
                    file[2].unlink(missing_ok=True)
                except OSError as error:
                    raise storage_error(file[2], error) from error
                self._files.remove(file)


def read(folder: str | Path) -> Iterator[RolloutGroup]:
    """All groups of a ledger in the order of their appends; another process may be writing it.

    A file that is deleted meanwhile is left out. A run that went back to a checkpoint has appended the steps
    after it a second time. Both are there, the later one last.

    Raises:
        OutputError: it is damaged, of another format, or there is none.
        StorageError: it cannot be read.
    """
    files = _files(Path(folder))
    if not files:
        raise OutputError(f"{folder} holds no ledger of rollout groups.", path=str(folder))
    for _, _, path in files:
        try:
            with reading(path):
                data = read_bytes(path)
        except StorageError:
            if path.exists():
                raise
            continue
        yield from decode(data, str(path))
