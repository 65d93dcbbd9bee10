"""What predictions are worth: takes a world and predictors, yields figures over many random reference sets.

A split draws K references; the other prompts are held out. Predictors see the references' first rollouts and
nothing else. Correlations are with the failure rate in all rollouts of the held-out prompts, first and fresh.
What a picked batch carries is counted on fresh rollouts alone, which no rule saw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from predictors import Floats, Ints, Predict, World, task_mean

from gaincurate.core.stats import pearson, ranks, spearman

Tasks = npt.NDArray[np.str_]
BATCH = 64


@dataclass(frozen=True)
class Split:
    """References and the others, as places."""

    number: int
    references: Ints
    others: Ints


def splits(world: World, references: int, count: int) -> Iterator[Split]:
    """Random ones, always the same."""
    for number in range(count):
        order = np.random.default_rng(number).permutation(len(world.task))
        yield Split(number, np.sort(order[:references]), np.sort(order[references:]))


def variance(wins: Ints, rollouts: int) -> Floats:
    """Without bias p (1 - p): k (G - k) / (G (G - 1))."""
    return wins * (rollouts - wins) / (rollouts * (rollouts - 1))


def centred(values: Floats, task: Tasks) -> Floats:
    """Less the mean of the task; what is only rounding is 0."""
    found = values.astype(float)
    for name in np.unique(task):
        found[task == name] -= found[task == name].mean()
    return np.where(np.abs(found) < 1e-9, 0.0, found)


def task_ranks(values: Floats, task: Tasks) -> Floats:
    """Ranks in the task, as shares of it."""
    found = np.zeros(len(values))
    for name in np.unique(task):
        here = task == name
        found[here] = ranks(np.round(values[here], 12)) / here.sum()
    return found


def correlations(predicted: Floats, observed: Floats, task: Tasks) -> Floats:
    """Pearson and Spearman overall, then within task; NaN where one is not defined."""
    ordered = task_ranks(predicted, task), task_ranks(observed, task)
    found = [
        pearson(predicted, observed),
        spearman(predicted, observed),
        pearson(centred(predicted, task), centred(observed, task)),
        pearson(centred(ordered[0], task), centred(ordered[1], task)),
    ]
    return np.array([np.nan if value is None else value for value in found])


def ceilings(wins: Ints, rollouts: int, task: Tasks) -> Floats:
    """The Pearson correlation that the true rates would have, overall and within task."""
    rate = wins / rollouts
    noise = (rate * (1 - rate)).mean() / (rollouts - 1)
    inside = (centred(rate, task) ** 2).sum() / (len(rate) - len(np.unique(task)))
    return np.sqrt(np.maximum(0, 1 - noise / np.array([rate.var(ddof=1), inside])))


def correlation_table(world: World, predictions: Mapping[str, list[Floats]], given: list[Split]) -> list[str]:
    """For each predictor the mean over splits, and the middle 95 % of a bootstrap draw of prompts in each."""
    total, rate = 2 * world.rollouts, 1 - (world.first + world.fresh) / (2 * world.rollouts)
    lines = [
        "| predictor | Pearson | Spearman | within task: Pearson | Spearman |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, values in predictions.items():
        whole, drawn = [], []
        for split, predicted in zip(given, values, strict=False):
            rows = split.others
            whole.append(correlations(predicted[rows], rate[rows], world.task[rows]))
            again = np.random.default_rng(split.number).choice(rows, len(rows))
            drawn.append(correlations(predicted[again], rate[again], world.task[again]))
        lines.append(f"| {name} | " + " | ".join(_cells(np.stack(whole), np.stack(drawn))) + " |")
    limits = np.stack(
        [ceilings((world.first + world.fresh)[s.others], total, world.task[s.others]) for s in given]
    )
    again = np.stack([_drawn_ceiling(world, split) for split in given])
    over, inside = _cells(limits, again)
    return [*lines, f"| *noise ceiling, {total} rollouts* | {over} | | {inside} | |"]


def _drawn_ceiling(world: World, split: Split) -> Floats:
    rows = np.random.default_rng(split.number).choice(split.others, len(split.others))
    return ceilings((world.first + world.fresh)[rows], 2 * world.rollouts, world.task[rows])


def _cells(whole: Floats, drawn: Floats) -> list[str]:
    found = []
    for mean, column in zip(whole.T, drawn.T, strict=True):
        if np.isnan(mean).any():
            found.append("not defined")
            continue
        low, high = np.nanquantile(column, [0.025, 0.975])
        found.append(f"{mean.mean():.2f} ({low:.2f} to {high:.2f})")
    return found


def rules(
    world: World, predictions: Mapping[str, Floats], variances: Mapping[str, Floats]
) -> dict[str, Floats]:
    """For each rule a number for every prompt; those with the highest are picked."""
    found: dict[str, Floats] = {}
    for name, values in world.signals.items():
        found |= {f"{name}, highest": values, f"{name}, lowest": -values}
    for name, predicted in predictions.items():
        found[f"{name}: d nearest .5"] = -np.abs(predicted - 0.5)
        if name in variances:
            found[f"{name}: p(1 - p)"] = variances[name]
    found["oracle: 8 rollouts of every prompt"] = -np.abs(world.first / world.rollouts - 0.5)
    return found


def carried(world: World, split: Split, rule: Floats) -> float:
    """The mean p (1 - p), on fresh rollouts, of the held-out prompts that a rule picks; ties at random."""
    rows = np.random.default_rng(10_000 + split.number).permutation(split.others)
    chosen = rows[np.argsort(-np.round(rule[rows], 9), kind="stable")[:BATCH]]
    return float(variance(world.fresh[chosen], world.rollouts).mean())


def batch_table(
    world: World,
    predictions: Mapping[str, list[Floats]],
    variances: Mapping[str, list[Floats]],
    given: list[Split],
) -> list[str]:
    """What each rule's batch carries, against uniform and against the task mean on the same splits."""
    fresh = variance(world.fresh, world.rollouts)
    uniform = np.array([fresh[split.others].mean() for split in given])
    found: dict[str, list[float]] = {}
    for place, split in enumerate(given):
        now = {name: values[place] for name, values in predictions.items() if place < len(values)}
        spread = {name: values[place] for name, values in variances.items() if place < len(values)}
        for name, rule in rules(world, now, spread).items():
            found.setdefault(name, []).append(carried(world, split, rule))
    base = np.array(found["task mean: d nearest .5"])
    lines = [
        "| rule | p(1 - p) carried | times uniform | more than the task mean's d | splits |",
        "| --- | --- | --- | --- | --- |",
        f"| uniform | {_range(uniform)} | 1 | {_range(uniform - base, '+.3f')} | {len(given)} |",
    ]
    for name, listed in found.items():
        values = np.array(listed)
        count = len(values)
        ratio, more = values.mean() / uniform[:count].mean(), _range(values - base[:count], "+.3f")
        lines.append(f"| {name} | {_range(values)} | {ratio:.2f} | {more} | {count} |")
    return lines


def _range(values: Floats, form: str = ".3f") -> str:
    low, high = np.quantile(values, [0.025, 0.975])
    return f"{values.mean():{form}} ({low:{form}} to {high:{form}})"


def made(
    world: World, predictors: Mapping[str, Predict], given: list[Split]
) -> tuple[dict[str, list[Floats]], dict[str, list[Floats]]]:
    """Each predictor's failure rates, and its p (1 - p) times 4, of all prompts on every split."""
    rate = 1 - world.first / world.rollouts
    spread = 4 * rate * (1 - rate)
    failure: dict[str, list[Floats]] = {name: [] for name in predictors}
    variances: dict[str, list[Floats]] = {name: [] for name in predictors}
    for split in given:
        for name, predict in predictors.items():
            failure[name].append(predict(world, split.references, rate[split.references]))
            variances[name].append(predict(world, split.references, spread[split.references]))
    return failure, variances


def task_table(world: World) -> list[str]:
    """Each task's prompts, pass rate, and the spread of rates."""
    lines = [
        "| task | prompts | pass rate | prompts at 0, between, at 1 | p(1 - p) |",
        "| --- | --- | --- | --- | --- |",
    ]
    total = 2 * world.rollouts
    wins = world.first + world.fresh
    for name in np.unique(world.task):
        won = wins[world.task == name]
        middle = ((won > 0) & (won < total)).sum()
        share = variance(won, total).mean()
        counts = f"{(won == 0).sum()}, {middle}, {(won == total).sum()}"
        lines.append(f"| {name} | {len(won)} | {won.mean() / total:.2f} | {counts} | {share:.3f} |")
    everything = task_mean(world, np.arange(len(wins)), wins / total)
    between = everything.var() / (wins / total).var()
    return [*lines, f"\nThe task explains {between:.2f} of the variance of observed rates."]
