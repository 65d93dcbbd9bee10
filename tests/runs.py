"""Runs over scored sets made by hand: the scheduler's side without a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import sets
from gaincurate.schedule.config import RescoreConfig, ScheduleConfig
from gaincurate.schedule.observations import silent
from gaincurate.schedule.rounds import advance, start
from gaincurate.schedule.run import Run

TRAINER = Path(__file__).with_name("fake_trainer.py")
COMMAND = [sys.executable, str(TRAINER), "{data}", "{round}", "{checkpoint}", "{outcomes}", "{output}"]


def some_set(folder: Path, rows: int = 60, shards: int = 3, seed: int = 0) -> Path:
    """A finished set with angles and lengths at random."""
    random = np.random.default_rng(seed)
    made = [
        sets.scored_row(f"id{i:04d}", f"question {i}", float(random.random()), int(random.integers(3, 90)))
        for i in range(rows)
    ]
    size = -(-rows // shards)
    return sets.make_set(folder, [made[k : k + size] for k in range(0, rows, size)])


def begin(folder: Path, *, rows: int = 60, note: Callable[[str], None] = silent, **options: Any) -> Run:
    """A run of gain-rl over such a set, unless told otherwise."""
    scored = folder / "set"
    if not scored.exists():
        some_set(scored, rows)
    given: dict[str, Any] = {"strategy": "gain-rl", "budget": 8, "rounds": 3, "options": {"sigma": "0.1N"}}
    given |= {"scored": scored, "run": folder / "run", "model": "the-model"} | options
    if given["strategy"] != "gain-rl" and "options" not in options:
        given["options"] = {}
    if isinstance(given.get("rescore"), dict):
        given["rescore"] = RescoreConfig(**given["rescore"])
    return start(ScheduleConfig(**given), note)


Reward = Callable[[str, int], Any]


def half(gc_id: str, sample: int) -> int:
    """The second rollout of a prompt is right."""
    return sample % 2


def step(run: Run, reward: Reward = half, checkpoint: Path | str | None = None, samples: int = 2) -> Run:
    """Report the newest round and plan the next one, in fresh objects."""
    report(run, reward, samples)
    advance(Run(run.folder), None if checkpoint is None else str(checkpoint))
    return Run(run.folder)


def report(run: Run, reward: Reward = half, samples: int = 2) -> None:
    """Write outcomes for the newest round."""
    round_ = run.state["round"]
    rollouts = [(gc_id, sample) for gc_id in run.ids(round_) for sample in range(samples)]
    lines = [{"gc_id": i, "reward": reward(i, k), "round": round_, "sample": k} for i, k in rollouts]
    write(run, round_, lines)


def valid_lines(run: Run) -> list[dict[str, Any]]:
    """The outcomes of all rounds that were not taken back, from the files alone."""
    every: list[dict[str, Any]] = []
    for path in sorted(run.folder.glob("rounds/*/outcomes.jsonl")):
        valid: list[dict[str, Any]] = []
        for line in map(json.loads, path.read_text().splitlines()):
            if "resume_from_step" in line:
                valid = [other for other in valid if other["step"] <= line["resume_from_step"]]
            else:
                valid.append(line)
        every += valid
    return every


def write(run: Run, round_: int, lines: Sequence[Any]) -> None:
    """Append lines to a round's outcomes, texts as they are."""
    with run.outcomes(round_).open("a") as file:
        for line in lines:
            file.write((line if isinstance(line, str) else json.dumps(line)) + "\n")


def plans(run: Run) -> list[bytes]:
    """All plans, byte by byte."""
    return [path.read_bytes() for path in sorted(run.folder.glob("rounds/*/plan.json"))]
