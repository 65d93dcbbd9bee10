"""A scoring run from its options to a finished set.

The run prints nothing; a caller that wants to follow it passes a `Progress`. Shards are scored in this
process, in one worker process for each device, or in workers on Ray. Each worker loads the model itself and
takes the next shard when it is ready, because devices and rows differ in speed. The files do not depend on
which worker wrote them. A worker process ends with its parent. On Ray this process loads no model: a first
worker reports the machine and the identity.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import queue
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gaincurate.core.artifact import Artifact, Json
from gaincurate.core.files import differing_keys, remove_temporaries, temporary_folder
from gaincurate.core.locks import one_at_a_time, work_folder
from gaincurate.core.options import checked
from gaincurate.core.process import end_workers, start_tracker, start_workers
from gaincurate.core.progress import Listener, Progress, Sent
from gaincurate.core.ray_workers import RayWorkers, Worker, ray_workers
from gaincurate.core.scored_set import SCORES, ScoredSet
from gaincurate.core.stats import spearman
from gaincurate.errors import GaincurateError, InputError, OutputError, StorageError, refused_by_the_system
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.ids import RECORD, write_ids
from gaincurate.scoring.model import place_of
from gaincurate.scoring.plan import Machine, ScoringPlan, Summary, make_plan, open_data
from gaincurate.scoring.readers.source import Cursor
from gaincurate.scoring.reuse import differences
from gaincurate.scoring.segment import Unusable
from gaincurate.scoring.worker import Part, score_shards, segmented

_POLL = 0.5  # seconds between checks that every worker is alive
_ENDING = 10.0  # seconds for a worker that is done to end by itself


def score(data: str, model: str, out: str | Path, **options: Any) -> Summary:
    """Score a prompt set: `gaincurate score` as a function.

    Several workers (several GPUs, or `workers`) import the calling script again, so call this function under
    `if __name__ == "__main__":`.

    Args:
        data: file, glob, folder, URL of an object store, or id on the Hub.
        model: id on the Hub, folder, .gguf file, or `demo`.
        out: the folder of the set.
        **options: the other fields of `ScoreConfig`.

    Raises:
        InputError: a keyword is unknown, or an option, a row or the model is not valid.
        OutputError: `out` holds the scores of another run.
        StorageError: the file system refused a write.
        LockedError: another process writes the same shards.
        GaincurateError: a worker died, or the device has too little memory for one prompt.
    """
    arguments = {"data": str(data), "model": str(model), "out": Path(out), **options}
    return score_dataset(checked(ScoreConfig, arguments, keywords=True))


def score_dataset(config: ScoreConfig, progress: Progress | None = None) -> Summary:
    """Score a prompt set, or resume an earlier run with the same options.

    Six calls: `read_identity` refuses a folder that holds something else, `make_plan` opens the data and the
    model, `begin` writes the ids and the identity, `score_here` writes the missing shards, `finish` writes
    the manifest, and `log` records how this process ran. With `--engine ray`, `plan_on_ray` and
    `score_on_ray` take the places of two of them. Raises the errors that `score` raises.
    """
    config.check_engine()
    progress, summary, started = progress or Progress(), Summary(config.out), time.perf_counter()
    artifact = Artifact(config.out, SCORES)
    artifact.read_identity(damaged=config.overwrite)
    with ray_workers(config, progress) if config.engine == "ray" else nullcontext() as workers:
        plan = plan_on_ray(config, workers, progress) if workers else make_plan(config, progress)
        if plan.identity["tokenizer"]["chat_template"] is None:
            progress.note("the tokenizer has no chat template, so prompts are scored as plain text")
        with artifact.writing(config.split_run):
            missing = begin(plan, artifact, progress)
            if missing and workers:
                score_on_ray(plan, missing, workers, progress, summary)
            elif missing:
                score_here(plan, missing, progress, summary)
            finish(plan, artifact, summary)
            summary.shards, summary.elapsed = len(missing), time.perf_counter() - started
            log(plan, artifact, summary)
    return summary


def begin(plan: ScoringPlan, artifact: Artifact, progress: Progress) -> list[int]:
    """Write the ids and the identity, or check those in the folder; return this part's missing shards."""
    out, mine, present = artifact.folder, plan.mine, set[int]()
    ids = work_folder(out) / "ids.bin"
    with one_at_a_time(out):
        if plan.config.split_run.count == 1:
            remove_temporaries(out)
        if goes_on(plan, artifact):
            present = artifact.present(plan.identity, plan.shards)
            if len(present) < plan.shards:
                artifact.reopen()
                # In an object store another machine may have begun another set since the ids were made here,
                # and a power failure may leave a truncated file.
                whole = ids.is_file() and ids.stat().st_size == plan.source.rows * RECORD.itemsize
                if artifact.mirror is not None or not whole:
                    write_ids(ids, plan.source.batches(), plan.columns)
        else:
            # The ids come first, so that faults of the source are found before anything is deleted.
            fresh = ids.with_name("ids-new.bin")
            write_ids(fresh, plan.source.batches(), plan.columns)
            if artifact.begun or artifact.mirror is None:  # else another machine may have begun meanwhile
                artifact.remove()  # also a half-begun set: its ids must not be used with a new identity
            artifact.begin(plan.identity)
            fresh.replace(ids)  # after the identity: a kill never leaves an old one with new ids
    if mine - present:
        progress.start(plan.rows_in(mine), plan.rows_in(mine & present), what="scoring")
    return sorted(mine - present)


def goes_on(plan: ScoringPlan, artifact: Artifact) -> bool:
    """Whether the run continues with the shards in its folder (else it begins the set). Changes nothing.

    Raises:
        OutputError: the folder holds a set of another identity; `details` has each key with both values.
    """
    config = plan.config
    begun = artifact.read_identity(damaged=config.overwrite)
    if begun == plan.identity:
        return not (config.overwrite and artifact.finished)  # else --overwrite begins
    # A run without --shard owns the folder; parts of a --shard run may have written no shard yet.
    if begun and not config.overwrite and (config.split_run.count > 1 or artifact.holds_results):
        changes, folder = list(differing_keys(begun, plan.identity)), artifact.place
        hint = (artifact.kind.hints or {}).get(changes[0][0], "") if len(changes) == 1 else ""
        raise OutputError(
            f"{differences(changes)}{hint}: {folder} holds scores of another run. Give another --out, where "
            f"--reuse {folder} takes those of equal rows, repeat the first run's options, or start over with "
            "--overwrite.",
            path=str(folder),
            keys=[key for key, _, _ in changes],
            details=changes,
        )
    return False


def estimate(config: ScoreConfig, progress: Progress) -> Json:
    """Count the work of `score_dataset`, for `--dry-run`. Loads no weights and leaves `--out` unchanged.

    Returns:
        For this part of the run (`--shard`): `rows`, `shards`, and the finished shards, `there`. For the
        `rows_left` to score: their `tokens`, those of the `longest` prompt, and how many rows are `unusable`,
        with the reason of the first one in `why`.

    Raises:
        InputError: an option, a row's id or the model is not valid.
        OutputError: `--out` holds the scores of another run.
    """
    if config.engine == "ray" or config.reuse:
        raise InputError("--dry-run counts all rows, on this machine: leave --engine ray and --reuse out.")
    config.check_engine()
    plan, artifact = make_plan(config, progress), Artifact(config.out, SCORES)
    mine, finished, lengths, unusable = plan.mine, set[int](), [0], list[str]()
    if goes_on(plan, artifact):
        finished = mine & artifact.indexes(plan.shards)
    else:
        with temporary_folder() as folder:  # refuses equal ids, as the run would
            write_ids(folder / "ids.bin", plan.source.batches(), plan.columns)
    cursor, left = Cursor(plan.source), plan.rows_in(mine - finished)
    progress.start(left, what="counting tokens")
    for start, stop in map(plan.bounds, sorted(mine - finished)):
        for place, prompt in sorted(segmented(plan, cursor.read(start, stop)).items()):
            if isinstance(prompt, Unusable):
                unusable.append(f"row {start + place} (from 0): {prompt.reason}")
            else:
                lengths.append(len(prompt.token_ids))
        progress.advance(stop - start)
    return {
        "out": str(config.out),
        "rows": plan.rows_in(mine),
        "shards": len(mine),
        "there": len(finished),
        "rows_left": left,
        "tokens": sum(lengths),
        "longest": max(lengths),
        "unusable": len(unusable),
        "why": unusable[0] if unusable else None,
    }


def score_here(plan: ScoringPlan, shards: Sequence[int], progress: Progress, summary: Summary) -> None:
    """Write these shards, in this process for one device, else in one worker process for each device.

    Raises:
        GaincurateError: the first error of a worker, or a worker died. The other workers are ended.
    """
    devices = plan.machine.devices[: len(shards)]
    if len(devices) == 1:
        score_shards(plan, _parts(plan, shards), progress, summary)
        return
    start_tracker()
    context: Any = multiprocessing.get_context("spawn")
    tasks, events = context.Queue(), context.Queue()
    tasks.cancel_join_thread()  # else, after an error, this process would wait until all tasks are taken
    for item in [*shards, *(None for _ in devices)]:
        tasks.put(item)
    workers = []
    for device in devices:
        options = {"device": device, "threads": plan.machine.threads, "workers": 1, "overwrite": False}
        arguments = (plan.config.model_copy(update=options), plan.identity, tasks, events)
        workers.append(context.Process(target=_work, args=arguments, daemon=True))
    patience, done, listener = 0.0, 0, Listener(progress, summary.count)
    try:
        start_workers(workers)
        while done < len(workers):
            try:
                kind, value = events.get(timeout=_POLL)
            except queue.Empty:
                if dead := [worker for worker in workers if worker.exitcode not in (None, 0)]:
                    raise GaincurateError(
                        f"a worker died with exit code {dead[0].exitcode} (out of memory, perhaps); finished "
                        "shards are kept. Run the same command again, with fewer --workers."
                    ) from None
                continue
            if kind == "error":
                raise value
            done += kind == "done"
            listener(kind, value)
        patience = _ENDING  # Python warns of the lock of a worker that is killed while it ends
    finally:
        end_workers(workers, patience)


def _parts(plan: ScoringPlan, shards: Iterable[int]) -> Iterator[Part]:
    """The shards, each with the records of its ids."""
    ids = work_folder(Artifact(plan.config.out, SCORES).folder).absolute() / "ids.bin"
    for shard in shards:
        yield shard, np.memmap(ids, RECORD, "r")[slice(*plan.bounds(shard))]


def _joined(config: ScoreConfig, identity: Json) -> ScoringPlan:
    """The plan of a worker, which must have the identity of the run."""
    plan = make_plan(config, Progress())
    Artifact(config.out, SCORES).join(identity, plan.identity)
    return plan


def _work(config: ScoreConfig, identity: Json, tasks: Any, events: Any) -> None:
    """The target of a worker process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sent = Sent(lambda kind, value: events.put((kind, value)))
    try:
        plan = _joined(config, identity)
        score_shards(plan, _parts(plan, iter(tasks.get, None)), sent)
        events.put(("done", None))
    except GaincurateError as error:
        events.put(("error", error))
    except Exception as error:
        if (refusal := refused_by_the_system(error)) is None:
            raise
        events.put(("error", StorageError(refusal)))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def plan_on_ray(config: ScoreConfig, workers: RayWorkers, progress: Progress) -> ScoringPlan:
    """The plan of a run on Ray: this process reads the source, a worker reports machine and identity.

    Raises:
        InputError: an option, the source or the model is not valid.
    """
    source, columns = open_data(config, progress)
    hear = Listener(progress, Summary(config.out).count)
    [(machine, identity)] = workers.run(_machine_and_identity, hear=hear)
    return ScoringPlan(config, machine, source, columns, identity)


def score_on_ray(
    plan: ScoringPlan, shards: Sequence[int], workers: RayWorkers, progress: Progress, summary: Summary
) -> None:
    """Write these shards in workers on Ray.

    Raises:
        GaincurateError: see `RayWorkers.run`.
    """
    workers.run(
        partial(_score_on_ray, plan.identity),
        shards,
        hear=Listener(progress, summary.count),
        describe=lambda shard: f"rows {plan.bounds(shard)[0]} to {plan.bounds(shard)[1] - 1} (from 0)",
        # With --out in an object store, only this machine has the file of all ids.
        payload=lambda shard: np.array(next(_parts(plan, [shard]))[1]),
    )


def _machine_and_identity(config: ScoreConfig, worker: Worker) -> tuple[Machine, Json]:
    plan = make_plan(config, Progress())
    return plan.machine, plan.identity


def _score_on_ray(identity: Json, config: ScoreConfig, worker: Worker) -> None:
    """The task of a worker on Ray. Rows count when their shard is written, so that none counts twice."""

    def send(kind: str, value: Any) -> None:
        if kind == "part":
            counts = value[1]
            worker.report("advance", (counts["units"], {name: counts[name] for name in ("tokens", "reused")}))
        if kind != "advance":
            worker.report(kind, value)

    score_shards(_joined(config, identity), worker.parts(), Sent(send))


def finish(plan: ScoringPlan, artifact: Artifact, summary: Summary) -> None:
    """Write the manifest if no shard is missing, and fill in the figures of the finished set."""
    artifact.pull()
    out = artifact.folder
    if len(artifact.indexes(plan.shards)) < plan.shards:
        return
    with one_at_a_time(out):
        if artifact.mirror is None:  # else another --shard run may be copying shards in
            remove_temporaries(out)  # of killed --shard runs; running ones have nothing left to write
        if not artifact.finished:
            artifact.finish(plan.identity, plan.shards)
    shutil.rmtree(work_folder(out), ignore_errors=True)
    manifest, summary.complete = artifact.read_manifest(), True
    for name in ("rows", "rejected", "truncated", "rows_without_prefix", "zero_vectors"):
        setattr(summary, name, manifest[name])
    if "reuse" in plan.identity:
        summary.reused = sum(entry["reused"] for entry in manifest["shards"])
    if summary.rows:
        scored = ScoredSet(out, verify=False)
        angle, length = (scored.column(name).to_numpy() for name in ("gc_angle", "gc_question_tokens"))
        summary.spearman_length = spearman(angle, length)


def log(plan: ScoringPlan, artifact: Artifact, summary: Summary) -> None:
    """Append how this process ran to the set's log, which is no part of its identity."""
    config, ended = plan.config, time.time()
    line = {
        "pid": os.getpid(),
        "data": config.data,
        "model": config.model,
        "place": place_of(config.model),
        "devices": plan.machine.devices,
        "shard": str(config.split_run),
        "on_error": config.on_error,
        "on_overlong": config.on_overlong,
        **({"engine": config.engine} if config.engine != "local" else {}),
        "ended": ended,
        "scored": summary.scored,
        "elapsed": round(summary.elapsed, 3),
        "host": platform.node(),
    }
    with suppress(StorageError):  # on a full disk the finished shards are kept all the same
        artifact.log(line, ended - summary.elapsed)
