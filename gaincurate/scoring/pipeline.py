"""A scoring run from its options to a finished set: plan, begin, score the missing shards, finish.

Prints nothing. A caller that wants to see a run passes a `Progress`.

With several devices each has a process, which loads the model for itself and takes the next shard when it is
ready for one, because devices and rows differ in speed. The files are the same as one process's. A worker
ends when its parent does. With `engine="ray"` the workers are Ray tasks, on any machine. This process has no
model then: a first task reports the machine and the identity.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from gaincurate.core.artifact import IDENTITY, Artifact, Json
from gaincurate.core.files import remove_temporaries
from gaincurate.core.locks import one_at_a_time, work_folder
from gaincurate.core.options import checked
from gaincurate.core.process import end_workers, start_tracker, start_workers
from gaincurate.core.progress import Listener, Progress, Sent, for_python
from gaincurate.core.ray_workers import Worker, need_shared, ray_workers, refuse_other
from gaincurate.core.scored_set import SCORES, ScoredSet
from gaincurate.errors import GaincurateError, OutputError, StorageError, refused_by_the_system
from gaincurate.scoring.config import ScoreConfig, ScoreOptions
from gaincurate.scoring.finished import asked_of, read_back
from gaincurate.scoring.identity import Machine, execution_record
from gaincurate.scoring.ids import Ids, has_ids, records_in, write_ids
from gaincurate.scoring.plan import Outline, Plan, make_plan, open_data
from gaincurate.scoring.readers.source import Hashed
from gaincurate.scoring.summary import Summary
from gaincurate.scoring.worker import score_shards

_PATIENCE = 0.5  # seconds between looks at whether every worker lives
_ENDING = 10.0  # seconds for a worker that is done to end by itself


def score(data: str, model: str, out: str | Path, **options: Unpack[ScoreOptions]) -> Summary:
    """Score a prompt set: `gaincurate score` as a function, with a bar in a notebook.

    Where there are several workers (several GPUs, or `workers`), they import the calling script again: call
    it under `if __name__ == "__main__":`.

    Args:
        data: file, glob, folder, URL of an object store, or id on the Hub.
        model: id on the Hub, folder, .gguf file, or `demo`.
        out: the folder of the set.
        **options: as in `ScoreConfig`.

    Raises:
        InputError: there is no such keyword, or an option, a row or the model is not right.
        StorageError: the file system refused a write.
        LockedError: another process writes the same shards.
    """
    given = {"data": str(data), "model": str(model), "out": Path(out), **options}
    with for_python() as progress:
        return score_dataset(checked(ScoreConfig, given, keywords=True), progress)


def score_dataset(config: ScoreConfig, progress: Progress | None = None) -> Summary:
    """Score a prompt set, or go on where an earlier run of the same options stopped.

    Args:
        config: of the run.
        progress: hears how it goes.

    Raises:
        InputError: an option, the source, a row, the model or the output folder is not right.
        StorageError: the file system refused a write.
        LockedError: another process writes the same shards.
    """
    config.check_engine()
    progress, summary, out = progress or Progress(), Summary(config.out), config.out
    begin = time.perf_counter()
    asked = asked_of(config)  # before reading: a file that changes meanwhile counts
    artifact = Artifact(out, SCORES)
    if not (config.overwrite and artifact.begun):
        artifact.read_identity()  # refuse a folder that is not ours before anything is spent or touched
    with _engine(config, progress, summary) as (plan, score_these), artifact.writing(config.split_run):
        present = _begin(plan, artifact, progress, summary)
        mine = {k for k in range(plan.shards) if config.split_run.owns(k)}
        if mine - present:
            progress.start(plan.rows_in(mine), plan.rows_in(mine & present), what="scoring")
            score_these(sorted(mine - present))
        _finish(plan, artifact, summary)
        summary.elapsed = time.perf_counter() - begin
        record = execution_record(config, plan.machine)
        with suppress(StorageError):  # a full disk: what was scored is there all the same
            _log(artifact, {**record, "asked": asked if summary.complete else None}, summary)
    return summary


@contextmanager
def _engine(
    config: ScoreConfig, progress: Progress, summary: Summary
) -> Iterator[tuple[Outline, Callable[[Sequence[int]], None]]]:
    """The run, and what scores its shards."""
    if config.engine == "local":
        plan = make_plan(config, progress, summary)
        yield plan, lambda shards: score_everywhere(plan, shards, progress, summary)
        return
    source, columns = open_data(config, progress, summary)
    with ray_workers(config, progress) as workers:
        hashed = source.hashed()
        [(machine, identity)] = workers.run(partial(_plan_on_ray, hashed), hear=_Ear(progress, summary))
        outline = Outline(config, machine, source, columns, identity)

        def describe(shard: int) -> str:
            start, stop = outline.bounds(shard)
            return f"rows {start} to {stop - 1} (from 0)"

        def score_these(shards: Sequence[int]) -> None:
            # Ids go with the shards: the file of all is on this machine alone where --out is a store.
            ids = work_folder(config.out).absolute() / "ids.bin"
            payload = partial(_records_of, ids, config.shard_rows)
            work, ear = partial(_score_on_ray, hashed, identity), _Ear(progress, summary)
            workers.run(work, shards, hear=ear, describe=describe, payload=payload)
            ear.close()

        yield outline, score_these


def _records_of(ids: Path, shard_rows: int, shard: int) -> npt.NDArray[Any]:
    return np.array(records_in(ids, shard * shard_rows, (shard + 1) * shard_rows))


def _plan_on_ray(hashed: Hashed, config: ScoreConfig, worker: Worker) -> tuple[Machine, Json]:
    """A task: what a worker would do."""
    plan = make_plan(config, Progress(), Summary(config.out), hashed)
    return plan.machine, plan.identity


def _score_on_ray(hashed: Hashed, identity: Json, config: ScoreConfig, worker: Worker) -> dict[str, float]:
    """A task: scores the shards that the worker is given; where its time went."""
    summary, begun = Summary(config.out), time.time()
    plan = make_plan(config, Progress(), summary, hashed)
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


def _begin(plan: Outline, artifact: Artifact, progress: Progress, summary: Summary) -> set[int]:
    """Write ids and identity, or check them; the shards that are there already."""
    out = plan.config.out
    ids = work_folder(out) / "ids.bin"
    with one_at_a_time(out), summary.timed("reading"):
        if plan.config.split_run.count == 1:
            remove_temporaries(out)
        begun = None if plan.config.overwrite else artifact.read_identity()
        replaces = artifact.begun if plan.config.overwrite else begun is not None
        if plan.config.overwrite and _same_run_unfinished(artifact, plan.identity):
            begun = plan.identity  # the same command again, after an interruption: go on
        elif begun is not None and begun != plan.identity and _nothing_scored(plan.config, artifact):
            begun = None  # the first row was refused, say: other options are no other set's yet
        if begun is None:
            # The ids come first: what is wrong with the source is found before anything is deleted.
            fresh = ids.with_name("ids-new.bin")
            write_ids(fresh, plan.source.batches(), plan.columns)
            if replaces or not artifact.remote:  # else another machine may have begun meanwhile
                artifact.remove()  # or what a beginning left: its ids must not meet the next identity
            if note := artifact.begin(plan.identity, first=not replaces):
                progress.note(note)
            fresh.replace(ids)  # after the identity: a kill never leaves an old one with new ids
            return set()
        artifact.refuse_other(begun, plan.identity)
        present = artifact.present(plan.identity, plan.shards)
        if len(present) < plan.shards:
            artifact.reopen()
            # In an object store another machine may have begun another set since the ids were made here.
            if artifact.remote or not has_ids(ids, plan.source.rows):
                write_ids(ids, plan.source.batches(), plan.columns)
        return present


def shards_kept(plan: Outline, artifact: Artifact) -> set[int]:
    """The shards that the run would keep of what is in its folder, by their names alone; changes nothing.

    Raises:
        OutputError: the folder holds something else, which the run would refuse too.
    """
    if plan.config.overwrite:
        kept = _same_run_unfinished(artifact, plan.identity)
    else:
        begun = artifact.read_identity()
        kept = begun is not None and (begun == plan.identity or not _nothing_scored(plan.config, artifact))
        if kept and begun is not None:
            artifact.refuse_other(begun, plan.identity)
    return artifact.indexes(plan.shards) if kept else set()


def _same_run_unfinished(artifact: Artifact, identity: Json) -> bool:
    if artifact.finished or not artifact.begun:
        return False
    try:
        return artifact.read_identity() == identity
    except OutputError:  # damaged: what --overwrite is for
        return False


def _nothing_scored(config: ScoreConfig, artifact: Artifact) -> bool:
    """Whether a scoring run was begun in the folder, wrote no shard, and no process can be at work on it."""
    # A plain run holds the folder alone; other parts of a --shard run may have no shard yet either.
    return config.split_run.count == 1 and not artifact.holds_results


def _finish(plan: Outline, artifact: Artifact, summary: Summary) -> None:
    """Write the manifest if every shard is there, and read the set's own figures back."""
    out = plan.config.out
    if len(artifact.indexes(plan.shards)) < plan.shards:
        return
    with summary.timed("writing"), one_at_a_time(out):
        remove_temporaries(out)  # of killed --shard runs; those that live have nothing left to write
        if not artifact.finished:
            artifact.finish(plan.identity, plan.shards)
    shutil.rmtree(work_folder(out), ignore_errors=True)
    # Of a set in a store the whole would have to be fetched for what the manifest does not say.
    read_back(summary, artifact.read_manifest(), None if artifact.remote else ScoredSet(out, verify=False))


def _log(artifact: Artifact, record: dict[str, Any], summary: Summary) -> None:
    """Write down how this process ran."""
    seconds, ended = {stage: round(value, 3) for stage, value in summary.seconds.items()}, time.time()
    line = {**record, "ended": ended, "scored": summary.scored, "seconds": seconds}
    line |= {"elapsed": round(summary.elapsed, 3), "host": platform.node()}  # by which `--dry-run` estimates
    artifact.log(line, ended - summary.elapsed)


def score_everywhere(plan: Plan, shards: Sequence[int], progress: Progress, summary: Summary) -> None:
    """Score these shards in this process, or in one for each device of the run where there are several.

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
    running, ear = len(workers), _Ear(progress, summary)
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
        super().__init__(progress, self._add, again=("units", "tokens"))
        self._summary = summary
        self._seconds: list[dict[str, float]] = []

    def _add(self, counts: Mapping[str, int]) -> None:
        self._summary.scored += counts["units"]
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
        score_shards(plan, _taken(tasks), Sent(lambda kind, value: events.put((kind, value))), summary)
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


def _taken(tasks: Any) -> Iterator[int]:
    while (index := tasks.get()) is not None:
        yield index
