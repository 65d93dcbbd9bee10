"""One external command, run to its end: takes its arguments with names in braces, yields the seconds it took.

No shell: names are replaced inside each argument. The command's output goes to a log. A keeper process ends
all of it when this process dies, however that happens, and holds a lock until it has, so that a second one
never starts beside a forgotten one. Knows nothing of rounds or outcomes.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from gaincurate.errors import LockedError, TrainerError, storage_error
from gaincurate.locks import acquire

_KEEPER = Path(__file__).with_name("keeper.py")
_GRACE = 10.0  # seconds between asking a trainer to end and ending it
_LOOK = 0.2
_FREED = 3.0  # seconds that a killed driver's trainer may take to end
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
def trainer_lock(folder: Path, name: str = "trainer.lock") -> Iterator[int]:
    """A lock that lives as long as what `train` starts with it.

    Raises:
        LockedError: what an earlier process started still lives.
    """
    path, end = folder / name, time.monotonic() + _FREED
    while (descriptor := acquire(path, fcntl.LOCK_EX | fcntl.LOCK_NB)) is None:
        if time.monotonic() > end:
            raise LockedError(
                f"a trainer is still at work on {folder}: another one's, or what an earlier one left "
                f"(`fuser {path}` names the process). Wait until it has ended, or end it, then run this "
                "again.",
                path=str(path),
            )
        time.sleep(_LOOK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def stoppable() -> Iterator[None]:
    """Within it, SIGTERM and SIGHUP (Slurm, a closed terminal) are as Ctrl-C: they end the trainer first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    lock: int,
    timeout: float | None = None,
    watch: Callable[[float], None] = lambda seconds: None,
) -> float:
    """Run a filled-in command to its end, and to the end of all that it started.

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
    ours, theirs = socket.socketpair()
    with ours, theirs, file:
        file.write(f"$ {shlex.join(command)}\n".encode(errors="surrogateescape"))
        file.flush()
        fds = (theirs.fileno(), lock)
        keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_KEEPER), *map(str, fds), str(_GRACE), *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            pass_fds=fds,
            start_new_session=True,
        )
        theirs.close()
        try:
            while keeper.poll() is None:
                taken = time.monotonic() - begin
                if timeout is not None and taken > timeout:
                    _end(ours, keeper)
                    raise TrainerError(
                        f"the trainer took longer than {timeout:g} s (--timeout) and was ended; its log is "
                        f"{log}{_last_line(log)}",
                        log=str(log),
                    )
                watch(taken)
                with suppress(subprocess.TimeoutExpired):
                    keeper.wait(_LOOK)
        except BaseException:
            _end(ours, keeper)
            raise
        kind, _, said = ours.recv(4096).decode(errors="replace").partition(" ")
    if kind == "error":
        raise TrainerError(f"the trainer {command[0]!r} cannot be started: {said}.")
    code = int(said) if kind == "code" else -signal.SIGKILL
    if code:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
        raise TrainerError(f"the trainer {how}; its log is {log}{_last_line(log)}", log=str(log), code=code)
    return time.monotonic() - begin


def _end(ours: socket.socket, keeper: subprocess.Popen[bytes]) -> None:
    """Have the keeper end all of it."""
    ours.close()
    try:
        keeper.wait(_GRACE + _FREED)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()


def said_last(log: Path) -> str:
    """The last line of a log of one of our own commands, without its frame and full stop."""
    text = log.read_text(errors="replace")
    lines = [line.strip("│╭╮╰╯─ \t") for line in text[text.rfind("\n$ ") + 1 :].splitlines()]
    said = [line.rstrip(".") for line in lines if line and not line.startswith("$ ")]
    return said[-1] if said else "it said nothing"


def _last_line(log: Path) -> str:
    """The end of a log, for an error's own end."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _SAID))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    if not lines or lines[-1].startswith("$ "):
        return "."
    return f" and ends: {lines[-1][:300].rstrip('.')}."
