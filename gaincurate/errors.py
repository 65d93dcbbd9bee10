"""The exceptions that a user can cause, in one tree.

    GaincurateError                exit 1  the work failed
    ├── InputError                 exit 2  the user has to change something
    │   ├── SourceError                    a data file, a row's text, a column
    │   ├── RowError                       one row that cannot be scored
    │   ├── ModelError                     a model, its tokenizer or its chat template
    │   ├── OutputError                    an output folder that holds something else
    │   └── OutcomeError                   a trainer's outcomes
    │       └── NotReadyError              a strategy needs something that is not there yet
    ├── TrainerError               exit 1  the trainer's command failed
    ├── ServerError                exit 1  a server that generates failed
    ├── StorageError               exit 1  the file system refused (2: credentials are missing)
    └── LockedError                exit 1  another process writes the same set or run

Every message is one or two sentences with the offending value and the next step. `data` has the same facts
for programs. Built-in exceptions are never mapped: a bug must look like a bug.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path


class GaincurateError(Exception):
    """Base of all errors that are shown as a sentence instead of a traceback.

    Args:
        message: what is wrong, with the value in it, why, and what to do next.
        **data: the same facts by name (path, row, column, ...), for programs.
    """

    exit_code = 1

    def __init__(self, message: str, **data: object) -> None:
        super().__init__(message)
        self.data = data


class InputError(GaincurateError):
    """The user has to change an option or the data."""

    exit_code = 2


class SourceError(InputError):
    """The data set cannot be read as asked."""


class RowError(InputError):
    """One row cannot be scored; `data` has `gc_id`, `row` (from 0) and `reason`."""


class ModelError(InputError):
    """The model, its tokenizer or its chat template cannot be used."""


class OutputError(InputError):
    """The output folder holds something that must not be mixed with this run."""


class OutcomeError(InputError):
    """Outcomes of a trainer cannot be used; nothing was taken from them."""


class NotReadyError(OutcomeError):
    """A strategy lacks an input for its next round; the run does not change until the input is there."""


class TrainerError(GaincurateError):
    """The trainer's command failed, timed out or wrote nothing; its round can be run again."""


class ServerError(GaincurateError):
    """The generation server does not answer or answers with an error; received completions are kept."""


class StorageError(GaincurateError):
    """The file system or an object store refused an operation; finished work is intact."""


class LockedError(GaincurateError):
    """Another process is writing the same work."""


_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "the operation is not permitted",
    errno.EFBIG: "the file size limit is reached",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ENOLCK: "the file system gives no file locks",
    **dict.fromkeys((errno.ENOSYS, errno.EOPNOTSUPP), "the file system has no file locks"),
}


def reason_of(error: OSError) -> str:
    """The reason of the file system, in plain words."""
    return _REASONS.get(error.errno or 0, (error.strerror or str(error)).lower())


def storage_error(path: Path, error: OSError, what: str = "write") -> StorageError:
    """The error for a failed operation on `path`; `what` is the verb of the sentence, such as `read`."""
    return StorageError(
        f"cannot {what} {path}: {reason_of(error)}. Put that right and run the same command again.",
        path=str(path),
        errno=error.errno,
    )


_NO_ROOM = re.compile(
    "failed to map segment|(cannot|can't) allocate memory|bad_alloc|could not create a primitive",
    re.IGNORECASE,
)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; oneDNN reports that as a failed primitive."""
    kinds = (ImportError, RuntimeError, OSError)
    return isinstance(error, MemoryError) or (isinstance(error, kinds) and bool(_NO_ROOM.search(str(error))))


def refused_by_the_system(error: Exception) -> str | None:
    """The sentence for an unexpected refusal of the operating system; None for any other exception."""
    if isinstance(error, OSError) and error.errno:
        what = f" {str(error.filename)[:200]}" if error.filename is not None else ""
        return f"the system refused{what}: {reason_of(error)}. Put that right and run the same command again."
    # Also from Arrow, and from the dynamic loader.
    if lacks_memory(error):
        return "there is not enough memory. Raise `ulimit -v`, if one is set, or take less at a time."
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return "the system gives no more threads. Raise `ulimit -u` and run the same command again."
    return None
