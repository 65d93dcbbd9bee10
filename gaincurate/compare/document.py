"""A comparison as one document of plain values.

The terminal, `--json` and the page show this document and nothing else. The same results give the same
document.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean

import numpy as np

from gaincurate.compare.results import Results
from gaincurate.compare.verdict import (
    FEWEST_TASKS,
    MASS,
    OTHERS,
    THESE,
    Claim,
    Difference,
    Ints,
    Pairs,
    Reached,
    Resampled,
    bands,
    differences,
    differences_over_tasks,
    pairs_with,
    reached,
    resample,
    task_count,
)
from gaincurate.compare.verdict_text import about_arm, about_length, headline, notes
from gaincurate.core.artifact import Json
from gaincurate.core.foreign import json_value
from gaincurate.core.stats import Floats, spearman, spearman_given

BASELINE, SECOND = "uniform", "length"
FORMAT = 2
# Of an arm's settings: nothing was asked for.
_UNSET = {"options": {}, "rescore": {}, "spent_before": 0, "stratify": "none"}
Steps = Mapping[str, Floats]
_COSTS = ("scoring", "rescoring", "references", "training", "tokens", "seconds", "step")
PARTS = 10
"""How many parts of the budget `over_time` tells of."""
_FEWEST = 10  # steps, under which a correlation says nothing


def document(results: Results) -> Json:
    """All measures.

    Returns:
        `setting`; `headline`, `against_length` and `notes`, sentences; `arms`, a list with what each one cost
        and gave and a `sentence`. Shares and accuracies are from 0 to 1, intervals `[low, high]` or None.
    """
    arms, codes = results.arms, None
    if results.tasks is not None:
        codes = np.unique(results.tasks, return_inverse=True)[1].astype(np.int64)
    resampled = resample(results.accuracy, codes)
    claim: Claim = OTHERS if codes is not None and task_count(codes) >= FEWEST_TASKS else THESE

    def family(pairs: Pairs) -> dict[str, Json]:
        """Of each arm: its difference for the headline's claim, and for every claim that can be made."""
        rows = {THESE: _by_arm(differences(arms, resampled, pairs))}
        if codes is not None and claim == OTHERS:
            last = results.accuracy[:, -1]
            rows[OTHERS] = _by_arm(differences_over_tasks(arms, last, codes, pairs, resampled.apart))
        return {
            arm: {**row, "claim": claim, "claims": {each: rows[each][arm] for each in rows}}
            for arm, row in rows[claim].items()
        }

    controls = results.facts.get("controls", {})
    spent, budget = results.costs["tokens"].mean(axis=2), float(results.comparison["budget_tokens"])
    compared = {
        "difference": family(pairs_with(arms, BASELINE)),
        "against_length": family(pairs_with(arms, SECOND, without=[BASELINE])),
        "against_control": family(
            [(arms.index(a), arms.index(b)) for a, b in controls.items() if a in arms and b in arms]
        ),
        "reached": _by_arm(reached(arms, spent, budget, resampled, BASELINE)),
    }
    edges = bands(resampled)
    measures = {
        "format": FORMAT,
        "setting": _setting(results, claim, codes),
        "learned": _learned(resampled, arms.index(BASELINE)),
        "apart": [arms[place] for place in resampled.apart],
        "arms": [_arm(results, place, resampled, edges, compared) for place in range(len(arms))],
    }
    whole: Json = json_value(json.dumps(measures, default=np.ndarray.tolist))
    for arm in whole["arms"]:
        arm["sentence"] = about_arm(whole, arm)
    return whole | {
        "headline": headline(whole),
        "against_length": about_length(whole),
        "notes": notes(whole, results.left_out),
    }


def _setting(results: Results, claim: Claim, codes: Ints | None) -> Json:
    """The settings, the sets, the baselines, and the tasks: how many of equal size say as much."""
    comparison, facts = results.comparison, results.facts
    tasks = None
    if results.tasks is not None and codes is not None:
        counts = Counter(sorted(results.tasks))
        tasks = {
            "columns": facts.get("tasks"),
            "count": len(counts),
            "effective": task_count(codes),
            "prompts": counts,
        }
    return {
        "comparison": comparison,
        "model": facts.get("model"),
        "sets": facts.get("sets"),
        "baseline": BASELINE,
        "second": SECOND,
        "seeds": results.seeds,
        "seeds_count": len(results.seeds),
        "prompts": len(results.prompts),
        "samples": int(comparison["evaluation"]["samples"]),
        "tasks": tasks,
        "tuned": facts.get("tuned"),
        "budget_tokens": int(comparison["budget_tokens"]),
        "claim": claim,
    }


def _learned(resampled: Resampled, base: int) -> Json:
    """The gain of training alone: the baseline's final accuracy less that of the start."""
    value = resampled.curves[base, -1] - resampled.curves[base, 0]
    if not len(resampled.draws):
        return {"value": value, "interval": None}
    half = np.quantile(abs(resampled.draws[:, base, -1] - resampled.draws[:, base, 0] - value), MASS)
    return {"value": value, "interval": [value - half, value + half]}


def _by_arm(rows: Sequence[Difference | Reached]) -> dict[str, Json]:
    """The fields of each row but the arm's name, by that."""
    return {row.arm: {name: value for name, value in asdict(row).items() if name != "arm"} for row in rows}


def _arm(
    results: Results, place: int, resampled: Resampled, edges: Floats | None, compared: Mapping[str, Json]
) -> Json:
    name, settings = results.arms[place], results.comparison["arms"][place]
    right, samples = results.right[place, -1], results.samples[place, -1]
    trained = [results.steps[name, seed] for seed in results.seeds]
    chances = pass_at(right, samples, int(results.samples[:, -1].min()))
    curve = _curve(results, place, resampled, edges)
    return {
        "arm": name,
        "settings": {
            key: value
            for key, value in settings.items()
            if key != "name" and value is not None and value != _UNSET.get(key)
        },
        "accuracy": {"value": curve[-1]["accuracy"], "interval": curve[-1]["interval"]},
        "difference": compared["difference"].get(name),
        "against_length": compared["against_length"].get(name),
        "control": results.facts.get("controls", {}).get(name),
        "against_control": compared["against_control"].get(name),
        "reached": compared["reached"][name],
        "accuracy_by_seed": results.accuracy[place, -1].mean(axis=1),
        "pass_at": {str(k): chance.mean() for k, chance in enumerate(chances, 1)},
        "curve": curve,
        "cost": {key: results.costs[key][place, -1].mean() for key in _COSTS},
        "gradient": with_angle(trained),
        "training": over_time(trained, float(results.comparison["budget_tokens"])),
    }


def _curve(results: Results, place: int, resampled: Resampled, edges: Floats | None) -> list[Json]:
    """A row for each mark, the start first; means over seeds."""
    means = {name: results.costs[name][place].mean(axis=1) for name in ("asked", "tokens", "seconds", "step")}
    completions, written = results.samples[place].sum(axis=(1, 2)), results.written[place].sum(axis=(1, 2))
    return [
        {
            "mark": mark,
            **{name: values[mark] for name, values in means.items()},
            "accuracy": resampled.curves[place, mark],
            "interval": None if edges is None else edges[:, place, mark],
            "response_tokens": written[mark] / completions[mark],
        }
        for mark in range(resampled.curves.shape[1])
    ]


def pass_at(right: Floats, samples: Floats, most: int) -> Iterator[Floats]:
    """The chance that one of k answers is right, estimated without bias from `right` of `samples`.

    1 - C(n - c, k) / C(n, k), which is exact for k drawn without replacement from the n. For each k up to
    `most`.
    """
    missed = np.ones_like(right)
    for k in range(most):
        missed *= np.clip(samples - right - k, 0, None) / (samples - k)
        yield 1 - missed


def over_time(trained: Sequence[Steps], budget: float) -> Json:
    """Means over the generated rollouts, over all and in tenths of the budget.

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
    usable = np.isfinite(values) & (weights > 0)
    return float(np.average(values[usable], weights=weights[usable])) if usable.any() else None


def with_angle(trained: Sequence[Steps]) -> Json:
    """Rank correlation of the gradient's norm with the mean angle of a step's prompts, mean over seeds.

    Above 0: steps on prompts of a higher angle had larger gradients. `given_step` is the same without what
    both have in common with time: an arm that goes from high to low angles while its gradients shrink for
    other reasons has a correlation of its own making. None where there are too few steps or no angles.
    """
    both, given_step = list[float](), list[float]()
    for steps in trained:
        usable = np.isfinite(steps["grad_norm"]) & np.isfinite(steps["angle"])
        norm, angle, step = (steps[name][usable] for name in ("grad_norm", "angle", "step"))
        if len(norm) < _FEWEST or (overall := spearman(norm, angle)) is None:
            continue
        both.append(overall)
        if (given := spearman_given(norm, angle, step)) is not None:
            given_step.append(given)
    means = (fmean(each) if each else None for each in (both, given_step))
    return {**dict(zip(("spearman", "given_step"), means, strict=True)), "seeds": len(both)}
