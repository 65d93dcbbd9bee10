"""The report as one value: every number and text that a page or a terminal shows, field by field.

All of it stands in one file because it is the schema of `gaincurate report --json`, which readers of that
JSON look up here. Correlations are Spearman's unless a field says otherwise. A *column* is named as in the
scored set, or as in `Document.columns`. No field grows with the number of rows, and the same inputs give
the same document. Texts come from data and are not to be trusted as markup.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from gaincurate.core.artifact import Json
from gaincurate.core.stats import Estimate
from gaincurate.hygiene.rows import Finding

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
    """The scored set.

    Attributes:
        folder, manifest: as given, and the hash that names the set's exact content.
        model, dtype, device, site: what the scores were made with.
        rows: scored; `rejected` could not be, `truncated` were cut.
        group_column: the column of groups, or None. `groups`: how many there are.
        group_how: how the column was found, or why there is none.
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
    group_column: str | None
    groups: int
    group_how: str


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
    """The verdict on one signal.

    Attributes:
        signal, verdict: column name, and the verdict for programs.
        sentence: the same for people, starting with the signal's name: what it tells, and whether to
            sort by it.
        banner: one sentence where length explains the signal (|correlation| > 0.8), else None.
        sort_first: where sorting by it is worth a trial, what to train on first: "highest", "lowest" or
            "middle".
        length: correlation with question length.
        explained: the share of its rank variance between bins of similar length (eta squared), 0 to 1: what
            length says of it in any form; None for a constant signal.
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
    explained: float | None
    target: str | None
    estimate: Estimate | None
    level: float
    looks: int


@dataclass(frozen=True, slots=True)
class Document:
    """The whole report.

    Attributes:
        format, about: goes up when a reader of the old one would be wrong; the scored set.
        headline: one or two sentences: should I sort by any of this?
        unknown: what cannot be said with what was given, and the command that finds it out; None if nothing.
        wasted: the share of a uniform step's groups of 8 that teach nothing; None without sampled rollouts.
        verdicts: one for each signal, in the set's order.
        columns: every column of numbers in here.
        scatters: each signal against length.
        group_shares: each column against the groups; empty without a group column.
        group_rates: each group's observed pass rates, by policy; empty without a group column or pass rates.
        relations: each signal with each target (difficulty, pass-rate and learnability columns).
        lifts: the ends and the middle of each signal, and of length, for each learnability column.
        outcomes: observed pass rates.
        hygiene: duplicate rows, with a few examples.
        run: a run over the set, None where none was given: facts of `gaincurate schedule status --json` under
            their names there, `rounds` with the keys of `ROUND`, and as `predictions` its `difficulty`.
        notes: all that was left out, sampled or found by name, sentence by sentence.
    """

    format: int
    about: About
    headline: str
    unknown: str | None
    wasted: Estimate | None
    verdicts: list[Verdict]
    columns: list[Column]
    scatters: list[Scatter]
    group_shares: list[GroupShare]
    group_rates: list[GroupRate]
    relations: list[Relation]
    lifts: list[Lift]
    outcomes: list[Outcome]
    hygiene: list[Finding]
    run: Json | None
    notes: list[str]


def to_json(document: Document) -> Json:
    """Plain values: dicts, lists, numbers, texts."""
    return asdict(document)


def from_json(value: Any) -> Document:
    """The document of what `to_json` gave.

    Raises:
        ValueError: it is no such document.
    """
    return TypeAdapter(Document).validate_python(value)


@dataclass(frozen=True, slots=True)
class Scatter:
    """A signal (y) against question length (x), as counts.

    `counts[i][j]` rows lie in x bin i, `x_edges[i]` to `x_edges[i + 1]` tokens, and y bin j, `y_edges[j]` to
    `y_edges[j + 1]`; outer bins also count the rows beyond. x bins are even on a log axis. `quartiles[i]`
    are those of y in x bin i, empty for fewer than ten rows.
    """

    signal: str
    x_edges: list[float]
    y_edges: list[float]
    counts: list[list[int]]
    quartiles: list[list[float]]


@dataclass(frozen=True, slots=True)
class GroupShare:
    """How much of a column's order is which group a row is from.

    `eta_squared` is the correlation ratio of the column's ranks: the share of their variance between groups,
    0 to 1; None for a constant column. `by_chance` is what a random column would have on average.
    """

    column: str
    groups: int
    rows: int
    eta_squared: float | None
    by_chance: float | None


@dataclass(frozen=True, slots=True)
class Relation:
    """One signal against one target (a level, a pass rate): what is left of it, control by control.

    Attributes:
        signal, target: column names.
        overall: over all rows that have both.
        given_length: partial correlation given question length.
        within_length_bins: pooled inside bins of like length (nothing assumed of how length acts).
        within_groups: pooled inside groups; None without a group column.
        given_length_within_groups: partial correlation given length, of ranks inside groups; None without a
            group column.
        within_length_bins_and_groups: pooled inside bins of like length inside each group; None without a
            group column.
        length: question length against the same target, over the same rows: the control.
    """

    signal: str
    target: str
    overall: Estimate
    given_length: Estimate
    within_length_bins: Estimate
    within_groups: Estimate | None
    given_length_within_groups: Estimate | None
    within_length_bins_and_groups: Estimate | None
    length: Estimate


@dataclass(frozen=True, slots=True)
class Lift:
    """Mean p (1 - p) of a batch selected by a column, relative to a random batch.

    `ratio` is the mean of p (1 - p) over the `share` of prompts with the highest, lowest or middle values
    (`end`, see `ENDS`), divided by the mean over all: 1 is no better than random. `column` may be question
    length, the control. `target` names the column of p (1 - p). Equal values share a border evenly.
    """

    column: str
    target: str
    end: str
    share: float
    ratio: Estimate


@dataclass(frozen=True, slots=True)
class Outcome:
    """Observed pass rates of one policy.

    Attributes:
        name: also the name of the column of pass rates; `learnability` names that of p (1 - p), None where
            fewer than two rollouts stand behind each rate, or it is not known how many.
        source, path: "rollouts" or "run", and where it was read.
        prompts: with a judged rollout and in this set; `unknown` ids are not in it and left out.
        rollouts: judged ones of these prompts; None where only rates are known.
        mean: mean pass rate, 0 to 1.
        always, never: share of prompts with all, with no rollouts right; GRPO learns nothing from either.
        ceiling: the highest Pearson correlation that a perfect prediction of pass rates could show, given the
            noise of so few rollouts; None where it cannot be had.
        mean_variance: mean of p (1 - p), unbiased, 0 to 0.25; value None without `learnability`.
        notes: what to know before believing it.
    """

    name: str
    learnability: str | None
    source: str
    path: str
    prompts: int
    unknown: int
    rollouts: int | None
    mean: float
    always: float
    never: float
    ceiling: float | None
    mean_variance: Estimate
    notes: list[str]


@dataclass(frozen=True, slots=True)
class GroupRate:
    """Observed pass rates of one policy in one group of rows.

    `prompts` were observed, `mean` is their mean pass rate (0 to 1). `teaches` is the share of them with both
    right and wrong rollouts, which alone give GRPO a gradient, and `variance` the mean of their p (1 - p),
    unbiased, 0 to 0.25. Both are None where the numbers of rollouts are not known.
    """

    outcome: str
    group: str
    prompts: int
    mean: float
    teaches: float | None
    variance: float | None
