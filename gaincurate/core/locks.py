"""Who may write a folder, such as a scored set.

A plain run holds the folder alone. `--shard I/N` runs hold it together, each its own I and all the same N.
These are kernel locks (flock), not files that merely exist, because the kernel frees them when a process dies
and there is no stale one to clear. The price is that they are POSIX only, which leaves out Windows. A
folder in an object store is locked in its local copy, so only among the processes of one machine.

Every function raises StorageError if the file system refuses, or has no locks.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gaincurate.core.files import reading
from gaincurate.errors import LockedError, storage_error

WORK = ".work"
_TRIES = 100  # to make a lock file in a folder that others remove


@dataclass(frozen=True, slots=True)
class Split:
    """Part `index` (from 1) of `count`: the shards k with k mod count = index - 1."""

    index: int = 1
    count: int = 1
    source: str = field(default="", compare=False)  # the environment variable of a scheduler that gave it

    def owns(self, shard: int) -> bool:
        """Whether this part writes that shard."""
        return shard % self.count == self.index - 1

    def named(self, shard: int, shards: int) -> str:
        """The name of a shard for messages, by its place among the shards of this part."""
        if self.count == 1:
            return f"shard {shard + 1} of {shards}"
        return f"part {self}: shard {shard // self.count + 1} of {sum(map(self.owns, range(shards)))}"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def work_folder(out: Path) -> Path:
    """The folder of the locks and ids of an unfinished set; it is removed when the manifest is written."""
    return out / WORK


def acquire(path: Path, kind: int) -> int | None:
    """Lock a file by a `fcntl` operation; its descriptor, or None where another process holds it."""
    lost = 0
    while True:
        with ExitStack() as opened:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                opened.callback(os.close, descriptor)
                fcntl.flock(descriptor, kind)
                # A finished writer removes the lock files; a lock on a removed file keeps no process out.
                if os.fstat(descriptor).st_ino == path.stat().st_ino:
                    opened.pop_all()
                    return descriptor
            except BlockingIOError:
                return None
            except OSError as error:  # also no locks: Lustre without `-o flock`, some network file systems
                # A writer that finished removed the folder or the file. Where that happens every time,
                # nothing can be made, as in /proc.
                lost += 1
                if lost == _TRIES or not isinstance(error, FileNotFoundError):
                    raise storage_error(path, error) from error


@contextmanager
def joining(path: Path, descriptor: int) -> Iterator[bool]:
    """Share a lock file with other processes until it is closed; yields whether this process is alone.

    While a process that is alone is inside the `with`, others that join wait. This is a POSIX record lock:
    objects of one process do not exclude each other, and a forked process does not inherit it.
    """
    alone = False
    with reading(path, "write"):
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except (BlockingIOError, PermissionError):
            fcntl.lockf(descriptor, fcntl.LOCK_SH)
    try:
        yield alone
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_SH)


@contextmanager
def writing(out: Path, split: Split) -> Iterator[None]:
    """Hold the right to write the shards of `split` in `out`; a LockedError if another process has it."""
    wanted, what = {"lock": fcntl.LOCK_EX}, str(out)
    if split.count > 1:
        wanted = {"lock": fcntl.LOCK_SH, f"lock-{split.index}-of-{split.count}": fcntl.LOCK_EX}
        what = f"--shard {split} of {out}, or all of it"
    with ExitStack() as held:
        for name, kind in wanted.items():
            lock = acquire(work_folder(out) / name, kind | fcntl.LOCK_NB)
            if lock is None:
                raise LockedError(
                    f"another process is writing {what}; wait for it, or stop it and run this again.",
                    path=str(out),
                )
            held.callback(os.close, lock)
        yield


@contextmanager
def one_at_a_time(out: Path) -> Iterator[None]:
    """Wait for and hold the folder's short lock, for preparing the run and writing the manifest."""
    descriptor = acquire(work_folder(out) / "lock-folder", fcntl.LOCK_EX)
    assert descriptor is not None  # a blocking flock returns only when it holds the lock
    with os.fdopen(descriptor):
        yield
