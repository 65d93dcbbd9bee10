"""The work of one process: it scores shards of a plan, and reads and writes while the model runs.

One thread reads and segments the next shard while the model runs, and another writes the last one. Each holds
one shard at most, so memory does not grow with the set.

After an out-of-memory error the whole shard is scored again with half the tokens in a batch. Its metadata
record this, because batches of another size round differently.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import torch
import transformers

from gaincurate.core.artifact import Artifact, Json
from gaincurate.core.progress import Progress
from gaincurate.core.prompts import Chat
from gaincurate.core.schema import Score, scored_table, signal_fields
from gaincurate.core.scored_set import SCORES
from gaincurate.errors import GaincurateError, RowError
from gaincurate.scoring.ids import ids_of
from gaincurate.scoring.model import load_model
from gaincurate.scoring.packed_attention import UnsupportedAttention
from gaincurate.scoring.packed_prefill import PackedPrefill
from gaincurate.scoring.plan import ScoringPlan, Summary
from gaincurate.scoring.prefill import Prefill
from gaincurate.scoring.readers.source import Cursor
from gaincurate.scoring.segment import Segmented, Unusable
from gaincurate.scoring.signals import Head, measure

_TRIAL_TOKENS = 256
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGEST = 32 * 2**20  # bytes of the largest block from the heap; larger ones are returned when freed
_KEPT_FREE = 256 * 2**20  # free bytes at the heap's end before it is trimmed
_MALLOC_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
Forward = Prefill | PackedPrefill
Part = tuple[int, npt.NDArray[Any]]
"""The number of a shard, and the records of its rows from `write_ids`."""


def one_ahead(pool: Executor, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """The results of `work` on the items; the pool begins the next item before a result is returned."""
    waiting = deque[Future[Any]]()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > 1:
            yield waiting.popleft().result()
    for last in waiting:
        yield last.result()


def score_shards(
    plan: ScoringPlan, shards: Iterable[Part], progress: Progress, summary: Summary | None = None
) -> None:
    """Load the model, score these shards and write them; ascending numbers read the source once.

    A thread of its own reports written shards to `progress`.

    Raises:
        ModelError: the weights cannot be loaded.
        RowError: a row cannot be scored, and the run does not skip it.
        GaincurateError: the device has too little memory for one prompt.
    """
    progress.loading("the model")
    scorer = Scorer(plan, progress)
    progress.loading("")
    written = Future[None]()
    written.set_result(None)
    with ThreadPoolExecutor(1, "reader") as reader, ThreadPoolExecutor(1, "writer") as writer:
        for shard in one_ahead(reader, scorer.read, shards):
            scorer.score(shard)
            if summary is not None:
                summary.count(shard.counts)
            written.result()
            written = writer.submit(scorer.write, shard)
        written.result()


def settle_memory() -> bool:
    """Make glibc keep freed memory and bound oneDNN's caches, unless the environment has other settings.

    By default glibc returns freed memory to the system, and a pass would request it again a million times.
    Returns whether memory is kept: the C library is glibc, and the environment does not set its allocator.
    """
    # A batch of 1,024 tokens has at most 44 lengths, each with two products, plus those of the layers.
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "128")
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _MALLOC_VARIABLES):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(_MMAP_THRESHOLD, _LARGEST) and library.mallopt(_TRIM_THRESHOLD, _KEPT_FREE))


def without_padding(
    prefill: Prefill, prompts: Sequence[Segmented], progress: Progress, head: Head | None = None
) -> Forward:
    """The packed forward if it agrees with the model's own on two of these prompts, else the padded one.

    The trial, which includes the head, takes the longest two of at most 256 tokens, or the shortest two.

    Raises:
        ModelError: the head's logits differ from those of the model's own forward.
        GaincurateError: the device has too little memory for the trial.
    """
    by_length = sorted(prompts, key=lambda prompt: prompt.end)
    short = [prompt for prompt in by_length if prompt.end <= _TRIAL_TOKENS]
    tried = short[-2:] if len(short) > 1 else by_length[:2]
    try:
        if head is not None:
            head.try_on(prefill, tried)  # before the model's attention is exchanged
        return PackedPrefill(prefill, tried)
    except UnsupportedAttention as reason:
        kind = prefill.config.model_type
        progress.note(f"{kind} runs in padded batches, which is slower: {reason}")
        return prefill
    except torch.OutOfMemoryError as error:
        raise GaincurateError(
            f"the device ran out of memory on a first trial of {len(tried)} prompts; free memory on it and "
            "run the same command again, or use a larger device."
        ) from error


def segmented(plan: ScoringPlan, table: pa.Table) -> dict[int, Segmented | Unusable]:
    """The prompt of each row of a part of the source, by place; rows without a prompt come first."""
    assert plan.model is not None
    read = list(enumerate(plan.columns.chats(table)))
    refused = {place: Unusable(str(chat)) for place, chat in read if not isinstance(chat, Chat)}
    chats = {place: chat for place, chat in read if isinstance(chat, Chat)}
    prompts = plan.model.segmenter([c.messages for c in chats.values()], [c.tools for c in chats.values()])
    return {**refused, **dict(zip(chats, prompts, strict=True))}


@dataclass(slots=True)
class Shard:
    """The rows of a shard. `prompts`, `taken`, `rejected` (the reasons) and `scores` are by place in it."""

    index: int
    start: int  # its first row in the source
    table: pa.Table
    ids: list[str]
    prompts: dict[int, Segmented] = field(default_factory=dict)
    taken: dict[int, Score] = field(default_factory=dict)  # from other sets
    rejected: dict[int, str] = field(default_factory=dict)
    scores: dict[int, Score] = field(default_factory=dict)
    tokens: int = 0  # computed, for all scores but those taken
    zero_vectors: int = 0  # scored tokens without a direction
    facts: Json = field(default_factory=dict)  # the metadata of its file

    @property
    def counts(self) -> dict[str, int]:
        """The sums of the values passed to `Progress.advance` for it."""
        return {"units": len(self.prompts), "tokens": self.tokens, "reused": len(self.taken)}


class Scorer:
    """A loaded model that reads, scores and writes shards."""

    def __init__(self, plan: ScoringPlan, progress: Progress) -> None:
        config, machine, model = plan.config, plan.machine, plan.model
        assert model is not None
        self._plan, self._progress = plan, progress
        self._artifact, self._cursor = Artifact(config.out, SCORES), Cursor(plan.source)
        if machine.threads:
            torch.set_num_threads(machine.threads)
        if machine.type == "cpu":
            settle_memory()
        auto = transformers.AutoModelForCausalLM if config.needs_head else None
        device, dtype = machine.devices[0], machine.dtype
        whole = load_model(model.files, model.config, device=device, dtype=dtype, auto=auto)
        self._head = Head(whole) if config.needs_head else None
        self._prefill = Prefill(
            whole if self._head is None else self._head.decoder,
            layer=config.layer,
            site=config.site,
            final=len(config.signals) > 1,
            tails="entropy" in config.signals,
        )
        self._forward: Forward | None = None
        self._measure = partial(measure, config, model.backend, self._head)
        self._fields = signal_fields(config.signals, self._prefill.width)

    def read(self, part: Part) -> Shard:
        """Read and segment a shard.

        Raises:
            SourceError: the source changed since the ids were made.
            RowError: a row cannot be scored, and the run does not skip it.
        """
        plan, (index, records) = self._plan, part
        start, stop = plan.bounds(index)
        table = self._cursor.read(start, stop)
        shard = Shard(index, start, table, ids_of(table, plan.columns, start, records))
        for place, prompt in segmented(plan, table).items():
            if isinstance(prompt, Unusable):
                self._refuse(shard, place, prompt.reason, overlong=prompt.overlong)
            else:
                shard.prompts[place] = prompt
        if plan.reused:
            shard.taken = plan.reused.of(table, shard.ids, shard.prompts)
        return shard

    def score(self, shard: Shard) -> None:
        """Score a shard. After an out-of-memory error, score it again with half the tokens in a batch.

        Raises:
            RowError: a signal of a row is not finite, and the run does not skip it.
            GaincurateError: the device has too little memory for one prompt.
        """
        plan = self._plan
        left = {place: prompt for place, prompt in shard.prompts.items() if place not in shard.taken}
        budget, unusable = plan.machine.batch_tokens, shard.rejected
        if self._forward is None and left:
            self._forward = without_padding(self._prefill, list(left.values()), self._progress, self._head)
        forward = self._forward or self._prefill
        if shard.taken:
            self._progress.advance(len(shard.taken), tokens=0, reused=len(shard.taken))
        while True:
            shard.rejected = dict(unusable)
            try:
                self._run(shard, left, forward, budget)
                break
            except torch.OutOfMemoryError as error:
                longest = max(forward.stop(prompt) for prompt in left.values())
                if budget <= longest:
                    raise GaincurateError(
                        f"the device ran out of memory on a prompt of {longest:,} tokens alone. Skip such "
                        f"rows with --max-length {longest - 1} --on-overlong skip, or use a larger device."
                    ) from error
                budget //= 2
                torch.cuda.empty_cache()
                self._progress.note(
                    f"warning: out of memory; the shard from row {shard.start} starts over with "
                    f"{budget:,} tokens in a batch"
                )
        names, fused = set[str](), forward.norm is not None
        if plan.reused and shard.taken:
            names, fused = plan.reused.prefills, fused or plan.reused.norm_was_fused
        if left or not shard.taken:
            names = names | {forward.name}
        scored = [shard.prompts[place] for place in shard.scores]
        shard.facts = {
            "rows": len(scored),
            "rejected": [
                {"gc_id": shard.ids[place], "row": shard.start + place, "reason": reason}
                for place, reason in sorted(shard.rejected.items())
            ],
            "truncated": sum(prompt.truncated for prompt in scored),
            "without_prefix": sum(prompt.prefix == 0 for prompt in scored),
            "zero_vectors": shard.zero_vectors,
            "norm_was_fused": fused,
            "prefill": "+".join(sorted(names)),
        }
        if plan.reused:
            shard.facts["reused"] = len(shard.taken)
        if budget != plan.machine.batch_tokens:
            shard.facts["restarted_with_batch_tokens"] = budget
        shard.facts |= {"first_row": shard.start, "source_rows": len(shard.table)}

    def write(self, shard: Shard) -> None:
        """Write a shard that was scored."""
        plan, index = self._plan, shard.index
        scored = scored_table(shard.table, shard.ids, shard.scores, self._fields)
        self._artifact.write_part(index, plan.identity, scored, shard.facts)
        self._progress.part(plan.config.split_run.named(index, plan.shards), shard=index, **shard.counts)

    def _run(self, shard: Shard, prompts: dict[int, Segmented], forward: Forward, budget: int) -> None:
        """Score these prompts of a shard, in batches of at most `budget` tokens."""
        places = sorted(prompts)
        chosen = [prompts[place] for place in places]
        scores = dict(shard.taken)
        done = shard.tokens = shard.zero_vectors = 0
        try:
            for batch in forward.run(chosen, budget):
                measured = self._measure(batch.states, [chosen[i] for i in batch.places])
                for i, (score, zeros) in zip(batch.places, measured, strict=True):
                    if isinstance(score, str):
                        self._refuse(shard, places[i], score)
                    else:
                        scores[places[i]] = score
                        shard.zero_vectors += zeros
                done, shard.tokens = done + len(batch.places), shard.tokens + batch.tokens
                self._progress.advance(len(batch.places), tokens=batch.tokens)
        except torch.OutOfMemoryError:
            self._progress.advance(-done, tokens=-shard.tokens)
            raise
        shard.scores = dict(sorted(scores.items()))

    def _refuse(self, shard: Shard, place: int, reason: str, *, overlong: bool = False) -> None:
        row, gc_id, config = shard.start + place, shard.ids[place], self._plan.config
        if (config.on_overlong if overlong else config.on_error) == "skip":
            shard.rejected[place] = reason
            return
        step = "Add --on-overlong skip" if overlong else "Fix the row, or add --on-error skip"
        raise RowError(
            f"row {row} (from 0, id {gc_id}) cannot be scored: {reason}. {step} to list such rows in "
            "rejected.jsonl.",
            row=row,
            gc_id=gc_id,
            reason=reason,
        )
