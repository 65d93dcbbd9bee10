"""What a reader of the verdicts should do: an answer per signal, and the next steps with their commands.

It adds no figure of its own. What a verdict means is settled where it is made, in `verdict`.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal

from gaincurate.report.document import Document, Kind, Verdict

Tone = Literal["yes", "some", "no", "unknown"]

ANSWERS: dict[Kind, tuple[str, Tone]] = {
    "tells-more": ("No", "no"),
    "tells-little-more": ("Hardly", "some"),
    "no-more-than-length": ("No: length does it", "no"),
    "no-more-than-groups": ("No: groups do it", "no"),
    "no-more-than-length-and-groups": ("No: length and groups do it", "no"),
    "tells-nothing": ("No", "no"),
    "tells-length-only": ("No: it is length", "no"),
    "tells-groups-only": ("Not known: it is the group", "unknown"),
    "no-outcomes-to-judge": ("Not known yet", "unknown"),
    "not-enough-rows": ("Too few rows to say", "unknown"),
}
"""The answer to "Sort by it?" where nothing speaks for a trial, and how it is coloured."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: a sentence, and the command for it where there is one."""

    text: str
    command: str | None


def answer(document: Document, verdict: Verdict) -> tuple[str, Tone]:
    """Whether to sort by a signal, in a word or two."""
    if verdict.sort_first is not None:
        return "Worth a trial", "yes"
    if verdict.verdict == "tells-more" and not document.lifts:
        return (
            "Not known yet",
            "unknown",
        )  # it tells something of a level; what that is worth only outcomes say
    return ANSWERS[verdict.verdict]


def next_steps(document: Document) -> list[Step]:
    """What to do after the first screen, the most useful first."""
    steps = [Step(document.unknown, None)] if document.unknown else []
    best = _best(document)
    if best is not None:
        return [*steps, _trial(document, best)]
    if document.unknown is None and document.verdicts:
        text = "Draw prompts at random, which costs nothing"
        text += (
            "; pass rates themselves choose better than any of these signals:" if document.outcomes else ":"
        )
        return [*steps, Step(text, _start(document, "variance" if document.outcomes else "uniform"))]
    return steps


def _best(document: Document) -> Verdict | None:
    """Of the signals worth a trial, the one whose end carries most."""
    ratios = {(lift.column, lift.end): lift.ratio.value or 0.0 for lift in document.lifts}
    worth = [verdict for verdict in document.verdicts if verdict.sort_first is not None]
    return max(worth, key=lambda v: ratios.get((v.signal, v.sort_first or ""), 0.0), default=None)


def _trial(document: Document, verdict: Verdict) -> Step:
    text = (
        f"Train by {verdict.signal}, {verdict.sort_first} first, and beside it by question length and at "
        "random, at equal generated tokens. That a signal goes with pass rates does not show yet that "
        "training by it is faster."
    )
    if verdict.sort_first == "middle":  # no strategy begins in the middle of a column
        return Step(text, None)
    direction = ["--ascending"] if verdict.sort_first == "lowest" else []
    return Step(text, _start(document, "gain-rl", "--by", verdict.signal, *direction))


def _start(document: Document, strategy: str, *options: str) -> str:
    folder, budget = document.about.folder, str(min(1024, document.about.rows))
    command = ["gaincurate", "schedule", "start", folder, "--run", "run", "--strategy", strategy, *options]
    return shlex.join([*command, "--budget", budget, "--rounds", "200"])
