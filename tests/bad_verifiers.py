"""Verifiers that misbehave, each in a way of its own, when the completion asks for it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Any


class _MuteError(Exception):
    def __str__(self) -> str:
        raise ValueError("says nothing")


class _WorseError(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


ERRORS: dict[str, BaseException] = {
    "!raise": KeyError("no such thing"),
    "!mute": _MuteError(),
    "!worse": _WorseError(),
    "!sysexit": SystemExit(3),
    "!surrogate": ValueError("half of a pair: \ud800"),
}


def check(completion: str, row: dict[str, Any]) -> Any:
    """1 for the row's answer, 0 for other texts; `!...` misbehaves."""
    if completion in ("!spin", "!sleep"):
        print("begun")
        sys.stdout.flush()
    if completion in ERRORS:
        raise ERRORS[completion]
    if completion in (values := {"!text": "yes", "!nan": float("nan"), "!two": 2, "!address": check}):
        return values[completion]
    while completion == "!spin":
        pass
    if completion == "!stubborn":  # it takes the kernel's limits away
        signal.setitimer(signal.ITIMER_REAL, 0)
    if completion in ("!sleep", "!stubborn"):
        time.sleep(1e6)
    if completion == "!memory":
        return len(bytearray(1 << 40))
    if completion == "!segfault":
        ctypes.string_at(0)
    if completion == "!fork":
        os.fork()
    if completion == "!exit":
        os._exit(0)
    if completion == "!signal":
        os.kill(os.getpid(), 40)  # a real-time signal
    if completion == "!interrupt":
        signal.raise_signal(signal.SIGINT)
    if completion == "!close":
        os.closerange(3, 256)
    if completion == "!key":
        return os.environ["SOME_API_KEY"]
    if completion == "!key in an error":
        raise ValueError("x" * 370 + os.environ["SOME_API_KEY"])
    if completion.startswith("!leave"):  # a process in a session of its own
        with open(row["fifo"], "wb") as fifo:
            subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=fifo)
    if completion == "!leave and exit":
        os._exit(0)
    if completion == "!print":
        print('{"reward": 0.25}', flush=True)
        os.write(1, b'{"reward": 0.25}\n')
    return completion in (row["answer"], "!print", "!fork", "!interrupt")


def half(completion: str, row: dict[str, Any]) -> float:
    """Half a point for anything."""
    return 0.5


def parity(completion: str, row: dict[str, Any]) -> float:
    """1 for the row's answer and for texts of an even length; what begins with `a` is not judged."""
    if completion.startswith("a"):
        raise ValueError("a text with a")
    return float(completion == row["answer"] or len(completion) % 2 == 0)
