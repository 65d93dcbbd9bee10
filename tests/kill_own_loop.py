"""Runs docs/examples/own_loop.py whole, and again with a kill in each third of a round.

A program of its own, because it forks: imports are paid once. Usage: kill_own_loop.py FOLDER, with the folders
`model` and `scored` in it. The folders `whole` and `killed` get a run and its checkpoints.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

import transformers.models.llama.modeling_llama  # noqa: F401 (what the loop imports late is paid once)

from gaincurate import Schedule

SCRIPT = Path(__file__).parent.parent / "docs/examples/own_loop.py"
THIRDS = ((0, 1), (1, 1), (1, 2), (1, 3))
"""Round, and the report of that round after which each process dies."""


def train(folder: Path, name: str, killed: tuple[int, int] | None) -> None:
    """The script, which dies after a report."""
    report, reports = Schedule.report, 0

    def dying(self: Schedule, *args: Any, **options: Any) -> None:
        nonlocal reports
        report(self, *args, **options)
        reports += killed is not None and self.round == killed[0]
        if killed is not None and reports == killed[1]:
            os.kill(os.getpid(), signal.SIGKILL)

    Schedule.report = dying  # type: ignore[method-assign] # a kill at a known instant
    main = runpy.run_path(str(SCRIPT))["main"]
    main(str(folder / "model"), str(folder / "scored"), folder / name / "run", folder / name)


def main(folder: Path) -> None:
    """Train both."""
    context = multiprocessing.get_context("fork")
    for name, killed in [("whole", None), *(("killed", third) for third in THIRDS), ("killed", None)]:
        process = context.Process(target=train, args=(folder, name, killed))
        process.start()
        process.join()
        assert process.exitcode == (0 if killed is None else -signal.SIGKILL), (name, killed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
