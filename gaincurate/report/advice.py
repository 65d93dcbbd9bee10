"""What a reader of the verdicts should do: an answer per signal, and the next steps with their commands.

It adds no figure of its own. What a verdict means is settled where it is made, in `verdict`.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal

from gaincurate.report.document import Document, Kind, Verdict

_FEW = 2000  # rows; of fewer gain-rl's default width of 1,000 ranks is nearly all
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
        if document.outcomes:
            text = (
                "Choose by the pass rates themselves, which tell more than any of these signals: each round "
                "takes the prompts that the model now solves about half of the time."
            )
            return [*steps, Step(text, _start(document, "variance"))]
        text = "Draw prompts at random, which costs nothing:"
        return [*steps, Step(text, _start(document, "uniform"))]
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
    options = ["--ascending"] if verdict.sort_first == "lowest" else []
    if document.about.rows < _FEW:
        options += ["--sigma", "0.1N"]
    return Step(text, _start(document, "gain-rl", "--by", verdict.signal, *options))


def _start(document: Document, strategy: str, *options: str) -> str:
    folder, run = document.about.folder, "run" if document.run is None else f"{document.run.folder}-next"
    # A round of all prompts would leave a strategy nothing to choose.
    budget = min(1024, max(1, document.about.rows // 4))
    command = ["gaincurate", "schedule", "start", folder, "--run", run, "--strategy", strategy, *options]
    return shlex.join([*command, "--budget", str(budget), "--rounds", "200"])
