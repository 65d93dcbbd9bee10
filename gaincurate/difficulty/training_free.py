"""Prediction of failure rates from embeddings and observed rates, without training.

It is not the paper's predictor, which trains an adapter on policies that were observed before. The Gaussian
process works from the references alone. It reads embeddings, whitened along their 64 strongest directions,
and signals, and it knows the noise of each rate. Its sizes come from a fixed grid, not from an optimiser: no
library is needed for it, and every machine tries the same ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from gaincurate.core.rng import Floats
from gaincurate.difficulty.embeddings import evenly_spaced
from gaincurate.difficulty.metrics import Target

HIGHEST: dict[Target, float] = {"difficulty": 1.0, "variance": 0.25}
"""What is predicted lies between 0 and this."""
VARIANCES = (0.0, 1e-3, 3e-3, 0.01, 0.02, 0.04, 0.08, 0.16, 0.3)
"""Sizes that are tried, where what is predicted lies between 0 and 1. Rates spread by 1/4 at most."""
LENGTHS = (0.5, 1.0, 1.5, 2.2, 3.2, 4.5, 7.0)
_LEAST = 1e-4  # of the part of its own: keeps the matrix regular where rates are known exactly
_GAIN = 1e-6  # of the log likelihood: less is rounding, and might send two machines two ways
_MOST_FOR_SIZES = 512  # references that the sizes are chosen on; their cost grows with the third power


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
