"""Batches selected by a column against random batches.

The measure is the mean of p (1 - p), which is what GRPO learns from, and not the mean pass rate.
"""

from __future__ import annotations

import numpy as np

from gaincurate.core.stats import DIFFERING, Estimate, Floats, Ranked, Strata, differing, estimate
from gaincurate.report.document import ENDS, Lift
from gaincurate.report.table import LENGTH, Table

SHARE = 0.1
_NEAR = 0.25  # of the share: how far around the border its own mean is taken


def lifts(table: Table) -> list[Lift]:
    """The ends and the middle of each signal and of length, for each column of p (1 - p)."""
    measured = []
    for target in table.names("learnability"):
        outcome = table.values[target]
        for column in [*table.names("signal"), LENGTH]:
            values = table.values[column]
            both = ~(np.isnan(values) | np.isnan(outcome))
            for end in ENDS:
                ratio = lift(_towards(values[both], end), outcome[both])
                measured.append(Lift(column, target, end, SHARE, ratio))
    return measured


def _towards(values: Floats, end: str) -> Floats:
    """Values that are highest where `end` is."""
    if end == "middle" and len(values):
        return -np.abs(Ranked(values, Strata.one(len(values))).scores)
    return -values if end == "lowest" else values


def lift(values: Floats, outcome: Floats, share: float = SHARE) -> Estimate:
    """Mean `outcome` over the `share` of rows with the highest values, over its mean over all rows.

    Rows with the value at the border count in part. `rows` of the estimate are those that were picked.
    """
    rows = len(values)
    overall = float(outcome.mean()) if rows else 0.0
    picked = max(1, round(rows * share))
    if rows < 10 or overall <= 0 or np.ptp(values) == 0:
        return Estimate(None, None, None, min(picked, rows))
    border = np.partition(values, rows - picked)[rows - picked]
    weights = (values > border).astype(float)
    equal = values == border
    weights[equal] = (picked - weights.sum()) / equal.sum()
    part = picked / rows
    top = float(np.mean(weights * outcome)) / part
    # The border moves with the rows too: one more row above it pushes one like those at the border out.
    at_border = _near(values, outcome, picked)
    above = (weights * (outcome - at_border) - np.mean(weights * (outcome - at_border))) / part
    ratio = top / overall
    influence = above / overall - ratio * (outcome - overall) / overall
    interval = estimate(ratio, influence, scale="log", spent=2)
    if picked < 10 or differing(outcome) < DIFFERING:
        return Estimate(ratio, None, None, picked)
    return Estimate(interval.value, interval.low, interval.high, picked)


def _near(values: Floats, outcome: Floats, picked: int) -> float:
    """The mean outcome around the border, all rows with the border's values included."""
    reach = max(1, round(picked * _NEAR))
    low, high = len(values) - picked - reach, min(len(values) - 1, len(values) - picked + reach)
    ends = np.partition(values, (max(0, low), high))[[max(0, low), high]]
    return float(outcome[(values >= ends[0]) & (values <= ends[1])].mean())
