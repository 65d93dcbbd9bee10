"""Kills driven runs, as kills.py does folders; a program of its own, because it forks.

Usage: kill_runs.py FOLDER STRATEGY KILLS. Each driver is a forked child, so imports are paid once. Prints one
JSON object.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import runs
from gaincurate.core import process as child
from gaincurate.schedule.driver import drive
from gaincurate.schedule.run import Run
from kills import forked, kill_at_random

COMMAND = [sys.executable, "-I", "-S", str(Path(__file__).with_name("mini_trainer.py"))]
COMMAND += ["{data}", "{round}", "{outcomes}"]


def files(folder: Path) -> dict[str, object]:
    """What must be the same: plans, rows, states; not times, attempts, logs and how far outcomes were read."""
    names = ("plan.json", "data.parquet", "state.json")
    paths = [path for path in (folder / "state.json", *folder.glob("rounds/*/*")) if path.name in names]
    return {str(path.relative_to(folder)): _content(path) for path in paths}


def _content(path: Path) -> object:
    if path.name != "state.json":
        return path.read_bytes()
    return {**json.loads(path.read_bytes()), "taken": None, "digest": None}


def main(folder: Path, strategy: str, kills: int) -> dict[str, object]:
    """Compare every killed and finished run with an uninterrupted one."""
    child._FREED = 300.0  # however long a killed driver's trainer takes to end on a loaded machine
    runs.begin(folder, run=folder / "reference", strategy=strategy, rounds=5, budget=8)
    shutil.copytree(folder / "reference", folder / "fresh")

    def fresh() -> Path:
        shutil.rmtree(folder / "out", ignore_errors=True)
        return Path(shutil.copytree(folder / "fresh", folder / "out"))

    return kill_at_random(
        lambda run: forked(lambda: drive(Run(run), COMMAND)),
        folder / "reference",
        fresh,
        kills,
        left=lambda run: Run(run).round,
        files=files,
        instants=(True, False, True),
        tries=3,  # a trainer between fork and exec holds the lock of the driver that was killed
    )


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
