"""How often verdicts are wrong, and what they see, in simulated studies: writes rates.csv beside this file.

Usage: python docs/studies/verdicts/rates.py [STUDIES]. The world is that of `tests/compare_results.py`:
logistic accuracies of 294 prompts in 13 tasks of the sizes of docs/head-to-head.md, 4 answers each, five
seeds that differ by `seed` and arms that take to prompts differently by 0.2, in logits. Nine arms are the
same but for effects of arm and task, and of seed and task. In rows with `points`, one of them is so much
better in all tasks.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))  # the world stands with the tests that use it

from compare_results import task_effects, task_of, truth, world
from gaincurate.compare.verdict import Difference, differences, differences_over_tasks, pairs_with, resample
from gaincurate.core.files import write_atomic

HERE = Path(__file__).parent
SIZES = [24, 12, 10, 20, 16, 20, 40, 24, 12, 12, 24, 48, 32]
ARMS = ["uniform", *"abcdefgh"]
SEEDS, TASTE, DRAWS = 5, 0.2, 500  # a quarter of the draws that the command makes, for time
Row = dict[str, Any]


def rates(
    studies: int, sizes: list[int], arm_task: float, seed_task: float, seed: float = 0.15, points: float = 0.0
) -> Row:
    """One row: shares of studies in which some verdict is wrong, and in which a planted arm is seen.

    `independent` resamples prompts over all tasks and `these` within them. A verdict about these tasks is
    wrong where the interval misses what other seeds and prompts of these tasks would give. `other` is wrong
    where it misses what all tasks that there could be would give. An interval of all arms together is judged.
    """
    spread = float(np.sqrt(seed**2 + TASTE**2 + seed_task**2))
    effect = _effect(points / 100, float(np.hypot(spread, arm_task)))
    effects = [0.0, effect, *[0.0] * (len(ARMS) - 2)]
    tasks, pairs = task_of(sizes, sum(sizes)), pairs_with(ARMS, "uniform")
    over_all = _less_first(truth(np.array(effects), float(np.hypot(spread, arm_task))))
    wrong, seen, widths = np.zeros(3), np.zeros(3), np.zeros(3)
    for draw in range(studies):
        accuracy = world(
            effects, seeds=SEEDS, prompts=sum(sizes), spread=seed, samples=4, draw=draw, marks=1, taste=TASTE,
            tasks=sizes, task_taste=arm_task, seed_task=seed_task,
        )  # fmt: skip
        on_tasks = task_effects(len(ARMS), sizes, arm_task, draw) + np.array(effects)[:, None]
        over_these = _less_first(truth(on_tasks, spread) @ np.array(sizes) / sum(sizes))
        resampled = resample(accuracy, tasks, draws=DRAWS)
        found = [
            (differences(ARMS, resample(accuracy, draws=DRAWS), pairs), over_all),
            (differences(ARMS, resampled, pairs), over_these),
            (differences_over_tasks(ARMS, accuracy[:, -1], tasks, pairs, resampled.apart), over_all),
        ]
        for place, (rows, true) in enumerate(found):
            wrong[place] += any(_misses(row, float(value)) for row, value in zip(rows, true, strict=True))
            seen[place] += rows[0].answer == "better"
            widths[place] += np.mean([_half(row) for row in rows])
    names = ("independent", "these", "other")
    return {
        "tasks": len(sizes),
        "arm x task": arm_task,
        "seed x task": seed_task,
        "seed": seed,
        "points": points,
        "studies": studies,
        **{
            f"{name} wrong %": round(100 * float(k) / studies, 1)
            for name, k in zip(names, wrong, strict=True)
        },
        **{f"{name} seen %": round(100 * float(k) / studies, 1) for name, k in zip(names, seen, strict=True)},
        **{f"{name} half": round(100 * float(k) / studies, 1) for name, k in zip(names, widths, strict=True)},
    }


def _effect(gain: float, spread: float) -> float:
    """The effect in logits that makes accuracy better by so much."""
    grid = np.arange(0, 3, 0.001)
    return float(np.interp(gain, truth(grid, spread) - truth(0.0, spread), grid))


def _less_first(values: np.ndarray) -> np.ndarray:
    return values[1:] - values[0]


def _misses(row: Difference, value: float) -> bool:
    assert row.joint is not None
    return not row.joint[0] <= value <= row.joint[1]


def _half(row: Difference) -> float:
    assert row.joint is not None
    return (row.joint[1] - row.joint[0]) / 2


def main(studies: int) -> None:
    """All rows."""
    effects = (0.0, 0.25, 0.5)
    asked: list[tuple[Any, ...]] = [
        (SIZES, arm_task, seed_task) for arm_task in effects for seed_task in effects
    ]
    asked += [(sizes, 0.5, 0.5) for sizes in ([49] * 6, [10] * 30)]
    asked += [
        (SIZES, both, both, seed, points)
        for both in (0.0, 0.25)
        for seed in (0.15, 0.05)
        for points in (3.0, 6.0)
    ]
    rows = []
    for one in asked:
        rows.append(rates(studies, *one))
        print(rows[-1], flush=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(HERE / "rates.csv", text.getvalue().encode())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
