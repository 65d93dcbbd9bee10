"""Several processes that run one model at once, to be timed: takes prompts, yields counts of what was run.

What `--workers` does to a scored set, without the set: each process has its own copy of the model and its
share of the prompts, and all of them begin a pass together. Knows nothing of files or scores.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch

from gaincurate.core.process import end_workers, start_workers
from gaincurate.errors import GaincurateError
from gaincurate.scoring import rates
from gaincurate.scoring.allocator import settle_memory
from gaincurate.scoring.attention import UnsupportedAttention
from gaincurate.scoring.model import find_model, load_config, load_model
from gaincurate.scoring.packed import PackedPrefill
from gaincurate.scoring.prefill import Prefill
from gaincurate.scoring.segment import Segmented

_PATIENCE = 10.0  # seconds for a worker to end by itself


class Crew:
    """Worker processes on the CPU; use it in a `with` statement.

    Args:
        model: as for `--model`.
        dtype: of the model.
        workers: processes.
        threads: of each.
        prompts: every process runs its share of them.
        budget: tokens in a batch.

    Raises:
        GaincurateError: a worker could not begin; its own sentence.
    """

    def __init__(
        self, model: str, dtype: str, workers: int, threads: int, prompts: Sequence[Segmented], budget: int
    ) -> None:
        self.name = f"packed, {workers} workers of {threads} thread{'s' * (threads != 1)}"
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(workers)]
        self._pipes = [ours for ours, _ in pipes]
        self._workers = [
            context.Process(
                target=_work,
                args=(theirs, model, dtype, threads, list(prompts[index::workers]), budget),
                daemon=True,
            )
            for index, (_, theirs) in enumerate(pipes)
        ]
        try:
            start_workers(self._workers)
            for _, theirs in pipes:
                theirs.close()
            for pipe in self._pipes:
                self._answer(pipe)
        except BaseException:
            self._end(0.0)
            raise

    def run(self) -> tuple[int, int, float]:
        """One pass over all prompts: rows, computed tokens, seconds in the angle code (a worker's mean)."""
        found = self._ask("run")
        rows, tokens, angle = (sum(column) for column in zip(*found, strict=True))
        return rows, tokens, angle / len(found)

    def gemm_speeds(self) -> rates.Speeds:
        """Operations in a second of the model's matrix products, all processes at it at once."""
        plain, fastest = (sum(column) for column in zip(*self._ask("gemm"), strict=True))
        return plain, fastest

    def _ask(self, what: str) -> list[Any]:
        for pipe in self._pipes:
            with contextlib.suppress(BrokenPipeError):  # it died, which its answer tells
                pipe.send(what)
        return [self._answer(pipe) for pipe in self._pipes]

    def _answer(self, pipe: Any) -> Any:
        try:
            found = pipe.recv()
        except (EOFError, ConnectionResetError):
            raise GaincurateError("a worker died (out of memory, perhaps); use fewer --workers.") from None
        if isinstance(found, GaincurateError):
            raise found
        return found

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(_PATIENCE if error is None else 0.0)

    def _end(self, seconds: float) -> None:
        if seconds:
            for pipe in self._pipes:
                pipe.close()  # which a worker that waits takes as its end
        end_workers(self._workers, seconds)
        for pipe in self._pipes:
            pipe.close()


def _work(pipe: Any, model: str, dtype: str, threads: int, prompts: list[Segmented], budget: int) -> None:
    torch.set_num_threads(threads)
    settle_memory()
    try:
        files = find_model(model)
        loaded = load_model(files, load_config(files), device="cpu", dtype=dtype)
        forward = PackedPrefill(Prefill(loaded))
        forward.try_on(prompts[:2])
    except GaincurateError as error:
        pipe.send(error)
        return
    except UnsupportedAttention as error:
        pipe.send(
            GaincurateError(f"--workers times the packed forward, which {model} does not allow: {error}.")
        )
        return
    pipe.send("ready")
    while True:
        try:
            what = pipe.recv()
        except EOFError:  # the parent is gone
            return
        pipe.send(
            rates.gemm_speeds(loaded, budget)
            if what == "gemm"
            else rates.run_batches(forward, prompts, budget)
        )
