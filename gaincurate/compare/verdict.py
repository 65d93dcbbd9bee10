"""Whether arms differ: takes accuracy curves at token marks, yields differences with intervals and a verdict.

Every arm is compared with one baseline. Intervals are 95 % for all comparisons together: the largest of the
standardised differences over the arms sets their width. Knows nothing of how an arm was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gaincurate.compare.resample import Floats, Resampled, resample

Answer = Literal["better", "worse", "no difference seen", "cannot say"]
_MASS = 0.95


@dataclass(frozen=True, slots=True)
class Difference:
    """An arm's final accuracy less the baseline's.

    `interval` is for this arm alone, `joint` for all comparisons together; the verdict goes by `joint`. Both
    are None with one seed, where nothing tells an arm's effect from a seed's.
    """

    arm: str
    value: float
    interval: tuple[float, float] | None
    joint: tuple[float, float] | None
    answer: Answer


@dataclass(frozen=True, slots=True)
class Reached:
    """Tokens until an arm's curve reaches the baseline's final accuracy.

    `tokens` and `share` (of the budget) are None where it is not reached. `interval` is of the share, an end
    None where it is not reached there; `missed` is the part of the draws that do not reach it.
    """

    arm: str
    tokens: float | None
    share: float | None
    interval: tuple[float | None, float | None] | None
    missed: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """All comparisons with `baseline`; `target` is its final accuracy."""

    baseline: str
    target: float
    seeds: int
    prompts: int
    final: dict[str, tuple[float, tuple[float, float] | None]]
    differences: list[Difference]
    reached: list[Reached]


def judge(
    arms: Sequence[str], tokens: Floats, accuracy: Floats, baseline: str = "uniform", *, seed: int = 0
) -> Verdict:
    """Compare every arm with the baseline.

    Args:
        arms: their names, `[arms]`.
        tokens: generated tokens at each mark, `[marks]`, rising, from 0.
        accuracy: mean correctness on held-out prompts, `[arms, marks, seeds, prompts]`, in [0, 1].
        baseline: one of the names.
        seed: of the resampling.

    Raises:
        ValueError: the shapes do not fit, or there is no such arm.
    """
    if accuracy.shape[:2] != (len(arms), len(tokens)):
        raise ValueError(f"{accuracy.shape} for {len(arms)} arms and {len(tokens)} marks")
    base = list(arms).index(baseline)
    found = resample(accuracy, seed=seed)
    others = [place for place in range(len(arms)) if place != base]
    return Verdict(
        baseline,
        float(found.curves[base, -1]),
        accuracy.shape[2],
        accuracy.shape[3],
        {arm: (float(found.curves[k, -1]), _final(found, k)) for k, arm in enumerate(arms)},
        _differences(arms, found, base, others),
        [_reached(arms[k], tokens, found, k, base) for k in range(len(arms))],
    )


def _final(found: Resampled, place: int) -> tuple[float, float] | None:
    if not found.seeds_known:
        return None
    return _interval(float(found.curves[place, -1]), found.draws[:, place, -1], found.widening)


def _interval(value: float, draws: Floats, widening: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - _MASS) / 2, (1 + _MASS) / 2])
    return float(value + (low - value) * widening), float(value + (high - value) * widening)


def _differences(arms: Sequence[str], found: Resampled, base: int, others: Sequence[int]) -> list[Difference]:
    values = found.curves[others, -1] - found.curves[base, -1]
    if not found.seeds_known:
        return [
            Difference(arms[k], float(value), None, None, "cannot say")
            for k, value in zip(others, values, strict=True)
        ]
    draws = found.draws[:, others, -1] - found.draws[:, [base], -1]
    spread = draws.std(axis=0)
    scaled = np.divide(abs(draws - values), spread, out=np.zeros_like(draws), where=spread > 0)
    critical = float(np.quantile(scaled.max(axis=1), _MASS)) if others else 0.0
    rows = []
    for column, k in enumerate(others):
        value, width = float(values[column]), critical * float(spread[column]) * found.widening
        joint = (value - width, value + width)
        answer: Answer = "better" if joint[0] > 0 else "worse" if joint[1] < 0 else "no difference seen"
        alone = _interval(value, draws[:, column], found.widening)
        rows.append(Difference(arms[k], value, alone, joint, answer))
    return rows


def _reached(arm: str, tokens: Floats, found: Resampled, place: int, base: int) -> Reached:
    budget = float(tokens[-1])
    when = first_reach(tokens, found.curves[place], float(found.curves[base, -1]))
    if not found.seeds_known:
        return Reached(arm, when, None if when is None else when / budget, None, 0.0 if when else 1.0)
    draws = [
        first_reach(tokens, curve, target)
        for curve, target in zip(found.draws[:, place], found.draws[:, base, -1], strict=True)
    ]
    shares = np.array([np.inf if draw is None else draw / budget for draw in draws])
    low, high = np.quantile(shares, [(1 - _MASS) / 2, (1 + _MASS) / 2], method="nearest")
    return Reached(
        arm,
        when,
        None if when is None else when / budget,
        (_reachable(low), _reachable(high)),
        float(np.mean(np.isinf(shares))),
    )


def _reachable(share: float) -> float | None:
    return float(share) if np.isfinite(share) else None


def first_reach(tokens: Floats, curve: Floats, target: float) -> float | None:
    """Tokens at which a curve first is at `target`, in a straight line between marks; None if it never is."""
    if curve[0] >= target:
        return float(tokens[0])
    for k in range(1, len(curve)):
        if curve[k] >= target:
            share = (target - curve[k - 1]) / (curve[k] - curve[k - 1])
            return float(tokens[k - 1] + share * (tokens[k] - tokens[k - 1]))
    return None
