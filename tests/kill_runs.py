"""Kills driven runs, as kills.py does folders; a program of its own, because it forks.

Usage: kill_runs.py FOLDER STRATEGY KILLS. Each driver is a forked child, so imports are paid once. Prints one
JSON object.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import runs
from gaincurate.core import process as child
from gaincurate.schedule.driver import drive
from gaincurate.schedule.run import Run
from kills import until_more

COMMAND = [sys.executable, "-I", "-S", str(Path(__file__).with_name("mini_trainer.py"))]
COMMAND += ["{data}", "{round}", "{outcomes}"]


def files(folder: Path) -> dict[str, bytes]:
    """What must be the same: plans, rows, states; not times, attempts and logs."""
    names = ("plan.json", "data.parquet", "state.json")
    found = [*folder.glob("state.json"), *folder.glob("rounds/*/*")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(found) if p.name in names}


def same(first: dict[str, bytes], second: dict[str, bytes]) -> list[str]:
    """Files that differ; how far outcomes were read may differ after an attempt that was killed."""

    def plain(name: str, data: bytes) -> object:
        return {**json.loads(data), "taken": None, "digest": None} if name.endswith("state.json") else data

    return [
        name
        for name in first.keys() | second.keys()
        if name not in first or name not in second or plain(name, first[name]) != plain(name, second[name])
    ]


def main(folder: Path, strategy: str, kills: int) -> dict[str, object]:
    """Compare every killed and finished run with an uninterrupted one."""
    context = multiprocessing.get_context("fork")
    child._FREED = 300.0  # however long a killed driver's trainer takes to end on a loaded machine
    options: dict[str, Any] = {"strategy": strategy, "rounds": 5, "budget": 8}
    runs.begin(folder, run=folder / "reference", **options)
    shutil.copytree(folder / "reference", folder / "fresh")

    def begin(run: Path) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=lambda: drive(Run(run), COMMAND))
        process.start()
        return process

    started = time.perf_counter()
    first = begin(folder / "reference")
    first.join()
    duration = time.perf_counter() - started
    expected = files(folder / "reference")
    chance, out = random.Random(1), folder / "out"
    done, differing, reached = 0, list[str](), list[int]()
    while done < kills:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(folder / "fresh", out)
        for at_random in (True, False, True):
            process = begin(out)
            if at_random:
                process.join(chance.uniform(0, duration))
            else:
                until_more(process, lambda: Run(out).round)
            process.kill()
            process.join()
            done += process.exitcode == -9
            reached.append(Run(out).round)
        for _ in range(3):  # a trainer between fork and exec holds the lock of the driver that was killed
            last = begin(out)
            last.join()
            if last.exitcode == 0:
                break
        if last.exitcode != 0:
            differing.append(f"exit code {last.exitcode}")
        differing += same(expected, files(out))
    return {
        "finished": first.exitcode == 0,
        "files": sorted(expected),
        "kills": done,
        "differing": differing,
        "reached": reached,
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
