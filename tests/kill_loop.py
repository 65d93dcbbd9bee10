"""Kills scoring runs at random instants; a program of its own, because it forks.

Usage: kill_loop.py DATA MODEL FOLDER KILLS. Imports are paid once: each run is a forked child of a parent
that has never computed. Prints one JSON object.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import sys
import time
from pathlib import Path

from command import tree
from gaincurate.config import ScoreConfig
from gaincurate.scoring.pipeline import score_dataset


def main(data: str, model: str, folder: Path, kills: int) -> dict[str, object]:
    """Compare every killed and finished set with an uninterrupted one."""
    context = multiprocessing.get_context("fork")

    def start(out: Path) -> multiprocessing.process.BaseProcess:
        config = ScoreConfig(data=data, model=model, out=out, shard_rows=10, on_error="skip", threads=1)
        process = context.Process(target=score_dataset, args=(config,))
        process.start()
        return process

    reference, out = folder / "reference", folder / "out"
    begin = time.perf_counter()
    first = start(reference)
    first.join()
    duration = time.perf_counter() - begin
    expected = tree(reference)
    chance = random.Random(0)
    done = 0
    differing: list[str] = []
    leftovers: list[int] = []
    while done < kills:
        shutil.rmtree(out, ignore_errors=True)
        for _ in range(2):  # a set is killed up to twice before it may finish
            process = start(out)
            process.join(chance.uniform(0, duration))
            process.kill()
            process.join()
            done += process.exitcode == -9
            leftovers.append(len(list(out.glob("shard-*"))) if out.exists() else 0)
        last = start(out)
        last.join()
        found = tree(out)
        differing += [
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        ]
    return {
        "finished": first.exitcode == 0,
        "files": sorted(expected),
        "kills": done,
        "differing": differing,
        "shards_at_kill": leftovers,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
