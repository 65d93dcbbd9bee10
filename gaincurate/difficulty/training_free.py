"""Prediction of failure rates from embeddings and observed rates, without training.

Attention by cosine over the references, on embeddings whitened along their 64 strongest directions or as they
are. Its temperature and a calibration are chosen by leaving each reference out. This is not the paper's
predictor, which trains an adapter on policies that were observed before: it works from the references alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gaincurate.core.rng import Floats

Matrix = npt.NDArray[np.float32]
Seen = npt.NDArray[np.bool_]

DIRECTIONS = 64
SAMPLE = 1024
"""Embeddings that the directions are taken from."""
TEMPERATURES = (0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5, 1.0)
_CLIP = 1e-3
_EDGE = 1e-6
_PRIOR = 1.0  # observations' worth of pull of the calibration towards leaving the mean as it is
_LARGEST = 20.0  # of w


@dataclass(frozen=True, slots=True)
class Space:
    """Where cosines are taken: (embedding - `mean`) @ `directions`, or the embedding itself.

    `mean` is `[width]`, `directions` `[width, directions]`.
    """

    mean: Matrix | None = None
    directions: Matrix | None = None

    def __call__(self, embeddings: Matrix) -> Matrix:
        """Unit vectors, one for each row."""
        points = embeddings
        if self.mean is not None and self.directions is not None:
            points = ((embeddings - self.mean) @ self.directions).astype(np.float32)
        lengths = np.sqrt((points * points).sum(1, keepdims=True, dtype=np.float64))
        units: Matrix = (points / np.maximum(lengths, 1e-30)).astype(np.float32)
        return units


def whitening(sample: Matrix, directions: int = DIRECTIONS) -> Space:
    """The space in which the sample's strongest directions all have variance 1.

    Directions are fewer where the sample has fewer; none that is only rounding is taken.

    Args:
        sample: `[rows, width]`, two rows or more.
        directions: how many to keep.
    """
    mean = sample.mean(0, dtype=np.float64)
    centred = sample - mean
    # Of the two symmetric products the smaller one: both have the same eigenvalues but for zeros.
    wide = centred.shape[1] > len(centred)
    product = centred @ centred.T if wide else centred.T @ centred
    values, vectors = np.linalg.eigh(product)
    strongest = np.flatnonzero(values > max(values[-1], 0.0) * 1e-9)[-directions:]
    values, vectors = values[strongest], vectors[:, strongest]
    if wide:
        vectors = centred.T @ (vectors / np.sqrt(values))
    return Space(mean.astype(np.float32), (vectors * np.sqrt(len(sample) / values)).astype(np.float32))


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
