"""Every signal here is sent by this process to itself, so where it arrives is known."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

import pytest

from gaincurate.core.process import ctrl_c_noted


def noted(work: Callable[[list[int]], None]) -> None:
    with ctrl_c_noted() as pressed:
        work(pressed)


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_it_is_noted_inside_and_raised_on_leaving() -> None:
    seen: list[bool] = []

    def twice(pressed: list[int]) -> None:
        for _ in range(2):
            seen.append(bool(pressed))
            press()
        seen.append(bool(pressed))

    with pytest.raises(KeyboardInterrupt):
        noted(twice)
    assert seen == [False, True, True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_third_time_it_is_raised_at_once() -> None:
    reached = []

    def insist(pressed: list[int]) -> None:
        for time in range(4):
            reached.append(time)
            press()

    with pytest.raises(KeyboardInterrupt):
        noted(insist)
    assert reached == [0, 1, 2]


def test_it_comes_before_another_error() -> None:
    def fail(pressed: list[int]) -> None:
        press()
        raise ValueError("other")

    with pytest.raises(KeyboardInterrupt) as raised:
        noted(fail)
    assert isinstance(raised.value.__context__, ValueError)


def test_a_handler_of_somebody_else_stays() -> None:
    heard = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    before = signal.signal(signal.SIGINT, hear)
    try:
        with ctrl_c_noted() as pressed:
            press()
        assert signal.getsignal(signal.SIGINT) is hear
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]
    assert not pressed


def test_in_another_thread_nothing_is_changed() -> None:
    handlers = []

    def look() -> None:
        with ctrl_c_noted():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
