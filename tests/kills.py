"""Kills what writes a folder and compares the finished folder with an uninterrupted one's.

Half of the kills come at random instants, half when there is more to go on with, however slow the machine is.

For programs of their own, because it forks: imports are paid once, in a parent that has never computed.
"""

from __future__ import annotations

import multiprocessing
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from command import tree


def until_more(process: multiprocessing.process.BaseProcess, left: Callable[[], int]) -> None:
    """Wait until `left` grows, or the process ends."""
    least = left()
    while process.is_alive() and (now := left()) <= least:
        least = now
        process.join(0.001)


def kill_at_random(
    work: Callable[[Any], object],
    config: Callable[[Path], object],
    folder: Path,
    kills: int,
    *,
    left: Callable[[Path], int],
    earliest: float = 0.0,
) -> dict[str, Any]:
    """Run `work(config(out))` until it was killed often enough, each time to its end at last.

    Args:
        work: writes the folder that its configuration names.
        config: the configuration for a folder.
        folder: where `reference` and `out` are made.
        kills: how many, at least.
        left: what to count of a folder that grows; the counts right behind each kill are under `left`.
        earliest: before this share of an uninterrupted run's duration there is no kill.
    """
    context = multiprocessing.get_context("fork")

    def start(out: Path) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=work, args=(config(out),))
        process.start()
        return process

    reference, out = folder / "reference", folder / "out"
    begin = time.perf_counter()
    first = start(reference)
    first.join()
    duration = time.perf_counter() - begin
    expected = tree(reference)
    chance = random.Random(0)
    done, differing, counts = 0, list[str](), list[int]()
    while done < kills:
        shutil.rmtree(out, ignore_errors=True)
        for at_random in (True, False):  # a set is killed up to twice before it may finish
            process = start(out)
            if at_random:
                process.join(chance.uniform(earliest * duration, duration))
            else:
                until_more(process, lambda: left(out))
            process.kill()
            process.join()
            done += process.exitcode == -9
            counts.append(left(out))
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
        "left": counts,
    }
