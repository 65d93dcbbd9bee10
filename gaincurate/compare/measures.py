"""What a comparison says: takes its results, yields one document of plain values.

The document is all that is shown of a comparison, in the terminal, as JSON and on a page; the same results
give the same document. Knows nothing of how it is shown.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gaincurate.compare.resample import Floats, Resampled, resample
from gaincurate.compare.results import Results
from gaincurate.compare.sentences import about_arm, about_length, headline, notes
from gaincurate.compare.training import over_time, with_angle
from gaincurate.compare.verdict import Difference, Reached, bands, differences, reached
from gaincurate.core.artifact import Json

BASELINE, SECOND = "uniform", "length"
FORMAT = 1
_UNSET = {"options": {}, "rescore": {}, "spent_before": 0}  # of an arm's settings: nothing was asked for


def document(results: Results) -> Json:
    """All measures.

    Returns:
        `setting`; `headline`, `against_length` and `notes`, sentences; `arms`, a list with what each one cost
        and gave and a `sentence`. Shares and accuracies are from 0 to 1, intervals `[low, high]` or None.
    """
    comparison, arms = results.comparison, results.arms
    found = resample(results.accuracy)
    spent = {name: results.costs[name].mean(axis=2) for name in ("tokens", "seconds")}
    budget = float(comparison["budget_tokens"])
    compared = {
        "difference": _by_arm(differences(arms, found, BASELINE)),
        "against_length": _by_arm(differences(arms, found, SECOND, without=[BASELINE])),
        "reached": _by_arm(reached(arms, spent["tokens"], budget, found, BASELINE)),
        "reached_seconds": _by_arm(reached(arms, spent["seconds"], budget, found, BASELINE)),
    }
    made = [_arm(results, place, found, compared) for place in range(len(arms))]
    whole: Json = {
        "format": FORMAT,
        "setting": setting(results),
        "learned": learned(found, arms.index(BASELINE)),
        "apart": [arms[place] for place in found.apart],
        "arms": made,
    }
    for arm in made:
        arm["sentence"] = about_arm(whole, arm)
    said = {
        "headline": headline(whole),
        "against_length": about_length(whole),
        "notes": notes(whole, results.left_out),
    }
    return whole | said


def setting(results: Results) -> Json:
    """What was compared, and on what."""
    comparison = results.comparison
    return {
        "comparison": comparison,
        "model": results.facts.get("model"),
        "sets": results.facts.get("sets"),
        "baseline": BASELINE,
        "second": SECOND,
        "seeds": results.seeds,
        "seeds_count": len(results.seeds),
        "prompts": len(results.prompts),
        "samples": int(comparison["evaluation"]["samples"]),
        "budget_tokens": int(comparison["budget_tokens"]),
    }


def learned(found: Resampled, base: int) -> Json:
    """What training alone gave: the baseline's final accuracy less that of the start."""
    value = float(found.curves[base, -1] - found.curves[base, 0])
    if not found.seeds_known:
        return {"value": value, "interval": None}
    half = np.quantile(abs(found.draws[:, base, -1] - found.draws[:, base, 0] - value), 0.95)
    return {"value": value, "interval": [value - float(half), value + float(half)]}


def _by_arm(rows: list[Any]) -> dict[str, Any]:
    return {row.arm: row for row in rows}


def _arm(results: Results, place: int, found: Resampled, compared: dict[str, dict[str, Any]]) -> Json:
    name = results.arms[place]
    edges = bands(found)
    final = None if edges is None else edges[:, place, -1].tolist()
    own = {key: value for key, value in results.comparison["arms"][place].items() if key != "name"}
    right, samples = results.right[place, -1], results.samples[place, -1]
    trained = [results.steps[name, seed] for seed in results.seeds]
    return {
        "arm": name,
        "settings": {
            key: value for key, value in own.items() if value is not None and value != _UNSET.get(key)
        },
        "accuracy": {"value": float(found.curves[place, -1]), "interval": final},
        "difference": _difference(compared["difference"].get(name)),
        "against_length": _difference(compared["against_length"].get(name)),
        "reached": _reached(compared["reached"][name]),
        "reached_seconds": _reached(compared["reached_seconds"][name], of_budget=False),
        "accuracy_by_seed": results.accuracy[place, -1].mean(axis=1).tolist(),
        "pass_at": {
            str(k): float(np.mean(pass_at(right, samples, k)))
            for k in range(1, int(results.samples[:, -1].min()) + 1)
        },
        "curve": _curve(results, place, found, edges),
        "cost": _cost(results, place),
        "gradient": with_angle(trained),
        "training": over_time(trained, float(results.comparison["budget_tokens"])),
    }


def _difference(found: Difference | None) -> Json | None:
    if found is None:
        return None
    return {
        "value": found.value,
        "interval": None if found.interval is None else list(found.interval),
        "joint": None if found.joint is None else list(found.joint),
        "detectable": found.detectable,
        "answer": found.answer,
    }


def _reached(found: Reached, *, of_budget: bool = True) -> Json:
    told: Json = {
        "spent": found.spent,
        "ratio": found.ratio,
        "ratio_interval": None if found.ratio_interval is None else list(found.ratio_interval),
        "missed": found.missed,
    }
    if of_budget:
        told["share"] = found.share
        told["share_interval"] = None if found.share_interval is None else list(found.share_interval)
    return told


def _curve(results: Results, place: int, found: Resampled, edges: Floats | None) -> list[Json]:
    """A row for each mark, the start first; means over seeds."""
    means = {name: results.costs[name][place].mean(axis=1) for name in ("asked", "tokens", "seconds", "step")}
    completions, written = results.samples[place].sum(axis=(1, 2)), results.written[place].sum(axis=(1, 2))
    return [
        {
            "mark": mark,
            **{name: float(values[mark]) for name, values in means.items()},
            "accuracy": float(found.curves[place, mark]),
            "interval": None if edges is None else edges[:, place, mark].tolist(),
            "response_tokens": float(written[mark] / completions[mark]),
        }
        for mark in range(found.curves.shape[1])
    ]


def _cost(results: Results, place: int) -> Json:
    """What an arm spent until its last mark, mean over seeds."""
    names = ("scoring", "rescoring", "references", "training", "tokens", "seconds", "step")
    return {name: float(results.costs[name][place, -1].mean()) for name in names}


def pass_at(right: Floats, samples: Floats, k: int) -> Floats:
    """The chance that one of k answers is right, estimated without bias from `right` of `samples`.

    1 - C(n - c, k) / C(n, k), which is exact for k drawn without replacement from the n.
    """
    missed = np.ones_like(right)
    for i in range(k):
        missed *= np.clip(samples - right - i, 0, None) / (samples - i)
    return 1 - missed
