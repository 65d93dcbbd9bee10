"""The report as one value: every number and text that a page or a terminal shows, field by field.

This file is the schema of `gaincurate report --json`. Correlations are Spearman's unless a field says
otherwise. A *column* is named as in the scored set, or as in `Document.columns`. No field grows with the
number of rows, and the same inputs give the same document. Texts come from data and may contain markup.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from gaincurate.core.artifact import Json
from gaincurate.core.stats import Estimate
from gaincurate.hygiene.rows import CheckSummary

FORMAT = 2

Role = Literal["signal", "length", "difficulty", "pass-rate", "learnability"]
Kind = Literal[
    "tells-more", "tells-little-more", "no-more-than-length", "no-more-than-groups",
    "no-more-than-length-and-groups", "tells-nothing", "tells-length-only", "tells-groups-only",
    "no-outcomes-to-judge", "not-enough-rows",
]  # fmt: skip
ENDS = ("highest", "middle", "lowest")
"""Parts of a column that a batch may be selected from, see `Lift`."""
ROUND = (
    "round", "mu", "accuracy", "effective", "drift", "rescored", "prompts", "rollouts", "unjudged", "late",
    "prompt_tokens", "completion_tokens", "training_seconds", "scoring_seconds",
)  # fmt: skip
"""Keys of each round of a run; a value is None if it is not known (yet)."""


@dataclass(frozen=True, slots=True)
class About:
    """The scored set."""

    folder: str  # as given
    manifest: str  # the hash that names the set's exact content
    model: str  # what the scores were made with, and the next three
    dtype: str
    device: str
    site: str
    rows: int  # scored
    rejected: int  # could not be scored
    truncated: int  # were cut
    group_column: str | None  # the column of groups
    groups: int  # how many there are
    group_how: str  # how the column was found, or why there is none


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    """A column of numbers that the report is about."""

    name: str  # how figures refer to it
    role: Role
    meaning: str  # one plain line
    made: str  # where it comes from


@dataclass(frozen=True, slots=True)
class SignalVerdict:
    """The verdict on one signal."""

    signal: str  # its column
    verdict: Kind  # for programs
    sentence: str  # for people: the signal's name, what it tells, and whether to sort by it
    banner: str | None  # one sentence where length explains the signal (|correlation| > 0.8)
    sort_first: str | None  # one of `ENDS`, where sorting by the signal with that end first is worth a trial
    length: Estimate  # correlation with question length
    explained: float | None
    """The share of its rank variance between bins of similar length (eta squared), 0 to 1, which covers
    relations of any form; None for a constant signal."""
    target: str | None  # the target that decided, or None without any
    estimate: Estimate | None  # the correlation that decided, at `level` rather than 95 %
    level: float  # confidence of that interval: 95 % over all `looks` together (Bonferroni)
    looks: int  # signals times targets that were looked at


@dataclass(frozen=True, slots=True)
class Document:
    """The whole report."""

    format: int  # goes up when a reader of the old one would be wrong
    about: About
    headline: str  # one or two sentences: whether to sort by any signal
    unknown: str | None  # the question that needs pass rates, and the commands that measure them
    wasted: Estimate | None
    """The share of a uniform step's groups of 8 that teach nothing; None without sampled rollouts."""
    verdicts: list[SignalVerdict]  # one for each signal, in the set's order
    columns: list[ColumnInfo]  # every column of numbers in here
    scatters: list[Scatter]  # each signal against length
    group_shares: list[GroupShare]  # each column against the groups; empty without a group column
    group_rates: list[GroupRate]
    """Each group's observed pass rates, by policy; empty without a group column or pass rates."""
    relations: list[Relation]  # each signal with each target (difficulty, pass-rate and learnability columns)
    lifts: list[Lift]  # the ends and the middle of each signal, and of length, for each learnability column
    outcomes: list[Outcome]  # observed pass rates
    hygiene: list[CheckSummary]  # duplicate rows, with a few examples
    run: Json | None
    """A run over the set, None where none was given: facts of `gaincurate schedule status --json` under their
    names there, `rounds` with the keys of `ROUND`, and as `predictions` its `difficulty`."""
    notes: list[str]  # on columns: left out, detected by name or not judged; on a run without outcomes


def to_json(document: Document) -> Json:
    """Plain values: dicts, lists, numbers, texts."""
    return asdict(document)


def from_json(value: Any) -> Document:
    """The document from the value that `to_json` returned.

    Raises:
        ValueError: the value is no such document.
    """
    return TypeAdapter(Document).validate_python(value)


@dataclass(frozen=True, slots=True)
class Scatter:
    """A signal (y) against question length (x), as counts; outer bins also count the rows beyond."""

    signal: str
    x_edges: list[float]  # of the bins, in tokens, even on a log axis
    y_edges: list[float]
    counts: list[list[int]]  # `counts[i][j]` rows lie in x bin i and y bin j
    quartiles: list[list[float]]  # of y in each x bin, empty for fewer than ten rows


@dataclass(frozen=True, slots=True)
class GroupShare:
    """The share of a column's order that the group of a row explains."""

    column: str
    groups: int
    rows: int
    eta_squared: float | None
    """The correlation ratio of the column's ranks: the share of their variance between groups, 0 to 1; None
    for a constant column."""
    by_chance: float | None  # what a random column would have on average


@dataclass(frozen=True, slots=True)
class Relation:
    """The correlation of one signal with one target (a level, a pass rate), and what each control leaves.

    The correlations inside groups are None without a group column.
    """

    signal: str  # column names
    target: str
    overall: Estimate  # over all rows that have both
    given_length: Estimate  # partial correlation given question length
    within_length_bins: Estimate  # pooled inside bins of similar length, for effects of any form
    within_groups: Estimate | None  # pooled inside groups
    given_length_within_groups: Estimate | None  # partial correlation given length, of ranks inside groups
    within_length_bins_and_groups: Estimate | None  # pooled inside bins of similar length in each group
    length: Estimate  # question length against the same target, over the same rows: the control


@dataclass(frozen=True, slots=True)
class Lift:
    """Mean p (1 - p) of a batch selected by a column, relative to a random batch."""

    column: str  # it may be question length, the control
    target: str  # the column of p (1 - p)
    end: str  # see `ENDS`
    share: float  # of the prompts, in the batch
    ratio: Estimate
    """The mean of p (1 - p) over the prompts with the highest, lowest or middle values, divided by the mean
    over all: 1 is no better than random. Equal values share a border evenly."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Observed pass rates of one policy."""

    name: str  # also of the column of pass rates
    learnability: str | None
    """The column of p (1 - p), None where each rate has fewer than two rollouts, or an unknown number."""
    source: str  # "rollouts" or "run"
    path: str  # where it was read
    prompts: int  # with a judged rollout and in this set
    unknown: int  # ids that are not in it and left out
    rollouts: int | None  # judged ones of these prompts; None where only rates are known
    mean: float  # mean pass rate, 0 to 1
    always: float  # share of prompts with all rollouts right; GRPO learns nothing from them
    never: float  # the same with none right
    ceiling: float | None
    """The highest Pearson correlation that a perfect prediction of pass rates could show, given the noise of
    so few rollouts; None where it cannot be estimated."""
    mean_variance: Estimate  # mean of p (1 - p), unbiased, 0 to 0.25; value None without `learnability`
    notes: list[str]  # reasons to doubt the figures


@dataclass(frozen=True, slots=True)
class GroupRate:
    """Observed pass rates of one policy in one group of rows.

    `teaches` and `variance` are None where the numbers of rollouts are not known.
    """

    outcome: str
    group: str
    prompts: int  # observed ones
    mean: float  # their mean pass rate, 0 to 1
    teaches: float | None  # share of them with right and wrong rollouts, which alone give GRPO a gradient
    variance: float | None  # mean of their p (1 - p), unbiased, 0 to 0.25
