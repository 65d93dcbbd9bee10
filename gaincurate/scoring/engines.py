"""Where a run's shards are scored: in this process, in one for each device, or in tasks on Ray.

Each worker loads the model for itself and takes the next shard when it is ready for one, because devices and
rows differ in speed. The files are the same whoever writes them. A worker process ends when its parent does.
On Ray this process has no model: a first task reports the machine and the identity.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gaincurate.core.artifact import IDENTITY, Artifact, Json
from gaincurate.core.locks import work_folder
from gaincurate.core.process import end_workers, start_tracker, start_workers
from gaincurate.core.progress import Listener, Progress, Sent
from gaincurate.core.ray_workers import RayWorkers, Worker, need_shared, ray_workers, refuse_other
from gaincurate.core.scored_set import SCORES
from gaincurate.errors import GaincurateError, StorageError, refused_by_the_system
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.identity import Machine
from gaincurate.scoring.ids import Ids, records_in
from gaincurate.scoring.plan import Plan, make_plan, open_data
from gaincurate.scoring.summary import Summary
from gaincurate.scoring.worker import score_shards

_PATIENCE = 0.5  # seconds between looks at whether every worker lives
_ENDING = 10.0  # seconds for a worker that is done to end by itself


class Engine(Protocol):
    """Scores the shards of a plan."""

    plan: Plan

    def score(self, shards: set[int], present: set[int]) -> None:
        """Write those of the shards that are not present.

        Raises:
            GaincurateError: what a worker raised, the first one's; or a worker died. The others are ended.
        """


@contextmanager
def engine(config: ScoreConfig, progress: Progress, summary: Summary) -> Iterator[Engine]:
    """The run's engine, with its plan made.

    Raises:
        InputError: an option, the source or the model is not right, or there is no Ray.
    """
    config.check_engine()
    if config.engine == "local":
        yield Local(make_plan(config, progress, summary), progress, summary)
        return
    with ray_workers(config, progress) as workers:
        yield OnRay(config, workers, progress, summary)


class Local:
    """Scores in this process, or in one for each device of the run where there are several."""

    def __init__(self, plan: Plan, progress: Progress, summary: Summary) -> None:
        self.plan, self._progress, self._summary = plan, progress, summary

    def score(self, shards: set[int], present: set[int]) -> None:
        """See `Engine`."""
        missing = sorted(shards - present)
        if not missing:
            return
        self._progress.start(self.plan.rows_in(shards), self.plan.rows_in(shards & present), what="scoring")
        devices = self.plan.machine.devices[: len(missing)]
        if len(devices) == 1:
            score_shards(self.plan, missing, self._progress, self._summary)
        else:
            self._in_processes(missing, devices)

    def _in_processes(self, shards: Sequence[int], devices: Sequence[str]) -> None:
        start_tracker()
        context = multiprocessing.get_context("spawn")
        tasks: Any = context.Queue()
        events: Any = context.Queue()
        tasks.cancel_join_thread()  # else, after an error, this process would wait until they are taken
        for item in [*shards, *(None for _ in devices)]:
            tasks.put(item)
        options = {"threads": self.plan.machine.threads, "workers": 1, "overwrite": False}
        configs = [self.plan.config.model_copy(update={**options, "device": device}) for device in devices]
        workers = [
            context.Process(
                target=_work,
                args=(config, self.plan.identity, tasks, events, time.time()),
                name=f"gaincurate {config.device}",
                daemon=True,
            )
            for config in configs
        ]
        patience = 0.0
        try:
            start_workers(workers)
            self._listen(workers, events)
            patience = _ENDING  # one that is killed while it ends leaves a lock, and Python warns of it
        finally:
            end_workers(workers, patience)

    def _listen(self, workers: Sequence[SpawnProcess], events: Any) -> None:
        """Pass on what the workers say until all are done."""
        running, ear = len(workers), _Ear(self._progress, self._summary)
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
            if kind == "error":
                raise value
            running -= kind == "done"
            ear(kind, value)
        ear.close()


class _Ear(Listener):
    """Sums up what workers report."""

    def __init__(self, progress: Progress, summary: Summary) -> None:
        super().__init__(progress, self._add, again=("units", "tokens", "reused"))
        self._summary = summary
        self._seconds: list[dict[str, float]] = []

    def _add(self, counts: Mapping[str, int]) -> None:
        self._summary.scored += counts["units"] - counts.get("reused", 0)
        self._summary.tokens += counts["tokens"]

    def __call__(self, kind: str, value: Any, process: int = 0) -> None:
        super().__call__(kind, value, process)
        if kind == "done":
            self._seconds.append(value)

    def close(self) -> None:
        """Sum up where the time went: workers are beside each other, so the mean passed on the wall."""
        for seconds in self._seconds:
            for stage, value in seconds.items():
                before = self._summary.seconds.get(stage, 0.0)
                self._summary.seconds[stage] = before + value / len(self._seconds)


def _work(config: ScoreConfig, identity: Json, tasks: Any, events: Any, begun: float) -> None:
    """A worker process, asked for at the time `begun`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    summary = Summary(config.out)
    try:
        plan = make_plan(config, Progress(), summary)
        Artifact(config.out, SCORES).refuse_other(identity, plan.identity)
        summary.seconds = {"loading": time.time() - begun}  # its start and imports too
        sent = Sent(lambda kind, value: events.put((kind, value)))
        score_shards(plan, iter(tasks.get, None), sent, summary)
    except GaincurateError as error:
        events.put(("error", error))
    except Exception as error:
        if (refusal := refused_by_the_system(error)) is None:
            raise
        events.put(("error", StorageError(refusal)))
    else:
        events.put(("done", summary.seconds))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class OnRay:
    """Scores in tasks on Ray."""

    def __init__(
        self, config: ScoreConfig, workers: RayWorkers, progress: Progress, summary: Summary
    ) -> None:
        self._workers, self._progress, self._summary = workers, progress, summary
        source, columns = open_data(config, progress, summary)
        [(machine, identity)] = workers.run(_plan_on_ray, hear=_Ear(progress, summary))
        self.plan = Plan(config, machine, source, columns, identity)

    def score(self, shards: set[int], present: set[int]) -> None:
        """See `Engine`."""
        plan, ear = self.plan, _Ear(self._progress, self._summary)
        missing = sorted(shards - present)
        if not missing:
            return

        def describe(shard: int) -> str:
            start, stop = plan.bounds(shard)
            return f"rows {start} to {stop - 1} (from 0)"

        self._progress.start(plan.rows_in(shards), plan.rows_in(shards & present), what="scoring")
        # Ids go with the shards: the file of all is on this machine alone where --out is a store.
        ids = work_folder(plan.config.out).absolute() / "ids.bin"
        payload = partial(_records_of, ids, plan.config.shard_rows)
        work = partial(_score_on_ray, plan.identity)
        self._workers.run(work, missing, hear=ear, describe=describe, payload=payload)
        ear.close()


def _records_of(ids: Path, shard_rows: int, shard: int) -> npt.NDArray[Any]:
    return np.array(records_in(ids, shard * shard_rows, (shard + 1) * shard_rows))


def _plan_on_ray(config: ScoreConfig, worker: Worker) -> tuple[Machine, Json]:
    """A task: what a worker would do."""
    plan = make_plan(config, Progress(), Summary(config.out))
    return plan.machine, plan.identity


def _score_on_ray(identity: Json, config: ScoreConfig, worker: Worker) -> dict[str, float]:
    """A task: scores the shards that the worker is given; where its time went."""
    summary, begun = Summary(config.out), time.time()
    plan = make_plan(config, Progress(), summary)
    refuse_other(identity, plan.identity)
    if not Artifact(config.out, SCORES).remote:
        need_shared(config.out / IDENTITY)
    records: dict[int, npt.NDArray[Any]] = {}

    def shards() -> Iterator[int]:
        for shard, records[plan.bounds(shard)[0]] in worker.parts():
            yield shard

    ids = Ids(plan.columns, lambda start, stop: records.pop(start))
    summary.seconds = {"loading": time.time() - begun}
    score_shards(plan, shards(), Sent(worker.report), summary, ids)
    return summary.seconds
