"""What one process does: its shards of the plan, with reading and writing beside the model.

One thread reads and segments the next shard while the model runs, another writes the last one. One of each
is enough, and each holds one shard at most, so memory does not grow with the set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TypeVar

import pyarrow as pa
import torch
import transformers

from gaincurate.core.artifact import Artifact, Json
from gaincurate.core.locks import work_folder
from gaincurate.core.progress import Progress
from gaincurate.core.schema import Score, scored_table, signal_fields
from gaincurate.core.scored_set import SCORES
from gaincurate.scoring.cpu import settle_memory
from gaincurate.scoring.ids import Ids
from gaincurate.scoring.lm_head import Head
from gaincurate.scoring.model import load_model
from gaincurate.scoring.plan import Plan
from gaincurate.scoring.prefill import Prefill
from gaincurate.scoring.readers.source import Cursor
from gaincurate.scoring.segment import Segmented
from gaincurate.scoring.shard import Forward, Shard, without_padding
from gaincurate.scoring.signals import Signals
from gaincurate.scoring.summary import Summary

T = TypeVar("T")
U = TypeVar("U")


def prefetch(work: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """`work` on each item in a thread; the next is begun when the one before is handed out.

    At most one result waits, so memory does not grow with the number of items.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        waiting: Future[U] | None = None
        try:
            for item in items:
                following = pool.submit(work, item)
                if waiting is not None:
                    yield waiting.result()
                waiting = following
            if waiting is not None:
                yield waiting.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class AsyncWriter:
    """Runs one function at a time in a thread, while the caller goes on with something else.

    Leaving the block waits for the last one; an error comes out of the next `run` or there.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._last: Future[None] | None = None

    def __enter__(self) -> AsyncWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._pool.shutdown(wait=True)

    def run(self, work: Callable[[], None]) -> None:
        """Begin `work` once what was begun before is done."""
        self._wait()
        self._last = self._pool.submit(work)

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()


def score_shards(plan: Plan, shards: Iterable[int], progress: Progress, summary: Summary) -> None:
    """Load the model, score these shards and write them.

    Args:
        plan: the run, begun: its ids are written.
        shards: their numbers, ascending.
        progress: hears of every batch and shard, the shards from a thread of their own.
        summary: counts and times are added here.
    """
    config, out = plan.config, plan.config.out
    with summary.timed("loading"):
        if plan.machine.threads:
            torch.set_num_threads(plan.machine.threads)
        if plan.machine.type == "cpu":
            settle_memory()
        whole = load_model(
            plan.files,
            plan.model_config,
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
    signals = Signals(config, plan.backend, head, summary)
    more = signal_fields(config.signals, prefill.width)
    cursor, ids = Cursor(plan.source), Ids(work_folder(out) / "ids.bin", plan.columns)

    def prepare(index: int) -> _Prepared:
        start, stop = plan.bounds(index)
        with summary.timed("reading"):
            table = cursor.read(start, stop)
            names = ids.of(start, table)
        shard = Shard(plan, start, names, summary, progress)
        return _Prepared(index, table, names, shard, shard.segment(table))

    def write(ready: _Prepared, scores: dict[int, Score], facts: Json) -> None:
        start, stop = plan.bounds(ready.index)
        with summary.timed("writing"):
            facts = {**facts, "first_row": start, "source_rows": stop - start}
            scored = scored_table(ready.table, ready.names, scores, more)
            Artifact(out, SCORES).write_part(ready.index, plan.identity, scored, facts)
        progress.part(f"shard {ready.index + 1} of {plan.shards}")

    forward: Forward | None = None
    with AsyncWriter() as writer:
        for ready in _waited_for(prefetch(prepare, shards), summary):
            if forward is None and ready.prompts:
                with summary.timed("loading"):
                    forward = without_padding(prefill, list(ready.prompts.values()), progress, head)
            scores, facts = ready.shard.score(ready.prompts, forward or prefill, signals)
            with summary.timed("waiting"):
                writer.run(partial(write, ready, scores, facts))


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A shard that was read and segmented."""

    index: int
    table: pa.Table
    names: list[str]
    shard: Shard
    prompts: dict[int, Segmented]


def _waited_for(items: Iterator[_Prepared], summary: Summary) -> Iterator[_Prepared]:
    """The same; the time that the model had to wait counts."""
    while True:
        with summary.timed("waiting"):
            item = next(items, None)
        if item is None:
            return
        yield item
