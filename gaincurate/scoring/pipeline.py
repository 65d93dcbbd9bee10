"""The composer: takes a ScoreConfig, yields a finished scored set and a summary of how it went.

read -> segment -> batch -> prefill -> angle -> shard, one shard at a time. Prints nothing; whoever wants
to see a run passes a `Watch`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from gaincurate.config import ScoreConfig
from gaincurate.errors import GaincurateError, OutputError, RowError, storage_error
from gaincurate.files import remove_temporaries, write_atomic, write_json
from gaincurate.locks import one_at_a_time, work_folder, writing
from gaincurate.schema import FORMAT, Score, scored_table
from gaincurate.scored_set import ScoredSet
from gaincurate.scoring.angle import angle_scores
from gaincurate.scoring.columns import PromptProblem, column_values, to_messages
from gaincurate.scoring.identity import execution_record
from gaincurate.scoring.ids import Ids, write_ids
from gaincurate.scoring.model import load_model
from gaincurate.scoring.pack import padded_batches
from gaincurate.scoring.plan import Plan, make_plan
from gaincurate.scoring.prefill import Prefill
from gaincurate.scoring.read import Cursor
from gaincurate.scoring.segment import Segmented, Unusable
from gaincurate.scoring.watch import Summary, Watch
from gaincurate.shards import (
    EXECUTION,
    IDENTITY,
    MANIFEST,
    Json,
    encode_shard,
    present_shards,
    read_identity,
    refuse_other,
    remove_set,
    shard_name,
    write_manifest,
)
from gaincurate.stats import spearman


def score(data: str, model: str, out: str | Path, **options: Any) -> Summary:
    """Score a prompt set: `gaincurate score` as a function; options as in `ScoreConfig`."""
    return score_dataset(ScoreConfig(data=data, model=model, out=Path(out), **options))


def score_dataset(config: ScoreConfig, watch: Watch | None = None) -> Summary:
    """Score a prompt set, or go on where an earlier run of the same options stopped.

    Raises:
        InputError: an option, the source, a row, the model or the output folder is not right.
        StorageError: the file system refused a write.
        LockedError: another process writes the same shards.
    """
    watch, summary, out = watch or Watch(), Summary(config.out), config.out
    if not (config.overwrite and (out / IDENTITY).exists()):
        read_identity(out)  # refuse a folder that is not ours before anything is spent or touched
    plan = make_plan(config, watch, summary)
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    with writing(out, config.split_run), _nothing_left_of_a_false_start(out, made, config):
        present = _begin(plan, summary)
        mine = {k for k in range(plan.shards) if config.split_run.owns(k)}
        if mine - present:
            _score_shards(plan, mine, present, watch, summary)
        _finish(plan, summary)
        _log(out, execution_record(config, plan.machine), summary)
    return summary


@contextmanager
def _nothing_left_of_a_false_start(out: Path, made: list[Path], config: ScoreConfig) -> Iterator[None]:
    """Where no identity was written nothing stays behind; beside a finished set no lock files do."""
    try:
        yield
    finally:
        # With --shard others may be about to begin in the same folder.
        begun, finished = (out / IDENTITY).exists(), (out / MANIFEST).exists()
        if config.split_run.count == 1 and (finished or not begun):
            shutil.rmtree(work_folder(out), ignore_errors=True)
            with suppress(OSError):  # not empty, so not ours alone
                for folder in made:
                    folder.rmdir()


def _begin(plan: Plan, summary: Summary) -> set[int]:
    """Write ids and identity, or check them; the shards that are there already."""
    out = plan.config.out
    ids = work_folder(out) / "ids.bin"
    with one_at_a_time(out), summary.timed("reading"):
        if plan.config.split_run.count == 1:
            remove_temporaries(out)
        begun = None if plan.config.overwrite else read_identity(out)
        if plan.config.overwrite and _same_run_unfinished(out, plan.identity):
            begun = plan.identity  # the same command again, after an interruption: go on
        if begun is None:
            # The ids come first: what is wrong with the source is found before anything is deleted.
            fresh = ids.with_name("ids-new.bin")
            write_ids(fresh, plan.source.batches(), plan.columns)
            if plan.config.overwrite:
                remove_set(out)
            write_json(out / IDENTITY, plan.identity)
            fresh.replace(ids)  # behind the identity: a kill never leaves an old one with new ids
            return set()
        refuse_other(out, begun, plan.identity)
        present = present_shards(out, plan.identity, plan.shards)
        if len(present) < plan.shards:
            # A finished set that lost a shard is unfinished again.
            (out / MANIFEST).unlink(missing_ok=True)
            if not ids.exists():
                write_ids(ids, plan.source.batches(), plan.columns)
        return present


def _same_run_unfinished(out: Path, identity: Json) -> bool:
    if (out / MANIFEST).exists() or not (out / IDENTITY).exists():
        return False
    try:
        return read_identity(out) == identity
    except OutputError:  # damaged: what --overwrite is for
        return False


def _score_shards(plan: Plan, mine: set[int], present: set[int], watch: Watch, summary: Summary) -> None:
    config, out = plan.config, plan.config.out
    with summary.timed("loading"):
        if plan.machine.threads:
            torch.set_num_threads(plan.machine.threads)
        model = load_model(
            plan.files, plan.model_config, device=plan.machine.device, dtype=plan.machine.dtype
        )
        prefill = Prefill(model, layer=config.layer, site=config.site)
    watch.start(plan.rows_in(mine), plan.rows_in(mine & present))
    cursor, ids = Cursor(plan.source), Ids(work_folder(out) / "ids.bin", plan.columns)
    for index in sorted(mine - present):
        start, stop = plan.bounds(index)
        with summary.timed("reading"):
            table = cursor.read(start, stop)
            names = ids.of(start, table)
        shard = _Shard(plan, prefill, start, names, summary, watch)
        scores, facts = shard.score(table)
        with summary.timed("writing"):
            info = {"format": FORMAT, "identity": plan.identity, "shard": index, **facts}
            info |= {"first_row": start, "source_rows": stop - start}
            scored = scored_table(table, names, scores)
            write_atomic(out / shard_name(index), encode_shard(scored, info))
        watch.shard(index, plan.shards)


class _Shard:
    """Scores the rows of one shard; rows are known by their place in it."""

    def __init__(
        self,
        plan: Plan,
        prefill: Prefill,
        start: int,
        names: list[str],
        summary: Summary,
        watch: Watch,
    ) -> None:
        self._plan = plan
        self._prefill = prefill
        self._start = start
        self._names = names
        self._summary = summary
        self._watch = watch
        self._rejected: list[dict[str, Any]] = []
        self._zero_vectors = 0

    def score(self, table: pa.Table) -> tuple[dict[int, Score], dict[str, Any]]:
        """Scores by place, in order, and what the shard's metadata say of its rows."""
        with self._summary.timed("segmenting"):
            prompts = self._segment(table)
        places = sorted(prompts)
        scores: dict[int, Score] = {}
        budget = self._plan.machine.batch_tokens
        for batch in padded_batches([prompts[place].end for place in places], budget):
            self._score_batch([places[i] for i in batch], prompts, scores)
        kept = sorted(scores)
        facts = {
            "rows": len(kept),
            "rejected": sorted(self._rejected, key=lambda entry: int(entry["row"])),
            "truncated": sum(prompts[place].truncated for place in kept),
            "without_prefix": sum(prompts[place].prefix == 0 for place in kept),
            "zero_vectors": self._zero_vectors,
            "norm_was_fused": self._prefill.norm is not None,
        }
        return {place: scores[place] for place in kept}, facts

    def _score_batch(
        self, places: list[int], prompts: dict[int, Segmented], scores: dict[int, Score]
    ) -> None:
        chosen = [prompts[place] for place in places]
        try:
            with self._summary.timed("prefill"):
                states = self._prefill(chosen)
            with self._summary.timed("angle"):
                found = angle_scores(
                    states,
                    chosen,
                    inter_weight=self._plan.config.inter_weight,
                    backend=self._plan.backend,
                )
        except torch.OutOfMemoryError as error:
            budget, longest = self._plan.machine.batch_tokens, max(prompt.end for prompt in chosen)
            raise GaincurateError(
                f"the device ran out of memory on a batch of {len(chosen)} prompts (the longest has "
                f"{longest} tokens; --batch-tokens {budget}). Start over with --overwrite and half of "
                "that, or free memory on the device and run the same command again."
            ) from error
        for place, score, zeros in zip(places, found.scores, found.zero_vectors, strict=True):
            if score is None:
                self._refuse(place, "its hidden states are not finite")
            else:
                scores[place] = score
                self._zero_vectors += zeros
        tokens = sum(prompt.end for prompt in chosen)
        self._summary.scored += len(places)
        self._summary.tokens += tokens
        self._watch.advance(len(places), tokens)

    def _segment(self, table: pa.Table) -> dict[int, Segmented]:
        column = self._plan.columns.prompt
        messages, places = [], []
        for place, value in enumerate(column_values(table, column)):
            try:
                messages.append(to_messages(value, column))
                places.append(place)
            except PromptProblem as problem:
                self._refuse(place, str(problem))
        prompts = {}
        for place, found in zip(places, self._plan.segmenter(messages), strict=True):
            if isinstance(found, Unusable):
                self._refuse(place, found.reason, overlong=found.overlong)
            else:
                prompts[place] = found
        return prompts

    def _refuse(self, place: int, reason: str, *, overlong: bool = False) -> None:
        row, gc_id, config = self._start + place, self._names[place], self._plan.config
        if (config.on_overlong if overlong else config.on_error) == "skip":
            self._rejected.append({"gc_id": gc_id, "row": row, "reason": reason})
            return
        step = (
            "Add --on-overlong skip to list such rows in rejected.jsonl"
            if overlong
            else "Mend the row, or add --on-error skip to list such rows in rejected.jsonl"
        )
        raise RowError(
            f"row {row} (from 0, id {gc_id}) cannot be scored: {reason}. {step}.",
            row=row,
            gc_id=gc_id,
            reason=reason,
        )


def _finish(plan: Plan, summary: Summary) -> None:
    """Write the manifest if every shard is there, and read the set's own figures back."""
    out = plan.config.out
    if not all((out / shard_name(index)).exists() for index in range(plan.shards)):
        return
    with summary.timed("writing"), one_at_a_time(out):
        remove_temporaries(out)  # of killed --shard runs; those that live have nothing left to write
        if not (out / MANIFEST).exists():
            write_manifest(out, plan.identity, plan.shards)
    shutil.rmtree(work_folder(out), ignore_errors=True)
    found = ScoredSet(out, verify=False)
    summary.complete = True
    summary.rows = len(found)
    for name in ("rejected", "truncated", "rows_without_prefix", "zero_vectors"):
        setattr(summary, name, found.manifest[name])
    if summary.rows:
        angle = found.column("gc_angle").to_numpy()
        length = found.column("gc_question_tokens").to_numpy()
        summary.spearman_length = spearman(angle, length)


def _log(out: Path, record: dict[str, Any], summary: Summary) -> None:
    """Append how this process ran to `execution.jsonl`."""
    seconds = {stage: round(value, 3) for stage, value in summary.seconds.items()}
    line = {**record, "ended": time.time(), "scored": summary.scored, "seconds": seconds}
    try:
        with (out / EXECUTION).open("a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise storage_error(out / EXECUTION, error) from error
