"""Batches selected by a column against random batches, and the calibration of predictions.

The measure is the mean of p (1 - p), which is what GRPO learns from, and not the mean pass rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from gaincurate.core.rng import permutation
from gaincurate.core.schema import EMBEDDING, ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.stats import (
    DIFFERING,
    Estimate,
    Floats,
    Ranked,
    Strata,
    brier,
    correlate,
    differing,
    estimate,
    even_bins,
    mean,
    pearson,
    reliability,
)
from gaincurate.difficulty.metrics import observation_noise
from gaincurate.difficulty.predict import make
from gaincurate.errors import InputError
from gaincurate.report.document import ENDS, Calibration, Lift, Tenths
from gaincurate.report.observed import Observed
from gaincurate.report.table import LENGTH, Table

SHARE = 0.1
PREDICTED = "predicted p(1-p)"
"""The name of the values that `difficulty predict --target variance` selects by."""
_REFERENCES, _DRAW = 256, 21  # as many as `difficulty predict` takes, and the stream that draws them
_LEAST = 5  # rows of a tenth
_NEAR = 0.25  # of the share: how far around the border its own mean is taken


def lifts(table: Table, predicted: Mapping[str, Floats]) -> list[Lift]:
    """The ends and the middle of each signal and of length, for each column of p (1 - p).

    Of a prediction of p (1 - p), `predicted` by the column's name, what is highest is what would be picked.
    """
    measured = []
    for target in table.names("learnability"):
        outcome = table.values[target]
        for column, values in _columns(table, target, predicted).items():
            both = ~(np.isnan(values) | np.isnan(outcome))
            for end in ENDS if column != PREDICTED else ENDS[:1]:
                ratio = lift(_towards(values[both], end), outcome[both])
                measured.append(Lift(column, target, end, SHARE, ratio))
    return measured


def tenths(table: Table, predicted: Mapping[str, Floats]) -> list[Tenths]:
    """Mean p (1 - p) by the tenth of each of these columns; without those with one value alone."""
    measured = []
    for target in table.names("learnability"):
        outcome = table.values[target]
        for column, values in _columns(table, target, predicted).items():
            both = ~(np.isnan(values) | np.isnan(outcome))
            x, y = values[both], outcome[both]
            places = even_bins(x, 10)
            inside = [places == place for place in np.unique(places)]
            if len(x) >= 10 * _LEAST and len(inside) > 1:
                low, high = ([float(end(x[rows])) for rows in inside] for end in (np.min, np.max))
                means = [mean(y[rows]) for rows in inside]
                measured.append(Tenths(column, target, float(y.mean()), low, high, means))
    return measured


def _columns(table: Table, target: str, predicted: Mapping[str, Floats]) -> dict[str, Floats]:
    """Columns to select prompts by: the prediction if there is one, each signal, and length."""
    columns = {name: table.values[name] for name in [*table.names("signal"), LENGTH]}
    return {PREDICTED: predicted[target], **columns} if target in predicted else columns


def predict_variance(scored: ScoredSet, table: Table, observed: Sequence[Observed]) -> dict[str, Floats]:
    """Predictions of `difficulty predict --target variance` by the name of the target column, `[rows]`.

    Each reference is predicted from the half of the references that it is not in, the mean over five splits.
    So nothing of a prompt was seen by what picks it. Other rows are NaN. Nothing without embeddings.
    """
    made = dict[str, Floats]()
    for each in observed if EMBEDDING in scored.schema.names else ():
        name = each.outcome.learnability
        rows = np.flatnonzero(~np.isnan(table.values[name])) if name is not None else np.zeros(0, int)
        if name is None or len(rows) < 10 * _LEAST:
            continue
        rows = rows[np.sort(permutation(0, 0, _DRAW, len(rows))[:_REFERENCES])]
        ids = scored.column(ID).take(pa.array(rows)).to_pylist()
        noise = observation_noise(each.wins[rows], each.losses[rows], "variance")
        try:
            fitted = make("gp", scored, ids, table.values[name][rows], noise=noise, target="variance")
        except InputError as error:  # rows without an embedding, in a set made elsewhere
            table.notes.append(f"No prediction of p (1 - p) beside the scores: {error}")
            return made
        sums, times = np.zeros(len(rows)), np.zeros(len(rows))
        for asked, values in fitted.halves(0):
            sums[asked] += values
            times[asked] += 1
        made[name] = np.full(table.rows, np.nan)
        made[name][rows] = sums / times
    return made


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


def calibration(column: str, predicted: Floats, observed: Observed) -> Calibration | None:
    """A column of predicted failure rates against one policy's; None where no prompt has both."""
    rate = observed.losses / (observed.wins + observed.losses)
    both = ~(np.isnan(predicted) | np.isnan(rate))
    p, y = np.clip(predicted[both], 0.0, 1.0), rate[both]
    if not len(y):
        return None
    stratum = Strata.one(len(y))
    ranks = correlate(Ranked(p, stratum), Ranked(y, stratum))
    square = (p - y) ** 2
    error = mean(square)
    return Calibration(
        column,
        observed.outcome.name,
        _pearson(p, y),
        Estimate(None, None, None, len(y)) if ranks is None else ranks.estimate(),
        Estimate(brier(p, y), error.low, error.high, len(y)),
        float(np.mean((y - y.mean()) ** 2)),
        reliability(p, y),
    )


def _pearson(first: Floats, second: Floats) -> Estimate:
    value = pearson(first, second)
    if value is None:
        return Estimate(None, None, None, len(first))
    a, b = (first - first.mean()) / first.std(), (second - second.mean()) / second.std()
    return estimate(value, a * b - value / 2 * (a * a + b * b), scale="fisher", spent=2)
