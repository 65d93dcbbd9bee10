"""What predictions are worth: takes predictions and what was observed, yields figures with intervals.

What is predicted is a prompt's failure rate, or its p (1 - p), of which k (G - k) / (G (G - 1)) is an
estimate without bias from k successes in G rollouts.

Knows nothing of how a prediction was made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gaincurate.schedule.noise import Floats, uniforms
from gaincurate.stats import Bin, brier, pearson, reliability, spearman

_RESAMPLES = 1000
_STREAM = 7  # of random numbers that nothing else here uses
Interval = tuple[float, float]
Target = Literal["difficulty", "variance"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A statistic and its 95 % bootstrap interval; None where it is not defined."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Quality:
    """Of predictions for prompts that were observed and not shown to the predictor.

    `brier` is the mean squared difference to what was observed and holds the observation's own noise;
    `brier_of_mean` is that of the constant prediction that fits best. `ceiling` is the Pearson correlation
    that the truth itself would have with what is observed in so many rollouts.
    """

    count: int
    pearson: Figure
    spearman: Figure
    brier: Figure
    brier_of_mean: float | None
    ceiling: Figure
    reliability: list[Bin]


def quality(
    predicted: Floats,
    wins: Floats,
    losses: Floats,
    *,
    counted: bool = True,
    seed: int = 0,
    target: Target = "difficulty",
    intervals: bool = True,
) -> Quality:
    """All figures.

    Args:
        predicted: failure rates, or p (1 - p) where that is the target, `[prompts]`.
        wins: of the same prompts.
        losses: of the same prompts.
        counted: whether wins + losses are numbers of rollouts; without that there is no ceiling.
        seed: of the resampling of prompts.
        target: what is predicted. Of p (1 - p), prompts with one rollout tell nothing and are left out.
        intervals: whether to resample, which takes most of the time.
    """
    ceiling = noise_ceiling
    if target == "variance":
        ceiling, several = variance_ceiling, wins + losses >= 2
        predicted, wins, losses = predicted[several], wins[several], losses[several]
        observed = pass_variance(wins, losses)
    else:
        observed = losses / (wins + losses)

    def figure(statistic: Callable[..., float | None], *columns: Floats) -> Figure:
        around = interval(statistic, *columns, seed=seed) if intervals else None
        return Figure(statistic(*columns), around)

    return Quality(
        len(observed),
        figure(pearson, predicted, observed),
        figure(spearman, predicted, observed),
        figure(brier, predicted, observed),
        float(np.mean((observed - observed.mean()) ** 2)) if len(observed) else None,
        figure(ceiling, wins, losses) if counted else Figure(None, None),
        reliability(predicted, observed, width=0.2 if target == "difficulty" else 0.05),
    )


def pass_variance(wins: Floats, losses: Floats) -> Floats:
    """Of k successes in G rollouts k (G - k) / (G (G - 1)), `[prompts]`; NaN for G below 2.

    It is p (1 - p) without bias, and may be above 1/4.

    Rewards between 0 and 1 vary less than successes with the same mean, so for those it is too high.
    """
    count = wins + losses
    found: Floats = np.full(len(count), np.nan)
    several = count >= 2
    found[several] = (wins * losses)[several] / (count * (count - 1))[several]
    return found


def noise_ceiling(wins: Floats, losses: Floats) -> float | None:
    """sqrt(1 - noise / variance): the Pearson correlation of the true rates with the observed ones.

    The variance is that of the observed rates over prompts. The noise is the mean over prompts of
    y (1 - y) / (G - 1), which for G rollouts that succeed or fail estimates p (1 - p) / G without bias.
    Rewards between success and failure are less noisy than that, so the ceiling is then too low. None
    where no prompt has two rollouts, for fewer than three prompts, or where all rates are equal.
    """
    count = wins + losses
    usable = count >= 2
    if usable.sum() < 3:
        return None
    rate, count = (losses / count)[usable], count[usable]
    variance = float(rate.var(ddof=1))
    if variance == 0:
        return None
    noise = float(np.mean(rate * (1 - rate) / (count - 1)))
    return math.sqrt(max(0.0, 1 - noise / variance))


def variance_ceiling(wins: Floats, losses: Floats) -> float | None:
    """As `noise_ceiling` for p (1 - p) as it is observed by `pass_variance`.

    k (k - 1) (G - k) (G - k - 1) / (G (G - 1) (G - 2) (G - 3)) estimates the square of p (1 - p) without
    bias, so what it lacks of the observed value's own square is the noise. None where fewer than three
    prompts have four rollouts, where rewards are neither 0 nor 1, or where all values are equal.
    """
    count = wins + losses
    usable = count >= 4
    if usable.sum() < 3 or not np.array_equal(wins, np.round(wins)):
        return None
    won, lost, n = wins[usable], losses[usable], count[usable]
    observed = pass_variance(won, lost)
    variance = float(observed.var(ddof=1))
    if variance == 0:
        return None
    square = won * (won - 1) * lost * (lost - 1) / (n * (n - 1) * (n - 2) * (n - 3))
    noise = float(np.mean(observed**2 - square))
    return math.sqrt(min(1.0, max(0.0, 1 - noise / variance)))


def interval(
    statistic: Callable[..., float | None], *columns: Floats, seed: int = 0, resamples: int = _RESAMPLES
) -> Interval | None:
    """The middle 95 % of a statistic over prompts drawn with replacement, `columns` together.

    None where fewer than half of the draws have one. The draws are raw Philox output, the same everywhere.
    """
    count, found = len(columns[0]), []
    if not count or statistic(*columns) is None:
        return None
    for draw in range(resamples):
        rows = (uniforms(seed, draw, _STREAM, 0, count) * count).astype(np.int64)
        value = statistic(*(column[rows] for column in columns))
        if value is not None:
            found.append(value)
    if 2 * len(found) < resamples:
        return None
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
