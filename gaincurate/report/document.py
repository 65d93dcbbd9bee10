"""The report as one value: every number and text that a page or a terminal shows, field by field.

All of it stands in one file because it is the schema of `gaincurate report --json`, which readers of that
JSON look up here. Correlations are Spearman's unless a field says otherwise. A *column* is named as in the
scored set, or as in `Document.columns`. No field grows with the number of rows, and the same inputs give
the same document. Texts come from data and are not to be trusted as markup.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from gaincurate.core.artifact import Json
from gaincurate.core.stats import Bin, Estimate

FORMAT = 1

Role = Literal["signal", "length", "difficulty", "pass-rate", "learnability"]
Kind = Literal[
    "tells-more", "tells-little-more", "no-more-than-length", "no-more-than-groups",
    "no-more-than-length-and-groups", "tells-nothing", "tells-length-only", "tells-groups-only",
    "no-outcomes-to-judge", "not-enough-rows",
]  # fmt: skip
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
"""The levels of `Distribution.quantiles`."""
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
        prompt_column, length_column: of the source, and the one that is length here, in tokens.
        group_column: the column of groups, or None. `groups`: how many there are.
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
    """The verdict on one signal.

    Attributes:
        signal, verdict: column name, and the verdict for programs.
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
        format, about: goes up when a reader of the old one would be wrong; the scored set.
        headline: one or two sentences: should I sort by any of this?
        unknown: what cannot be said with what was given, and the command that finds it out; None if nothing.
        wasted: the share of a uniform step's groups of 8 that teach nothing; None without sampled rollouts.
        verdicts: one for each signal, in the set's order.
        columns: every column of numbers in here.
        distributions, scatters: one for each column, and each signal against length.
        matrix: every pair of `columns`.
        group_shares: each column against the groups; empty without a group column.
        group_rates: each group's observed pass rates, by policy; empty without a group column or pass rates.
        relations: each signal with each target (difficulty, pass-rate and learnability columns).
        profiles: each signal in bins of like length.
        lifts: the ends and the middle of each signal, and of length, for each learnability column.
        tenths: p (1 - p) by the tenth of each signal, of length and of a prediction.
        outcomes, calibrations: observed pass rates, and predicted failure rates against them.
        against: other sets of the same prompts.
        ends: prompts at the top, middle and bottom of each signal.
        hygiene: what is wrong with the rows.
        run: a run over the set, None where none was given: facts of `gaincurate schedule status --json` under
            their names there, `rounds` with the keys of `ROUND`, and as `predictions` its `difficulty`.
        notes: all that was left out, sampled or found by name, sentence by sentence.
        methods: how each kind of figure was made, by name of the field.
    """

    format: int
    about: About
    headline: str
    unknown: str | None
    wasted: Estimate | None
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
    run: Json | None
    notes: list[str]
    methods: dict[str, str]
    group_rates: list[GroupRate] = field(default_factory=list)
    tenths: list[Tenths] = field(default_factory=list)


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
class Histogram:
    """`counts[i]` rows lie in `edges[i]` to `edges[i + 1]`, in the column's unit; the last bin has both ends.

    `below` and `above` count the rows outside all bins: the bins span the middle of a column with far tails.
    """

    edges: list[float]
    counts: list[int]
    below: int
    above: int


@dataclass(frozen=True, slots=True)
class Distribution:
    """How one column is spread.

    `rows` have a value, `missing` have none. `quantiles` are at the levels `QUANTILES`, in the column's unit,
    and empty without rows; `mean` is then None.
    """

    column: str
    rows: int
    missing: int
    distinct: int
    mean: float | None
    quantiles: list[float]
    histogram: Histogram


@dataclass(frozen=True, slots=True)
class Band:
    """A column's quartiles among rows of like length; None for fewer than ten rows."""

    rows: int
    low: float | None
    median: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Scatter:
    """A signal (y) against question length (x), as counts.

    `counts[i][j]` rows lie in x bin i, `x_edges[i]` to `x_edges[i + 1]` tokens, and y bin j, `y_edges[j]` to
    `y_edges[j + 1]`. x bins are even on a log axis. `outside` rows lie beyond the edges. `bands[i]` are y's
    quartiles in x bin i. `correlation` is over all rows. `points` are the rows themselves, (length, signal),
    where they are fewer than 2,000, else none.
    """

    signal: str
    x_edges: list[float]
    y_edges: list[float]
    counts: list[list[int]]
    outside: int
    bands: list[Band]
    correlation: Estimate
    points: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Cell:
    """One pair of columns of the correlation matrix; each unordered pair once, `first` before `second`."""

    first: str
    second: str
    correlation: Estimate


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
class GroupCorrelation:
    """A correlation inside one group (a source, a task)."""

    group: str
    correlation: Estimate


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
        groups: inside each of the largest groups, largest first.
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
    groups: list[GroupCorrelation]


@dataclass(frozen=True, slots=True)
class LengthBin:
    """Rows of `low` to `high` question tokens, both included.

    `quartiles` are the signal's 0.25, 0.5 and 0.75 quantiles, empty without rows; `targets[k]` its
    correlation inside the bin with `LengthProfile.targets[k]`.
    """

    low: int
    high: int
    rows: int
    quartiles: list[float]
    targets: list[Estimate]


@dataclass(frozen=True, slots=True)
class LengthProfile:
    """A signal in bins of like length, shortest first.

    `explained` is the share of the signal's rank variance between the bins (eta squared), 0 to 1: what length
    says of it in whatever form; None for a constant one.
    """

    signal: str
    targets: list[str]
    explained: float | None
    bins: list[LengthBin]


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
class Tenths:
    """Mean p (1 - p) of the prompts by the tenth of a column that they are in, lowest values first.

    `target` names the column of p (1 - p), and `mean` is its mean over these prompts. Equal values share a
    tenth, so there may be fewer than ten. `low[k]` to `high[k]` are the column's values in tenth k.
    """

    column: str
    target: str
    mean: float
    low: list[float]
    high: list[float]
    tenths: list[Estimate]


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
            noise of so few rollouts; value None where it cannot be had.
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
    ceiling: Estimate
    mean_variance: Estimate
    notes: list[str]


@dataclass(frozen=True, slots=True)
class GroupRate:
    """Observed pass rates of one policy in one group of rows.

    `prompts` were observed, `mean` is their mean pass rate (0 to 1). `teaches` is the share of them with both
    right and wrong rollouts, which alone give GRPO a gradient, and `variance` the mean of their p (1 - p),
    unbiased, 0 to 0.25. Both are None where the numbers of rollouts are not known. `counts` are the prompts
    that were never right, right in up to a quarter, a half, three quarters and less than all, and always.
    """

    outcome: str
    group: str
    prompts: int
    mean: float
    teaches: float | None
    variance: float | None
    counts: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A column of predicted failure rates (0 to 1) against observed ones.

    `pearson` is to be read against the outcome's ceiling; `brier` is the mean squared difference, and
    `brier_of_mean` what predicting the observed mean for every prompt has.
    """

    column: str
    outcome: str
    pearson: Estimate
    spearman: Estimate
    brier: Estimate
    brier_of_mean: float
    bins: list[Bin]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row: its signal's `value`, question length in tokens, and question, shortened if `cut`."""

    gc_id: str
    value: float
    question_tokens: int
    group: str | None
    text: str
    cut: bool


@dataclass(frozen=True, slots=True)
class Ends:
    """Prompts at the top (highest values first), around the median, and at the bottom (lowest last)."""

    signal: str
    top: list[Prompt]
    middle: list[Prompt]
    bottom: list[Prompt]


@dataclass(frozen=True, slots=True)
class Example:
    """A row that a check found: its text (shortened), and what it collides with or why it was found."""

    gc_id: str
    text: str
    match: str


@dataclass(frozen=True, slots=True)
class Check:
    """One hygiene check: `rows` found, `share` of all rows (0 to 1), some examples, and what to know of it.

    Checks are named as in `gaincurate hygiene`, which lists every row.
    """

    check: str
    rows: int
    share: float
    examples: list[Example]
    note: str


@dataclass(frozen=True, slots=True)
class Stability:
    """One signal in two sets: correlation over shared rows, share of the highest tenth that both have.

    `top_by_chance` is what two random orders share.
    """

    signal: str
    correlation: Estimate
    top_shared: float | None
    top_by_chance: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting in which two sets differ: dotted key and both values as text."""

    key: str
    here: str
    there: str


@dataclass(frozen=True, slots=True)
class Against:
    """Another scored set of the same prompts, joined by id."""

    folder: str
    manifest: str
    shared: int
    only_here: int
    only_there: int
    differences: list[Difference]
    signals: list[Stability]
