"""Measures other models' pass rates as a prior, on real models, and writes rates.json.

Usage: python docs/studies/real/rates.py MATH REASONING_GYM [--out docs/studies/real/rates.json] [--seeds 10]

MATH is a Parquet file with `level`, `subject` and a column `n_right:MODEL_k_K_temp_T` for each model: the
right ones of K rollouts. REASONING_GYM has `level`, `task`, `k`, and a column `score:MODEL`, the mean score
of k completions. Each model in turn is the target. Its own rates give the outcomes of the references, and
judge.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from gaincurate.core.rng import Floats, Ints
from gaincurate.core.stats import spearman
from gaincurate.difficulty.beta import groups_that_differ
from gaincurate.difficulty.rates import calibrate

KEPT_BACK = ("Qwen2-1.5B-Instruct", "Qwen2.5-7B")
"""Targets that no choice in `gaincurate.difficulty.rates` was made on, nor with them as sources."""
GROUP, ROUNDS, BUDGET = 8, 40, 128
REFERENCES, SOURCES = (0, 64, 256), (1, 3, 8)
POWERS = (1, 2)
"""A prompt is drawn in proportion to U_8 to this power."""
_LABEL_ROLLOUTS = 16.0  # of its level's mean, in the mean of a label


@dataclass(frozen=True)
class Model:
    """Right ones of `rollouts` on each prompt, `[N]`."""

    right: Ints
    rollouts: int

    @property
    def rates(self) -> Floats:
        """Shares of right ones, `[N]`."""
        return self.right / self.rollouts

    def differing(self) -> Floats:
        """U_8 without bias: the share of all groups of 8 of these rollouts that differ, `[N]`."""
        ways = np.array([math.comb(n, GROUP) for n in range(self.rollouts + 1)], float)
        equal: Floats = (ways[self.right] + ways[self.rollouts - self.right]) / ways[-1]
        return 1 - equal

    def group(self, rows: Ints, random: np.random.Generator) -> Floats:
        """How many of 8 of the rollouts are right, drawn without replacement, `[rows]`."""
        right = self.right[rows]
        return random.hypergeometric(right, self.rollouts - right, GROUP).astype(float)


def read_math(path: Path) -> tuple[dict[str, Model], list[str], list[str]]:
    """One condition of each model (temperature 1), and each prompt's level and its level with subject."""
    table, models = pq.read_table(path), {}
    for name in table.column_names:
        if parts := re.fullmatch(r"n_right:(.+)_k_(\d+)_temp_1\.0", name):
            models[parts[1]] = Model(table.column(name).to_numpy().astype(np.int64), int(parts[2]))
    levels = [str(level) for level in table.column("level").to_pylist()]
    both = [f"{a} {b}" for a, b in zip(levels, table.column("subject").to_pylist(), strict=True)]
    return models, levels, both


@dataclass(frozen=True)
class Prior:
    """Expected pass rates `[N]` and their strength in rollouts."""

    expected: Floats
    strength: float


def by_labels(levels: list[str], labels: list[str], rows: Ints, wins: Floats) -> Prior:
    """Means of the references with a prompt's label, shrunk to those of its level, and these to the mean.

    The strength is that of the likeliest outcomes, each reference predicted from the others of other folds.
    """

    def means(places: Ints) -> Floats:
        expected = np.full(len(labels), wins[places].mean() / GROUP if len(places) else 0.5)
        for groups in (levels, labels):
            _, which = np.unique(groups, return_inverse=True)
            won = np.bincount(which[rows[places]], wins[places], which.max() + 1)
            count = GROUP * np.bincount(which[rows[places]], minlength=which.max() + 1)
            expected = (won[which] + _LABEL_ROLLOUTS * expected) / (count[which] + _LABEL_ROLLOUTS)
        return expected

    folds, held_out = np.arange(len(rows)) % 5, np.empty(len(rows))
    for fold in range(5):
        held_out[folds == fold] = means(np.flatnonzero(folds != fold))[rows[folds == fold]]
    return Prior(means(np.arange(len(rows))), likeliest(held_out, wins))


def likeliest(expected: Floats, wins: Floats) -> float:
    """The strength under which the successes of 8 are likeliest."""
    gamma = np.frompyfunc(math.lgamma, 1, 1)

    def likelihood(strength: float) -> float:
        a, b = strength * expected, strength * (1 - expected)
        each = np.array(gamma(a + wins) + gamma(b + GROUP - wins) - gamma(a) - gamma(b), float)
        return float(each.sum()) + len(wins) * (math.lgamma(strength) - math.lgamma(strength + GROUP))

    return max((0.125 * 2 ** (step / 2) for step in range(21)), key=likelihood)


def law(worth: Floats, power: int) -> Floats:
    """Chances in proportion to `worth` to this power."""
    chances = np.maximum(worth, 1e-9) ** power
    shares: Floats = chances / chances.sum()
    return shares


def figures(shares: Floats, differing: Floats) -> dict[str, float]:
    """Groups that differ, and the effective share 1 / (N sum q^2)."""
    return {"differ": float(shares @ differing), "share": float(1 / (len(shares) * (shares**2).sum()))}


def train(prior: Prior, model: Model, power: int, random: np.random.Generator) -> dict[str, float]:
    """40 rounds of 128 distinct prompts by the posterior, which learns from each group (no model does)."""
    a, b = prior.strength * prior.expected, prior.strength * (1 - prior.expected)
    differing, mean, total = model.differing(), np.zeros(len(a)), 0.0
    for _ in range(ROUNDS):
        shares = law(groups_that_differ(a, b, GROUP), power)
        rows = random.choice(len(shares), BUDGET, replace=False, p=shares)
        total, mean = total + float(differing[rows].mean()), mean + shares / ROUNDS
        wins = model.group(rows, random)
        a[rows] += wins
        b[rows] += GROUP - wins
    return {"differ": total / ROUNDS, "share": figures(mean, differing)["share"]}


def judge(prior: Prior, model: Model, seed: int) -> dict[str, Any]:
    """Rank correlation, Brier score, and what the law draws."""
    rates, differing = model.rates, model.differing()
    found: dict[str, Any] = {
        "spearman": spearman(prior.expected, rates) or 0.0,
        "brier": float(((prior.expected - rates) ** 2).mean()),
        "strength": prior.strength,
    }
    worth = groups_that_differ(prior.strength * prior.expected, prior.strength * (1 - prior.expected), GROUP)
    for power in POWERS:
        uniform = float(differing.mean())
        true = figures(law(1 - rates**GROUP - (1 - rates) ** GROUP, power), differing)
        drawn = {"prior": figures(law(worth, power), differing)}
        drawn["learning"] = train(prior, model, power, np.random.default_rng([seed, power, 9]))
        for name, each in drawn.items():
            gain = (each["differ"] - uniform) / (true["differ"] - uniform)
            found[f"{name}, power {power}"] = {**each, "gain": gain}
        found[f"true, power {power}"] = true
        found["uniform"] = {"differ": uniform, "share": 1.0}
    return found


def trials(
    models: dict[str, Model], levels: list[str], labels: list[str], seeds: int
) -> Iterator[dict[str, Any]]:
    """A dictionary for each target, number of sources and of references, and seed."""
    for number, (target, model) in enumerate(models.items()):
        if model.rollouts < 50:
            continue  # too few to say what is true of it
        others = [
            name for name in models if name != target and (name not in KEPT_BACK or target in KEPT_BACK)
        ]
        for seed in range(seeds):
            random = np.random.default_rng([number, seed])
            drawn = np.sort(random.permutation(len(model.right))[: max(REFERENCES)])
            wins, order = model.group(drawn, random), random.permutation(len(others))
            shuffled = random.permutation(len(drawn))
            for references in REFERENCES:
                some = np.sort(shuffled[:references])
                rows, won = drawn[some], wins[some]
                priors: dict[str, Prior] = {}
                for count in SOURCES:
                    names = [others[i] for i in order[:count]]
                    rates = np.stack([models[name].rates for name in names], 1)
                    rollouts = np.array([models[name].rollouts for name in names], float)
                    found = calibrate(rates, rows, won, GROUP - won, rollouts)
                    priors[str(count)] = Prior(found.expected, found.strength or 1.0)
                if references:
                    priors["labels"] = by_labels(levels, labels, rows, won)
                for arm, prior in priors.items():
                    kind = {"target": target, "sources": arm, "references": references}
                    yield {**kind, **judge(prior, model, seed)}


def averaged(rows: list[Any]) -> Any:
    """Means of all figures."""
    first = rows[0]
    if not isinstance(first, dict):
        return round(float(np.mean(rows)), 3)
    return {key: averaged([row[key] for row in rows]) for key in first}


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each target and arm: means over seeds."""
    kinds: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault((row.pop("target"), row.pop("sources"), row.pop("references")), []).append(row)
    entries = []
    for (target, sources, references), several in kinds.items():
        spread = float(np.std([row["prior, power 1"]["gain"] for row in several]))
        kind = {"target": target, "sources": sources, "references": references}
        entries.append({**kind, **averaged(several), "gain's deviation over seeds": round(spread, 3)})
    return entries


def unfitted(models: dict[str, Model], seeds: int) -> list[float]:
    """The strengths that would fit the plain means of three sources' logits, of all targets not kept back."""
    strengths = []
    for number, (target, model) in enumerate(models.items()):
        others = [name for name in models if name != target and name not in KEPT_BACK]
        if target in KEPT_BACK or model.rollouts < 50:
            continue
        for seed in range(seeds):
            random = np.random.default_rng([number, seed, 5])
            names = [others[i] for i in random.permutation(len(others))[: random.choice([1, 3])]]
            rates = np.stack([models[name].rates for name in names], 1)
            none = np.zeros(0)
            found = calibrate(rates, none.astype(np.int64), none, none)
            strengths.append(likeliest(found.expected, model.group(np.arange(len(rates)), random)))
    return sorted(strengths)


def across_families(path: Path, seeds: int) -> list[dict[str, Any]]:
    """reasoning-gym: rank correlation and Brier score, by the other seven models and by task means."""
    table, entries = pq.read_table(path), []
    names = [name for name in table.column_names if name.startswith("score:")]
    scores = {name: table.column(name).to_numpy().astype(float) for name in names}
    count = table.column("k").to_numpy().astype(float)
    pairs = zip(table.column("level").to_pylist(), table.column("task").to_pylist(), strict=True)
    _, task = np.unique([f"{level} {name}" for level, name in pairs], return_inverse=True)
    for number, target in enumerate(names):
        score = scores[target]
        here = np.flatnonzero(~np.isnan(score))
        if len(here) < 9000:
            continue  # one level only
        others = np.stack([scores[name] for name in names if name != target], 1)
        for references in (64, 256):
            each = []
            for seed in range(seeds):
                random = np.random.default_rng([number, seed, 7])
                rows = np.sort(random.permutation(here)[:references])
                wins, losses = score[rows] * count[rows], (1 - score[rows]) * count[rows]
                found = calibrate(others, rows, wins, losses, np.full(others.shape[1], 3.0))
                overall = score[rows].mean()
                won, known = np.bincount(task[rows], score[rows], 202), np.bincount(task[rows], minlength=202)
                means = ((won + overall) / (known + 1))[task]
                asked = np.setdiff1d(here, rows)
                asked = asked[~np.isnan(found.expected[asked])]

                def inside(values: Floats, task: Ints = task[asked]) -> Floats:
                    """Less the means of the tasks."""
                    sums, count = np.bincount(task, values, 202), np.bincount(task, minlength=202)
                    centred: Floats = values - (sums / np.maximum(count, 1))[task]
                    return centred

                expected, observed = found.expected[asked], score[asked]
                each.append(
                    {
                        "spearman": spearman(expected, observed) or 0.0,
                        "within_tasks": spearman(inside(expected), inside(observed)) or 0.0,
                        "brier": float(((expected - observed) ** 2).mean()),
                        "strength": found.strength,
                        "weights_above_0": int((found.weights > 0).sum()),
                        "best_source": max(
                            spearman(np.nan_to_num(other[asked], nan=0.5), observed) or 0.0
                            for other in others.T
                        ),
                        "task_means": {
                            "spearman": spearman(means[asked], observed) or 0.0,
                            "brier": float(((means[asked] - observed) ** 2).mean()),
                        },
                        "brier_of_mean": float(observed.var()),
                    }
                )
            entries.append(
                {"target": target.removeprefix("score:"), "references": references, **averaged(each)}
            )
    return entries


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("math", type=Path)
    parser.add_argument("reasoning_gym", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args()
    models, levels, labels = read_math(given.math)
    found = {
        "seeds": given.seeds,
        "unfitted_strengths": [round(value, 3) for value in unfitted(models, 4)],
        "math": summary(list(trials(models, levels, labels, given.seeds))),
        "reasoning_gym": across_families(given.reasoning_gym, given.seeds),
    }
    text = json.dumps(found, separators=(",", ":"))
    given.out.write_text(text.replace('{"target', '\n{"target') + "\n")


if __name__ == "__main__":
    main()
