"""What a comparison says: takes its results, yields one document of plain values and a sentence for each arm.

Knows nothing of how it is shown.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from gaincurate.compare.harness import Results
from gaincurate.compare.resample import Floats
from gaincurate.compare.verdict import Difference, Reached, Verdict, judge
from gaincurate.shards import Json
from gaincurate.stats import spearman

BASELINE = "uniform"


def document(results: Results) -> Json:
    """All measures; the same results give the same document.

    Returns:
        `sentences`, `verdict` (see `compare.verdict`), `curves` by arm (mean over seeds at each mark), `arms`
        with what each cost and gave, and `setting`.
    """
    tokens = marks_of(results)
    verdict = judge(results.arms, tokens, results.accuracy, BASELINE)
    reached = {found.arm: found for found in verdict.reached}
    comparison = results.comparison
    return {
        "setting": {
            "comparison": comparison.model_dump(mode="json"),
            "seeds": results.seeds,
            "heldout_prompts": len(results.prompts),
            "samples": comparison.evaluation.samples,
        },
        "sentences": [sentence(verdict, found, reached[found.arm]) for found in verdict.differences],
        "verdict": asdict(verdict),
        "marks": tokens.tolist(),
        "curves": {arm: results.accuracy[k].mean(axis=(1, 2)).tolist() for k, arm in enumerate(results.arms)},
        "arms": {arm: _arm(results, k) for k, arm in enumerate(results.arms)},
    }


def marks_of(results: Results) -> Floats:
    """Generated tokens at the marks, `[1 + marks]`: 0, then those that were asked for."""
    return np.array([0, *results.comparison.mark_tokens], np.float64)


def _arm(results: Results, place: int) -> Json:
    right, samples = results.right[place, -1], results.samples[place, -1]
    logs = [entry for seed in results.seeds for entry in results.logs[results.arms[place], seed]]
    return {
        "accuracy_by_seed": results.accuracy[place, -1].mean(axis=1).tolist(),
        "pass_at": {
            str(k): float(np.mean(pass_at(right, samples, k))) for k in range(1, int(samples.min()) + 1)
        },
        "response_tokens": results.lengths[place].mean(axis=1).tolist(),
        "tokens_at_marks": results.tokens[place].mean(axis=1).tolist(),
        "steps": results.steps[place, -1].tolist(),
        "training_seconds": results.seconds[results.arms[place]],
        "effective_share": _mean(
            [1 - e["frac_reward_zero_std"] for e in logs if "frac_reward_zero_std" in e]
        ),
        "gradient_norm": _mean([e["grad_norm"] for e in logs if "grad_norm" in e]),
        "gradient_norm_with_angle": _with_angle(logs),
    }


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _with_angle(logs: list[Json]) -> float | None:
    """Spearman of the gradient's norm with the mean angle of the round before it, over logged steps."""
    pairs = [(e["grad_norm"], e[_ANGLE]) for e in logs if "grad_norm" in e and _ANGLE in e]
    return spearman(*map(list, zip(*pairs, strict=True))) if pairs else None


_ANGLE = "gaincurate/concentration"


def pass_at(right: Floats, samples: Floats, k: int) -> Floats:
    """The chance that one of k answers is right, estimated without bias from `right` of `samples`.

    1 - C(n - c, k) / C(n, k), which is exact for k drawn without replacement from the n.
    """
    missed = np.ones_like(right)
    for i in range(k):
        missed *= np.clip(samples - right - i, 0, None) / (samples - i)
    return 1 - missed


def sentence(verdict: Verdict, found: Difference, reached: Reached) -> str:
    """What a newcomer should know of an arm."""
    points = f"{100 * found.value:+.1f} points of held-out accuracy against {verdict.baseline}"
    if found.joint is None:
        return (
            f"{found.arm}: cannot say. {points} with one seed, and nothing tells a strategy's effect from a "
            "seed's; give at least three."
        )
    low, high = found.joint
    span = f"({100 * low:+.1f} to {100 * high:+.1f})"
    if found.answer == "no difference seen":
        least = 100 * max(abs(low), abs(high))
        return (
            f"{found.arm}: no difference seen. {points} {span}: with {verdict.seeds} seeds and "
            f"{verdict.prompts:,} prompts an effect of up to {least:.1f} points could hide here."
        )
    return f"{found.arm}: {found.answer}. {points} {span}. {_tokens(verdict, reached)}"


def _tokens(verdict: Verdict, reached: Reached) -> str:
    if reached.share is None or reached.interval is None:
        return f"It does not reach {verdict.baseline}'s final accuracy within the budget."
    low, high = reached.interval
    upper = "never" if high is None else f"{100 * high:.0f} %"
    lower = "never" if low is None else f"{100 * low:.0f} %"
    return (
        f"It reaches {verdict.baseline}'s final accuracy with {100 * reached.share:.0f} % of the tokens "
        f"({lower} to {upper})."
    )


def rows(found: Json) -> list[dict[str, Any]]:
    """The table that is shown: an arm a row, best first."""
    verdict = found["verdict"]
    reached = {entry["arm"]: entry for entry in verdict["reached"]}
    answers = {entry["arm"]: entry for entry in verdict["differences"]}
    made = [
        {
            "arm": arm,
            "accuracy": verdict["final"][arm][0],
            "difference": answers[arm]["value"] if arm in answers else None,
            "joint": answers[arm]["joint"] if arm in answers else None,
            "answer": answers[arm]["answer"] if arm in answers else "the baseline",
            "tokens": reached[arm]["share"],
            "effective": found["arms"][arm]["effective_share"],
            "seconds": found["arms"][arm]["training_seconds"],
        }
        for arm in verdict["final"]
    ]
    return sorted(made, key=lambda row: -row["accuracy"])
