"""What predictions are worth: takes predicted and observed failure rates, yields figures with intervals.

Knows nothing of how a prediction was made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gaincurate.schedule.noise import Floats, uniforms
from gaincurate.stats import spearman

_RESAMPLES = 1000
_STREAM = 7  # of random numbers that nothing else here uses
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Bin:
    """Predictions from `low` to `high`: how many, their mean and the mean of what was observed."""

    low: float
    high: float
    count: int
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True)
class Figure:
    """A statistic and its 95 % bootstrap interval; None where it is not defined."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Quality:
    """Of predictions for prompts that were observed and not shown to the predictor.

    `brier` is the mean squared difference to the observed rate and holds the observation's own noise;
    `brier_of_mean` is that of the constant prediction that fits best. `ceiling` is the Pearson correlation
    that the true rates themselves would have with rates observed in so many rollouts.
    """

    count: int
    pearson: Figure
    spearman: Figure
    brier: Figure
    brier_of_mean: float
    ceiling: Figure
    reliability: list[Bin]


def quality(
    predicted: Floats, wins: Floats, losses: Floats, *, counted: bool = True, seed: int = 0
) -> Quality:
    """All figures.

    Args:
        predicted: failure rates, `[prompts]`.
        wins: of the same prompts.
        losses: of the same prompts.
        counted: whether wins + losses are numbers of rollouts; without that there is no ceiling.
        seed: of the resampling of prompts.
    """
    observed = losses / (wins + losses)

    def figure(statistic: Callable[..., float | None], *columns: Floats) -> Figure:
        return Figure(statistic(*columns), interval(statistic, *columns, seed=seed))

    return Quality(
        len(observed),
        figure(pearson, predicted, observed),
        figure(spearman, predicted, observed),
        figure(brier, predicted, observed),
        float(np.mean((observed - observed.mean()) ** 2)) if len(observed) else math.nan,
        figure(noise_ceiling, wins, losses) if counted else Figure(None, None),
        reliability(predicted, observed),
    )


def pearson(first: Floats, second: Floats) -> float | None:
    """Pearson's correlation; None for fewer than three rows or a constant column."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} rows")
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    a, b = first - first.mean(), second - second.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def brier(predicted: Floats, observed: Floats) -> float | None:
    """Mean squared difference; None without rows."""
    return float(np.mean((predicted - observed) ** 2)) if len(observed) else None


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


def reliability(predicted: Floats, observed: Floats, bins: int = 5) -> list[Bin]:
    """Equal parts of [0, 1] by predicted rate; those without a prediction are left out."""
    places = np.minimum((predicted * bins).astype(int), bins - 1)
    return [
        Bin(
            place / bins,
            (place + 1) / bins,
            int(here.sum()),
            float(predicted[here].mean()),
            float(observed[here].mean()),
        )
        for place in range(bins)
        if (here := places == place).any()
    ]


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
