"""Intervals without resampling: takes a statistic and each row's influence on it, yields an interval.

A row's influence is the derivative of the statistic by that row's weight, times the number of rows. Its mean
square over the number of rows is the variance that a bootstrap over rows tends to, if drawn without end (the
infinitesimal jackknife), so a million rows cost one pass. Knows nothing of ranks or prompts.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal

import numpy as np

from gaincurate.stats import Estimate, Floats

LEVEL = 0.95
LEAST = 10
"""Fewer rows have no interval."""

Scale = Literal["plain", "fisher", "log"]


def estimate(
    value: float | None,
    influence: Floats,
    *,
    scale: Scale = "plain",
    level: float = LEVEL,
    spent: int = 1,
    least: int = LEAST,
) -> Estimate:
    """A statistic with its interval.

    Args:
        value: the statistic; None where it is not defined.
        influence: each row's, `[rows]`, with mean 0.
        scale: what the interval is symmetric on: "fisher" for correlations, "log" for ratios.
        level: of confidence.
        spent: degrees of freedom that the statistic takes: strata, controls.
        least: fewer rows have no interval.
    """
    rows = len(influence)
    if value is None or rows < least or rows <= spent:
        return Estimate(value, None, None, rows)
    error = math.sqrt(float(np.square(influence).sum()) / rows / (rows - spent))
    low, high = bounds(value, error, scale=scale, level=level, freedom=rows - spent)
    return Estimate(value, low, high, rows)


def bounds(
    value: float, error: float, *, scale: Scale, level: float = LEVEL, freedom: int
) -> tuple[float, float]:
    """The interval of a statistic with this standard error."""
    reach = student(level, freedom) * error
    if scale == "fisher":
        room = 1 - value * value
        if room < 1e-12:
            return value, value
        centre = math.atanh(value)
        return math.tanh(centre - reach / room), math.tanh(centre + reach / room)
    if scale == "log" and value > 0:
        return value * math.exp(-reach / value), value * math.exp(reach / value)
    return value - reach, value + reach


def student(level: float, freedom: int) -> float:
    """How many standard errors an interval reaches to either side.

    Student's quantile by its expansion in 1 / freedom, right to a percent from 8 degrees of freedom on.
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2


def mean(values: Floats, *, level: float = LEVEL) -> Estimate:
    """The mean of `[rows]`."""
    if not len(values):
        return Estimate(None, None, None, 0)
    centre = float(np.mean(values))
    return estimate(centre, values - centre, level=level)
