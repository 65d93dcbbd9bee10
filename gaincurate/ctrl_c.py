"""Ctrl-C for code that it must not hit anywhere: it is noted, and raised where the code can take it.

Python raises KeyboardInterrupt between any two instructions of the main thread: inside an event loop that
leaves it broken, inside a finalizer it is lost, and before a loop falls asleep it does not wake it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_INSISTING = 3


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
