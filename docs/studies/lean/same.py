"""How often verdicts call an arm different that is uniform under another name, in the loop's own trainings.

Usage: python docs/studies/lean/same.py HELDOUT [STUDIES]. HELDOUT is the study's heldout.jsonl, which names
the tasks. Each study draws trainings of tuned uniform without replacement and calls some of them other arms.
The trainings of a world are few and its studies share them, so a rate tells less than their number says.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from gaincurate.compare.verdict import differences, differences_over_tasks, pairs_with, resample

HERE = Path(__file__).parent
FILES = ("tuned.jsonl", "fresh.jsonl", "decide.jsonl")
STUDIES = [("w3", 2, 5), ("w3", 4, 5)]
"""World, arms, seeds of each."""
DRAWS = 500  # a quarter of the draws that `compare` makes, for time


def main(heldout: Path, studies: int) -> None:
    """Print the share of studies in which some arm is called different, and of arms that are."""
    prompts = [json.loads(line) for line in heldout.read_text("utf-8").splitlines()]
    tasks = np.unique([f"{row['source']} {row['level']}" for row in prompts], return_inverse=True)[1]
    trainings = [json.loads(line) for name in FILES for line in (HERE / name).read_text().splitlines()]
    print("world  arms  seeds  trainings  these tasks: studies  arms  other tasks: studies  arms")
    for world, arms, seeds in STUDIES:
        ends = np.array([t["last"] for t in trainings if (t["world"], t["arm"]) == (world, "uniform")])
        names, chance = [f"uniform {k}" for k in range(arms)], np.random.default_rng(0)
        pairs, wrong = pairs_with(names, names[0]), np.zeros((2, studies))
        for study in range(studies):
            chosen = chance.permutation(len(ends))[: arms * seeds].reshape(arms, seeds)
            resampled = resample(ends[chosen][:, None], tasks, draws=DRAWS)
            for claim, found in enumerate(
                (
                    differences(names, resampled, pairs),
                    differences_over_tasks(names, ends[chosen], tasks, pairs, resampled.apart),
                )
            ):
                wrong[claim, study] = np.mean([row.answer != "no difference seen" for row in found])
        rates = [100 * rate for claim in wrong for rate in ((claim > 0).mean(), claim.mean())]
        print(
            f"{world:5} {arms:5} {seeds:6} {len(ends):10}",
            "".join(f"{rate:12.1f} %" for rate in rates),
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200)
