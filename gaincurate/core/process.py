"""Child processes: commands that must not outlive this process, workers without Ctrl-C, and signals.

Slurm and Kubernetes send SIGTERM or SIGUSR1 before they take a machine back. Within `stoppable` these signals
raise `Terminated`, which is a KeyboardInterrupt, so they end the work as cleanly as Ctrl-C does.

A command runs under a keeper, a small program that ends all its processes when this process dies for any
reason, and holds a lock until they have ended. A process group or a parent-death signal is not enough,
because trainers start sessions of their own (Ray, torchrun), and a surviving process would hold the GPU.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from gaincurate.core.files import reading
from gaincurate.core.foreign import without_secrets
from gaincurate.core.locks import acquire
from gaincurate.core.options import near
from gaincurate.errors import InputError, LockedError, TrainerError

_KEEPER = Path(__file__).with_name("keeper.py")
_GRACE = 10.0  # seconds between asking a command to end and ending it
_LOOK = 0.2
_FREED = 3.0  # seconds that what a killed process started may take to end
_QUOTED = 8000  # bytes of a log's end that an error quotes from
_NEAR_END = 20  # lines
# Also `{{name}}`, and not `${name}`, which is a shell's.
_PLACEHOLDER = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|(?<!\$)\{([A-Za-z_]\w*)\}")
# A state of a progress bar, as tqdm and rich draw it. tqdm draws its last one after a traceback.
_BAR = re.compile(r"\d%\||\d+/\d+ \[|\d(it/s|s/it)\b|[━█]{3}")
# The line of an exception, as Python prints it and torch with a rank before it, or of an error of ours.
_RAISED = re.compile(r"(\[rank\d+\]: )?([A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)(:|$)|error: )")
_INSISTING = 3  # how often Ctrl-C is pressed by a user who thinks that something hangs
_NOTICES = (signal.SIGTERM, signal.SIGUSR1)  # that the machine is wanted back
_STOPS = (*_NOTICES, signal.SIGHUP)
_stops_seen: list[int] = []  # within `stoppable`, the oldest first


class Terminated(KeyboardInterrupt):
    """A scheduler's signal asked this process to end; the same command continues the work later.

    The exit code is that of SIGTERM in a shell, also for SIGUSR1, so that a script tests for one number.
    """

    exit_code = 128 + signal.SIGTERM

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)


def signal_name(number: int) -> str:
    """Such as SIGSEGV; the number of a real-time signal, most of which have no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _interruption(number: int) -> KeyboardInterrupt:
    return Terminated(number) if number in _NOTICES else KeyboardInterrupt()


@contextmanager
def ctrl_c_noted() -> Iterator[list[int]]:
    """Note Ctrl-C in the list and raise it on leaving; the third Ctrl-C is raised at once.

    Python raises KeyboardInterrupt between any two instructions of the main thread: inside an event loop that
    leaves it broken, inside a finalizer it is lost, and before a loop falls asleep it does not wake it.
    The signals of `stoppable` are noted in the same way.

    In another thread than the main one, or where other code handles a signal, nothing is changed or noted.
    """
    pressed = list[int]()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *_STOPS)}
    before = {number: was for number, was in before.items() if was in (signal.default_int_handler, _stop)}
    if threading.current_thread() is not threading.main_thread() or not before:
        yield pressed
        return

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        if len(pressed) >= _INSISTING:
            raise _interruption(number)

    for number in before:
        signal.signal(number, note)
    try:
        yield pressed
    finally:
        for number, was in before.items():
            signal.signal(number, was)
        if pressed:
            raise _interruption(pressed[0])


@contextmanager
def _deaf_to(*numbers: int) -> Iterator[None]:
    """Block signals in this thread and in the processes that it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_tracker() -> None:
    """Start multiprocessing's resource tracker with SIGUSR1 blocked, before a queue starts it."""
    with _deaf_to(signal.SIGUSR1):
        resource_tracker.ensure_running()


def start_workers(workers: Sequence[BaseProcess]) -> None:
    """Start worker processes with SIGINT and SIGUSR1 blocked; a signal in between is raised after the start.

    A terminal sends Ctrl-C to a parent and its workers alike, and a scheduler may send SIGUSR1 to all. The
    parent handles the signal and ends the workers. A worker that received it during its imports would end
    with a traceback. The parent ends workers by SIGTERM, which is not blocked.
    """
    start_tracker()  # which a process's start would do, and it unblocks SIGINT
    with ctrl_c_noted(), _deaf_to(signal.SIGINT, signal.SIGUSR1):  # blocked here, another thread takes it
        for worker in workers:
            worker.start()


def end_workers(workers: Sequence[BaseProcess], seconds: float = 0.0) -> None:
    """Terminate the workers that were started, after `seconds` for each to end by itself."""
    begun = [worker for worker in workers if worker.pid is not None]
    for worker in begun:
        worker.join(seconds)
    for worker in begun:
        worker.terminate()
    for worker in begun:
        worker.join()


class Kept:
    """A command under a keeper, which ends all of it with the command, with `end`, or with this process.

    `grace` is the seconds between asking processes to end and ending them. The environment is added to this
    process's own. The keeper holds the descriptor `lock` as long as anything of the command lives. The
    streams are those of `subprocess.Popen`.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        grace: float,
        environment: Mapping[str, str],
        lock: int | None = None,
        **streams: Any,
    ) -> None:
        self._grace = grace
        self._socket, theirs = socket.socketpair()
        with theirs:
            fds = [theirs.fileno()] if lock is None else [theirs.fileno(), lock]
            self.keeper: subprocess.Popen[bytes] = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_KEEPER), str(fds[0]), str(grace), *command],
                **streams,
                bufsize=0,
                env={**os.environ, **environment},
                pass_fds=fds,
                start_new_session=True,
            )

    def ask_end(self) -> None:
        """Ask the keeper to end all processes, without waiting; may be called from any thread."""
        with suppress(OSError):  # it has ended
            self._socket.shutdown(socket.SHUT_WR)

    def ended(self, seconds: float) -> bool:
        """Wait for at most `seconds`; whether all processes have ended.

        `Popen.poll` and a `Popen.wait` with a time take a lock in one instruction and see to its release in
        the next. A signal's exception between the two leaves it locked for ever.
        """
        answer = select.poll()
        answer.register(self._socket, select.POLLIN)
        return bool(answer.poll(seconds * 1000))

    def end(self) -> None:
        """End all remaining processes and wait for their end."""
        if self.keeper.returncode is None:
            self.ask_end()
            if not self.ended(self._grace + _FREED):
                os.kill(self.keeper.pid, signal.SIGKILL)
            self.keeper.wait()

    def close(self) -> None:
        """End all processes and close the socket and the pipes."""
        self.end()
        for part in (self._socket, self.keeper.stdin, self.keeper.stdout):
            if part is not None:
                part.close()

    def outcome(self) -> int | str:
        """The return code of the command, as in `subprocess.Popen`, or the reason why it did not start."""
        kind, _, answer = self._socket.recv(4096).decode(errors="replace").partition(" ")
        if kind == "error":
            return answer
        return int(answer) if kind == "code" else -signal.SIGKILL


def fill(command: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """The command with `{name}` replaced for these names. `{{name}}` becomes `{name}`, other braces stay."""

    def value(match: re.Match[str]) -> str:
        literal, name = match.groups()
        return f"{{{literal}}}" if literal else names.get(name, match.group())

    return [_PLACEHOLDER.sub(value, part) for part in command]


def check_placeholders(command: Sequence[str], names: Collection[str]) -> None:
    """Raise an InputError for a `{name}` in a command that is none of `names`."""
    for name in (match.group(2) for part in command for match in _PLACEHOLDER.finditer(part)):
        if name is not None and name not in names:
            raise InputError(
                f"{{{name}}} in the command is none of {', '.join(f'{{{each}}}' for each in names)}"
                f"{near(name, names)}. Write {{{{{name}}}}} for braces that the program is to see."
            )


@contextmanager
def command_lock(folder: Path, name: str = "trainer.lock") -> Iterator[int]:
    """A lock, held in the `with` and while processes of `run_command` live; a LockedError if it is taken."""
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
    """Within it, SIGTERM, SIGUSR1 (a scheduler) and SIGHUP (a closed terminal) end the work as Ctrl-C does.

    A second one does not disturb the ending, a third is raised again. In another thread than the main one, or
    where a signal is ignored (nohup) or handled already, nothing is changed. SIGTERM and SIGUSR1 raise
    Terminated, SIGHUP raises KeyboardInterrupt.
    """
    main = threading.current_thread() is threading.main_thread()
    ours = [number for number in _STOPS if main and signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        if ours:
            _stops_seen.clear()


def _stop(number: int, frame: FrameType | None) -> None:
    _stops_seen.append(number)
    if len(_stops_seen) == 1 or len(_stops_seen) >= _INSISTING:
        raise _interruption(number)


def raise_lost_stop() -> None:
    """Raise the exception of a signal again that a finalizer swallowed; call it for every batch.

    Raises:
        KeyboardInterrupt: a signal arrived earlier and did not end the work.
    """
    if _stops_seen and threading.current_thread() is threading.main_thread():
        raise _interruption(_stops_seen[0])


def run_command(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    lock: int,
    timeout: float | None = None,
    watch: Callable[[float], None] = lambda seconds: None,
) -> float:
    """Run a filled-in command to its end, and to the end of all that it started; the seconds that it took.

    Its output is appended to the log, `lock` is of `command_lock`, and after `timeout` seconds it is ended.
    `watch` is called a few times a second with the seconds so far. Raises `TrainerError` if the command
    cannot be started, fails or takes too long, and `StorageError` if the log cannot be written.
    """
    begin = time.monotonic()
    with ExitStack() as opened:
        with reading(log, "write"):
            file = opened.enter_context(log.open("ab", buffering=0))
            file.write(f"$ {shlex.join(command)}\n".encode(errors="surrogateescape"))
        streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
        with closing(Kept(command, grace=_GRACE, environment=environment, lock=lock, **streams)) as kept:
            while not kept.ended(_LOOK):
                raise_lost_stop()
                taken = time.monotonic() - begin
                if timeout is not None and taken > timeout:
                    kept.end()
                    raise TrainerError(
                        f"the trainer took longer than {timeout:g} s (--timeout) and was ended; its log is "
                        f"{log}{_quoted(log)}",
                        log=str(log),
                    )
                watch(taken)
            code = kept.outcome()
    if isinstance(code, str):
        raise TrainerError(f"the trainer {command[0]!r} cannot be started: {code}.")
    if code:
        how = f"was ended by {signal_name(-code)}" if code < 0 else f"failed with exit code {code}"
        raise TrainerError(f"the trainer {how}; its log is {log}{_quoted(log)}", log=str(log), code=code)
    return time.monotonic() - begin


def last_line(log: Path) -> str | None:
    """The end of the last command's log: the last line of an exception, else the last without a progress bar.

    Frames, a final full stop and secrets of the environment are removed. None if the command wrote nothing.
    """
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _QUOTED))
        text = file.read().decode(errors="replace")
    text = text[text.rfind("\n$ ") + 1 :]  # the command itself stands before its output
    lines = [line.strip("│╭╮╰╯─ \t") for line in text.splitlines()]
    lines = [line.rstrip(".") for line in lines if line and not line.startswith("$ ")]
    telling = [line for line in lines if not _BAR.search(line)] or lines
    # Not far back: an exception that was caught and printed is not what ended it.
    raised = [line for line in telling[-_NEAR_END:] if _RAISED.match(line)] or telling
    return without_secrets(raised[-1])[:300] if raised else None


def _quoted(log: Path) -> str:
    """The end of a log, for an error's own end."""
    line = last_line(log)
    return "." if line is None else f" and ends: {line}."
