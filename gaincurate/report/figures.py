"""The figures that a report is made of: numbers with intervals, counts, tables. Plain values only.

Correlations are Spearman's unless a field says otherwise. A *column* is named as in the scored set, or as in
`Document.columns`. No field grows with the number of rows. Knows nothing of how a figure was computed.
"""

from __future__ import annotations

from dataclasses import dataclass

from gaincurate.stats import Bin, Estimate

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
"""The levels of `Distribution.quantiles`."""
ENDS = ("highest", "middle", "lowest")
"""Where of a column a batch may be picked, see `Lift`."""


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
    quartiles in x bin i. `correlation` is over all rows.
    """

    signal: str
    x_edges: list[float]
    y_edges: list[float]
    counts: list[list[int]]
    outside: int
    bands: list[Band]
    correlation: Estimate


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
        signal: column name.
        target: column name.
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
    """What a batch picked by a column carries, against a random one.

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
        source: "rollouts" or "run".
        path: where it was read.
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
