"""Replays strategies on the outcomes of a real GRPO run, in which every prompt was visited once a pass.

Usage: python docs/studies/real/run.py OUTCOMES.parquet [--part all|tuned|kept] [--seeds N].
OUTCOMES has a row for each prompt, with `right_of_8`: the right rollouts of its group at each visit, in
order (Qwen2.5-Math-1.5B on a subset of DeepScaleR, 500 steps of 128 of 1,209 prompts; ypwang61/One-Shot-
RLVR). A strategy that draws a prompt at step s observes the group of the visit nearest to s. The policy is
the one that uniform sampling trained, whatever is drawn, so this says how well a strategy foresees which
groups differ, and nothing of accuracy.

Prints one JSON object for each strategy: the share of groups that differ in the first pass and after it,
the effective share of the set after it (1 / (N sum q^2), q the share of draws of each prompt) and, for the
default, the share that differ in the first pass of a run that begins at step 100 and has the outcomes
before it as history.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gaincurate.schedule import base

STEPS, PROMPTS, STEP_PROMPTS, GROUP = 500, 1209, 128, 8
HISTORY = 100
STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "uniform": ("uniform", {}),
    "posterior": ("posterior", {}),
    "posterior retest=.05": ("posterior", {"retest": 0.05}),
    "posterior retest=.3": ("posterior", {"retest": 0.3}),
    "variance": ("posterior", {"preset": "variance"}),
    "mapp": ("posterior", {"preset": "mapp"}),
    "mopps": ("posterior", {"preset": "mopps"}),
}


def read(path: Path, part: str) -> list[list[int]]:
    """The visits of a part's prompts. A third, by a hash of the question, is kept back."""
    table = pq.read_table(path)
    visits = []
    for question, right in zip(
        *(table.column(name).to_pylist() for name in ("question", "right_of_8")), strict=True
    ):
        kept_back = hashlib.sha256(question.encode()).digest()[0] % 3 == 0
        if part == "all" or kept_back == (part == "kept"):
            visits.append(right)
    return visits


def replay(
    visits: list[list[int]], name: str, options: dict[str, Any], seed: int, first: int = 0
) -> dict[str, float]:
    """One run from step `first`, with the outcomes before it as history."""
    rows = len(visits)
    budget = round(rows * STEP_PROMPTS / PROMPTS)
    history = None
    if first:
        before = [right[: round(len(right) * first / STEPS)] for right in visits]
        wins = np.array([sum(part) for part in before], float)
        history = np.array([wins, GROUP * np.array([len(part) for part in before]) - wins])
    selector = base.build(name, base.Pool(rows, budget, seed), options)
    differ, draws, one_pass = [], np.zeros(rows), rows // budget
    for step in range(first, STEPS):
        selector.prepare(
            SimpleNamespace(round=step - first, scored=_Set(rows), history=history, rates=None, note=print)
        )
        drawn = selector.draw(step - first)
        wins = np.array(
            [visits[row][min(len(visits[row]) - 1, len(visits[row]) * step // STEPS)] for row in drawn]
        )
        differ.append(((wins > 0) & (wins < GROUP)).mean())
        if step - first >= one_pass:
            draws[drawn] += 1
        selector.observe(
            base.Observed(step - first, drawn, wins.astype(float), GROUP - wins.astype(float), 0.5, 0.0)
        )
    shares = draws / draws.sum()
    return {
        "first pass": float(np.mean(differ[:one_pass])),
        "after": float(np.mean(differ[one_pass:])),
        "effective share": float(1 / (rows * (shares**2).sum())),
    }


class _Set:
    """A scored set without columns that could be labels."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def take(self, rows: Any) -> pa.Table:
        return pa.table({"gc_id": [str(row) for row in rows]})


def main(path: Path, part: str, seeds: int) -> None:
    """Replay each strategy from the start, and after `HISTORY` steps."""
    visits = read(path, part)
    for title, (name, options) in STRATEGIES.items():
        runs = [replay(visits, name, options, seed) for seed in range(seeds)]
        result = {key: round(float(np.mean([run[key] for run in runs])), 3) for key in runs[0]}
        if title == "posterior":
            later = [replay(visits, name, options, seed, HISTORY)["first pass"] for seed in range(seeds)]
            result["first pass with history"] = round(float(np.mean(later)), 3)
        print(json.dumps({"part": part, "prompts": len(visits), "strategy": title, **result}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("outcomes", type=Path)
    parser.add_argument("--part", choices=("all", "tuned", "kept"), default="all")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    main(given.outcomes, given.part, given.seeds)
