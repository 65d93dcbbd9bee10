"""A scoring run from its options to a finished set: plan, begin, score the missing shards, finish.

Prints nothing. A caller that wants to see a run passes a `Progress`.

With several devices each has a process, which loads the model for itself and takes the next shard when it is
ready for one, because devices and rows differ in speed. The files are the same as one process's. A worker
ends when its parent does.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from gaincurate.core.artifact import EXECUTION, MANIFEST, REJECTED, Artifact, Json
from gaincurate.core.files import append_line, remove_temporaries
from gaincurate.core.locks import one_at_a_time, work_folder
from gaincurate.core.process import end_workers, start_workers
from gaincurate.core.progress import Progress
from gaincurate.core.scored_set import COLUMNS, SCORES, ScoredSet
from gaincurate.errors import GaincurateError, OutputError
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.finished import asked_of, read_back
from gaincurate.scoring.identity import execution_record
from gaincurate.scoring.ids import write_ids
from gaincurate.scoring.plan import Plan, make_plan
from gaincurate.scoring.summary import Summary
from gaincurate.scoring.worker import score_shards

_PATIENCE = 0.5  # seconds between looks at whether every worker lives
_ENDING = 10.0  # seconds for a worker that is done to end by itself


def score(data: str, model: str, out: str | Path, **options: Any) -> Summary:
    """Score a prompt set: `gaincurate score` as a function; options as in `ScoreConfig`.

    Where there are several workers (several GPUs, or `workers`), they import the calling script again: call
    it under `if __name__ == "__main__":`.
    """
    return score_dataset(ScoreConfig(data=data, model=model, out=Path(out), **options))


def score_dataset(config: ScoreConfig, progress: Progress | None = None) -> Summary:
    """Score a prompt set, or go on where an earlier run of the same options stopped.

    Raises:
        InputError: an option, the source, a row, the model or the output folder is not right.
        StorageError: the file system refused a write.
        LockedError: another process writes the same shards.
    """
    progress, summary, out = progress or Progress(), Summary(config.out), config.out
    begin, asked = (
        time.perf_counter(),
        asked_of(config),
    )  # before reading: a file that changes meanwhile counts
    artifact = Artifact(out, SCORES)
    if not (config.overwrite and artifact.begun):
        artifact.read_identity()  # refuse a folder that is not ours before anything is spent or touched
    plan = make_plan(config, progress, summary)
    with artifact.writing(config.split_run):
        present = _begin(plan, artifact, summary)
        mine = {k for k in range(plan.shards) if config.split_run.owns(k)}
        if mine - present:
            progress.start(plan.rows_in(mine), plan.rows_in(mine & present), what="scoring")
            score_everywhere(plan, sorted(mine - present), progress, summary)
        _finish(plan, artifact, summary)
        summary.elapsed = time.perf_counter() - begin
        record = execution_record(config, plan.machine)
        _log(out, {**record, "asked": asked if summary.complete else None}, summary)
    return summary


def _begin(plan: Plan, artifact: Artifact, summary: Summary) -> set[int]:
    """Write ids and identity, or check them; the shards that are there already."""
    out = plan.config.out
    ids = work_folder(out) / "ids.bin"
    with one_at_a_time(out), summary.timed("reading"):
        if plan.config.split_run.count == 1:
            remove_temporaries(out)
        begun = None if plan.config.overwrite else artifact.read_identity()
        if plan.config.overwrite and _same_run_unfinished(artifact, plan.identity):
            begun = plan.identity  # the same command again, after an interruption: go on
        elif begun is not None and begun != plan.identity and _nothing_scored(plan.config):
            begun = None  # the first row was refused, say: other options are no other set's yet
        if begun is None:
            # The ids come first: what is wrong with the source is found before anything is deleted.
            fresh = ids.with_name("ids-new.bin")
            write_ids(fresh, plan.source.batches(), plan.columns)
            artifact.remove()  # or what a beginning left: its ids must not meet the next identity
            artifact.begin(plan.identity)
            fresh.replace(ids)  # after the identity: a kill never leaves an old one with new ids
            return set()
        artifact.refuse_other(begun, plan.identity)
        present = artifact.present(plan.identity, plan.shards)
        if len(present) < plan.shards:
            artifact.reopen()
            if not ids.exists():
                write_ids(ids, plan.source.batches(), plan.columns)
        return present


def _same_run_unfinished(artifact: Artifact, identity: Json) -> bool:
    if artifact.finished or not artifact.begun:
        return False
    try:
        return artifact.read_identity() == identity
    except OutputError:  # damaged: what --overwrite is for
        return False


def _nothing_scored(config: ScoreConfig) -> bool:
    """Whether a scoring run was begun in the folder, wrote no shard, and no process can be at work on it."""
    # A plain run holds the folder alone; other parts of a --shard run may have no shard yet either.
    if config.split_run.count > 1:
        return False
    results = (
        MANIFEST,
        REJECTED,
        COLUMNS,
        "shard-*.arrow",
    )  # what a finished set was, whatever is left of it
    return not any(path for name in results for path in config.out.glob(name))


def _finish(plan: Plan, artifact: Artifact, summary: Summary) -> None:
    """Write the manifest if every shard is there, and read the set's own figures back."""
    out = plan.config.out
    if not all(artifact.part(index).exists() for index in range(plan.shards)):
        return
    with summary.timed("writing"), one_at_a_time(out):
        remove_temporaries(out)  # of killed --shard runs; those that live have nothing left to write
        if not artifact.finished:
            artifact.finish(plan.identity, plan.shards)
    shutil.rmtree(work_folder(out), ignore_errors=True)
    scored_set = ScoredSet(out, verify=False)
    read_back(scored_set, summary)


def _log(out: Path, record: dict[str, Any], summary: Summary) -> None:
    """Append how this process ran to `execution.jsonl`."""
    seconds = {stage: round(value, 3) for stage, value in summary.seconds.items()}
    line = {**record, "ended": time.time(), "scored": summary.scored, "seconds": seconds}
    append_line(out / EXECUTION, line)


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
    """Sends everything to the parent but what is loading, which each worker would say."""

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
