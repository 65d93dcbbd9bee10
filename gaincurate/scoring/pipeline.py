"""A scoring run from its options to a finished set: plan, begin, score the missing shards, finish.

Prints nothing. A caller that wants to see a run passes a `Progress`.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from gaincurate.core.artifact import EXECUTION, MANIFEST, REJECTED, Artifact, Json
from gaincurate.core.files import append_line, remove_temporaries
from gaincurate.core.locks import one_at_a_time, work_folder
from gaincurate.core.progress import Progress
from gaincurate.core.scored_set import COLUMNS, SCORES, ScoredSet
from gaincurate.core.stats import spearman
from gaincurate.errors import OutputError
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.identity import execution_record
from gaincurate.scoring.ids import write_ids
from gaincurate.scoring.plan import Plan, make_plan
from gaincurate.scoring.pool import score_everywhere
from gaincurate.scoring.summary import Summary


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
    begin = time.perf_counter()
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
        _log(out, execution_record(config, plan.machine), summary)
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
    summary.complete = True
    summary.rows = len(scored_set)
    for name in ("rejected", "truncated", "rows_without_prefix", "zero_vectors"):
        setattr(summary, name, scored_set.manifest[name])
    if summary.rows:
        angle = scored_set.column("gc_angle").to_numpy()
        length = scored_set.column("gc_question_tokens").to_numpy()
        summary.spearman_length = spearman(angle, length)


def _log(out: Path, record: dict[str, Any], summary: Summary) -> None:
    """Append how this process ran to `execution.jsonl`."""
    seconds = {stage: round(value, 3) for stage, value in summary.seconds.items()}
    line = {**record, "ended": time.time(), "scored": summary.scored, "seconds": seconds}
    append_line(out / EXECUTION, line)
