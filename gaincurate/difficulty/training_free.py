"""Prediction of failure rates from embeddings and observed rates, without training.

Neither way is the paper's predictor, which trains an adapter on policies that were observed before. They work
from the references alone. Attention is by cosine, on embeddings whitened along their 64 strongest directions.
Its temperature and a calibration are chosen by leaving each reference out. The Gaussian
process also reads signals, and it knows the noise of each rate. Its sizes come from a fixed grid, not from an
optimiser: no library is needed for it, and every machine tries the same ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gaincurate.core.rng import Floats
from gaincurate.difficulty.embeddings import Matrix, Space, evenly_spaced
from gaincurate.difficulty.metrics import Target

Seen = npt.NDArray[np.bool_]

TEMPERATURES = (0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5, 1.0)
_CLIP = 1e-3
_EDGE = 1e-6
_PRIOR = 1.0  # observations' worth of pull of the calibration towards leaving the mean as it is
_LARGEST = 20.0  # of w

HIGHEST: dict[Target, float] = {"difficulty": 1.0, "variance": 0.25}
"""What is predicted lies between 0 and this."""
VARIANCES = (0.0, 1e-3, 3e-3, 0.01, 0.02, 0.04, 0.08, 0.16, 0.3)
"""Sizes that are tried, where what is predicted lies between 0 and 1. Rates spread by 1/4 at most."""
LENGTHS = (0.5, 1.0, 1.5, 2.2, 3.2, 4.5, 7.0)
_LEAST = 1e-4  # of the part of its own: keeps the matrix regular where rates are known exactly
_GAIN = 1e-6  # of the log likelihood: less is rounding, and might send two machines two ways
_MOST_FOR_SIZES = 512  # references that the sizes are chosen on; their cost grows with the third power


@dataclass(frozen=True, slots=True)
class TrainingFree:
    """A fitted predictor: d = sigmoid(w * logit(a) + b).

    a is the mean of `failure` under softmax(cosine / temperature).
    `references` are unit vectors `[K, directions]`, `failure` is `[K]`.
    """

    space: Space
    references: Matrix
    failure: Floats
    temperature: float
    w: float
    b: float

    @property
    def facts(self) -> dict[str, Any]:
        """How it was fitted, for the record."""
        width = None if self.space.directions is None else self.space.directions.shape[1]
        return {"directions": width, "temperature": self.temperature, "w": self.w, "b": self.b}

    def __call__(self, embeddings: Matrix) -> Floats:
        """Failure rates in (0, 1), `[rows]`."""
        cosines = self.space(embeddings) @ self.references.T
        return calibrated(attention(cosines, self.failure, self.temperature), self.w, self.b)

    def leave_one_out(self) -> Floats:
        """The references' own, each from the others, `[K]`; w and b have seen all of them."""
        others = ~np.eye(len(self.failure), dtype=bool)
        cosines = self.references @ self.references.T
        return calibrated(attention(cosines, self.failure, self.temperature, others), self.w, self.b)


def fit_training_free(space: Space, references: Matrix, failure: Floats) -> TrainingFree:
    """Choose temperature, w and b for which each reference, predicted from the others, has the smallest
    cross-entropy.

    Args:
        space: where to take cosines.
        references: embeddings, `[K, width]`, three or more.
        failure: observed failure rates, `[K]`.
    """
    units = space(references)
    cosines, others = units @ units.T, ~np.eye(len(failure), dtype=bool)
    best: tuple[float, float, float, float] | None = None
    for temperature in TEMPERATURES:
        weighted = attention(cosines, failure, temperature, others)
        w, b = fit_calibration(weighted, failure)
        lost = cross_entropy(calibrated(weighted, w, b), failure)
        if best is None or lost < best[0]:
            best = (lost, temperature, w, b)
    assert best is not None
    return TrainingFree(space, units, failure, *best[1:])


def attention(cosines: Matrix, failure: Floats, temperature: float, seen: Seen | None = None) -> Floats:
    """Mean of `failure` `[K]` under softmax(`cosines` / temperature), `[rows]`; `cosines` is `[rows, K]`.

    `seen` `[rows, K]` says which references each row may use.
    """
    scores = cosines.astype(np.float64) / temperature
    if seen is not None:
        scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    means: Floats = (weights @ failure) / weights.sum(1)
    return means


def calibrated(weighted: Floats, w: float, b: float) -> Floats:
    """sigmoid(w * logit(weighted) + b), inside (0, 1)."""
    return np.clip(_sigmoid(w * _logit(weighted) + b), _EDGE, 1 - _EDGE)


def fit_calibration(weighted: Floats, failure: Floats) -> tuple[float, float]:
    """The w in [0, 20] and b with the smallest cross-entropy, pulled a little towards w = 1, b = 0.

    A mean that leaves an item out falls where that item is high, so means alone would give a negative w.
    """
    x = _logit(weighted)
    theta, pull = np.array([1.0, 0.0]), np.array([1.0, 0.0])
    design = np.stack([x, np.ones_like(x)], 1)
    for _ in range(50):  # Newton; the cross-entropy is convex
        p = _sigmoid(design @ theta)
        gradient = design.T @ (p - failure) + _PRIOR * (theta - pull)
        curvature = (design.T * np.maximum(p * (1 - p), 1e-6)) @ design + _PRIOR * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        theta = theta - step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-10:
            break
    w = float(np.clip(theta[0], 0.0, _LARGEST))
    if w != theta[0]:  # at the border b alone is free
        b = float(theta[1])
        for _ in range(50):
            p = _sigmoid(w * x + b)
            step = ((p - failure).sum() + _PRIOR * b) / (np.maximum(p * (1 - p), 1e-6).sum() + _PRIOR)
            b -= float(np.clip(step, -2.0, 2.0))
        return w, b
    return w, float(theta[1])


def cross_entropy(predicted: Floats, failure: Floats) -> float:
    """The mean of -(d log p + (1 - d) log(1 - p))."""
    return float(-np.mean(failure * np.log(predicted) + (1 - failure) * np.log1p(-predicted)))


def _logit(values: Floats) -> Floats:
    clipped = np.clip(values, _CLIP, 1 - _CLIP)
    logits: Floats = np.log(clipped) - np.log1p(-clipped)
    return logits


def _sigmoid(values: Floats) -> Floats:
    probabilities: Floats = 0.5 * (1 + np.tanh(0.5 * values))
    return probabilities


@dataclass(frozen=True, slots=True)
class Sizes:
    """Prior variances of a rate's parts, and the distance over which signals matter.

    `both` is of the product of the embedding's part and the signals' one, `own` of the part that neither says
    anything of. `length` is in standard deviations of a signal. All variances are of a rate between 0 and 1,
    whatever is predicted.
    """

    embedding: float = 0.02
    signals: float = 0.02
    both: float = 0.02
    own: float = 0.01
    length: float = 2.2


TRIED: dict[str, tuple[float, ...]] = {
    "embedding": VARIANCES,
    "signals": VARIANCES,
    "both": VARIANCES,
    "own": (_LEAST, *VARIANCES[1:]),
    "length": LENGTHS,
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of the references, `[K]` each.

    `values` are between 0 and 1, `noise` are the variances of `values` around the true ones.
    """

    units: Floats
    """Directions of the whitened embeddings, `[K, directions]`."""
    signals: Floats
    """Standardised, `[K, signals]`."""
    values: Floats
    noise: Floats


def covariance(
    units: Floats, signals: Floats, other_units: Floats, other_signals: Floats, sizes: Sizes
) -> Floats:
    """Of the rates of two lists of prompts without their own parts, `[rows, others]`.

    The level has mean 1/2 and standard deviation 1/2: it may be anything.
    """
    cosines = units @ other_units.T
    squares = (signals**2).sum(1)[:, None] + (other_signals**2).sum(1) - 2 * signals @ other_signals.T
    near = np.exp(-np.maximum(squares, 0.0) / (2 * sizes.length**2))
    shared: Floats = 0.25 + sizes.embedding * cosines + near * (sizes.signals + sizes.both * cosines)
    return shared


def log_likelihood(evidence: Evidence, sizes: Sizes) -> float:
    """The log density of `values` under the prior with these sizes, observation noise included."""
    total = _observed_covariance(evidence, sizes)
    factor, centred = np.linalg.cholesky(total), evidence.values - 0.5
    whitened = np.linalg.solve(factor, centred)
    return float(
        -0.5 * whitened @ whitened
        - np.log(np.diag(factor)).sum()
        - 0.5 * len(centred) * math.log(2 * math.pi)
    )


def choose_sizes(evidence: Evidence) -> Sizes:
    """Sizes with a high marginal likelihood: each in turn takes its best tried value until no change helps.

    This coordinate ascent can end in a local maximum. Of more than 512 references evenly spaced ones decide.
    """
    count = len(evidence.values)
    rows = evenly_spaced(count, _MOST_FOR_SIZES)
    some = Evidence(evidence.units[rows], evidence.signals[rows], evidence.values[rows], evidence.noise[rows])
    sizes = Sizes()
    best = log_likelihood(some, sizes)
    better = True
    while better:  # the likelihood grows with every change, so no sizes come twice
        better = False
        for name, values in TRIED.items():
            for value in values:
                other = replace(sizes, **{name: value})
                likelihood = log_likelihood(some, other)
                if likelihood > best + _GAIN:
                    sizes, best, better = other, likelihood, True
    return sizes


def _observed_covariance(evidence: Evidence, sizes: Sizes) -> Floats:
    units, signals = evidence.units, evidence.signals
    total = covariance(units, signals, units, signals, sizes)
    return total + np.diag(sizes.own + evidence.noise)


class GaussianProcess:
    """The posterior of all rates, given references.

    A prompt's rate is a level common to all, a part linear in the direction of its whitened embedding, a part
    smooth in its signals (NLL, entropies, length, angle), a part in which signals matter otherwise from one
    direction to another, and a part of its own. How large the parts are is read off the references by the
    marginal likelihood, so a part that tells nothing of this set is left out. The noise of what was observed
    is not fitted but known: it is binomial, so a rate of few rollouts counts for less.

    Args:
        evidence: the references.
        sizes: Default: those of `choose_sizes`.
    """

    def __init__(self, evidence: Evidence, sizes: Sizes | None = None) -> None:
        self.sizes = choose_sizes(evidence) if sizes is None else sizes
        self._evidence = evidence
        self._inverse = np.linalg.inv(_observed_covariance(evidence, self.sizes))
        self._weights = self._inverse @ (evidence.values - 0.5)

    def mean(self, units: Floats, signals: Floats) -> Floats:
        """Of the rates of prompts that are no references, `[rows]`; it may leave [0, 1]."""
        known = self._evidence
        means: Floats = (
            0.5 + covariance(units, signals, known.units, known.signals, self.sizes) @ self._weights
        )
        return means

    def leave_one_out(self) -> Floats:
        """Of each reference the mean given the others, `[K]`; the sizes have seen all of them.

        With C the covariance of what was observed, and m the prior mean, it is
        y - (C^-1 (y - m)) / diag(C^-1) (Rasmussen and Williams, Gaussian Processes, equation 5.12).
        """
        means: Floats = self._evidence.values - self._weights / np.diag(self._inverse)
        return means
