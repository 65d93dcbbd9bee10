"""The value of a prompt to a trainer under a Beta posterior of its pass rate, over arrays.

`a` and `b` are a posterior's parameters, `[prompts]` each and over 0: prior and counted successes, prior and
counted failures. All functions use operations of NumPy that round the same everywhere, with logarithms where
a paper has them. SciPy has these functions too, but the package does not depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gaincurate.core.rng import Floats, Ints

_SHIFT = 8  # from here on Stirling's series is exact to 1e-14
_LOG_GAMMA = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)


def expected_variance(a: Floats, b: Floats) -> Floats:
    """The posterior's mean of p (1 - p): a b / ((a + b) (a + b + 1))."""
    return a * b / ((a + b) * (a + b + 1))


def groups_that_differ(a: Floats, b: Floats, size: int) -> Floats:
    """U_G, the chance that `size` rollouts are neither all right nor all wrong.

    1 - (a)_G / (a + b)_G - (b)_G / (a + b)_G with rising factorials (x)_G. MaPP (arXiv 2609.34990) and
    ThinkPrior (arXiv 2609.09075). Products of quotients neither overflow nor need a logarithm.
    """
    right, wrong = np.ones_like(a), np.ones_like(b)
    for step in range(size):
        right *= (a + step) / (a + b + step)
        wrong *= (b + step) / (a + b + step)
    return np.maximum(1 - right - wrong, 0.0)


def group_sizes(a: Floats, b: Floats, least: int, most: int, total: int) -> Ints:
    """Rollouts of each prompt for which the expected number of groups that differ is largest, `[prompts]`.

    One more rollout than n adds E[p^n (1 - p) + (1 - p)^n p] to U_n, the chance that it is the first one that
    differs. This falls with n for every p, so U_n is concave, and taking the largest gains is exact. A prompt
    has from `least`, 1 at least, to `most` rollouts, and all prompts have `total`.
    """
    gains, right, wrong = [], np.ones_like(a), np.ones_like(b)
    for step in range(most):
        if step >= least:
            gains.append((right * b + wrong * a) / (a + b + step))
        right, wrong = right * ((a + step) / (a + b + step)), wrong * ((b + step) / (a + b + step))
    sizes = np.full(len(a), least)
    if gains:  # of equal gains the earliest rollout, then the first prompt
        order = np.argsort(-np.round(np.concatenate(gains), 12), kind="stable")
        sizes += np.bincount(order[: total - least * len(a)] % len(a), minlength=len(a))
    return sizes


def log_evidences(a: Floats, b: Floats, wins: Floats, losses: Floats) -> Floats:
    """The log-likelihood of each prompt's outcomes under its Beta(a, b), up to a term without a and b."""
    return log_beta(a + wins, b + losses) - log_beta(a, b)


def sample(a: Floats, b: Floats, numbers: Callable[[int], Floats]) -> Floats:
    """A number from each Beta(a, b), as X / (X + Y) of two gammas (Marsaglia and Tsang 2000).

    NumPy's own sampler may change with its version, and a plan must not. `numbers` gives the uniforms of a
    stream, `[prompts]`, by its number from 0.
    """
    # Streams of the two do not meet: a gamma takes three for each attempt, and one in its first.
    first = _log_gamma_sample(a, lambda stream: numbers(2 * stream))
    second = _log_gamma_sample(b, lambda stream: numbers(2 * stream + 1))
    with np.errstate(over="ignore"):
        drawn: Floats = 1 / (1 + np.exp(second - first))
    return drawn


def _log_gamma_sample(shape: Floats, numbers: Callable[[int], Floats]) -> Floats:
    """Logs of gamma variates, because those of small shapes underflow."""
    d = np.where(shape < 1, shape + 1, shape) - 1 / 3
    c = 1 / np.sqrt(9 * d)
    logs = np.where(shape < 1, np.log(numbers(0)) / shape, 0.0)
    waiting, stream = np.arange(len(shape)), 1
    while len(waiting):  # nineteen of twenty are taken each time
        u, angle, test = (numbers(stream + part)[waiting] for part in range(3))
        stream += 3
        x = np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * angle)
        v = (1 + c[waiting] * x) ** 3
        log_v = np.log(np.maximum(v, 1e-300))
        good = (v > 0) & (np.log(test) < 0.5 * x * x + d[waiting] * (1 - v + log_v))
        logs[waiting[good]] += np.log(d[waiting[good]]) + log_v[good]
        waiting = waiting[~good]
    return logs


def log_beta(a: Floats, b: Floats) -> Floats:
    """Logarithm of B(a, b)."""
    return log_gamma(a) + log_gamma(b) - log_gamma(a + b)


def log_gamma(x: Floats) -> Floats:
    """Logarithm of Gamma(x) for x over 0, to 1e-13 of its size."""
    product = np.ones_like(x)
    for step in range(_SHIFT):
        product *= x + step
    y = x + _SHIFT
    square, series = 1 / (y * y), np.zeros_like(y)
    for term in reversed(_LOG_GAMMA):
        series = (series + term) * square
    stirling: Floats = (y - 0.5) * np.log(y) - y + 0.5 * math.log(2 * math.pi) - np.log(product)
    return stirling + series * y  # its terms are y^-1, y^-3, ...
