"""What a reader of the verdicts should do: takes a document, yields one word a signal and the next steps.

Adds no figure of its own; what a verdict means is settled where it is made.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal

from gaincurate.report.document import Document, Kind, Verdict

Tone = Literal["yes", "some", "no", "unknown"]

ANSWERS: dict[Kind, tuple[str, Tone]] = {
    "tells-more": ("Worth a trial", "yes"),
    "tells-little-more": ("Hardly", "some"),
    "no-more-than-length": ("No: length does it", "no"),
    "no-more-than-groups": ("No: groups do it", "no"),
    "no-more-than-length-and-groups": ("No: length and groups do it", "no"),
    "tells-nothing": ("No", "no"),
    "tells-length-only": ("No: it is length", "no"),
    "tells-groups-only": ("No: it is the group", "no"),
    "no-outcomes-to-judge": ("Not known yet", "unknown"),
    "not-enough-rows": ("Too few rows to say", "unknown"),
}
"""The answer to "Sort by it?", and how it is coloured."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: a sentence, and the command for it where there is one."""

    text: str
    command: str | None


def next_steps(document: Document) -> list[Step]:
    """What to do after the first screen, the most useful first."""
    steps = [Step(document.unknown, None)] if document.unknown else []
    better = [
        v for kind in ("tells-more", "tells-little-more") for v in document.verdicts if v.verdict == kind
    ]
    if better:
        return [*steps, _trial(document, better[0])]
    if document.unknown is None and document.verdicts:
        text = "Draw prompts at random, which is hard to beat and costs nothing"
        text += (
            "; pass rates themselves choose better than any of these signals:" if document.outcomes else ":"
        )
        return [*steps, Step(text, _start(document, "variance" if document.outcomes else "uniform"))]
    return steps


def _trial(document: Document, verdict: Verdict) -> Step:
    text = (
        f"Train by {verdict.signal}, and beside it by question length and at random, at equal generated "
        "tokens. That a signal goes with pass rates does not show yet that training by it is faster."
    )
    return Step(text, _start(document, "gain-rl", "--by", verdict.signal, *_direction(document, verdict)))


def _direction(document: Document, verdict: Verdict) -> list[str]:
    """Prompts worth training on first: high values of the signal, unless they go with a low p (1 - p)."""
    roles = {column.name: column.role for column in document.columns}
    learnable = verdict.target is not None and roles.get(verdict.target) == "learnability"
    value = verdict.estimate.value if verdict.estimate is not None else None
    return ["--ascending"] if learnable and value is not None and value < 0 else []


def _start(document: Document, strategy: str, *options: str) -> str:
    where = document.about
    budget = str(min(1024, where.rows))
    command = [
        "gaincurate",
        "schedule",
        "start",
        where.folder,
        "--run",
        "run",
        "--strategy",
        strategy,
        *options,
    ]
    return shlex.join([*command, "--budget", budget, "--rounds", "200"])
