"""Simulates choosing on a real policy's pass rates and prints what the strategies' rounds would have carried.

Usage: python docs/studies/difficulty_real/choosing.py FOLDER [--seeds 20] [--truth drawn|halves]. FOLDER is
that of `training_free.py`, which names the commands that make it. The policy stays fixed: what is asked is
how soon a strategy finds prompts with a high p (1 - p), and not what a policy would learn from them.

Eight rollouts of a prompt do not say its pass rate, and an oracle that took them for it would seem better
than any can be. So with `drawn` each seed draws a pass rate per prompt from its posterior given the eight
rollouts, Beta with a prior that is fitted to the prompt's task. Outcomes are binomial in that rate, and
p (1 - p) is exact. Within a task such a rate knows nothing of the embedding beyond the eight rollouts, so
neighbours are at a disadvantage. With `halves` four of the eight rollouts at random are shown (outcomes are
binomial in their mean), and the other four judge without bias. Its oracle knows the shown four and no more.

`explorer` is no strategy but a bound. It knows a prompt's exact rate once it has drawn it, knows nothing of
the others, draws new ones in the first rounds and then the best that it has seen. In how many rounds it draws
new ones is chosen afterwards, per seed and with strata per task, as it would have been best.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import betaln
from training_free import ROLLOUTS, Trial

from gaincurate.core.rng import Floats, Ints
from gaincurate.core.schema import EMBEDDING, ID
from gaincurate.difficulty.embeddings import DIRECTIONS, matrix
from gaincurate.schedule import base
from gaincurate.schedule.strata import Strata

ROUNDS, BUDGET, SHOWN, GROUP = 12, 33, 8, 4
ORACLE, EXPLORER = "oracle", "explorer"
_GROUP: dict[str, Any] = {"group_column": "source"}
_TOP: dict[str, Any] = {"top": True}
_BARE: dict[str, Any] = {"unseen": 0, "easy": 0, "hard": 0}
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "uniform": ("uniform", {}),
    "variance": ("variance", {}),
    "posterior": ("posterior", {}),
    "top": ("posterior", _TOP),
    "neighbours 16": ("posterior", {"neighbours": 16}),
    "neighbours 16, top": ("posterior", {"neighbours": 16} | _TOP),
    "neighbours 32": ("posterior", {"neighbours": 32}),
    "neighbours 32, top": ("posterior", {"neighbours": 32} | _TOP),
    "group": ("posterior", _GROUP),
    "group, top": ("posterior", _GROUP | _TOP),
    "group, neighbours 16, top": ("posterior", _GROUP | {"neighbours": 16} | _TOP),
    "group, neighbours 32, top": ("posterior", _GROUP | {"neighbours": 32} | _TOP),
    "group, top, no shares": ("posterior", _GROUP | _TOP | _BARE),
    "group, neighbours 32, top, no shares": ("posterior", _GROUP | {"neighbours": 32} | _TOP | _BARE),
    **{name: ("posterior", {"preset": name}) for name in ("mopps", "mapp")},
}


@dataclass(frozen=True)
class Context:
    """Stands in for `gaincurate.schedule.context.Context`, by the parts that have a meaning here."""

    task: pa.ChunkedArray
    points: Floats
    round: int

    def column(self, name: str) -> pa.ChunkedArray:
        """The tasks, `[N]`."""
        return {"source": self.task}[name]

    def embeddings(self, rows: Ints) -> Floats:
        """`[rows, DIRECTIONS]`."""
        return self.points[rows]


@dataclass(frozen=True)
class Truth:
    """Of each prompt, `[N]`: the pass rate that outcomes have, and p (1 - p) as it is judged."""

    rates: Floats
    worth: Floats


def drawn(task: Any, wins: Floats, rng: np.random.Generator) -> Truth:
    """Pass rates of each prompt's posterior, whose Beta prior makes its task's rollouts likeliest."""
    rates, grid = np.zeros(len(wins)), np.logspace(-2, 2, 41)
    a, b = np.meshgrid(grid, grid)
    for name in np.unique(task):
        mine = np.flatnonzero(task == name)
        k = wins[mine, None, None]
        likelihood = (betaln(a + k, b + ROLLOUTS - k) - betaln(a, b)).sum(0)
        best = np.unravel_index(likelihood.argmax(), likelihood.shape)
        rates[mine] = rng.beta(a[best] + wins[mine], b[best] + ROLLOUTS - wins[mine])
    return Truth(rates, rates * (1 - rates))


def halves(task: Any, wins: Floats, rng: np.random.Generator) -> Truth:
    """Four of the eight rollouts to be seen, and the others' unbiased estimate of p (1 - p)."""
    seen = rng.hypergeometric(wins.astype(np.int64), ROLLOUTS - wins.astype(np.int64), GROUP)
    other = wins - seen
    return Truth(seen / GROUP, other * (GROUP - other) / (GROUP * (GROUP - 1)))


class Set:
    """One folder's prompts."""

    def __init__(self, folder: Path) -> None:
        trial = Trial(folder)
        self.task, self.wins = trial.task, trial.wins
        whole = matrix(trial.whole.select([ID, EMBEDDING]), folder).astype(np.float64)
        centred = whole - whole.mean(0)
        # A strategy looks along the strongest directions alone. Once here, they need not be found each round.
        self.points = centred @ np.linalg.svd(centred, full_matrices=False)[2][:DIRECTIONS].T
        self.column = pa.chunked_array([self.task.tolist()])

    def run(self, arm: str, truth: Truth, seed: int, stratified: bool) -> Ints:
        """What an arm draws, `[ROUNDS, BUDGET]`."""
        strata = Strata.of(self.task) if stratified else None
        pool = base.Pool(len(self.task), BUDGET, seed, strata=strata)
        rng = np.random.default_rng([seed, 1])
        if arm == ORACLE:
            best = truth.rates * (1 - truth.rates) + 1e-9 * rng.random(pool.rows)  # ties at random
            return np.array([pool.pick(best, round_) for round_ in range(ROUNDS)])
        selector, rounds = base.build(ARMS[arm][0], pool, ARMS[arm][1]), []
        for round_ in range(ROUNDS):
            context: Any = Context(self.column, self.points, round_)
            selector.prepare(context)
            rows = selector.draw(round_)
            rounds.append(rows)
            wins = rng.binomial(SHOWN, truth.rates[rows]).astype(np.float64)
            selector.observe(base.Observed(round_, rows, wins, SHOWN - wins, float(wins.mean()) / SHOWN, 0.0))
        return np.array(rounds)

    def explore(self, truth: Truth, seed: int, stratified: bool) -> Ints:
        """What the explorer draws, `[ROUNDS, BUDGET]`."""
        strata = Strata.of(self.task) if stratified else None
        pool = base.Pool(len(self.task), BUDGET, seed, strata=strata)
        shape = np.array([pool.pick(truth.rates, round_) for round_ in range(ROUNDS)])
        rng, everything = np.random.default_rng([seed, 2]), np.arange(pool.rows)
        parts = (
            [everything[self.task == name] for name in np.unique(self.task)] if stratified else [everything]
        )
        rounds: list[list[int]] = [[] for _ in range(ROUNDS)]
        for part in parts:
            quotas = np.isin(shape, part).sum(1)  # the task's places in each round
            order = rng.permutation(part)
            tries = [_explored(order, quotas, truth.worth, new) for new in range(1, ROUNDS + 1)]
            best = max(tries, key=lambda made: float(truth.worth[np.concatenate(made)].sum()))
            for all_, more in zip(rounds, best, strict=True):
                all_ += more.tolist()
        return np.array(rounds)

    def largest_task(self, rounds: Ints) -> float:
        """The share of one task, the largest, in the second half of the rounds."""
        counts = np.unique(self.task[rounds[ROUNDS // 2 :]], return_counts=True)[1]
        return float(counts.max() / counts.sum())


def _explored(order: Ints, quotas: Ints, worth: Floats, new_rounds: int) -> list[Ints]:
    """Rows of each round: unseen ones in this order in the first rounds, then the best of those seen."""
    rounds, seen = [], 0
    for round_, quota in enumerate(quotas):
        new = order[seen : seen + quota] if round_ < new_rounds or seen < quota else order[:0]
        seen += len(new)
        known = order[: seen - len(new)]
        best = known[np.argsort(-worth[known], kind="stable")][: quota - len(new)]
        rounds.append(np.concatenate([new, best]))
    return rounds


def table(prompts: Set, truths: list[Truth], stratified: bool) -> list[str]:
    """Of each arm its p (1 - p) in times of uniform's, its gain in the oracle's, and how it concentrates."""
    uniform = np.array([truth.worth.mean() for truth in truths])
    draws = {
        arm: [prompts.run(arm, truth, seed, stratified) for seed, truth in enumerate(truths)]
        for arm in (*ARMS, ORACLE)
    }
    draws[EXPLORER] = [prompts.explore(truth, seed, stratified) for seed, truth in enumerate(truths)]
    worth = {
        arm: np.array([truth.worth[rows].mean() for truth, rows in zip(truths, made, strict=True)])
        for arm, made in draws.items()
    }
    lines = ["| arm | times uniform | of the oracle's gain | prompts | one task's share |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for arm, made in draws.items():
        share = (worth[arm] - uniform) / np.mean(worth[ORACLE] - uniform)
        error = np.std(share, ddof=1) / np.sqrt(len(share))
        distinct = np.mean([len(np.unique(rows)) for rows in made])
        largest = np.mean([prompts.largest_task(rows) for rows in made])
        lines.append(
            f"| {arm} | {worth[arm].mean() / uniform.mean():.2f} | {share.mean():.2f} ({error:.2f}) "
            f"| {distinct:.0f} | {largest:.2f} |"
        )
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--truth", choices=("drawn", "halves"), default="drawn")
    options = parser.parse_args()
    given = Set(options.folder)
    make = {"drawn": drawn, "halves": halves}[options.truth]
    worlds = [make(given.task, given.wins, np.random.default_rng([s, 0])) for s in range(options.seeds)]
    print(f"{len(given.task)} prompts, mean p (1 - p) {np.mean([w.worth.mean() for w in worlds]):.3f}")
    for by_task in (False, True):
        print(f"\n{'Each task keeps its share' if by_task else 'Among all prompts'}\n")
        print("\n".join(table(given, worlds, by_task)), flush=True)
