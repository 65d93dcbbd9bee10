"""The quality of predicted pass rates: correlation, Brier score, reliability, noise ceiling.

Figures come with a noise ceiling, because observed rates are noisy: with few rollouts per prompt even the
true rates have a correlation with them far below 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from gaincurate.core.rng import Floats, Ints, uniforms
from gaincurate.core.stats import Bin, brier, pearson, reliability, spearman

PRIOR = 0.5
Interval = tuple[float, float]
Target = Literal["difficulty", "variance"]
COLUMNS: dict[Target, str] = {"difficulty": "gc_difficulty", "variance": "gc_variance"}
_RESAMPLES = 1000
_STREAM = 7  # of random numbers that nothing else here uses


def beta_quantile(share: float, a: float, b: float) -> float:
    """The value at which the distribution function of Beta(a, b) reaches `share`, by bisection."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high and high - low > 1e-15 * high:
        low, high = (middle, high) if beta_cdf(middle, a, b) < share else (low, middle)
    return middle


def beta_cdf(x: float, a: float, b: float) -> float:
    """The distribution function of Beta(a, b) at `x`, by the series of the incomplete beta function."""
    if not 0 < x < 1:
        return float(x >= 1)
    if turned := x > (a + 1) / (a + b + 2):  # above the mean the series of 1 - x converges faster
        x, a, b = 1 - x, b, a
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    total, term, count = 1.0, 1.0, 0
    while term > 1e-17 * total:  # all terms are positive
        term *= x * (a + b + count) / (a + 1 + count)
        total, count = total + term, count + 1
    below = math.exp(log_front) * total / a
    return 1 - below if turned else below


@dataclass(frozen=True, slots=True)
class Figure:
    """A statistic and its 95 % bootstrap interval; None if it is not defined."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures of predictions for observed prompts that the predictor has not seen.

    `brier` is the mean squared difference from the observations, and includes their noise; `brier_of_mean` is
    that of the best constant prediction. `ceiling` is the Pearson correlation that the true values would have
    with observations of as many rollouts.
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
    """All figures of `predicted` `[prompts]`: failure rates, or p (1 - p) if that is the target.

    `wins` and `losses` `[prompts]` are the observations. Without `counted` they are not numbers of rollouts,
    and there is no ceiling. `seed` is that of the resampling of prompts, which takes most of the time and is
    skipped without `intervals`. For p (1 - p), prompts with one rollout are left out.
    """
    if target == "variance":
        several = wins + losses >= 2
        predicted, wins, losses = predicted[several], wins[several], losses[several]
    observed, ceiling = _observed(wins, losses, target), Figure(None, None)
    if counted:
        statistic = variance_ceiling if target == "variance" else noise_ceiling
        around = interval(statistic, wins, losses, seed=seed) if intervals else None
        ceiling = Figure(statistic(wins, losses), around)
    return Quality(
        len(observed),
        **_figures([(predicted, observed)], seed if intervals else None),
        ceiling=ceiling,
        reliability=reliability(predicted, observed, width=0.2 if target == "difficulty" else 0.05),
    )


def _figures(pairs: Sequence[tuple[Floats, Floats]], seed: int | None) -> dict[str, Any]:
    """Figures of predicted and observed values, means over the pairs; with intervals if there is a seed."""

    def figure(statistic: Callable[..., float | None]) -> Figure:
        defined = [value for pair in pairs if (value := statistic(*pair)) is not None]
        around = None
        if seed is not None:
            around = interval(statistic, *pairs[0], seed=seed, alternatives=pairs[1:])
        return Figure(float(np.mean(defined)), around) if defined else Figure(None, None)

    constants = [np.mean((values - values.mean()) ** 2) for _, values in pairs if len(values)]
    return {
        "pearson": figure(pearson),
        "spearman": figure(spearman),
        "brier": figure(brier),
        "brier_of_mean": float(np.mean(constants)) if constants else None,
    }


def _observed(wins: Floats, losses: Floats, target: Target) -> Floats:
    return pass_variance(wins, losses) if target == "variance" else losses / (wins + losses)


def no_better_than_a_constant(figures: Mapping[str, Any]) -> str | None:
    """A sentence if predictions are not shown to beat the observed mean of all prompts, else None.

    `figures` is a `Quality` as JSON.
    """
    constant, value = figures["brier_of_mean"], figures["brier"]["value"]
    around = figures["brier"]["interval"]
    if constant is None or value is None or (value if around is None else around[1]) < constant:
        return None
    shown = "are no better" if value >= constant else "are not shown to be better"
    return (
        f"these predictions {shown} than a constant: their Brier score is {value:.4f}, and that of the "
        f"observed mean for every prompt is {constant:.4f}."
    )


def quality_of_halves(
    halves: Sequence[tuple[Ints, Floats]],
    wins: Floats,
    losses: Floats,
    *,
    counted: bool = True,
    seed: int = 0,
    target: Target = "difficulty",
) -> Quality | None:
    """Figures of predictions of random halves of the references, each by a fit on the other half.

    `halves` are those of `Predictor.halves`, of which two make a split; the other arguments are as in
    `quality`, of all references. A figure's value is its mean over the halves. Its interval is the middle
    95 % over halves and their prompts drawn with replacement, so it includes both spreads. The ceiling needs
    no prediction and is that of all references. The reliability table is of one split. None without halves.
    """
    if not halves:
        return None
    rows, predicted = (np.concatenate(parts) for parts in zip(*halves[:2], strict=True))
    whole = quality(
        predicted, wins[rows], losses[rows], counted=counted, seed=seed, target=target, intervals=False
    )
    observed = _observed(wins, losses, target)
    return replace(whole, **_figures([(predicted, observed[rows]) for rows, predicted in halves], seed))


def pass_variance(wins: Floats, losses: Floats) -> Floats:
    """An estimate of p (1 - p) without bias: k (G - k) / (G (G - 1)) of k successes in G rollouts.

    It may be above 1/4, and is NaN for G below 2. Rewards between 0 and 1 vary less than successes with the
    same mean, so the estimate is too high for them.
    """
    count, variances = wins + losses, np.full(len(wins), np.nan)
    np.divide(wins * losses, count * (count - 1), out=variances, where=count >= 2)
    return variances


def observation_noise(wins: Floats, losses: Floats, target: Target = "difficulty") -> Floats:
    """The variance of a prompt's observation around its true value, `[prompts]`.

    For k successes in G rollouts that of k / G is p (1 - p) / G, and that of k (G - k) / (G (G - 1)) is
    p q / G - (p q)^2 (4 G - 6) / (G (G - 1)) with q = 1 - p, for G of 2 at least. Both are averaged over a
    Beta distribution of p with the mean and the spread of these prompts. A prompt's own rate is not used: if
    4 of 4 rollouts failed, that rate is still not known without error.
    """
    count, (a, b) = wins + losses, _population(wins, losses)
    total = a + b
    product = a * b / (total * (total + 1))  # the mean of p q
    if target == "difficulty":
        of_rates: Floats = product / count
        return of_rates
    square = product * (a + 1) * (b + 1) / ((total + 2) * (total + 3))  # the mean of (p q)^2
    of_variances: Floats = product / count - square * (4 * count - 6) / (count * (count - 1))
    return of_variances


def _population(wins: Floats, losses: Floats) -> tuple[float, float]:
    """A and b of the Beta distribution with the mean and spread of the true pass rates, by moments.

    The spread is from 1/50 to 49/50 of its maximum for that mean. If fewer than two prompts have two
    rollouts it is 1/3 of the maximum, as if all rates were equally likely.
    """
    count = wins + losses
    # Away from 0 and 1, which it is rounded to where rollouts are many and alike.
    mean = min(max(float((wins.sum() + PRIOR) / (count.sum() + 2 * PRIOR)), 1e-9), 1 - 1e-9)
    rate, several = wins / count, count >= 2
    share = 1 / 3
    if several.sum() >= 2:
        noise = float(np.mean((rate * (1 - rate))[several] / (count[several] - 1)))
        share = (float(rate[several].var(ddof=1)) - noise) / (mean * (1 - mean))
    total = 1 / min(max(share, 0.02), 0.98) - 1
    return mean * total, (1 - mean) * total


def noise_ceiling(wins: Floats, losses: Floats) -> float | None:
    """sqrt(1 - noise / variance): the Pearson correlation of the true rates with the observed ones.

    The variance is that of the observed rates over prompts. The noise is the mean over prompts of
    y (1 - y) / (G - 1), which for G rollouts that succeed or fail estimates p (1 - p) / G without bias.
    Rewards between success and failure are less noisy than that, so the ceiling is then too low. None
    if fewer than three prompts have two rollouts, or all rates are equal.
    """
    count = wins + losses
    usable = count >= 2
    rate, count = (losses[usable] / count[usable]), count[usable]
    return _ceiling(rate, rate * (1 - rate) / (count - 1)) if len(rate) >= 3 else None


def _ceiling(observed: Floats, noise: Floats) -> float | None:
    variance = float(observed.var(ddof=1))
    return math.sqrt(min(1.0, max(0.0, 1 - float(np.mean(noise)) / variance))) if variance else None


def variance_ceiling(wins: Floats, losses: Floats) -> float | None:
    """As `noise_ceiling`, for p (1 - p) as observed by `pass_variance`.

    k (k - 1) (G - k) (G - k - 1) / (G (G - 1) (G - 2) (G - 3)) estimates the square of p (1 - p) without
    bias, so the square of the observed value less this estimate is the noise. None if fewer than three
    prompts have four rollouts, some rewards are neither 0 nor 1, or all values are equal.
    """
    count = wins + losses
    usable = count >= 4
    if usable.sum() < 3 or not np.array_equal(wins, np.round(wins)):
        return None
    won, lost, n = wins[usable], losses[usable], count[usable]
    square = won * (won - 1) * lost * (lost - 1) / (n * (n - 1) * (n - 2) * (n - 3))
    observed = pass_variance(won, lost)
    return _ceiling(observed, observed**2 - square)


def interval(
    statistic: Callable[..., float | None],
    *columns: Floats,
    seed: int = 0,
    alternatives: Sequence[tuple[Floats, ...]] = (),
) -> Interval | None:
    """The middle 95 % of a statistic over prompts drawn with replacement, `columns` together.

    With `alternatives`, columns of other prompts, the draws alternate among all of them. None if fewer than
    half of the draws define the statistic. The draws are raw Philox output, the same everywhere.
    """
    values, turns = [], [columns, *alternatives]
    if not len(columns[0]) or statistic(*columns) is None:
        return None
    for draw in range(_RESAMPLES):
        turn = turns[draw % len(turns)]
        count = len(turn[0])
        rows = (uniforms(seed, draw, _STREAM, 0, count) * count).astype(np.int64)
        value = statistic(*(column[rows] for column in turn))
        if value is not None:
            values.append(value)
    if 2 * len(values) < _RESAMPLES:
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
