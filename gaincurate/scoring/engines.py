"""Scores a run's shards in this process, in one for each device, or in workers on Ray.

Each worker loads the model for itself and takes the next shard when it is ready for one, because devices and
rows differ in speed. The files are the same whoever writes them. A worker process ends when its parent does.
On Ray this process has no model: a first worker reports the machine and the identity.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from gaincurate.core.artifact import Artifact, Json
from gaincurate.core.locks import work_folder
from gaincurate.core.process import end_workers, start_tracker, start_workers
from gaincurate.core.progress import Listener, Progress, Sent
from gaincurate.core.ray_workers import RayWorkers, Worker
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


def score_here(plan: Plan, shards: Sequence[int], progress: Progress, summary: Summary) -> None:
    """Write these shards, in this process or in one for each device of the run where there are several.

    Raises:
        GaincurateError: what a worker raised, the first one's; or a worker died. The others are ended.
    """
    devices = plan.machine.devices[: len(shards)]
    if len(devices) == 1:
        score_shards(plan, shards, progress, summary)
        return
    start_tracker()
    context = multiprocessing.get_context("spawn")
    tasks: Any = context.Queue()
    events: Any = context.Queue()
    tasks.cancel_join_thread()  # else, after an error, this process would wait until they are taken
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
    patience, seconds, listener = 0.0, list[dict[str, float]](), _listener(progress, summary)
    try:
        start_workers(workers)
        while len(seconds) < len(workers):
            try:
                kind, value = events.get(timeout=_PATIENCE)
            except queue.Empty:
                if dead := [worker for worker in workers if worker.exitcode not in (None, 0)]:
                    raise GaincurateError(
                        f"a worker died with exit code {dead[0].exitcode} (out of memory, perhaps); finished "
                        "shards are kept. Run the same command again, with fewer --workers."
                    ) from None
                continue
            if kind == "error":
                raise value
            if kind == "done":
                seconds.append(value)
            listener(kind, value)
        patience = _ENDING  # one that is killed while it ends leaves a lock, and Python warns of it
    finally:
        end_workers(workers, patience)
    _add_mean(seconds, summary)


def _listener(progress: Progress, summary: Summary) -> Listener:
    """A listener that adds the counts of workers to the summary."""

    def count(counts: Mapping[str, int]) -> None:
        summary.scored += counts["units"] - counts.get("reused", 0)
        summary.tokens += counts["tokens"]

    return Listener(progress, count)


def _add_mean(seconds: Sequence[dict[str, float]], summary: Summary) -> None:
    """Add the mean of the workers' seconds by stage, because they run at the same time."""
    for each in seconds:
        for stage, value in each.items():
            summary.seconds[stage] = summary.seconds.get(stage, 0.0) + value / len(seconds)


def _work(config: ScoreConfig, identity: Json, tasks: Any, events: Any, begun: float) -> None:
    """A worker process, asked for at the time `begun`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    summary = Summary(config.out)
    try:
        plan = make_plan(config, Progress(), summary)
        Artifact(config.out, SCORES).join(identity, plan.identity)
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


def plan_on_ray(config: ScoreConfig, workers: RayWorkers, progress: Progress, summary: Summary) -> Plan:
    """The plan of a run on Ray: the source is read here, machine and identity are a worker's.

    Raises:
        InputError: an option, the source or the model is not right.
    """
    source, columns = open_data(config, progress, summary)
    [(machine, identity)] = workers.run(_machine_and_identity, hear=_listener(progress, summary))
    return Plan(config, machine, source, columns, identity)


def score_on_ray(
    plan: Plan, shards: Sequence[int], workers: RayWorkers, progress: Progress, summary: Summary
) -> None:
    """Write these shards in workers on Ray.

    Raises:
        GaincurateError: see `RayWorkers.run`.
    """

    def describe(shard: int) -> str:
        start, stop = plan.bounds(shard)
        return f"rows {start} to {stop - 1} (from 0)"

    # Ids go with the shards: the file of all is on this machine alone where --out is a store.
    ids = work_folder(Artifact(plan.config.out, SCORES).folder).absolute() / "ids.bin"
    seconds = workers.run(
        partial(_score_on_ray, plan.identity),
        shards,
        hear=_listener(progress, summary),
        describe=describe,
        payload=lambda shard: np.array(records_in(ids, *plan.bounds(shard))),
    )
    _add_mean(seconds, summary)


def _machine_and_identity(config: ScoreConfig, worker: Worker) -> tuple[Machine, Json]:
    plan = make_plan(config, Progress(), Summary(config.out))
    return plan.machine, plan.identity


class _SentWhole(Sent):
    """Counts a shard when it is written, so that a lost worker's rows are not counted twice."""

    def advance(self, n: float, **also: int) -> None:
        """Nothing; see `part`."""

    def part(self, text: str, **also: int) -> None:
        """Send the counts of the shard with it."""
        super().advance(also["units"], **{name: also[name] for name in ("tokens", "reused")})
        super().part(text, **also)


def _score_on_ray(identity: Json, config: ScoreConfig, worker: Worker) -> dict[str, float]:
    """Score the shards of a worker; returns seconds by stage."""
    summary, begun = Summary(config.out), time.time()
    plan = make_plan(config, Progress(), summary)
    Artifact(config.out, SCORES).join(identity, plan.identity)
    records: dict[int, npt.NDArray[Any]] = {}

    def shards() -> Iterator[int]:
        for shard, records[plan.bounds(shard)[0]] in worker.parts():
            yield shard

    ids = Ids(plan.columns, lambda start, stop: records.pop(start))
    summary.seconds = {"loading": time.time() - begun}
    score_shards(plan, shards(), _SentWhole(worker.report), summary, ids)
    return summary.seconds
