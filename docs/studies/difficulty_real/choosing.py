"""Simulates choosing on a real policy's pass rates and prints what the strategies' rounds would have carried.

Usage: python docs/studies/difficulty_real/choosing.py RATES.jsonl [--seeds 20] [--rounds 12] [--budget 33].
A line of RATES is a prompt with its `source`, `level` and `rate`, the exact chance that a rollout is right
(docs/studies/lean/exact_rates.py). The policy stays fixed, so this says how soon a strategy finds the prompts
from which GRPO learns, and nothing of accuracy. Strategies see binomial outcomes of 8 rollouts. What they
draw is judged by the exact rates, which no strategy sees: p (1 - p), and U, the chance that 8 differ.

`top` draws the prompts with the largest p (1 - p) in each round, and `the law` draws with true rates as the
default does with estimates. Shares of gains are of `top` for p (1 - p), and of `the law` for U.

With `--late ROUND` the prompts of half of the labels with live prompts (`source` and `level`, at random) are
dead until this round and have their rates from then on. The table has U in five parts of the run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from gaincurate.core.files import json_lines
from gaincurate.core.rng import Floats, Ints
from gaincurate.schedule import base
from gaincurate.schedule.strategies.posterior import Posterior

SHOWN = 8
TOP, LAW = "top", "the law"
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "uniform": ("uniform", {}),
    "posterior": ("posterior", {}),
    "posterior, labels none": ("posterior", {"labels": "none"}),
    "posterior, labels source": ("posterior", {"labels": "source"}),
    "posterior, retest=.05": ("posterior", {"retest": 0.05}),
    "posterior, draw=weights": ("posterior", {"draw": "weights"}),
    "posterior, draw=top": ("posterior", {"draw": "top"}),
    **{name: ("posterior", {"preset": name}) for name in ("variance", "mopps", "mapp")},
}


def differ(rates: Floats) -> Floats:
    """The chance that a group has right and wrong rollouts."""
    return 1 - rates**SHOWN - (1 - rates) ** SHOWN


class Known(Posterior):
    """The default, with true rates in place of a posterior."""

    rates: Floats

    def _worth(self, rows: Any, round_: int) -> Floats:
        return differ(self.rates[rows])


class Set:
    """The prompts of a file."""

    def __init__(self, path: Path) -> None:
        rows = [row for _, row in json_lines(path) if row]
        self.rates: Floats = np.array([row["rate"] for row in rows])
        self.table = pa.table(
            {"gc_id": [str(n) for n in range(len(rows))]}
            | {name: [row[name] for row in rows] for name in ("source", "level")}
        )

    def __len__(self) -> int:
        return len(self.rates)

    def take(self, rows: Any) -> pa.Table:
        """As a scored set."""
        return self.table.take(rows)

    def dead(self, seed: int) -> Any:
        """The prompts that are dead until a round, `[N]`."""
        pairs = zip(*(self.table.column(name).to_pylist() for name in ("source", "level")), strict=True)
        labels = np.array([f"{source} {level}" for source, level in pairs])
        alive = np.unique(labels[differ(self.rates) > 0.01])
        chosen = np.random.default_rng([seed, 2]).permutation(alive)[: len(alive) // 2]
        return np.isin(labels, chosen)

    def draws(self, arm: str, seed: int, rounds: int, budget: int, late: int = 0) -> Ints:
        """The rows that an arm draws, `[rounds, budget]`."""
        dead = self.dead(seed)
        pool, rng = base.Pool(len(self), budget, seed), np.random.default_rng([seed, 1])
        if arm == TOP:
            best = self.rates * (1 - self.rates)
            return np.array([pool.pick(best, round_) for round_ in range(rounds)])
        if arm == LAW:
            selector: base.Selector = Known(pool, Known.Options(labels="none"))
            selector.rates = self.rates  # type: ignore[attr-defined]
        else:
            selector = base.build(ARMS[arm][0], pool, ARMS[arm][1])
        drawn = []
        for round_ in range(rounds):
            now = np.where(dead & (round_ < late), 0.0, self.rates)
            context: Any = SimpleNamespace(
                round=round_,
                scored=self,
                rows=np.arange(len(self)),
                column=self.table.column,
                history=None,
                rates=None,
                note=lambda _: None,
            )
            selector.prepare(context)
            rows = selector.draw(round_)
            drawn.append(rows)
            wins = rng.binomial(SHOWN, now[rows]).astype(float)
            selector.observe(base.Observed(round_, rows, wins, SHOWN - wins, float(wins.mean()) / SHOWN, 0.0))
        return np.array(drawn)


def main(path: Path, seeds: int, rounds: int, budget: int) -> None:
    """Print the table."""
    prompts = Set(path)
    p = prompts.rates
    variance, u = p * (1 - p), differ(p)
    print(f"{len(p)} prompts, {rounds} rounds of {budget}, {seeds} seeds\n")
    runs = {
        arm: [prompts.draws(arm, seed, rounds, budget) for seed in range(seeds)] for arm in (*ARMS, TOP, LAW)
    }
    means = {
        arm: np.array([[variance[rows].mean(), u[rows].mean()] for rows in drawn])
        for arm, drawn in runs.items()
    }
    best = np.array([means[TOP][:, 0].mean(), means[LAW][:, 1].mean()])
    even = np.array([variance.mean(), u.mean()])
    print("| arm | p (1 - p), share of top's gain | groups that differ, share of the law's gain | prompts |")
    print("| --- | --- | --- | --- |")
    for arm, drawn in runs.items():
        shares = (means[arm] - even) / (best - even)
        mean, error = shares.mean(0), shares.std(0, ddof=1) / np.sqrt(seeds)
        values = means[arm].mean(0)
        distinct = np.mean([len(np.unique(rows)) for rows in drawn])
        print(
            f"| {arm} | {values[0]:.3f}, {mean[0]:.2f} ({error[0]:.2f}) "
            f"| {values[1]:.2f}, {mean[1]:.2f} ({error[1]:.2f}) | {distinct:.0f} |"
        )


def alive_late(path: Path, seeds: int, rounds: int, budget: int, late: int) -> None:
    """Print the share of groups that differ by fifths of the run, with labels that come alive late."""
    prompts = Set(path)
    print(f"{len(prompts)} prompts, {rounds} rounds of {budget}, {seeds} seeds, alive from round {late}\n")
    print("| arm | " + " | ".join(f"{k * 20} to {k * 20 + 20} %" for k in range(5)) + " | late ones, after |")
    print("| --- |" + " --- |" * 6)
    for arm in ("uniform", "posterior", "posterior, retest=.05", "posterior, draw=weights"):
        parts, shares = [], []
        for seed in range(seeds):
            dead, drawn = prompts.dead(seed), prompts.draws(arm, seed, rounds, budget, late)
            live = [differ(np.where(dead & (k < late), 0, prompts.rates))[r] for k, r in enumerate(drawn)]
            parts.append([part.mean() for part in np.array_split(np.array(live), 5)])
            shares.append(dead[drawn[late:]].mean())
        cells = [f"{value:.2f}" for value in (*np.mean(parts, 0), np.mean(shares))]
        print(f"| {arm} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rates", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--budget", type=int, default=33)
    parser.add_argument("--late", type=int, default=0)
    given = parser.parse_args()
    if given.late:
        alive_late(given.rates, given.seeds, given.rounds, given.budget, given.late)
    else:
        main(given.rates, given.seeds, given.rounds, given.budget)
