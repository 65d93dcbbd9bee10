"""Other models' pass rates as a prior: recalibrated together on outcomes of the policy itself.

The expected pass rate of a prompt is sigmoid(b + sum_k w_k z_k), where z_k is the standardised logit of the
rate of source k. The weights are not negative: a prompt that another model solves more often is not expected
to be harder. The ridge, the sources with a weight and the strength are those under which held-out outcomes
are likeliest. The likelihood is Beta-binomial: prompts with equal expected rates differ in their true ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gaincurate.core.rng import Floats, Ints
from gaincurate.difficulty.beta import groups_that_differ, log_evidences

FEWEST = 16
"""Observed prompts that a fit needs. With fewer, the expected logit is the mean of the sources' logits."""
MOST = 4096  # observed prompts that a fit reads; of more, evenly spaced ones
UNFITTED = 1.0
"""The strength without a fit, in rollouts: about the median of those that fit in docs/studies/real."""
GROUP, LIVE, DEAD = 8, 0.5, 0.15
_ROLLOUTS = 16.0  # of a rate of unknown counts
_FOLDS = 5
_RIDGES = (0.3, 3.0, 30.0, 300.0)
_STRENGTHS = tuple(0.25 * 2 ** (step / 2) for step in range(19))  # 0.25 to 128 rollouts
_OVERDISPERSION = 4.0  # a prompt's n rollouts weigh as n (1 + c) / (n + c): rates are uncertain beyond them
_GAIN = 1.0  # of the held-out log likelihood, for which a source keeps its weight
_EDGE = 1e-6


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A policy's pass rates as other models' rates predict them.

    `expected` `[N]` has pass rates in (0, 1), and NaN where no source has a value. `strength` is the
    concentration of the Beta distribution of the true rate around the expected one, in rollouts; 0 if the
    sources are uninformative. `weights` `[K]` are of standardised logits, 0 for a source without effect.
    """

    expected: Floats
    strength: float
    weights: Floats


def calibrate(
    rates: Floats, rows: Ints, wins: Floats, losses: Floats, rollouts: Floats | None = None
) -> Calibrated:
    """Expected pass rates of all prompts from other models' rates and the outcomes of some prompts.

    Args:
        rates: pass rates in [0, 1] of K sources, `[N, K]`; NaN where a source has no value.
        rows: the observed prompts, `[M]`, each once.
        wins: their successes, `[M]`.
        losses: their failures, `[M]`.
        rollouts: how many rollouts each rate is of, `[N, K]` or `[K]`. Default: 16. Rates are shrunk by them
            as (wins + 1/2) / (rollouts + 1), so that 0 and 1 have finite logits.
    """
    count = _ROLLOUTS if rollouts is None else rollouts
    shrunk = (rates * count + 0.5) / (count + 1.0)
    logits = np.log(shrunk) - np.log1p(-shrunk)
    absent: npt.NDArray[np.bool_] = np.isnan(logits)
    logits[absent] = 0.0
    counts, sources = (~absent).sum(0), (~absent).sum(1)
    nowhere = sources == 0
    if len(rows) > MOST:
        some = np.linspace(0, len(rows) - 1, MOST).round().astype(np.int64)
        rows, wins, losses = rows[some], wins[some], losses[some]
    usable = ~nowhere[rows] & (wins + losses > 0)
    rows, wins, losses = rows[usable], wins[usable], losses[usable]
    if len(rows) < FEWEST:
        expected = _sigmoid(logits.sum(1) / np.maximum(sources, 1))
        expected[nowhere] = np.nan
        return Calibrated(expected, UNFITTED, np.full(len(counts), 1 / len(counts)))
    z = np.where(absent, 0.0, logits - logits.sum(0) / np.maximum(counts, 1))
    spread = np.sqrt((z**2).sum(0) / np.maximum(counts, 1))
    z /= np.where(spread > 0, spread, 1.0)
    if absent.any():
        _impute(z, absent)
    weights, intercept, strength = _choose(z[rows], wins, losses)
    expected = _sigmoid(z @ weights + intercept)
    expected[nowhere] = np.nan
    return Calibrated(expected, strength, weights)


def buckets(expected: Floats, strength: float | Floats) -> list[str]:
    """`live` if U_8 >= .5; else `easy` if the pass rate is >= .5, `hard` if U_8 >= .15, or `dead`.

    `strength` is the concentration of the Beta distribution of the true rates around the expected, `[N]`.
    """
    chances = groups_that_differ(strength * expected, strength * (1 - expected), GROUP)
    conditions = [chances >= LIVE, expected >= 0.5, chances >= DEAD]
    return list(np.select(conditions, ["live", "easy", "hard"], "dead").tolist())


def _sigmoid(logits: Floats) -> Floats:
    rates: Floats = np.clip(0.5 + 0.5 * np.tanh(0.5 * logits), _EDGE, 1 - _EDGE)
    return rates


def _impute(z: Floats, absent: npt.NDArray[np.bool_]) -> None:
    """Fill absent values with their mean given the row's other sources, as if all were jointly normal."""
    present = (~absent).astype(float)
    correlation = (z.T @ z) / np.maximum(present.T @ present, 1.0)
    patterns, kinds = np.unique(absent @ (1 << np.arange(z.shape[1])), return_inverse=True)
    for kind, pattern in enumerate(patterns.tolist()):
        gone = np.array([pattern >> k & 1 for k in range(z.shape[1])], bool)
        if not gone.any() or gone.all():
            continue
        rows = np.flatnonzero(kinds == kind)
        # The diagonal is above 1, because correlations of different rows may not fit together.
        among = correlation[np.ix_(~gone, ~gone)] + 0.01 * np.eye((~gone).sum())
        slopes = np.linalg.solve(among, correlation[np.ix_(~gone, gone)])
        z[np.ix_(rows, gone)] = z[np.ix_(rows, ~gone)] @ slopes


def _choose(z: Floats, wins: Floats, losses: Floats) -> tuple[Floats, float, float]:
    """Weights, intercept and strength; removes sources one by one while that costs no likelihood."""
    sources = list(range(z.shape[1]))
    chosen = _held_out(z, wins, losses)
    highest = chosen[0]
    while sources:
        without = [[source for source in sources if source != out] for out in sources]
        tried = [(_held_out(z[:, fewer], wins, losses), fewer) for fewer in without]
        best, fewer = max(tried, key=lambda each: each[0][0])
        if best[0] < highest - _GAIN:
            break
        chosen, sources, highest = best, fewer, max(highest, best[0])
    _, ridge, strength = chosen
    fitted, weights = fit(z[:, sources], wins, losses, ridge), np.zeros(z.shape[1])
    weights[sources] = fitted[:-1]
    if not weights.any():
        strength = 0.0
    return weights, float(fitted[-1]), strength


def _held_out(z: Floats, wins: Floats, losses: Floats) -> tuple[float, float, float]:
    """The highest log likelihood of held-out outcomes, and the ridge and the strength that have it."""
    folds, best = np.arange(len(wins)) % _FOLDS, (-math.inf, 0.0, 0.0)
    for ridge in _RIDGES if z.shape[1] else _RIDGES[:1]:
        logits = np.empty(len(wins))
        for fold in range(_FOLDS):
            out = folds == fold
            fitted = fit(z[~out], wins[~out], losses[~out], ridge)
            logits[out] = z[out] @ fitted[:-1] + fitted[-1]
        expected = _sigmoid(logits)
        for strength in _STRENGTHS:
            a, b = strength * expected, strength * (1 - expected)
            likelihood = float(log_evidences(a, b, wins, losses).sum())
            if likelihood > best[0]:
                best = (likelihood, ridge, strength)
    return best


def fit(z: Floats, wins: Floats, losses: Floats, ridge: float) -> Floats:
    """Weights >= 0 and intercept `[K + 1]` of a ridge-penalised binomial logistic regression.

    `z` are standardised logits, `[M, K]`; half of `ridge` multiplies the sum of the squared weights.
    Projected Newton steps (Bertsekas 1982): weights at 0 whose gradient is negative stay there, the others
    take a Newton step, halved until the penalised likelihood does not fall.
    """
    count = wins + losses
    share = (1 + _OVERDISPERSION) / (count + _OVERDISPERSION)
    wins, count = wins * share, count * share
    design = np.concatenate([z, np.ones((len(z), 1))], 1)
    penalty = np.append(np.full(z.shape[1], ridge), 1e-3)  # some for the intercept too, where all succeed

    def objective(theta: Floats) -> float:
        logits = design @ theta
        return float(wins @ logits - count @ np.logaddexp(0.0, logits) - 0.5 * penalty @ theta**2)

    theta = np.zeros(z.shape[1] + 1)
    for _ in range(50):
        rate = 0.5 + 0.5 * np.tanh(0.5 * (design @ theta))
        gradient = design.T @ (wins - count * rate) - penalty * theta
        curvature = (design.T * (count * rate * (1 - rate))) @ design + np.diag(penalty)
        free = (theta > 0) | (gradient > 0)
        free[-1] = True
        step, before = np.zeros(len(theta)), objective(theta)
        step[free] = np.linalg.solve(curvature[np.ix_(free, free)], gradient[free])
        for halvings in range(21):
            moved = theta + 0.5**halvings * step
            moved[:-1] = np.maximum(moved[:-1], 0.0)
            if objective(moved) >= before:
                break
        change, theta = np.abs(moved - theta).max(), moved
        if change < 1e-10:
            break
    return theta
