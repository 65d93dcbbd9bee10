"""Starts worker processes that Ctrl-C does not reach, and ends them. Knows nothing of their work.

A terminal sends Ctrl-C to a parent and its workers alike. The parent says what it means and ends them; a
worker that heard it too would end with a traceback, in the seconds of its imports before its own code runs.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess

from gaincurate.ctrl_c import ctrl_c_noted


def start(workers: Sequence[BaseProcess]) -> None:
    """Start processes that never hear SIGINT; one that comes meanwhile is raised here when all have begun."""
    resource_tracker.ensure_running()  # which a process's start would do, and it unblocks the signal
    with ctrl_c_noted():  # blocked here, another thread takes it
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for worker in workers:
                worker.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end(workers: Sequence[BaseProcess], seconds: float = 0.0) -> None:
    """End those that have begun and still run, after some seconds for each to end by itself."""
    begun = [worker for worker in workers if worker.pid is not None]
    for worker in begun:
        worker.join(seconds)
    for worker in begun:
        worker.terminate()
    for worker in begun:
        worker.join()
