"""Whether arms differ: takes resampled accuracy curves, yields differences with intervals and an answer.

Every arm is compared with one baseline. The answer goes by intervals that hold at 95 % for all comparisons of
a family together: the largest of the differences, each in units of its own interval, sets their width. Knows
nothing of how an arm was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gaincurate.compare.resample import Resampled
from gaincurate.stats import Floats

Answer = Literal["better", "worse", "no difference seen", "cannot say"]
Interval = tuple[float, float]
MASS = 0.95
_POWER = 0.8416212335729143 / 1.959963984540054  # the normal quantile at 0.8 over that at 0.975


@dataclass(frozen=True, slots=True)
class Difference:
    """An arm's final accuracy less the baseline's.

    `interval` is for this arm alone, `joint` for all comparisons together; the answer goes by `joint`.
    `detectable` is the effect that would be seen in about 8 of 10 such comparisons. All three are None with
    one seed, where nothing tells an arm's effect from a seed's.
    """

    arm: str
    value: float
    interval: Interval | None
    joint: Interval | None
    detectable: float | None
    answer: Answer


@dataclass(frozen=True, slots=True)
class Reached:
    """What an arm spent until its curve reached the baseline's final accuracy.

    `spent` is None where it is not reached; `share` is that of the budget, `ratio` that of what the baseline
    itself had spent when it first was there. An end of an interval is None where it is not reached there;
    `missed` is the part of the draws in which it is not. Intervals are None with one seed.
    """

    arm: str
    spent: float | None
    share: float | None
    ratio: float | None
    share_interval: tuple[float | None, float | None] | None
    ratio_interval: tuple[float | None, float | None] | None
    missed: float | None


def bands(found: Resampled) -> Floats | None:
    """The ends of each curve's own 95 % intervals, `[2, arms, marks]`; None with one seed."""
    if not found.seeds_known:
        return None
    half = _half(found.draws - found.curves)
    return np.clip(np.stack([found.curves - half, found.curves + half]), 0, 1)


def differences(
    arms: Sequence[str], found: Resampled, baseline: str, without: Sequence[str] = ()
) -> list[Difference]:
    """Compare every arm with the baseline at the last mark; one family.

    Args:
        arms: their names, `[arms]`.
        found: their curves.
        baseline: one of the names.
        without: names that are left out.
    """
    base = list(arms).index(baseline)
    others = [place for place, arm in enumerate(arms) if place != base and arm not in without]
    values = found.curves[others, -1] - found.curves[base, -1]
    if not found.seeds_known:
        rows = zip(others, values, strict=True)
        return [Difference(arms[k], float(value), None, None, None, "cannot say") for k, value in rows]
    draws = found.draws[:, others, -1] - found.draws[:, [base], -1] - values
    alone = _half(draws)
    scaled = np.divide(abs(draws), alone, out=np.zeros_like(draws), where=alone > 0)
    critical = max(1.0, float(np.quantile(scaled.max(axis=1), MASS))) if others else 1.0
    return [
        _difference(arms[k], float(value), float(half), critical)
        for k, value, half in zip(others, values, alone, strict=True)
    ]


def _half(draws: Floats) -> Floats:
    """Half the width of 95 % intervals of draws around 0."""
    found: Floats = np.quantile(abs(draws), MASS, axis=0)
    return found


def _difference(arm: str, value: float, half: float, critical: float) -> Difference:
    low, high = value - critical * half, value + critical * half
    answer: Answer = "better" if low > 0 else "worse" if high < 0 else "no difference seen"
    return Difference(
        arm,
        value,
        (max(-1.0, value - half), min(1.0, value + half)),
        (max(-1.0, low), min(1.0, high)),
        (critical + _POWER) * half,
        answer,
    )


def reached(
    arms: Sequence[str], spent: Floats, budget: float, found: Resampled, baseline: str
) -> list[Reached]:
    """What every arm spent to reach the baseline's final accuracy.

    Args:
        arms: their names, `[arms]`.
        spent: at each mark, `[arms, marks]`, not falling: tokens, or seconds.
        budget: what `share` is a share of.
        found: their curves.
        baseline: one of the names.
    """
    base = list(arms).index(baseline)
    own = _walks(spent[base], found, base, base)
    return [_reached(arm, _walks(spent[k], found, k, base), own, budget) for k, arm in enumerate(arms)]


def _walks(spent: Floats, found: Resampled, place: int, base: int) -> Floats:
    """When the target is reached as measured, and in each draw; `[1 + draws]`, infinite where it is not."""
    draws = found.draws if found.seeds_known else found.draws[:0]
    curves = np.concatenate([found.curves[None, place], draws[:, place]])
    targets = np.append(found.curves[base, -1], draws[:, base, -1])
    return np.array([first_reach(spent, c, t) for c, t in zip(curves, targets, strict=True)], np.float64)


def _reached(arm: str, walks: Floats, own: Floats, budget: float) -> Reached:
    with np.errstate(invalid="ignore", divide="ignore"):
        shares, ratios = walks / budget, walks / own
    draws = len(walks) > 1
    return Reached(
        arm,
        _finite(walks[0]),
        _finite(shares[0]),
        _finite(ratios[0]),
        _ends(shares[1:]) if draws else None,
        _ends(ratios[1:]) if draws else None,
        float(np.mean(np.isinf(walks[1:]))) if draws else None,
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _ends(draws: Floats) -> tuple[float | None, float | None]:
    known = draws[~np.isnan(draws)]  # nought over nought: where the model at the start is at the target
    if not len(known):
        return None, None
    low, high = np.quantile(known, [(1 - MASS) / 2, (1 + MASS) / 2], method="nearest")
    return _finite(low), _finite(high)


def first_reach(spent: Floats, curve: Floats, target: float) -> float:
    """Where a curve first is at `target`, in a straight line between marks; infinite if it never is."""
    if curve[0] >= target:
        return float(spent[0])
    for k in range(1, len(curve)):
        if curve[k] >= target:
            share = (target - curve[k - 1]) / (curve[k] - curve[k - 1])
            return float(spent[k - 1] + share * (spent[k] - spent[k - 1]))
    return float("inf")
