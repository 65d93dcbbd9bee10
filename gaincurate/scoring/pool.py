"""Several processes at one set, one for each device.

Each process loads the model for itself and takes the next shard when it is ready for one, because devices
and rows differ in speed. The files are the same as one process's. A worker ends when its parent does.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.context import SpawnProcess
from typing import Any

from gaincurate.core.artifact import Artifact, Json
from gaincurate.core.process import end_workers, start_workers
from gaincurate.core.progress import Progress
from gaincurate.core.scored_set import SCORES
from gaincurate.errors import GaincurateError
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.plan import Plan, make_plan
from gaincurate.scoring.summary import Summary
from gaincurate.scoring.worker import score_shards

_PATIENCE = 0.5  # seconds between looks at whether every worker lives
_ENDING = 10.0  # seconds for a worker that is done to end by itself


def score_everywhere(plan: Plan, shards: Sequence[int], progress: Progress, summary: Summary) -> None:
    """Score these shards in this process, or in one for each device of the run where there are several.

    Raises:
        GaincurateError: what a worker raised, the first one's; or a worker died. The others are ended.
    """
    devices = plan.machine.devices[: len(shards)]
    if len(devices) == 1:
        score_shards(plan, shards, progress, summary)
        return
    context = multiprocessing.get_context("spawn")
    tasks: Any = context.Queue()
    events: Any = context.Queue()
    tasks.cancel_join_thread()  # else, after an error, this process would wait for ever for them to be taken
    for item in [*shards, *(None for _ in devices)]:
        tasks.put(item)
    options = {"threads": plan.machine.threads, "workers": 1, "overwrite": False}
    configs = [plan.config.model_copy(update={**options, "device": device}) for device in devices]
    workers = [
        context.Process(
            target=_work,
            args=(config, plan.identity, tasks, events, time.time()),
            name=f"gaincurate {config.device}",
            daemon=True,
        )
        for config in configs
    ]
    patience = 0.0
    try:
        start_workers(workers)
        _listen(workers, events, progress, summary)
        patience = _ENDING  # one that is killed while it ends leaves a lock, and Python warns of it
    finally:
        end_workers(workers, patience)


def _listen(workers: Sequence[SpawnProcess], events: Any, progress: Progress, summary: Summary) -> None:
    """Pass on what the workers say until all are done."""
    running, heard = len(workers), set()
    while running:
        try:
            kind, value = events.get(timeout=_PATIENCE)
        except queue.Empty:
            dead = [worker for worker in workers if worker.exitcode not in (None, 0)]
            if dead:
                raise GaincurateError(
                    f"a worker died with exit code {dead[0].exitcode} (out of memory, perhaps); finished "
                    "shards are kept. Run the same command again, with fewer --workers."
                ) from None
            continue
        if kind == "note":
            if value not in heard:  # each worker says it
                progress.note(value)
            heard.add(value)
        elif kind == "advance":
            summary.scored += value[0]
            summary.tokens += value[1]
            progress.advance(value[0], tokens=value[1])
        elif kind == "part":
            progress.part(value)
        elif kind == "error":
            raise value
        else:
            running -= 1
            for stage, seconds in value.items():
                # Beside each other: the mean is what passed on the wall.
                summary.seconds[stage] = summary.seconds.get(stage, 0.0) + seconds / len(workers)


class _Reports(Progress):
    """Sends everything to the parent."""

    def __init__(self, events: Any) -> None:
        self._events = events

    def note(self, text: str) -> None:
        self._events.put(("note", text))

    def advance(self, n: float, **also: int) -> None:
        self._events.put(("advance", (int(n), also["tokens"])))

    def part(self, text: str) -> None:
        self._events.put(("part", text))


def _work(config: ScoreConfig, identity: Json, tasks: Any, events: Any, begun: float) -> None:
    """A worker process, asked for at the time `begun`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    summary = Summary(config.out)
    try:
        plan = make_plan(config, Progress(), summary)
        Artifact(config.out, SCORES).refuse_other(identity, plan.identity)
        summary.seconds = {"loading": time.time() - begun}  # its start and imports too
        score_shards(plan, _taken(tasks), _Reports(events), summary)
    except GaincurateError as error:
        events.put(("error", error))
    else:
        events.put(("done", summary.seconds))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _taken(tasks: Any) -> Iterator[int]:
    while (index := tasks.get()) is not None:
        yield index
