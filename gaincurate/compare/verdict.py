"""Whether arms differ: differences with intervals, for these tasks or for other tasks like them.

Arms are compared in pairs, and pairs that are shown together are a family. The answer goes by intervals that
hold at 95 % for the whole family. There are two claims, and each has a method of its own.

- "these tasks": other seeds and other prompts of the same tasks, resampled. Prompts are drawn within their
  tasks and together for all arms, seeds and marks, because all are judged on the same ones. The largest of
  the differences, each in units of its own interval, sets the width.
- "other tasks like these": other seeds, prompts and tasks. Each task is one observation of a difference. The
  intervals are Student's, because a percentile bootstrap of a dozen tasks is too narrow. Bonferroni's
  correction makes them hold for the family.

Seeds are few, so their spread is estimated from all arms together, except for an arm whose seeds differ far
more than the others'. The interaction of seeds with prompts or tasks is part of the spread of the seeds, so
it is subtracted from the spread of prompts or tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gaincurate.core.rng import Floats, Ints, uniforms
from gaincurate.difficulty.metrics import beta_quantile

Answer = Literal["better", "worse", "no difference seen", "cannot say"]
Claim = Literal["these tasks", "other tasks like these"]
THESE: Claim = "these tasks"
OTHERS: Claim = "other tasks like these"
Pairs = Sequence[tuple[int, int]]  # the places of arms, and of the arm that each is compared with
MASS = 0.95
FEWEST_TASKS = 5  # with fewer, by `task_count`, there is no claim about other tasks
_POWER = 0.8416212335729143 / 1.959963984540054  # the normal quantile at 0.8 over that at 0.975
_PROMPTS, _SEEDS, _SPREAD = 11, 12, 13  # streams of random numbers
_APART = 0.05  # level of the test in `unlike`


@dataclass(frozen=True, slots=True)
class Difference:
    """An arm's final accuracy less that of the arm it is compared with.

    `interval` is for this arm alone, `joint` for all comparisons together; the answer goes by `joint`.
    `detectable` is the effect that would be seen in about 8 of 10 such comparisons. All three are None with
    one seed, because an arm's effect cannot be separated from the seed's.
    """

    arm: str
    value: float
    interval: tuple[float, float] | None
    joint: tuple[float, float] | None
    detectable: float | None
    answer: Answer


@dataclass(frozen=True, slots=True)
class Reached:
    """The cost of an arm until its curve reached the baseline's final accuracy.

    `spent` is None if it did not. `share` is `spent` over the budget, `ratio` is `spent` over the baseline's
    own cost until then. An end of an interval is None if the accuracy is not reached there; `missed` is the
    share of draws that do not reach it. Intervals are None with one seed.
    """

    arm: str
    spent: float | None
    share: float | None
    ratio: float | None
    share_interval: tuple[float | None, float | None] | None
    ratio_interval: tuple[float | None, float | None] | None
    missed: float | None


def bands(resampled: Resampled) -> Floats | None:
    """The ends of each curve's own 95 % intervals, `[2, arms, marks]`; None with one seed."""
    if not len(resampled.draws):
        return None
    half = np.quantile(abs(resampled.draws - resampled.curves), MASS, axis=0)
    return np.clip(np.stack([resampled.curves - half, resampled.curves + half]), 0, 1)


def pairs_with(arms: Sequence[str], baseline: str, without: Sequence[str] = ()) -> list[tuple[int, int]]:
    """Every arm but those left out, with the baseline."""
    base = list(arms).index(baseline)
    return [(place, base) for place, arm in enumerate(arms) if place != base and arm not in without]


def differences(arms: Sequence[str], resampled: Resampled, pairs: Pairs) -> list[Difference]:
    """Compare arms at the last mark, for these tasks; the pairs are one family."""
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    values = resampled.curves[first, -1] - resampled.curves[second, -1]
    if not len(resampled.draws):
        return _unknown(arms, pairs, values)
    if not len(pairs):
        return []
    draws = resampled.draws[:, first, -1] - resampled.draws[:, second, -1] - values
    alone = np.quantile(abs(draws), MASS, axis=0)
    scaled = np.divide(abs(draws), alone, out=np.zeros_like(draws), where=alone > 0)
    critical = max(1.0, float(np.quantile(scaled.max(axis=1), MASS)))
    return [
        _difference(arms[k], float(value), float(half), critical * float(half), _POWER * float(half))
        for k, value, half in zip(first, values, alone, strict=True)
    ]


def differences_over_tasks(
    arms: Sequence[str], accuracy: Floats, tasks: Ints, pairs: Pairs, apart: Sequence[int] = ()
) -> list[Difference]:
    """Compare arms at the last mark, for other tasks like these; one family.

    A difference is a sum over tasks of what each task adds to it. Its variance over tasks is that of a ratio
    of sums, because another task has another number of prompts. The variance of whole seeds is added.

    Args:
        arms: their names.
        accuracy: mean correctness at the last mark, `[arms, seeds, prompts]`, in [0, 1].
        tasks: each prompt's task from 0, `[prompts]`; every number up to the largest has a prompt.
        pairs: one family.
        apart: places of arms whose seeds have a spread of their own, as `Resampled` has them.

    Raises:
        ValueError: all prompts are of one task.
    """
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    seeds, prompts = accuracy.shape[1:]
    whole = accuracy.mean(axis=2)  # [arms, seeds]
    values = whole.mean(axis=1)[first] - whole.mean(axis=1)[second]
    if seeds == 1:
        return _unknown(arms, pairs, values)
    sizes = np.bincount(tasks)
    if len(sizes) < 2:
        raise ValueError("one task gives no evidence about others")
    member = np.eye(len(sizes))[tasks]  # [prompts, tasks]
    parts = (accuracy @ member - whole[:, :, None] * sizes) / prompts  # [arms, seeds, tasks], sums to 0
    correction = len(sizes) / (len(sizes) - 1)
    by_task = parts.mean(axis=1)
    over_tasks = correction * ((by_task[first] - by_task[second]) ** 2).sum(axis=1)
    # Of each arm's mean: what its seeds make of it, and how much of that is in `over_tasks` already.
    of_seeds = whole.var(axis=1, ddof=1) / seeds
    of_both = correction * ((parts - by_task[:, None]) ** 2).sum(axis=(1, 2)) / (seeds * (seeds - 1))
    left = np.empty(len(arms))
    for pool in _pools(len(arms), apart):
        left[pool] = max(0.0, float(of_seeds[pool].mean() - of_both[pool].mean()))
    errors = np.sqrt(over_tasks + left[first] + left[second])
    rows = []
    for (k, base), value, error in zip(pairs, values, errors, strict=True):
        freedom = task_count(tasks) - 1
        if k in apart or base in apart:
            freedom = min(freedom, seeds - 1.0)
        alone, joint = (student_quantile(1 - (1 - MASS) / m, freedom) * float(error) for m in (1, len(pairs)))
        power = student_quantile(0.6, freedom) * float(error)  # 0.8 of one side
        rows.append(_difference(arms[k], float(value), alone, joint, power))
    return rows


def task_count(tasks: Ints) -> float:
    """The effective number of tasks, as if all had equal size (Kish): (sum n)^2 / sum n^2.

    Where one task has most of the prompts, Student's t with the plain count is too narrow.
    """
    sizes = np.bincount(tasks).astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def student_quantile(mass: float, freedom: float) -> float:
    """How far Student's distribution holds `mass` to both sides of 0 together."""
    x = beta_quantile(mass, 0.5, freedom / 2)
    return math.sqrt(freedom * x / (1 - x))


def _unknown(arms: Sequence[str], pairs: Pairs, values: Floats) -> list[Difference]:
    """With one seed."""
    rows = zip(pairs, values, strict=True)
    return [Difference(arms[k], float(value), None, None, None, "cannot say") for (k, _), value in rows]


def _pools(arms: int, apart: Sequence[int]) -> list[list[int]]:
    """The places of arms whose seeds share one spread, pool by pool."""
    return [[arm for arm in range(arms) if arm not in apart], *([arm] for arm in apart)]


def _difference(arm: str, value: float, alone: float, joint: float, power: float) -> Difference:
    """With half the widths of both intervals, and what a difference must have beyond the joint one."""
    low, high = value - joint, value + joint
    answer: Answer = "better" if low > 0 else "worse" if high < 0 else "no difference seen"
    return Difference(
        arm,
        value,
        (max(-1.0, value - alone), min(1.0, value + alone)),
        (max(-1.0, low), min(1.0, high)),
        joint + power,
        answer,
    )


def reached(
    arms: Sequence[str], spent: Floats, budget: float, resampled: Resampled, baseline: str
) -> list[Reached]:
    """The cost of every arm to reach the baseline's final accuracy.

    Args:
        arms: their names, `[arms]`.
        spent: at each mark, `[arms, marks]`, not falling: tokens, or seconds.
        budget: what `share` is a share of.
        resampled: their curves.
        baseline: one of the names.
    """
    base = list(arms).index(baseline)
    # When the target is reached as measured, and in each draw, `[arms, 1 + draws]`; infinite where never.
    curves = np.concatenate([resampled.curves[None], resampled.draws])
    walks = np.array(
        [[first_reach(spent[k], curve[k], curve[base, -1]) for curve in curves] for k in range(len(arms))]
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        shares, ratios = walks / budget, walks / walks[base]
    rows = []
    for arm, walk, share, ratio in zip(arms, walks, shares, ratios, strict=True):
        missed = float(np.mean(np.isinf(walk[1:]))) if len(resampled.draws) else None
        measured = _finite(walk[0]), _finite(share[0]), _finite(ratio[0])
        rows.append(Reached(arm, *measured, _ends(share[1:]), _ends(ratio[1:]), missed))
    return rows


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _ends(draws: Floats) -> tuple[float | None, float | None] | None:
    if not len(draws):
        return None
    defined = draws[~np.isnan(draws)]  # 0 / 0: the model at the start is at the target
    if not len(defined):
        return None, None
    low, high = np.quantile(defined, [(1 - MASS) / 2, (1 + MASS) / 2], method="nearest")
    return _finite(low), _finite(high)


def first_reach(spent: Floats, curve: Floats, target: float) -> float:
    """The cost at which a curve first reaches `target`, linear between marks; infinite if it never does."""
    k = int(np.argmax(curve >= target))
    if curve[k] < target:
        return math.inf
    if k == 0:
        return float(spent[0])
    share = (target - curve[k - 1]) / (curve[k] - curve[k - 1])
    return float(spent[k - 1] + share * (spent[k] - spent[k - 1]))


@dataclass(frozen=True, slots=True)
class Resampled:
    """Accuracy curves as measured, `curves` `[arms, marks]`, and `draws` `[draws, arms, marks]` of them.

    With one seed, whose spread is not known, there are no draws. `apart` are the places of arms whose seeds
    differ far more than the others': each has its own spread, the others have one.
    """

    curves: Floats
    draws: Floats
    apart: list[int]


def resample(accuracy: Floats, tasks: Ints | None = None, *, draws: int = 2000) -> Resampled:
    """Resample seeds, and prompts within their tasks.

    `accuracy` is mean correctness, `[arms, marks, seeds, prompts]`, in [0, 1], and `tasks` are each prompt's
    task from 0, `[prompts]`; None where all are of one.
    """
    arms, _, seeds, prompts = accuracy.shape
    tasks = np.zeros(prompts, np.int64) if tasks is None else tasks
    curves = accuracy.mean(axis=(2, 3))
    if seeds == 1:
        return Resampled(curves, np.empty((0, *curves.shape)), [])
    parts = _prompt_parts(accuracy, tasks)
    order, sizes = np.argsort(tasks, kind="stable"), np.bincount(tasks)
    begins, size = (np.repeat(each, sizes) for each in (np.cumsum(sizes) - sizes, sizes))
    weights = np.empty((draws, prompts))
    for draw in range(draws):
        places = begins + (uniforms(0, draw, _PROMPTS, 0, prompts) * size).astype(np.int64)
        weights[draw] = np.bincount(order[places], minlength=prompts) / prompts
    drawn = curves + np.einsum("amq,dq->dam", parts, weights, optimize=True)
    apart = unlike(accuracy[:, -1].mean(axis=2).var(axis=1), seeds)
    residuals = (accuracy.mean(axis=3) - curves[:, :, None]) * np.sqrt(seeds / (seeds - 1))
    for pool in _pools(arms, apart):
        drawn[:, pool] += _seed_parts(residuals[pool], draws, pool[0])
    return Resampled(curves, drawn, apart)


def _prompt_parts(accuracy: Floats, tasks: Ints) -> Floats:
    """The part of each prompt in each curve, `[arms, marks, prompts]`, less the noise of the seeds.

    A prompt's own difficulty within its task, which all arms share, and what an arm makes of it: each is
    scaled down to the variance that it has without the noise.
    """
    arms, _, seeds, _ = accuracy.shape
    sizes = np.bincount(tasks)
    freedom = max(len(tasks) - len(sizes), 1)
    member = np.eye(len(sizes))[tasks]  # [prompts, tasks]

    def within(values: Floats) -> Floats:
        return np.asarray(values - (values @ member / sizes)[..., tasks])

    by_prompt = within(accuracy.mean(axis=2))
    shared = by_prompt.mean(axis=0)
    per_arm = by_prompt - shared
    rest = within(accuracy) - by_prompt[:, :, None, :]
    noise = (rest**2).sum(axis=(2, 3)) / ((seeds - 1) * freedom) / seeds  # of an arm's prompt means
    in_shared = noise.mean(axis=0) / arms
    in_own = (1 - 2 / arms) * noise + noise.mean(axis=0) / arms
    return _scaled(shared, in_shared, freedom) + _scaled(per_arm, in_own, freedom)


def _scaled(parts: Floats, noise: Floats, freedom: int) -> Floats:
    """Parts `[..., prompts]`, scaled so that their variance is their own less that of the noise."""
    drawn = (parts**2).mean(axis=-1)  # what drawing them again would give
    left = drawn * parts.shape[-1] / freedom - noise
    factor = np.divide(np.clip(left, 0, None), drawn, out=np.zeros_like(drawn), where=drawn > 0)
    return np.asarray(parts * np.sqrt(factor)[..., None])


def _seed_parts(residuals: Floats, draws: int, stream: int) -> Floats:
    """Means of as many residuals as there are seeds, drawn from all arms of a pool, `[draws, arms, marks]`.

    Whole curves at a time. A factor of each draw, which all arms of the pool share, makes them follow
    Student's distribution: their spread is itself estimated, from arms times (seeds - 1) differences.
    """
    arms, marks, seeds = residuals.shape
    pool = residuals.transpose(0, 2, 1).reshape(arms * seeds, marks)
    freedom, parts = arms * (seeds - 1), np.empty((draws, arms, marks))
    for draw in range(draws):
        chosen = uniforms(0, draw, _SEEDS + 16 * stream, 0, arms * seeds) * (arms * seeds)
        means = pool[chosen.astype(np.int64)].reshape(arms, seeds, marks).mean(axis=1)
        parts[draw] = means * student(freedom, uniforms(0, draw, _SPREAD + 16 * stream, 0, freedom + 2))
    return parts


def student(freedom: int, numbers: Floats) -> float:
    """The factor that turns a normal number into one of Student's distribution: sqrt(freedom / chi squared).

    It needs freedom / 2 + 2 uniform numbers or more.
    """
    pairs = freedom // 2
    chi_squared = -2 * np.log(numbers[:pairs]).sum()
    if freedom % 2:
        chi_squared += -2 * np.log(numbers[pairs]) * np.cos(2 * np.pi * numbers[pairs + 1]) ** 2
    return float(np.sqrt(freedom / chi_squared))


def unlike(variances: Floats, seeds: int) -> list[int]:
    """Arms whose seeds differ far more than the others': Cochran's test, one arm after the other.

    `variances` are those between the seeds of each arm, `[arms]`.
    """
    left, apart = list(range(len(variances))), []
    while len(left) > 2:
        most = max(left, key=lambda arm: float(variances[arm]))
        whole = float(variances[left].sum())
        freedom = (seeds - 1) / 2
        border = beta_quantile(1 - _APART / len(left), freedom, (len(left) - 1) * freedom)
        if whole == 0 or variances[most] / whole <= border:
            break
        left.remove(most)
        apart.append(most)
    return sorted(apart)
