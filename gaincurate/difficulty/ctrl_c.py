"""Ctrl-C for code that runs an event loop: it is noted, and raised where the code can take it.

Python raises KeyboardInterrupt between any two instructions of the main thread: inside a loop that leaves it
broken, inside a finalizer it is lost, and before a loop falls asleep it does not wake it. Knows no loop.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

_LOOK = 0.2  # seconds until it is seen, at most
_INSISTING = 3
_T = TypeVar("_T")


@dataclass(slots=True)
class Pressed:
    """How often Ctrl-C was pressed; false for never."""

    times: int = 0

    def __bool__(self) -> bool:
        return self.times > 0


@contextmanager
def ctrl_c_noted() -> Iterator[Pressed]:
    """Within it Ctrl-C is noted, and raised on leaving; pressed a third time, it is raised at once.

    In another thread than the main one, or where somebody else handles SIGINT, nothing is changed or noted.

    Raises:
        KeyboardInterrupt: it was pressed.
    """
    pressed = Pressed()
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield pressed
        return

    def note(number: int, frame: FrameType | None) -> None:
        pressed.times += 1
        if pressed.times >= _INSISTING:
            raise KeyboardInterrupt  # something hangs

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if pressed:
            raise KeyboardInterrupt


async def first_done(tasks: set[asyncio.Task[_T]], pressed: Pressed) -> set[asyncio.Task[_T]]:
    """Those that are done, at least one; none where there is no task or Ctrl-C was pressed."""
    done: set[asyncio.Task[_T]] = set()
    while tasks and not done and not pressed:
        done, _ = await asyncio.wait(tasks, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
    return done


async def cancel(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel and wait until they have ended, however they do."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
