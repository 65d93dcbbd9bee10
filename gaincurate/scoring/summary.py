"""How a scoring run went: what it counted and where its time was spent, by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_MODEL = ("prefill", "angle", "head", "embedding")
"""The stages of a run that are the model's and the signals' work."""


@dataclass(slots=True)
class Summary:
    """How a run went. `complete` is False while other `--shard I/N` runs are still to finish.

    `scored`, `tokens` (computed, without padding), `elapsed` seconds and `seconds` by stage are of this
    process; reading, segmenting and writing go on beside the model, and `waiting` is what it waited for them.
    `rows`, `rejected`, `truncated`, `rows_without_prefix`, `zero_vectors` (scored tokens without a
    direction), `reused` (rows with the scores of other sets; None in a run without `--reuse`) and
    `spearman_length` (rank correlation of `gc_angle` with the question's tokens) are of the finished set.
    """

    out: Path
    complete: bool = False
    scored: int = 0
    tokens: int = 0
    elapsed: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    rows: int | None = None
    rejected: int | None = None
    truncated: int | None = None
    rows_without_prefix: int | None = None
    zero_vectors: int | None = None
    reused: int | None = None
    spearman_length: float | None = None

    @property
    def in_model(self) -> float:
        """Seconds in the model and the signals' code."""
        return sum(self.seconds.get(stage, 0.0) for stage in _MODEL)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall time of a block to a stage."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begin
