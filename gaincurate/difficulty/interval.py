"""Credible intervals of a pass rate: takes wins and losses, yields bounds.

The prior is Jeffreys', Beta(1/2, 1/2), which does not change when pass rates are turned into failure rates.
The interval is equal-tailed. Knows nothing of prompts.
"""

from __future__ import annotations

import math
from functools import lru_cache

PRIOR = 0.5
MASS = 0.95
RULE = "equal-tailed 95 % of the Beta posterior under Jeffreys' prior"

_TINY = 1e-300


@lru_cache(maxsize=4096)
def pass_rate_interval(wins: float, losses: float) -> tuple[float, float]:
    """Lower and upper bound of the pass rate, both inside [0, 1].

    Args:
        wins: sum of the rewards, each from 0 to 1; at least 0.
        losses: sum of one minus the reward; at least 0.

    Raises:
        ValueError: a negative or non-finite count.
    """
    if not (0 <= wins < math.inf and 0 <= losses < math.inf):
        raise ValueError(f"{wins} wins and {losses} losses")
    tail = (1 - MASS) / 2
    a, b = wins + PRIOR, losses + PRIOR
    # The upper bound is one minus the lower one of the failure rate: near 1 it keeps its digits that way.
    return beta_quantile(tail, a, b), 1 - beta_quantile(tail, b, a)


def width(wins: float, losses: float) -> float:
    """How wide the interval is."""
    low, high = pass_rate_interval(wins, losses)
    return high - low


def beta_quantile(share: float, a: float, b: float) -> float:
    """Where the distribution function of Beta(a, b) reaches `share`, by bisection."""
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        if beta_cdf(middle, a, b) < share:
            low = middle
        else:
            high = middle
        if high - low <= 1e-15 * high:
            return (low + high) / 2


def beta_cdf(x: float, a: float, b: float) -> float:
    """The distribution function of Beta(a, b) at `x` (the regularised incomplete beta function)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    # The fraction converges fast on one side of the mean only.
    if x < (a + 1) / (a + b + 2):
        return math.exp(log_front) * _fraction(x, a, b) / a
    return 1.0 - math.exp(log_front) * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of the incomplete beta function, by Lentz's method."""
    c, d = 1.0, 1.0 / _away(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _away(1 + term * d)
            c = _away(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            return value
    raise ArithmeticError(f"the incomplete beta function did not converge at {x} for ({a}, {b})")


def _away(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
