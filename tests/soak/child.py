"""Runs one command as a process of its own and says what a stranger would see of it.

The process is forked from one that has imported everything and computed nothing, so a case takes the time of its
work. It gets a session, a home, a folder for temporary files, and limits of memory, processor time and the clock.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gaincurate.__main__ import main
from gaincurate.errors import GaincurateError

SPACE = 6 << 30
"""Bytes of memory over what the parent has, which are asked for and not all used."""
MEMORY = 2048
"""MiB of memory, of which the libraries of the parent are some 700."""
CPU, CLOCK = 120, 300  # seconds; the clock's are for a machine that does other things too
_CODES = {0, 1, 2, 130}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a process left: its exit code (less than 0: the signal that ended it), texts and seconds."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    late: bool = False
    memory: int = 0
    """MiB that it had at most, what it shares with its parent counted."""

    @property
    def error(self) -> str:
        """The last error that it printed."""
        _, mark, last = f"\n{self.stderr}".rpartition("\nerror: ")
        return last.strip() if mark else ""


@dataclass(slots=True)
class Child:
    """A process that runs."""

    pid: int
    folder: Path
    begun: float

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the process alone, as a person or the kernel does."""
        os.kill(self.pid, number)

    def alive(self) -> bool:
        """Whether it has not ended."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self, clock: float = CLOCK) -> Seen:
        """Let it end, within its time."""
        while self.alive() and time.monotonic() - self.begun < clock:
            time.sleep(0.002)
        late = self.alive()
        if late:
            self.kill()
        _, status, usage = os.wait4(self.pid, 0)
        for pid in left_behind(self.pid):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        texts = [(self.folder / name).read_text(errors="replace") for name in ("stdout", "stderr")]
        code = os.waitstatus_to_exitcode(status)
        return Seen(code, texts[0], texts[1], time.monotonic() - self.begun, late, usage.ru_maxrss >> 10)


def left_behind(session: int, seconds: float = 5.0) -> list[int]:
    """The processes of a session whose leader has ended, after they had time to see it."""
    end = time.monotonic() + seconds
    while (found := _of_session(session)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def _of_session(session: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, IndexError):
                state, _, _, of = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:4]
                if int(of) == session and state != "Z":
                    found.append(int(name))
    return found


def start(
    work: Sequence[str] | Callable[[], object], box: Path, before: Callable[[], object] = lambda: None
) -> Child:
    """Begin a command, the arguments of `gaincurate` or a function, in its folder; `before` is called there."""
    folder = Path(tempfile.mkdtemp(prefix="std-", dir=box.parent))
    for name in ("home", "tmp"):
        (box / name).mkdir(exist_ok=True)
    for name in ("stdout", "stderr"):  # a kill may come before the child opens them
        (folder / name).touch()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            _settle(box, folder)
            before()
            code = _work(work)
        except BaseException:
            with suppress(BaseException):
                traceback.print_exc()
        finally:
            with suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    return Child(pid, folder, time.monotonic())


def _settle(box: Path, folder: Path) -> None:
    os.setsid()
    for number, name in ((0, "/dev/null"), (1, folder / "stdout"), (2, folder / "stderr")):
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    os.chdir(box)
    tempfile.tempdir = None
    os.environ.update(HOME=str(box / "home"), TMPDIR=str(box / "tmp"), COLUMNS="200")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + SPACE, used + SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _work(work: Sequence[str] | Callable[[], object]) -> int:
    try:
        # What comes while Python starts is not tried.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if callable(work):
            work()
        else:
            sys.argv = ["gaincurate", *work]
            main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except GaincurateError as error:  # of a function: a command prints its own
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def faults(seen: Seen, *, signalled: bool = False) -> list[str]:
    """What a stranger may not see."""
    found = []
    if seen.late:
        found.append(f"it ran for more than {CLOCK} s")
    elif seen.code not in (_CODES | {143} if signalled else _CODES):
        found.append(f"exit code {seen.code}")
    if "Traceback (most recent" in seen.stdout + seen.stderr:
        found.append("traceback")
    if seen.memory > MEMORY or "MemoryError" in seen.stderr:
        found.append(f"{seen.memory:,} MiB of memory")
    return found
