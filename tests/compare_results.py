"""Results of comparisons that were never run: a simulated world whose truth is known, as the harness leaves them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gaincurate.compare.config import Comparison, checked_comparison
from gaincurate.compare.results import FACTS, RESULTS, SCHEMAS, write_tables
from gaincurate.core.files import write_json

Floats = npt.NDArray[np.float64]
Rows = dict[str, list[dict[str, Any]]]


def world(
    effects: list[float],
    *,
    seeds: int,
    prompts: int,
    spread: float | list[float],
    samples: int,
    draw: int,
    marks: int = 2,
    taste: float = 0.0,
    tasks: int | Sequence[int] = 1,
    task_taste: float = 0.0,
    seed_task: float = 0.0,
) -> Floats:
    """Accuracies `[arms, 1 + marks, seeds, prompts]`: prompts of all difficulties, seeds that differ by `spread`
    (of each arm), arms that take to some prompts more than to others by `taste`; all in logits.

    Prompts belong to `tasks` in turn, or there are so many of each. An arm takes to some tasks more than to
    others by `task_taste`, the same in every seed; each of its seeds does so again by `seed_task`.
    """
    chance = np.random.default_rng(draw)
    level = chance.normal(0, 1.5, prompts)
    spreads = np.broadcast_to(np.asarray(spread, np.float64), len(effects))
    shift = np.array(effects)[:, None] + chance.normal(0, 1, (len(effects), seeds)) * spreads[:, None]
    own = chance.normal(0, taste, (len(effects), prompts))
    by_task = np.random.default_rng([draw, 1])  # draws of its own: the others stay as they are without tasks
    task = task_of(tasks, prompts)
    count = int(task.max()) + 1
    own += by_task.normal(0, task_taste, (len(effects), count))[:, task]
    wander = by_task.normal(0, seed_task, (len(effects), seeds, count))[:, :, task]
    rates = np.empty((len(effects), 1 + marks, seeds, prompts))
    start = chance.binomial(samples, 1 / (1 + np.exp(-level))) / samples
    for mark in range(1 + marks):
        p = 1 / (1 + np.exp(-(level + mark / marks * (0.6 + shift[:, :, None] + own[:, None, :] + wander))))
        rates[:, mark] = chance.binomial(samples, p) / samples if mark else start
    return rates


def task_of(tasks: int | Sequence[int], prompts: int) -> npt.NDArray[np.int64]:
    """The task of each prompt of `world`."""
    if isinstance(tasks, int):
        return np.arange(prompts) % tasks
    return np.repeat(np.arange(len(tasks)), tasks)


def truth(effect: Floats | float, spread: float) -> Floats:
    """Final accuracy of `world` over all prompts, where all else that varies has this spread; by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    wide = np.hypot(1.5, spread)
    p = 1 / (1 + np.exp(-(0.6 + np.asarray(effect)[..., None] + wide * nodes)))
    mean: Floats = p @ (weights / weights.sum())
    return mean


def task_effects(arms: int, tasks: Sequence[int], task_taste: float, draw: int) -> Floats:
    """What `world` adds to each arm on each task, `[arms, tasks]`."""
    return np.random.default_rng([draw, 1]).normal(0, task_taste, (arms, len(tasks)))


EFFECTS = {"uniform": 0.0, "length": 0.0, "good": 1.0, "bad": -1.0}


def comparison(
    arms: list[str], seeds: int = 3, marks: int = 4, samples: int = 4, budget: int = 10_000
) -> Comparison:
    """Settings for arms of these names."""
    controls = ("uniform", "length")
    made = [{"name": arm, "strategy": arm if arm in controls else "gain-rl"} for arm in arms]
    settings = {
        "scored": "sets/scored",
        "heldout": "sets/heldout",
        "model": "models/tiny",
        "verifier": "exact",
    }
    asked = {"budget_tokens": budget, "marks": marks, "seeds": list(range(seeds)), "arms": made}
    return checked_comparison({**settings, **asked, "evaluation": {"samples": samples}})


def rows_of(asked: Comparison, rates: Floats, draw: int = 0) -> Rows:
    """Rows of the three tables for accuracies `[arms, 1 + marks, seeds, prompts]`; arms past the second pay for
    scoring, each mark is overshot by some tokens, gradients follow the angle.
    """
    chance = np.random.default_rng(draw)
    samples, budget = asked.evaluation.samples, asked.budget_tokens
    lines: dict[str, list[tuple[Any, ...]]] = {"evaluations": [], "marks": [], "steps": []}
    for (a, arm), (s, seed) in itertools.product(enumerate(asked.arms), enumerate(asked.seeds)):
        key = (arm.name, seed)
        for mark in range(rates.shape[1]):
            right = np.rint(rates[a, mark, s] * samples).astype(int).tolist()
            tokens = samples * (10 + a + mark)
            lines["evaluations"] += [
                (*key, mark, f"id-{q:04d}", count, samples, tokens) for q, count in enumerate(right)
            ]
        charged = 800 if a > 1 else 0
        for mark, tokens in enumerate(asked.mark_tokens, 1):
            spent, references = tokens + 7 * (s + 1), 100 * mark if a == 3 else 0
            parts = (charged, 0, references, spent - charged - references)
            lines["marks"].append((*key, mark, tokens, spent, *parts, 10 * mark, (20.0 + a) * mark))
        steps = 10 * asked.marks
        for step in range(1, steps + 1):
            angle, spent = float(chance.uniform(0.2, 0.6)), charged + (budget - charged) * step // steps
            rollouts = (64, 640, 1280 * step, 640, 8, 0.25 + 0.05 * a, 0.2 + 0.5 * step / steps)
            more = (angle, angle + float(chance.normal(0, 0.05)), 32 if a == 3 else 0)
            lines["steps"].append((*key, step, spent, step * 2.0, *rollouts, *more))
    return {
        name: [dict(zip(SCHEMAS[name].names, line, strict=True)) for line in each]
        for name, each in lines.items()
    }


def write(out: Path, asked: Comparison, rows: Rows) -> Path:
    """A folder as the harness leaves it."""
    out.mkdir(parents=True, exist_ok=True)
    facts = {"format": 1, "comparison": asked.model_dump(mode="json"), "model": asked.model}
    write_json(out / FACTS, facts | {"sets": {"scored": "1" * 64, "heldout": "2" * 64}})
    write_tables(out / RESULTS, rows)
    return out


def example(out: Path, effects: dict[str, float] = EFFECTS, seeds: int = 3, **world_changes: Any) -> Path:
    """A finished comparison of arms with these effects."""
    asked = comparison(list(effects), seeds)
    given: dict[str, Any] = {
        "prompts": 100,
        "spread": 0.1,
        "samples": 4,
        "draw": 7,
        "marks": 4,
    } | world_changes
    rates = world(list(effects.values()), seeds=seeds, **given)
    rows = rows_of(asked, rates)
    if "tasks" in given:
        of = task_of(given["tasks"], given["prompts"])
        rows["tasks"] = [{"gc_id": f"id-{q:04d}", "task": f"task-{task}"} for q, task in enumerate(of)]
    return write(out, asked, rows)
