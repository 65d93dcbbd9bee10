"""Kills what writes a folder and compares the finished folder with an uninterrupted one's.

Half of the kills come at random instants, half when there is more to go on with, however slow the machine is.

For programs of their own, because it forks: imports are paid once, in a parent that has never computed.
"""

from __future__ import annotations

import multiprocessing
import random
import shutil
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from command import tree


def forked(work: Callable[..., object], *arguments: Any) -> BaseProcess:
    """A process of this program that does some work."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def kill_at_random(
    start: Callable[[Any], BaseProcess],
    reference: Any,
    fresh: Callable[[], Any],
    kills: int,
    *,
    left: Callable[[Any], int],
    files: Callable[[Any], dict[str, Any]] = tree,
    instants: Sequence[bool] = (True, False),
    tries: int = 1,
    earliest: float = 0.0,
) -> dict[str, Any]:
    """Begin and kill some work until it was killed often enough, each time to its end at last.

    Args:
        start: begins the work that writes a place.
        reference: a place that is written without a kill.
        fresh: makes a new place.
        kills: how many, at least.
        left: what to count of a place that grows; the counts right behind each kill are under `left`.
        files: what a place has to hold in the end.
        instants: of the kills of one place: at random, or when `left` grows.
        tries: how often the last process may be begun, where another one's lock outlives it.
        earliest: before this share of an uninterrupted run's duration there is no kill at random.
    """
    begin = time.perf_counter()
    first = start(reference)
    first.join()
    duration = time.perf_counter() - begin
    expected, chance = files(reference), random.Random(0)
    done, differing, counts = 0, list[str](), list[int]()
    while done < kills:
        place = fresh()
        for at_random in instants:
            process, least = start(place), left(place)
            if at_random:
                process.join(chance.uniform(earliest * duration, duration))
            else:
                while process.is_alive() and (now := left(place)) <= least:
                    least = now
                    process.join(0.001)
            process.kill()
            process.join()
            done += process.exitcode == -9
            counts.append(left(place))
        for _ in range(tries):
            last = start(place)
            last.join()
            if last.exitcode == 0:
                break
        there = files(place)
        differing += [f"exit code {last.exitcode}"] if last.exitcode else []
        differing += [
            name for name in expected.keys() | there.keys() if expected.get(name) != there.get(name)
        ]
    return {
        "finished": first.exitcode == 0,
        "files": sorted(expected),
        "kills": done,
        "differing": differing,
        "left": counts,
    }


def kill_folders(
    work: Callable[[Any], object], config: Callable[[Path], object], folder: Path, kills: int, **more: Any
) -> dict[str, Any]:
    """The same of `work(config(out))`, which writes the folder that its configuration names."""

    def fresh() -> Path:
        shutil.rmtree(folder / "out", ignore_errors=True)
        return folder / "out"

    return kill_at_random(lambda out: forked(work, config(out)), folder / "reference", fresh, kills, **more)
