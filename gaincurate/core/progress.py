"""How long work reports where it is: engines call a `Progress`, and a driven run calls a `View`.

Whoever wants to see the work overrides them. Every method does nothing by default, so that an engine needs no
"is anybody watching". They are classes and not `typing.Protocol` for that reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


class Progress:
    """Reports of long work. All methods are called from one thread, unless an engine says otherwise.

    The work is so many units (rows, prompts, trainings), of which some may be done already. A new `start`
    begins another piece of work, such as rollouts after the verification of gold answers.
    """

    def loading(self, what: str) -> None:
        """Something begins of which no share is known, such as reading weights; an empty text ends it."""

    def start(self, total: int, done: float = 0, *, what: str = "", unit: str = "row") -> None:
        """Work of `total` units begins, of which an earlier run did `done`.

        `what` is the work's name, such as `scoring`, and `unit` the name of a unit in the singular.
        """

    def advance(self, n: float, **also: int) -> None:
        """`n` more units are done; `also` counts what else passed by its name, such as `tokens`.

        Both may be negative: what was done is done again after an error.
        """

    def part(self, text: str, **also: int) -> None:
        """A part of the work, such as a shard, is done and kept; `also` has its number and what it counts."""

    def note(self, text: str) -> None:
        """A sentence worth reading once."""


class Sent(Progress):
    """Sends notes, advances and parts to another process that follows the work.

    `send` takes a kind (`note`, `advance`, `part`) and its value: a text, or the counts by name too.
    """

    def __init__(self, send: Callable[[str, Any], None]) -> None:
        self._send = send

    def note(self, text: str) -> None:
        """See `Progress`."""
        self._send("note", text)

    def advance(self, n: float, **also: int) -> None:
        """See `Progress`."""
        self._send("advance", (n, also))

    def part(self, text: str, **also: int) -> None:
        """See `Progress`."""
        self._send("part", (text, also))


class Listener:
    """Passes the messages of several `Sent` on to `progress`, and the counts in them by name to `count`."""

    def __init__(self, progress: Progress, count: Callable[[Mapping[str, int]], None]) -> None:
        self._progress, self._count = progress, count
        self._notes: set[str] = set()

    def __call__(self, kind: str, value: Any) -> None:
        """Hear of an event of the kinds of `Sent`. Others are left alone."""
        if kind == "note" and value not in self._notes:  # each process says it
            self._notes.add(value)
            self._progress.note(value)
        elif kind == "advance":
            self._count({"units": int(value[0]), **value[1]})
            self._progress.advance(value[0], **value[1])
        elif kind == "part":
            self._progress.part(value[0], **value[1])


class View:
    """Hears how a run goes; every method may be left as it is."""

    def note(self, text: str) -> None:
        """Something that a person should know."""

    def training(self, round_: int, attempt: int, command: Sequence[str]) -> None:
        """A trainer is about to start."""

    def waiting(self, seconds: float, log: Path) -> None:
        """It is at work."""

    def round_done(self, round_: int, seconds: float) -> None:
        """Its outcomes were taken and the next round is planned, or the run is finished."""
