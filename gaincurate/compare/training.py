"""What happened while an arm was trained: takes its steps, yields shares, means and a correlation.

Knows nothing of accuracy or of other arms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gaincurate.compare.resample import Floats
from gaincurate.core.artifact import Json
from gaincurate.stats import ranks, spearman

Steps = Mapping[str, Floats]
PARTS = 10
"""How many parts of the budget `over_time` tells of."""
_FEWEST = 10  # steps, under which a correlation says nothing


def over_time(trained: Sequence[Steps], budget: float) -> Json:
    """What was generated and met, over all and in tenths of the budget.

    Args:
        trained: the steps of each seed, one at least.
        budget: tokens; a step is in the tenth in which it ended.

    Returns:
        `effective` is the share of prompts whose rollouts differed in reward, `reward` their mean,
        `replayed` the share of trained rollouts that were not generated for their step, `response_tokens`
        the mean length of a generated one; None where nothing is known. `parts` has a row for each tenth.
    """
    together = {name: np.concatenate([steps[name] for steps in trained]) for name in trained[0]}
    part = np.clip(np.ceil(together["tokens"] / budget * PARTS) - 1, 0, PARTS - 1).astype(np.int64)
    parts = []
    for place in range(PARTS):
        there = {name: values[part == place] for name, values in together.items()}
        parts.append({"until": (place + 1) / PARTS, **_means(there)})
    generated, replayed = together["rollouts"].sum(), np.nansum(together["replayed"])
    return {
        **_means(together),
        "rollouts": float(generated / len(trained)),
        "replayed": float(replayed / (generated + replayed)) if generated + replayed else None,
        "response_tokens": float(together["completion_tokens"].sum() / generated) if generated else None,
        "parts": parts,
    }


def _means(steps: Steps) -> Json:
    return {
        "effective": _mean(steps["effective"], steps["prompts"]),
        "reward": _mean(steps["reward"], steps["rollouts"]),
        "grad_norm": _mean(steps["grad_norm"], np.ones_like(steps["grad_norm"])),
        "angle": _mean(steps["angle"], steps["prompts"]),
    }


def _mean(values: Floats, weights: Floats) -> float | None:
    known = np.isfinite(values) & (weights > 0)
    return float(np.average(values[known], weights=weights[known])) if known.any() else None


def with_angle(trained: Sequence[Steps]) -> Json:
    """Rank correlation of the gradient's norm with the mean angle of a step's prompts, mean over seeds.

    Above 0: steps on prompts of a higher angle had larger gradients. `given_step` is the same without what
    both have in common with time: an arm that goes from high to low angles while its gradients shrink for
    other reasons has a correlation of its own making. None where there are too few steps or no angles.
    """
    found = [pair for steps in trained if (pair := _correlations(steps)) is not None]
    if not found:
        return {"spearman": None, "given_step": None, "seeds": 0}
    given = [pair[1] for pair in found if pair[1] is not None]
    return {
        "spearman": float(np.mean([pair[0] for pair in found])),
        "given_step": float(np.mean(given)) if given else None,
        "seeds": len(found),
    }


def _correlations(steps: Steps) -> tuple[float, float | None] | None:
    known = np.isfinite(steps["grad_norm"]) & np.isfinite(steps["angle"])
    norm, angle, step = (steps[name][known] for name in ("grad_norm", "angle", "step"))
    overall = spearman(norm, angle) if known.sum() >= _FEWEST else None
    if overall is None:
        return None
    return overall, spearman_given(norm, angle, step)


def spearman_given(first: Floats, second: Floats, known: Floats) -> float | None:
    """Correlation of the ranks of two columns after a third's ranks have been taken out of both."""
    time = ranks(known)
    time = time - time.mean()
    left = []
    for values in (ranks(first), ranks(second)):
        centred = values - values.mean()
        left.append(centred - time * (centred @ time) / (time @ time))
    a, b = left
    scale = float(np.sqrt((a @ a) * (b @ b)))
    small = 1e-9 * len(time) ** 3  # what rounding leaves of a column that is the third one
    return float(a @ b) / scale if scale > small else None
