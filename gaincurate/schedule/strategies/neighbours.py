"""Pass rates of the observed prompts that are nearest in whitened embeddings.

Everything is computed in float64, where machines agree to a part in 10^13, and rates are rounded to 10^-9.
So prompts with equal embeddings stay equal, and a round depends on the machine only where two prompts are as
good to that precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gaincurate.core.rng import Floats, Ints

Matrix = npt.NDArray[np.float32]
DIRECTIONS = 64
"""Embeddings are compared along so many of their strongest directions, each scaled to variance 1."""
SAMPLE = 1024
"""Embeddings that the directions are taken from."""
TEMPERATURES = (0.03, 0.1, 0.3)
"""Of the kernel exp(cosine / temperature)."""
_BLOCK = 256  # prompts at once: their cosines stay near the processor
_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Nearest:
    """For each prompt the places of the nearest observed ones, and their cosines, `[prompts, k]` both."""

    places: Ints
    cosines: Floats

    def rates(self, wins: Floats, losses: Floats, temperature: float) -> tuple[Floats, Floats]:
        """The kernel-weighted pass rate of each prompt's neighbours, and the rollouts that it stands on.

        Weights are exp(cosine / temperature), the nearest neighbour's 1, times a neighbour's rollouts.

        Args:
            wins: of the observed prompts.
            losses: of the observed prompts.
            temperature: of the kernel.

        Returns:
            `[prompts]` both.
        """
        kernel = np.exp((self.cosines - self.cosines.max(1, keepdims=True)) / temperature)
        weighted_wins = (kernel * wins[self.places]).sum(1)
        rollouts = (kernel * (wins + losses)[self.places]).sum(1)
        means = np.divide(weighted_wins, rollouts, out=np.zeros_like(rollouts), where=rollouts > 0)
        return np.round(means, _DIGITS), np.round(rollouts, _DIGITS)


class Space:
    """Where cosines are taken: the sample's strongest directions, each scaled to variance 1.

    Args:
        sample: embeddings, `[rows, width]`, two rows or more.
    """

    def __init__(self, sample: Matrix) -> None:
        points = sample.astype(np.float64)
        self._mean = points.mean(0)
        centred = points - self._mean
        # Of the two symmetric products the smaller one: both have the same eigenvalues but for zeros.
        wide = centred.shape[1] > len(centred)
        values, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
        strongest = np.flatnonzero(values > max(values[-1], 0.0) * 1e-9)[-DIRECTIONS:]
        values, vectors = values[strongest], vectors[:, strongest]
        if wide:
            vectors = centred.T @ (vectors / np.sqrt(values))
        self._directions = vectors / np.sqrt(values)

    def __call__(self, embeddings: Matrix) -> Floats:
        """Unit vectors, `[rows, directions]`."""
        points = (embeddings.astype(np.float64) - self._mean) @ self._directions
        lengths = np.sqrt((points * points).sum(1, keepdims=True))
        units: Floats = points / np.maximum(lengths, 1e-30)
        return units


def nearest(points: Floats, rows: Ints, observed: Floats, observed_rows: Ints, count: int) -> Nearest:
    """The nearest observed prompts of each prompt, itself left out.

    Args:
        points: unit vectors of prompts, `[prompts, directions]`.
        rows: their rows, `[prompts]`.
        observed: unit vectors of the observed prompts, two or more.
        observed_rows: theirs.
        count: so many, or all where there are fewer.
    """
    count = min(count, len(observed_rows) - 1)
    ties = np.arange(len(observed_rows)) * -1e-12  # far above rounding, so that all machines take the first
    places, cosines = [], []
    for start in range(0, len(rows), _BLOCK):
        block = points[start : start + _BLOCK] @ observed.T + ties
        block[rows[start : start + _BLOCK, None] == observed_rows] = -2.0  # below any cosine
        near = np.argpartition(block, len(observed_rows) - count, axis=1)[:, -count:]
        places.append(near)
        cosines.append(np.take_along_axis(block, near, 1))
    return Nearest(np.concatenate(places), np.concatenate(cosines))
