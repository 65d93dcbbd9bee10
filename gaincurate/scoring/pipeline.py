"""A scoring run from its options to a finished set.

Prints nothing. A caller that wants to see a run passes a `Progress`.
"""

from __future__ import annotations

import platform
import shutil
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from gaincurate.core.artifact import Artifact
from gaincurate.core.files import remove_temporaries
from gaincurate.core.locks import one_at_a_time, work_folder
from gaincurate.core.options import checked
from gaincurate.core.progress import Progress
from gaincurate.core.ray_workers import ray_workers
from gaincurate.core.scored_set import SCORES, ScoredSet
from gaincurate.core.stats import spearman
from gaincurate.errors import StorageError
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.differences import refuse_other
from gaincurate.scoring.engines import plan_on_ray, score_here, score_on_ray
from gaincurate.scoring.identity import execution_record
from gaincurate.scoring.ids import has_ids, write_ids
from gaincurate.scoring.plan import Plan, make_plan
from gaincurate.scoring.summary import Summary


def score(data: str, model: str, out: str | Path, **options: Any) -> Summary:
    """Score a prompt set: `gaincurate score` as a function.

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
    return score_dataset(checked(ScoreConfig, given, keywords=True))


def score_dataset(config: ScoreConfig, progress: Progress | None = None) -> Summary:
    """Score a prompt set, or go on where an earlier run of the same options stopped.

    Six calls: `read_identity` refuses a folder with something else, `make_plan` opens the data and the model,
    `begin` writes ids and identity, `score_here` the missing shards, `finish` the manifest, `log` how this
    process ran. With `--engine ray`, workers make the identity and score.

    Args:
        config: of the run.
        progress: hears how it goes.

    Raises:
        InputError: an option, the source, a row, the model or the output folder is not right.
        StorageError: the file system refused a write.
        LockedError: another process writes the same shards.
    """
    progress, summary = progress or Progress(), Summary(config.out)
    begun = time.perf_counter()
    artifact = Artifact(config.out, SCORES)
    artifact.read_identity(damaged=config.overwrite)
    config.check_engine()
    with ray_workers(config, progress) if config.engine == "ray" else nullcontext() as workers:
        if workers is None:
            plan = make_plan(config, progress, summary)
        else:
            plan = plan_on_ray(config, workers, progress, summary)
        with artifact.writing(config.split_run):
            shards, present = plan.own_shards(), begin(plan, artifact, summary)
            if missing := sorted(shards - present):
                progress.start(plan.rows_in(shards), plan.rows_in(shards & present), what="scoring")
                if workers is None:
                    score_here(plan, missing, progress, summary)
                else:
                    score_on_ray(plan, missing, workers, progress, summary)
            finish(plan, artifact, summary)
            summary.elapsed = time.perf_counter() - begun
            log(plan, artifact, summary)
    return summary


def begin(plan: Plan, artifact: Artifact, summary: Summary) -> set[int]:
    """Write ids and identity, or check them; the shards that are there already."""
    out = artifact.folder
    ids = work_folder(out) / "ids.bin"
    with one_at_a_time(out), summary.timed("reading"):
        if plan.config.split_run.count == 1:
            remove_temporaries(out)
        if not goes_on(plan, artifact):
            # The ids come first: what is wrong with the source is found before anything is deleted.
            fresh = ids.with_name("ids-new.bin")
            write_ids(fresh, plan.source.batches(), plan.columns)
            if artifact.begun or artifact.mirror is None:  # else another machine may have begun meanwhile
                artifact.remove()  # or what a beginning left: its ids must not meet the next identity
            artifact.begin(plan.identity)
            fresh.replace(ids)  # after the identity: a kill never leaves an old one with new ids
            return set()
        present = artifact.present(plan.identity, plan.shards)
        if len(present) < plan.shards:
            artifact.reopen()
            # In an object store another machine may have begun another set since the ids were made here.
            if artifact.mirror is not None or not has_ids(ids, plan.source.rows):
                write_ids(ids, plan.source.batches(), plan.columns)
        return present


def goes_on(plan: Plan, artifact: Artifact) -> bool:
    """Whether the run goes on with the shards in its folder, or begins the set; changes nothing.

    Raises:
        OutputError: the folder holds something else, or a set of another identity.
    """
    config = plan.config
    begun = artifact.read_identity(damaged=config.overwrite)
    if begun == plan.identity:
        return not (config.overwrite and artifact.finished)  # else an interrupted --overwrite
    if begun is None or config.overwrite:
        return False
    # A plain run holds the folder alone; other parts of a --shard run may have no shard yet either.
    if config.split_run.count > 1 or artifact.holds_results:
        refuse_other(artifact, begun, plan.identity)
    return False


def finish(plan: Plan, artifact: Artifact, summary: Summary) -> None:
    """Write the manifest if every shard is there, and read the set's own figures back."""
    artifact.pull()
    out = artifact.folder
    if len(artifact.indexes(plan.shards)) < plan.shards:
        return
    with summary.timed("writing"), one_at_a_time(out):
        if artifact.mirror is None:  # else another --shard run may be copying shards in
            remove_temporaries(out)  # of killed --shard runs; those that live have nothing left to write
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


def log(plan: Plan, artifact: Artifact, summary: Summary) -> None:
    """Write down how this process ran, by which `--dry-run` estimates."""
    seconds, ended = {stage: round(value, 3) for stage, value in summary.seconds.items()}, time.time()
    line = execution_record(plan.config, plan.machine)
    line |= {"ended": ended, "scored": summary.scored, "seconds": seconds}
    line |= {"elapsed": round(summary.elapsed, 3), "host": platform.node()}
    with suppress(StorageError):  # a full disk: what was scored is there all the same
        artifact.log(line, ended - summary.elapsed)
