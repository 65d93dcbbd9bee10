"""The report's parts about rows, other sets and a run: plain values only, of a size that rows do not change.

Texts come from data and are not to be trusted as markup. Knows nothing of how anything was computed.
"""

from __future__ import annotations

from dataclasses import dataclass

from gaincurate.core.artifact import Json
from gaincurate.difficulty.quality import Bin
from gaincurate.report.figures import Estimate


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


@dataclass(frozen=True, slots=True)
class Round:
    """One round of a run; None where it is not known (yet).

    Attributes:
        round: from 0.
        mu: where the strategy aimed, as a rank.
        accuracy: mean over prompts of their mean outcome, 0 to 1.
        effective: share of prompts with both right and wrong rollouts, 0 to 1.
        drift: rank correlation of a probe's new scores with the old ones.
        rescored: the name of the set that was scored after it, or None.
        prompts, rollouts, unjudged, late: counts.
        prompt_tokens, completion_tokens: counts.
        training_seconds, scoring_seconds: wall time.
    """

    round: int
    mu: float | None
    accuracy: float | None
    effective: float | None
    drift: float | None
    rescored: str | None
    prompts: int | None
    rollouts: int | None
    unjudged: int | None
    late: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    training_seconds: float | None
    scoring_seconds: float | None


@dataclass(frozen=True, slots=True)
class Foresight:
    """What a round's predictions were worth, on its references or on the prompts that were drawn by them.

    `rows` prompts were observed. `pearson` is to be read against `ceiling`, what the truth itself would have
    with so few rollouts; `brier` is the mean squared difference, `brier_of_mean` that of the best constant.
    """

    round: int
    of: str
    rows: int
    pearson: Estimate
    spearman: Estimate
    brier: Estimate
    brier_of_mean: float | None
    ceiling: Estimate
    bins: list[Bin]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predicted difficulty in a run: what is predicted and how, how well, and what its references cost.

    `target` is "difficulty" (the failure rate; `target_difficulty` is aimed at) or "variance" (p (1 - p)).
    `warning` says what a correlation over drawn prompts does not show; None without one.
    """

    target: str
    target_difficulty: float | None
    predictor: str | None
    found: list[Foresight]
    warning: str | None
    rollouts: int | None
    completion_tokens: int | None
    rollout_seconds: float | None
    predict_seconds: float | None


@dataclass(frozen=True, slots=True)
class RunStory:
    """A run: its facts, every round so far and the sums of wall seconds.

    `predictions` is None where the strategy goes by none.
    """

    folder: str
    strategy: str
    by: str | None
    params: Json
    budget: int
    planned_rounds: int
    finished: bool
    rounds: list[Round]
    training_seconds: float
    scoring_seconds: float
    predictions: Predictions | None
