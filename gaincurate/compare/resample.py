"""What other seeds and other prompts would have given: takes accuracies, yields resampled curves.

Prompts are resampled together for all arms, seeds and marks, since all are judged on the same ones. Seeds are
few, so their spread is that of all arms together, but for an arm whose seeds differ far more than others'.
What a seed and a prompt have together, the noise of few samples above all, is counted once: it is in the
spread of the seeds, so it is taken out of that of the prompts. Knows nothing of what an arm is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gaincurate.difficulty.interval import beta_quantile
from gaincurate.schedule.noise import uniforms
from gaincurate.stats import Floats

_PROMPTS, _SEEDS, _SPREAD = 11, 12, 13  # streams of random numbers
_APART = 0.05  # how rarely an arm like the others is taken for one whose seeds differ more


@dataclass(frozen=True, slots=True)
class Resampled:
    """Accuracy curves as measured, `curves` `[arms, marks]`, and `draws` `[draws, arms, marks]` of them.

    `seeds_known` is False with one seed, where the draws hold the prompts' part alone. `apart` are the places
    of arms whose seeds differ far more than the others': each has its own spread, the others have one.
    """

    curves: Floats
    draws: Floats
    seeds_known: bool
    apart: list[int]


def resample(accuracy: Floats, *, draws: int = 2000, seed: int = 0) -> Resampled:
    """Resample seeds and prompts.

    Args:
        accuracy: mean correctness, `[arms, marks, seeds, prompts]`, in [0, 1].
        draws: how many times.
        seed: of the resampling; the same everywhere.
    """
    arms, _, seeds, prompts = accuracy.shape
    curves = accuracy.mean(axis=(2, 3))
    parts = _prompt_parts(accuracy, curves)
    weights = np.empty((draws, prompts))
    for draw in range(draws):
        chosen = (uniforms(seed, draw, _PROMPTS, 0, prompts) * prompts).astype(np.int64)
        weights[draw] = np.bincount(chosen, minlength=prompts) / prompts
    found = curves + np.einsum("amq,dq->dam", parts, weights, optimize=True)
    if seeds == 1:
        return Resampled(curves, found, False, [])
    apart = unlike(accuracy[:, -1].mean(axis=2).var(axis=1), seeds)
    residuals = (accuracy.mean(axis=3) - curves[:, :, None]) * np.sqrt(seeds / (seeds - 1))
    together = [arm for arm in range(arms) if arm not in apart]
    for pool in [together, *([arm] for arm in apart)]:
        found[:, pool] += _seed_parts(residuals[pool], draws, seed, pool[0])
    return Resampled(curves, found, True, apart)


def _prompt_parts(accuracy: Floats, curves: Floats) -> Floats:
    """What each prompt adds to each curve, `[arms, marks, prompts]`, less what is noise of the seeds.

    A prompt's own difficulty, which all arms share, and what an arm makes of it: each is scaled down to the
    variance that it has without the noise.
    """
    arms, _, seeds, prompts = accuracy.shape
    by_prompt: Floats = accuracy.mean(axis=2) - curves[:, :, None]
    shared = by_prompt.mean(axis=0)
    own = by_prompt - shared
    if seeds == 1:
        return by_prompt
    rest = accuracy - accuracy.mean(axis=3, keepdims=True) - by_prompt[:, :, None, :]
    noise = (
        (rest**2).sum(axis=(2, 3)) / ((seeds - 1) * max(prompts - 1, 1)) / seeds
    )  # of an arm's prompt means
    in_shared = noise.mean(axis=0) / arms
    in_own = (1 - 2 / arms) * noise + noise.mean(axis=0) / arms
    return _scaled(shared, in_shared) + _scaled(own, in_own)


def _scaled(parts: Floats, noise: Floats) -> Floats:
    """Parts `[..., prompts]` whose variance is what is left of their own without that of the noise."""
    drawn = (parts**2).mean(axis=-1)  # what drawing them again would give
    left = drawn * parts.shape[-1] / max(parts.shape[-1] - 1, 1) - noise
    factor = np.divide(np.clip(left, 0, None), drawn, out=np.zeros_like(drawn), where=drawn > 0)
    found: Floats = parts * np.sqrt(factor)[..., None]
    return found


def _seed_parts(residuals: Floats, draws: int, seed: int, stream: int) -> Floats:
    """Means of as many residuals as there are seeds, drawn from all arms of a pool, `[draws, arms, marks]`.

    Whole curves at a time. A factor of each draw, which all arms of the pool share, makes them follow
    Student's distribution: their spread is itself estimated, from arms times (seeds - 1) differences.
    """
    arms, marks, seeds = residuals.shape
    pool = residuals.transpose(0, 2, 1).reshape(arms * seeds, marks)
    freedom, found = arms * (seeds - 1), np.empty((draws, arms, marks))
    for draw in range(draws):
        chosen = uniforms(seed, draw, _SEEDS + 16 * stream, 0, arms * seeds) * (arms * seeds)
        means = pool[chosen.astype(np.int64)].reshape(arms, seeds, marks).mean(axis=1)
        found[draw] = means * student(freedom, uniforms(seed, draw, _SPREAD + 16 * stream, 0, freedom + 2))
    return found


def student(freedom: int, numbers: Floats) -> float:
    """What makes a normal number one of Student's distribution: sqrt(freedom / chi squared).

    Args:
        freedom: degrees of freedom, from 1.
        numbers: uniform, freedom / 2 + 2 of them at least.
    """
    pairs = freedom // 2
    chi_squared = -2 * np.log(numbers[:pairs]).sum()
    if freedom % 2:
        chi_squared += -2 * np.log(numbers[pairs]) * np.cos(2 * np.pi * numbers[pairs + 1]) ** 2
    return float(np.sqrt(freedom / chi_squared))


def unlike(variances: Floats, seeds: int) -> list[int]:
    """Arms whose seeds differ far more than the others': Cochran's test, one arm after the other.

    Args:
        variances: between the seeds of each arm, `[arms]`.
        seeds: of each arm.
    """
    left, found = list(range(len(variances))), []
    while len(left) > 2:
        most = max(left, key=lambda arm: float(variances[arm]))
        whole = float(variances[left].sum())
        freedom = (seeds - 1) / 2
        border = beta_quantile(1 - _APART / len(left), freedom, (len(left) - 1) * freedom)
        if whole == 0 or variances[most] / whole <= border:
            break
        left.remove(most)
        found.append(most)
    return sorted(found)
