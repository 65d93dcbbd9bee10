"""The findings of a check: one hit per row, a summary for a report, and the hits as lines of JSON.

A hit stands for one row, also where it names another that it collides with. So what is dropped and what is
listed are the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
CHECKS = (
    "overlong",
    "sentinel-gold",
    "word-gold",
    "broken-gold",
    "conflicting-gold",
    "contaminated",
    "duplicates",
    "near-duplicates",
)
"""All checks, in the order in which they take rows out: what is wrong with a row alone comes first."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One row that a check found.

    `place` is the row's in the set and `other` that of the row which it collides with, where there is one.
    `reason` says why in words, `facts` the same for programs.
    """

    place: int
    reason: str
    other: int | None = None
    facts: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The hits of one check in the order of the set, with facts about the check."""

    check: str
    hits: list[Hit]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check for a report: plain values.

    `rows` is how many rows it found and `share` their part of the set. `examples` are a few rows, each
    {"gc_id", "text", "with"}: the prompt's beginning, and what it collides with or why it was found.
    """

    check: str
    rows: int
    share: float
    examples: list[Json]
    note: str
