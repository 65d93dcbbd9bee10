"""One round of an external trainer: takes a command with names in braces, yields its exit.

No shell: names are replaced inside each argument. The command's output goes to a log. It ends when its parent
does, and holds a lock while any of it lives, so a second trainer never starts beside a forgotten one. Knows
nothing of rounds or outcomes.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from gaincurate.errors import LockedError, TrainerError, storage_error

_GRACE = 10.0  # seconds between asking a trainer to end and ending it
_LOOK = 0.2
_FREED = 2.0  # seconds that a killed process may take to let go of the lock
_SAID = 2000  # bytes of a log's end that an error quotes from


def fill(command: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """The command with `{name}` replaced for these names; other braces stay as they are."""
    found = []
    for part in command:
        for name, value in names.items():
            part = part.replace(f"{{{name}}}", value)
        found.append(part)
    return found


@contextmanager
def trainer_lock(folder: Path) -> Iterator[IO[str]]:
    """A lock that the trainer's processes inherit.

    Raises:
        LockedError: a trainer of an earlier driver still lives.
    """
    path = folder / "trainer.lock"
    try:
        file = path.open("a")
    except OSError as error:
        raise storage_error(path, error) from error
    with file:
        end = time.monotonic() + _FREED
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise LockedError(
                        "a process that an earlier `schedule run` started is still at work (it holds "
                        f"{path}; `fuser {path}` names it). Stop it, then run this again.",
                        path=str(path),
                    ) from None
            time.sleep(_LOOK)
        yield file


def train(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    lock: IO[str],
    timeout: float | None = None,
    watch: Callable[[float], None] = lambda seconds: None,
) -> float:
    """Run a filled-in command to its end.

    Args:
        command: program and arguments.
        environment: added to this process's own.
        log: its output is appended here.
        lock: from `trainer_lock`.
        timeout: seconds after which it is ended.
        watch: called now and then with the seconds so far.

    Returns:
        Seconds that it took.

    Raises:
        TrainerError: it cannot be started, fails, or takes too long.
    """
    begin = time.monotonic()
    try:
        file = log.open("ab")
    except OSError as error:
        raise storage_error(log, error) from error
    with file:
        file.write(f"$ {' '.join(command)}\n".encode(errors="surrogateescape"))
        file.flush()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                pass_fds=[lock.fileno()],
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise TrainerError(f"the trainer {command[0]!r} cannot be started: {reason.lower()}.") from error
        try:
            while process.poll() is None:
                taken = time.monotonic() - begin
                if timeout is not None and taken > timeout:
                    _end(process)
                    raise TrainerError(
                        f"the trainer took longer than {timeout:g} s (--timeout) and was ended; its log is "
                        f"{log}{_last_line(log)}",
                        log=str(log),
                    )
                watch(taken)
                try:
                    process.wait(_LOOK)
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            _end(process)
            raise
    if process.returncode:
        _end(process)
        how = (
            f"was ended by {signal.Signals(-process.returncode).name}"
            if process.returncode < 0
            else f"failed with exit code {process.returncode}"
        )
        raise TrainerError(
            f"the trainer {how}; its log is {log}{_last_line(log)}", log=str(log), code=process.returncode
        )
    return time.monotonic() - begin


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask all of the trainer to end, then end what is left of it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    with suppress(ProcessLookupError):  # its children may not have listened, whether it did or not
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(log: Path) -> str:
    """The end of a log, for an error's own end."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _SAID))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return f" and ends: {lines[-1][:300]}" if lines and not lines[-1].startswith("$ ") else "."


def _end_with_parent() -> None:
    """In the child before it becomes the trainer: be killed when the driver dies (Linux)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
