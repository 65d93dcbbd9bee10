"""Compares what predicts without training, over many random draws of references, and prints two tables.

Usage: python docs/studies/difficulty_real/training_free.py FOLDER [--draws 100]. FOLDER holds what these
commands make:

    python docs/studies/difficulty_real/mixture.py FOLDER 72 ten       # or 103 seven
    cd FOLDER
    gaincurate score prompts.jsonl --model demo --out scored --shots shots.json --threads 1 \
        --signals angle,nll,entropy,embedding
    gaincurate difficulty rollout scored --out first --model demo --verifier reasoning-gym --samples 8 \
        --seed 0 --temperature 0.6 --top-p 0.95 --max-tokens 12 --batch-tokens 20000 --threads 1

Every figure is of prompts that are no references, on rollouts that no predictor saw.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from figures import BATCH, centred, variance

from gaincurate.core.rng import Floats, Ints
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.stats import pearson
from gaincurate.difficulty.metrics import Target, quality_of_halves
from gaincurate.difficulty.pass_rates import PassRates
from gaincurate.difficulty.predict import MethodName, make
from gaincurate.difficulty.rollout_set import pass_rates

REFERENCES, ROLLOUTS = 256, 8
METHODS: tuple[MethodName, ...] = ("gp", "group-mean")


def successes(folder: Path, ids: list[str]) -> Floats:
    """How many rollouts got the whole reward."""
    table = pass_rates(folder, success=1.0)
    assert set(table.column("samples").to_pylist()) == {ROLLOUTS}
    wins = dict(zip(table.column(ID).to_pylist(), table.column("wins").to_pylist(), strict=True))
    return np.array([wins[gc_id] for gc_id in ids])


def correlation(predicted: Floats, observed: Floats) -> float:
    """Pearson's; 0 where all predictions are equal."""
    return pearson(predicted, observed) or 0.0


class Trial:
    """One set, its tasks and its rollouts."""

    def __init__(self, folder: Path) -> None:
        self.scored = ScoredSet(folder / "scored")
        self.whole = self.scored.take(np.arange(len(self.scored)))
        self.ids = self.whole.column(ID).to_pylist()
        self.task = np.array(self.whole.column("source").to_pylist())
        self.wins = successes(folder / "first", self.ids)

    def draw(self, number: int) -> tuple[Ints, Ints]:
        """References and the others, as places."""
        order = np.random.default_rng(number).permutation(len(self.ids))
        return np.sort(order[:REFERENCES]), np.sort(order[REFERENCES:])

    def figures(self, method: MethodName, number: int) -> dict[str, float]:
        """What one draw of references gives."""
        references, others = self.draw(number)
        losses = ROLLOUTS - self.wins
        observed = losses / ROLLOUTS
        spread = variance(self.wins.astype(np.int64), ROLLOUTS)
        made = {}
        for target in ("difficulty", "variance"):
            aim: Target = target
            ids = [self.ids[i] for i in references]
            fitted = make(
                method,
                self.scored,
                PassRates("references", ids, self.wins[references], losses[references]),
                group_column="source" if method == "group-mean" else None,
                target=aim,
            )
            made[aim] = fitted.rows(self.whole)[others]
            if aim == "difficulty":
                alone = correlation(fitted.leave_one_out(), observed[references])
                halves = quality_of_halves(
                    fitted.halves(number), self.wins[references], losses[references], seed=number
                )
        assert halves is not None
        d, task = made["difficulty"], self.task[others]
        found = {
            "overall": correlation(d, observed[others]),
            "within task": correlation(centred(d, task), centred(observed[others], task)),
            "p (1 - p)": correlation(made["variance"], spread[others]),
            "alone": alone,
            "halves": halves.pearson.value or 0.0,
        }
        random = np.random.default_rng(10_000 + number).permutation(len(others))  # ties at random
        for name, worth in (("nearest .5", -np.abs(d - 0.5)), ("highest", made["variance"])):
            best = random[np.argsort(-np.round(worth[random], 9), kind="stable")[:BATCH]]
            found[name] = float(spread[others][best].mean() / spread[others].mean())
        return found


def main(folder: Path, draws: int) -> None:
    """Print the tables."""
    trial = Trial(folder)
    print(f"{len(trial.ids)} prompts, mean pass rate {trial.wins.mean() / ROLLOUTS:.2f}, {draws} draws\n")
    listed = {method: [trial.figures(method, number) for number in range(draws)] for method in METHODS}
    names = list(listed["gp"][0])
    print("| method | " + " | ".join(names) + " |")
    print("| --- |" + " --- |" * len(names))
    for method, found in listed.items():
        table = np.array([[one[name] for name in names] for one in found])
        cells = [f"{mean:.3f} ({sd:.3f})" for mean, sd in zip(table.mean(0), table.std(0), strict=True)]
        print(f"| {method} | " + " | ".join(cells) + " |")
    print("\n| gp's figure less that of | " + " | ".join(names) + " |")
    print("| --- |" + " --- |" * len(names))
    for method in METHODS[1:]:
        table = np.array(
            [[a[n] - b[n] for n in names] for a, b in zip(listed["gp"], listed[method], strict=True)]
        )
        cells = [f"{mean:+.3f} ({sd:.3f})" for mean, sd in zip(table.mean(0), table.std(0), strict=True)]
        print(f"| {method} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--draws", type=int, default=100, help="random sets of references")
    options = parser.parse_args()
    main(options.folder.resolve(), options.draws)
