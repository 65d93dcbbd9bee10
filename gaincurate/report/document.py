"""The report as one value: what is in it, field by field, and its JSON. Plain dataclasses, no statistics.

`Document` is all that a page or a terminal needs; the same inputs give the same document. Its size does not
depend on the number of rows. Texts in it come from data and are not to be trusted as markup.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from gaincurate.core.artifact import Json
from gaincurate.report.figures import (
    Calibration,
    Cell,
    Distribution,
    Estimate,
    GroupShare,
    LengthProfile,
    Lift,
    Outcome,
    Relation,
    Scatter,
)
from gaincurate.report.sections import Against, Check, Ends, RunStory

FORMAT = 1

Role = Literal["signal", "length", "difficulty", "pass-rate", "learnability"]
Kind = Literal[
    "tells-more",
    "tells-little-more",
    "no-more-than-length",
    "no-more-than-groups",
    "no-more-than-length-and-groups",
    "tells-nothing",
    "tells-length-only",
    "tells-groups-only",
    "no-outcomes-to-judge",
    "not-enough-rows",
]


@dataclass(frozen=True, slots=True)
class About:
    """The scored set.

    Attributes:
        folder: as given.
        manifest: hash that names the set's exact content.
        model, dtype, device, site: what the scores were made with.
        rows: scored; `rejected` could not be, `truncated` were cut.
        prompt_column: of the source.
        length_column: the column that is length here, in tokens.
        group_column: the column of groups, or None.
        groups: how many there are.
        group_how: how the column was found, or why there is none.
        group_sizes: rows of the largest groups, largest first, by name.
        settings: other facts of the set's identity by dotted name, as text.
    """

    folder: str
    manifest: str
    model: str
    dtype: str
    device: str
    site: str
    rows: int
    rejected: int
    truncated: int
    prompt_column: str
    length_column: str
    group_column: str | None
    groups: int
    group_how: str
    group_sizes: dict[str, int]
    settings: dict[str, str]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of numbers that the report is about.

    `name` is how figures refer to it, `meaning` one plain line, `made` where it comes from.
    """

    name: str
    role: Role
    meaning: str
    made: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What can be said of one signal.

    Attributes:
        signal: column name.
        verdict: for programs.
        sentence: the same for people, starting with the signal's name: what it tells, and whether to
            sort by it.
        banner: one sentence where length explains the signal (|correlation| > 0.8), else None.
        sort_first: where sorting by it is worth a trial, what to train on first: "highest", "lowest" or
            "middle".
        length: correlation with question length.
        target: the target that decided, or None without any.
        estimate: the correlation that decided, at the level `level` rather than 95 %; None without a target.
        level: confidence of that interval: 95 % over all `looks` together (Bonferroni).
        looks: signals times targets that were looked at.
    """

    signal: str
    verdict: Kind
    sentence: str
    banner: str | None
    sort_first: str | None
    length: Estimate
    target: str | None
    estimate: Estimate | None
    level: float
    looks: int


@dataclass(frozen=True, slots=True)
class Document:
    """The whole report.

    Attributes:
        format: goes up when a reader of the old one would be wrong.
        about: the scored set.
        headline: one or two sentences: should I sort by any of this?
        unknown: what cannot be said with what was given, and the command that finds it out; None if nothing.
        verdicts: one for each signal, in the set's order.
        columns: every column of numbers in here.
        distributions: one for each column.
        scatters: each signal against length.
        matrix: every pair of `columns`.
        group_shares: each column against the groups; empty without a group column.
        relations: each signal with each target (difficulty, pass-rate and learnability columns).
        profiles: each signal in bins of like length.
        lifts: the ends and the middle of each signal, and of length, for each learnability column.
        outcomes: observed pass rates.
        calibrations: predicted failure rates against observed ones.
        against: other sets of the same prompts.
        ends: prompts at the top, middle and bottom of each signal.
        hygiene: what is wrong with the rows: duplicates, and what else was looked for.
        run: a run over the set; None where none was given.
        notes: all that was left out, sampled or found by name, sentence by sentence.
        methods: how each kind of figure was made, by name of the field.
    """

    format: int
    about: About
    headline: str
    unknown: str | None
    verdicts: list[Verdict]
    columns: list[Column]
    distributions: list[Distribution]
    scatters: list[Scatter]
    matrix: list[Cell]
    group_shares: list[GroupShare]
    relations: list[Relation]
    profiles: list[LengthProfile]
    lifts: list[Lift]
    outcomes: list[Outcome]
    calibrations: list[Calibration]
    against: list[Against]
    ends: list[Ends]
    hygiene: list[Check]
    run: RunStory | None
    notes: list[str]
    methods: dict[str, str]


def to_json(document: Document) -> Json:
    """Plain values: dicts, lists, numbers, texts."""
    return asdict(document)


def to_text(document: Document) -> str:
    """The JSON text: the same document gives the same bytes. Never NaN or infinity."""
    return json.dumps(to_json(document), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def from_json(value: Any) -> Document:
    """The document of what `to_json` or `to_text` gave, parsed.

    Raises:
        ValueError: it is no such document.
    """
    return TypeAdapter(Document).validate_python(value)
