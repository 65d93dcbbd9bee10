"""Runs one command and ends all its processes when it or the parent ends: a program of its own.

Usage: keeper.py SOCKET GRACE COMMAND ... with one or two inherited file descriptors: SOCKET, and perhaps a
lock, which it keeps open as long as anything of the command lives, its children's children included (on Linux
orphans become the keeper's).
When the command ends, or the other end of SOCKET closes, it asks the remaining processes to end, and kills
them after GRACE seconds. It writes the command's return code to SOCKET, or why the command did not start. It
imports nothing of this package, so it starts quickly and needs little memory.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

_LOOK = 0.1
_DEAF_TO = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


def main() -> int:
    """Run the command."""
    end, grace, command = socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2]), sys.argv[3:]
    for number in _DEAF_TO:
        signal.signal(number, lambda number, frame: None)  # the command would inherit SIG_IGN
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SUBREAPER, 1)
    try:
        child = subprocess.Popen(command, start_new_session=True)
    except OSError as error:
        end.sendall(f"error {(error.strerror or str(error)).lower()}".encode())
        return 1
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):  # readers of a pipe see its end when the command ends
        os.dup2(nothing, stream)
    parent = select.poll()  # `select` takes no descriptor above 1,023
    parent.register(end, select.POLLIN)
    gone: list[tuple[int, int]] = []
    while child.poll() is None and not gone:
        gone = parent.poll(_LOOK * 1000)
        _clear(child)
    _end_all(child, grace)
    with suppress(OSError):
        end.sendall(f"code {child.poll()}".encode())  # it may have ended since it was last asked
    return 0


def _end_all(child: subprocess.Popen[bytes], grace: float) -> None:
    """Ask all remaining processes to end; kill them after `grace` seconds."""
    until, asked, others = time.monotonic() + grace, set[int](), set[int]()
    while left := set(_living(child)) - others:
        over = time.monotonic() > until
        for process in left:
            if over or process not in asked:
                try:
                    os.kill(process, signal.SIGKILL if over else signal.SIGTERM)
                except ProcessLookupError:
                    pass
                except PermissionError:  # it runs as another user, by sudo
                    others.add(process)
                asked.add(process)
        time.sleep(_LOOK / 4)


def _clear(child: subprocess.Popen[bytes]) -> None:
    """Reap orphans of the command that have ended."""
    if sys.platform == "linux":
        with suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid == child.pid:  # `poll` takes it
                    break
                os.waitpid(ended.si_pid, 0)


def _living(child: subprocess.Popen[bytes]) -> list[int]:
    """The command's processes that have not ended; the others are reaped."""
    child.poll()
    _clear(child)
    if sys.platform != "linux":
        try:
            os.killpg(child.pid, 0)
        except (ProcessLookupError, PermissionError):
            return []
        return [-child.pid]
    parents: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat") as file:
            state, parent = file.read().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents.setdefault(int(parent), []).append(int(name))
    living, newest = [], [os.getpid()]
    while newest:
        newest = [process for parent in newest for process in parents.get(parent, [])]
        living += newest
    return living


if __name__ == "__main__":
    sys.exit(main())
