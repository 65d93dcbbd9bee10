"""What other seeds and other prompts would have given: takes accuracies, yields resampled curves.

Prompts are resampled together for all arms and marks, since all arms are judged on the same ones. Seeds are
few, so their spread is taken to be that of all arms together: each arm's mean gets residuals drawn from the
pool of all arms' seeds, whole curves at a time. Knows nothing of what an arm is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gaincurate.difficulty.interval import beta_quantile
from gaincurate.schedule.noise import uniforms

Floats = npt.NDArray[np.float64]
_PROMPTS, _SEEDS = 11, 12  # streams of random numbers


@dataclass(frozen=True, slots=True)
class Resampled:
    """Accuracy curves as measured, `curves` `[arms, marks]`, and `draws` `[draws, arms, marks]` of them.

    `widening` is what an interval of the draws has to be widened by because the seeds' spread is itself
    estimated: Student's quantile over the normal one, for the degrees of freedom that all arms' seeds have.
    """

    curves: Floats
    draws: Floats
    widening: float

    @property
    def seeds_known(self) -> bool:
        """Whether there was more than one seed, without which the draws hold the prompts' part alone."""
        return math.isfinite(self.widening)


def resample(accuracy: Floats, *, draws: int = 2000, seed: int = 0) -> Resampled:
    """Resample seeds and prompts.

    Args:
        accuracy: mean correctness, `[arms, marks, seeds, prompts]`, in [0, 1].
        draws: how many times.
        seed: of the resampling; the same everywhere.
    """
    arms, marks, seeds, prompts = accuracy.shape
    curves = accuracy.mean(axis=(2, 3))
    by_prompt = accuracy.mean(axis=2) - curves[:, :, None]
    by_seed = accuracy.mean(axis=3) - curves[:, :, None]
    pool = by_seed.transpose(0, 2, 1).reshape(arms * seeds, marks)
    if seeds > 1:
        pool = pool * np.sqrt(seeds / (seeds - 1))  # residuals are smaller than errors by this
    found = np.empty((draws, arms, marks))
    for place in range(draws):
        chosen = _places(seed, place, _PROMPTS, prompts, prompts)
        weights = np.bincount(chosen, minlength=prompts) / prompts
        found[place] = curves + by_prompt @ weights
        if seeds > 1:
            residuals = pool[_places(seed, place, _SEEDS, arms * seeds, arms * seeds)]
            found[place] += residuals.reshape(arms, seeds, marks).mean(axis=1)
    return Resampled(curves, found, _widening(arms * (seeds - 1)))


def _places(seed: int, draw: int, stream: int, below: int, count: int) -> npt.NDArray[np.int64]:
    return (uniforms(seed, draw, stream, 0, count) * below).astype(np.int64)


def _widening(freedom: int) -> float:
    """Student's 97.5 % quantile over the normal one; infinite without a degree of freedom."""
    if freedom < 1:
        return float("inf")
    # With T of Student's distribution, freedom / (freedom + T^2) is Beta(freedom / 2, 1 / 2).
    lower = beta_quantile(0.05, freedom / 2, 0.5)
    return float(np.sqrt(freedom * (1 - lower) / lower) / 1.959963984540054)
