"""Ctrl-C, and notices that the machine is wanted back. Every signal here is sent by this process to itself."""

# ruff: noqa: PT012 (a signal comes in the middle of a block)

from __future__ import annotations

import errno
import signal
import sys
import threading
from types import FrameType

import pyarrow as pa
import pytest
import typer

from gaincurate import __main__ as entry
from gaincurate.cli import app, output
from gaincurate.core.process import Terminated, ctrl_c_noted, raise_lost_stop, stoppable

NOTICES = [signal.SIGTERM, signal.SIGUSR1]


@pytest.mark.parametrize("number", NOTICES)
def test_a_notice_is_an_interruption_with_its_own_exit_code(number: signal.Signals) -> None:
    with pytest.raises(Terminated, match=number.name) as raised, stoppable():
        signal.raise_signal(number)
    assert isinstance(raised.value, KeyboardInterrupt)
    assert raised.value.exit_code == 143
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_closed_terminal_is_as_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt) as raised, stoppable():
        signal.raise_signal(signal.SIGHUP)
    assert not isinstance(raised.value, Terminated)


def test_a_second_notice_does_not_disturb_the_ending_and_a_third_does() -> None:
    reached = []
    with pytest.raises(Terminated), stoppable():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            reached.append("second")
            signal.raise_signal(signal.SIGTERM)
            reached.append("third")
    assert reached == ["second"]


@pytest.mark.parametrize("number", [signal.SIGINT, *NOTICES])
def test_it_is_noted_inside_and_raised_on_leaving(number: signal.Signals) -> None:
    seen: list[bool] = []
    before = signal.getsignal(number)
    match = number.name if number in NOTICES else "^$"
    with pytest.raises(KeyboardInterrupt, match=match), stoppable(), ctrl_c_noted() as pressed:
        for _ in range(2):
            seen.append(bool(pressed))
            signal.raise_signal(number)
        seen.append(bool(pressed))
    assert seen == [False, True, True]
    assert signal.getsignal(number) is before


def test_one_that_a_finalizer_swallowed_is_raised_after_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: lost.append(type(report.exc_value)))

    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Terminated), stoppable():
        Finalized()
        assert lost == [Terminated]
        raise_lost_stop()
    raise_lost_stop()  # nothing is left of it for the next work


def test_a_third_time_it_is_raised_at_once() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), ctrl_c_noted():
        for time in range(4):
            reached.append(time)
            signal.raise_signal(signal.SIGINT)
    assert reached == [0, 1, 2]


def test_it_comes_before_another_error() -> None:
    with pytest.raises(KeyboardInterrupt) as raised, ctrl_c_noted():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("other")
    assert isinstance(raised.value.__context__, ValueError)


def test_a_handler_of_somebody_else_stays() -> None:
    heard = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    before = signal.signal(signal.SIGINT, hear)
    try:
        with ctrl_c_noted() as pressed:
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is hear
    finally:
        signal.signal(signal.SIGINT, before)
    assert (heard, pressed) == ([signal.SIGINT], [])


def test_in_another_thread_nothing_is_changed() -> None:
    handlers = []

    def look() -> None:
        with ctrl_c_noted():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]


AGAIN = "Run the same command again to go on: gaincurate score data.jsonl"


@pytest.mark.parametrize(
    ("number", "resumes", "code", "sentence"),
    [
        (signal.SIGTERM, True, 143, f"ended by SIGTERM. {AGAIN}\n"),
        (signal.SIGUSR1, True, 143, f"ended by SIGUSR1. {AGAIN}\n"),
        (signal.SIGHUP, True, 130, f"interrupted. {AGAIN}\n"),
        (signal.SIGINT, True, 130, f"interrupted. {AGAIN}\n"),
        (signal.SIGINT, False, 130, "interrupted.\n"),
    ],
)
def test_the_sentence_and_the_exit_code(
    number: signal.Signals,
    resumes: bool,
    code: int,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["gaincurate", "score", "data.jsonl"])
    with pytest.raises(typer.Exit) as raised, output.reporting(resumes=resumes):
        signal.raise_signal(number)
    assert raised.value.exit_code == code
    assert capsys.readouterr().err == sentence


def test_a_second_notice_at_exit_changes_no_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "main", lambda: sys.exit(143))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        with pytest.raises(SystemExit) as raised:
            entry.main()
        for number in before:  # as one that comes while libraries are being torn down
            signal.raise_signal(number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert raised.value.code == 143


REFUSED = [
    (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 5000), "system refused " + "x" * 200 + ": file name too long."),
    (OSError(errno.EMFILE, "Too many open files"), "the system refused: too many open files."),
    (ImportError("libarrow.so: failed to map segment from shared object"), "there is not enough memory. Raise `ulimit -v`"),
    (RuntimeError("could not create a primitive"), "there is not enough memory."),  # oneDNN
    (RuntimeError("unable to mmap 9 bytes from file <x>: Cannot allocate memory (12)"), "there is not enough memory."),
    (pa.ArrowMemoryError("malloc of size 64 failed"), "there is not enough memory."),
    (RuntimeError("can't start new thread"), "the system gives no more threads. Raise `ulimit -u`"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "sentence"), REFUSED)
def test_what_the_system_refuses_anywhere_is_a_sentence_and_a_bug_is_not(
    error: Exception, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(typer.Exit) as raised, output.reporting():
        raise error
    assert raised.value.exit_code == 1
    assert sentence in capsys.readouterr().err
    monkeypatch.setenv("GAINCURATE_DEBUG", "1")
    with pytest.raises(type(error)), output.reporting():
        raise error
    monkeypatch.undo()
    for bug in (OSError("no number"), RuntimeError("another"), ImportError("no module named x")):
        with pytest.raises(type(bug)), output.reporting():
            raise bug
