"""Comparisons whose answer is known, with real trainings: are an arm that cannot learn and one that is told
what to learn found out, and one strategy under two names not?

Usage: compare_planted.py FOLDER [repetitions [workers]]. Prints one JSON object. Trainings are forked from a
process that has imported the trainer, which would cost more than the trainings.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import compare_world
from gaincurate.compare import arm
from gaincurate.compare.arm import ArmJob
from gaincurate.compare.config import checked_comparison
from gaincurate.compare.document import document
from gaincurate.compare.results import read_results
from gaincurate.compare.runner import compare


def _forked(job: ArmJob, environment: Mapping[str, str], watch: Callable[[float], None]) -> float:
    begun = time.monotonic()
    context = multiprocessing.get_context("fork")

    def child() -> None:
        log = os.open(job.folder / "trainer.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            arm.main(job.folder)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)  # without the end of the parent's libraries

    process = context.Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0, job.folder
    return time.monotonic() - begun


def answers(folder: Path, out: str, workers: int, **changes: Any) -> dict[str, Any]:
    """The verdict on each arm."""
    compare(checked_comparison(compare_world.settings(folder, **changes)), folder / out, workers=workers)
    return {arm["arm"]: arm for arm in document(read_results(folder / out))["arms"]}


def main(folder: Path, repetitions: int = 10, workers: int = 2) -> dict[str, Any]:
    """Planted arms once, the same strategy twice so often."""
    import torch
    import trl  # noqa: F401 - before the first fork

    torch.set_num_threads(1)  # more would not outlive a fork
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "heldout").exists():
        compare_world.make(folder)
    arms = [{"name": "twin", "strategy": "uniform"}]
    with mock.patch.object(ArmJob, "work", _forked):
        planted = answers(folder, "planted", workers)
        seeds = [[3 * k, 3 * k + 1, 3 * k + 2] for k in range(repetitions)]
        compared = (answers(folder, f"twins-{s[0] // 3}", workers, seeds=s, arms=arms) for s in seeds)
        twins = [each["twin"] for each in compared]
    return {"planted": planted, "twins": twins}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
