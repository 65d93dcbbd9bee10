"""What one process does: its shards of the plan, with reading and writing beside the model.

One thread reads and segments the next shard while the model runs, another writes the last one. One of each
is enough, and each holds one shard at most, so memory does not grow with the set.

An out-of-memory error starts the whole shard again with half the tokens in a batch. Its metadata say so,
because batches of another size round differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import torch
import transformers

from gaincurate.core.artifact import Artifact, Json
from gaincurate.core.locks import work_folder
from gaincurate.core.progress import Progress
from gaincurate.core.prompts import Chat
from gaincurate.core.schema import Score, scored_table, signal_fields
from gaincurate.core.scored_set import SCORES
from gaincurate.errors import GaincurateError, RowError
from gaincurate.scoring.batching import Batch
from gaincurate.scoring.cpu import settle_memory
from gaincurate.scoring.ids import Ids, records_in
from gaincurate.scoring.lm_head import Head
from gaincurate.scoring.model import load_model
from gaincurate.scoring.packed_attention import UnsupportedAttention
from gaincurate.scoring.packed_prefill import PackedPrefill
from gaincurate.scoring.plan import Plan, ScoringModel
from gaincurate.scoring.prefill import Prefill
from gaincurate.scoring.readers.source import Cursor
from gaincurate.scoring.segment import Segmented, Unusable
from gaincurate.scoring.signals import Signals
from gaincurate.scoring.summary import Summary

T = TypeVar("T")
U = TypeVar("U")
_TRIAL_TOKENS = 256
Forward = Prefill | PackedPrefill


def one_ahead(pool: Executor, work: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """`work` on each item in the pool; the next is begun when the one before is handed out."""
    waiting: Future[U] | None = None
    for item in items:
        following = pool.submit(work, item)
        if waiting is not None:
            yield waiting.result()
        waiting = following
    if waiting is not None:
        yield waiting.result()


def score_shards(
    plan: Plan,
    shards: Iterable[int],
    progress: Progress,
    summary: Summary,
    ids: Ids | None = None,
) -> None:
    """Load the model, score these shards and write them.

    Args:
        plan: the run, begun: its ids are written.
        shards: their numbers, best ascending, taken when the model is loaded.
        progress: hears of every batch and shard, the shards from a thread of their own.
        summary: counts and times are added here.
        ids: of the rows, those that were written with the run's beginning by default.
    """
    config, model, artifact = plan.config, plan.model, Artifact(plan.config.out, SCORES)
    assert model is not None
    progress.loading("the model")
    with summary.timed("loading"):
        prefill, head = _load(plan, model)
    progress.loading("")
    signals = Signals(config, model.backend, head, summary)
    more = signal_fields(config.signals, prefill.width)
    cursor = Cursor(plan.source)
    ids = ids or Ids(plan.columns, partial(records_in, work_folder(artifact.folder) / "ids.bin"))

    def prepare(index: int) -> _Prepared:
        start, stop = plan.bounds(index)
        with summary.timed("reading"):
            table = cursor.read(start, stop)
            names = ids.of(start, table)
        shard = Shard(plan, start, names, summary, progress)
        prompts = shard.segment(table)
        with summary.timed("reading"):
            taken = plan.reused.of(table, names, prompts) if plan.reused else {}
        return _Prepared(index, table, names, shard, prompts, taken)

    def write(ready: _Prepared, scores: dict[int, Score], facts: Json) -> None:
        start, stop = plan.bounds(ready.index)
        with summary.timed("writing"):
            facts = {**facts, "first_row": start, "source_rows": stop - start}
            scored = scored_table(ready.table, ready.names, scores, more)
            artifact.write_part(ready.index, plan.identity, scored, facts)
        # As `advance` had them.
        counts = {"units": len(ready.prompts), "tokens": ready.shard.tokens, "reused": len(ready.taken)}
        progress.part(config.split_run.named(ready.index, plan.shards), shard=ready.index, **counts)

    forward: Forward | None = None
    written: Future[None] | None = None
    with ThreadPoolExecutor(1, "reader") as reader, ThreadPoolExecutor(1, "writer") as writer:
        for ready in _waited_for(one_ahead(reader, prepare, shards), summary):
            if forward is None and (left := ready.left()):
                with summary.timed("loading"):
                    forward = without_padding(prefill, list(left.values()), progress, head)
            scores, facts = ready.shard.score(ready, forward or prefill, signals)
            with summary.timed("waiting"):
                if written is not None:
                    written.result()
                written = writer.submit(write, ready, scores, facts)
        if written is not None:
            written.result()


def _load(plan: Plan, model: ScoringModel) -> tuple[Prefill, Head | None]:
    """The model's forward to the scored tensor, and its head where a signal needs that."""
    config = plan.config
    if plan.machine.threads:
        torch.set_num_threads(plan.machine.threads)
    if plan.machine.type == "cpu":
        settle_memory()
    whole = load_model(
        model.files,
        model.config,
        device=plan.machine.devices[0],
        dtype=plan.machine.dtype,
        auto=transformers.AutoModelForCausalLM if config.needs_head else transformers.AutoModel,
    )
    head = Head(whole, config.logits_memory) if config.needs_head else None
    prefill = Prefill(
        whole if head is None else head.decoder,
        layer=config.layer,
        site=config.site,
        final=len(config.signals) > 1,
        tails="entropy" in config.signals,
    )
    return prefill, head


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A shard that was read and segmented: by place, prompts and the scores that other sets have."""

    index: int
    table: pa.Table
    names: list[str]
    shard: Shard
    prompts: dict[int, Segmented]
    taken: dict[int, Score]

    def left(self) -> dict[int, Segmented]:
        """The prompts to score."""
        return {place: prompt for place, prompt in self.prompts.items() if place not in self.taken}


def _waited_for(items: Iterator[_Prepared], summary: Summary) -> Iterator[_Prepared]:
    """The same; the time that the model had to wait counts."""
    while True:
        with summary.timed("waiting"):
            item = next(items, None)
        if item is None:
            return
        yield item


def without_padding(
    prefill: Prefill, prompts: Sequence[Segmented], progress: Progress, head: Head | None = None
) -> Forward:
    """The packed forward if it gives what the model's own does on two of these prompts, else the padded one.

    The longest two of at most 256 tokens, or the shortest two: a trial, not a run. The head is tried on them
    too.

    Raises:
        ModelError: the head does not give the model's own logits.
        GaincurateError: the device's memory is too small for this.
    """
    by_length = sorted(prompts, key=lambda prompt: prompt.end)
    short = [prompt for prompt in by_length if prompt.end <= _TRIAL_TOKENS]
    tried = short[-2:] if len(short) > 1 else by_length[:2]
    try:
        if head is not None:
            head.try_on(prefill, tried)  # before the model's attention is exchanged
        packed = PackedPrefill(prefill)
        packed.try_on(tried)
    except UnsupportedAttention as reason:
        kind = prefill.config.model_type
        progress.note(f"{kind} runs in padded batches, which is slower: {reason}")
        return prefill
    except torch.OutOfMemoryError as error:
        raise GaincurateError(
            f"the device ran out of memory on a first trial of {len(tried)} prompts; free memory on it and "
            "run the same command again, or use a larger device."
        ) from error
    return packed


def segmented(plan: Plan, table: pa.Table) -> dict[int, Segmented | Unusable]:
    """The prompt of every row of a part of the source by its place; rows that hold no prompt come first."""
    rows = dict(enumerate(plan.columns.chats(table)))
    chats = {place: chat for place, chat in rows.items() if isinstance(chat, Chat)}
    messages, tools = [chat.messages for chat in chats.values()], [chat.tools for chat in chats.values()]
    results: dict[int, Segmented | Unusable] = {
        place: Unusable(str(problem)) for place, problem in rows.items() if place not in chats
    }
    assert plan.model is not None
    return results | dict(zip(chats, plan.model.segmenter(messages, tools), strict=True))


class Shard:
    """Scores the rows of one shard.

    Args:
        plan: the run.
        start: the shard's first source row.
        names: the rows' ids.
        summary: counts and times are added here.
        progress: hears of every batch.
    """

    def __init__(
        self, plan: Plan, start: int, names: list[str], summary: Summary, progress: Progress
    ) -> None:
        self._plan = plan
        self._start = start
        self._names = names
        self._summary = summary
        self._progress = progress
        self._rejected: dict[int, str] = {}
        self.tokens = 0
        """Computed for its scores."""

    def segment(self, table: pa.Table) -> dict[int, Segmented]:
        """The rows that can be scored, by place.

        Raises:
            RowError: one cannot, and the run is not to skip it.
        """
        with self._summary.timed("segmenting"):
            prompts = {}
            for place, result in segmented(self._plan, table).items():
                if isinstance(result, Unusable):
                    self._refuse(place, result.reason, overlong=result.overlong)
                else:
                    prompts[place] = result
        return prompts

    def score(
        self, ready: _Prepared, forward: Forward, signals: Signals
    ) -> tuple[dict[int, Score], dict[str, Any]]:
        """Scores by place, in order, and what the shard's metadata say of its rows.

        Where the device runs out of memory the shard is begun again with half the tokens in a batch.

        Raises:
            RowError: a row's states, or what is made of them, are not finite, and the run is not to skip it.
            GaincurateError: a prompt alone is too much for the device.
        """
        prompts, budget = ready.left(), self._plan.machine.batch_tokens
        unusable = dict(self._rejected)
        if ready.taken:
            self._progress.advance(len(ready.taken), tokens=0, reused=len(ready.taken))
        while True:
            try:
                scores, zero_vectors = self._score(prompts, forward, signals, budget)
                break
            except torch.OutOfMemoryError as error:
                longest = max(forward.stop(prompt) for prompt in prompts.values())
                if budget <= longest:
                    other = ", give a smaller --logits-memory" if self._plan.config.needs_head else ""
                    raise GaincurateError(
                        f"the device ran out of memory on a prompt of {longest:,} tokens alone. Skip such "
                        f"rows with --max-length {longest - 1} --on-overlong skip{other}, or use a larger "
                        "device."
                    ) from error
                budget //= 2
                self._rejected = dict(unusable)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                self._progress.note(
                    f"warning: out of memory; the shard from row {self._start} starts over with "
                    f"{budget:,} tokens in a batch"
                )
        scores = dict(sorted({**ready.taken, **scores}.items()))
        prompts, reused = ready.prompts, self._plan.reused
        prefills = {forward.name} if ready.left() or not reused else set[str]()
        facts: dict[str, Any] = {
            "rows": len(scores),
            "rejected": [
                {"gc_id": self._names[place], "row": self._start + place, "reason": reason}
                for place, reason in sorted(self._rejected.items())
            ],
            "truncated": sum(prompts[place].truncated for place in scores),
            "without_prefix": sum(prompts[place].prefix == 0 for place in scores),
            "zero_vectors": zero_vectors,
            "norm_was_fused": forward.norm is not None,
            "prefill": forward.name,
        }
        if reused:
            facts["reused"] = len(ready.taken)
            if ready.taken:
                facts["prefill"] = "+".join(sorted(prefills | reused.prefills))
                facts["norm_was_fused"] |= reused.norm_was_fused
        if budget != self._plan.machine.batch_tokens:
            facts["restarted_with_batch_tokens"] = budget
        return scores, facts

    def _score(
        self, prompts: dict[int, Segmented], forward: Forward, signals: Signals, budget: int
    ) -> tuple[dict[int, Score], int]:
        places = sorted(prompts)
        chosen = [prompts[place] for place in places]
        scores: dict[int, Score] = {}
        zero_vectors = done = tokens = 0
        batches = forward.run(chosen, budget)
        try:
            while True:
                batch = self._next(batches)
                if batch is None:
                    self.tokens = tokens
                    return scores, zero_vectors
                measured = signals(batch.states, [chosen[i] for i in batch.places])
                for i, (score, zeros) in zip(batch.places, measured, strict=True):
                    if isinstance(score, str):
                        self._refuse(places[i], score)
                    else:
                        scores[places[i]] = score
                        zero_vectors += zeros
                done, tokens = done + len(batch.places), tokens + batch.tokens
                self._count(len(batch.places), batch.tokens)
        except torch.OutOfMemoryError:
            self._count(-done, -tokens)
            raise

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        with self._summary.timed("prefill"):
            batch = next(batches, None)
            if batch is not None and batch.states.hidden.is_cuda:
                # Else the angle code would be the first to wait, and be charged for the forward.
                torch.cuda.synchronize(batch.states.hidden.device)
        return batch

    def _count(self, rows: int, tokens: int) -> None:
        self._summary.scored += rows
        self._summary.tokens += tokens
        self._progress.advance(rows, tokens=tokens)

    def _refuse(self, place: int, reason: str, *, overlong: bool = False) -> None:
        row, gc_id, config = self._start + place, self._names[place], self._plan.config
        if (config.on_overlong if overlong else config.on_error) == "skip":
            self._rejected[place] = reason
            return
        step = (
            "Add --on-overlong skip to list such rows in rejected.jsonl"
            if overlong
            else "Fix the row, or add --on-error skip to list such rows in rejected.jsonl"
        )
        raise RowError(
            f"row {row} (from 0, id {gc_id}) cannot be scored: {reason}. {step}.",
            row=row,
            gc_id=gc_id,
            reason=reason,
        )
