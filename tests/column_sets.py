"""Scored sets made of whole columns: what a report is about, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import sets
from gaincurate.core.schema import SCORE_FIELDS

_SCORES = [field.name for field in SCORE_FIELDS[4:]]


def ids(rows: int) -> list[str]:
    """The rows' ids."""
    return [f"id{row:05d}" for row in range(rows)]


def rates_file(path: Path, rate: np.ndarray, samples: int = 8, seed: int = 1) -> Path:
    """Wins and losses of so many rollouts of the first prompts, drawn with these rates."""
    wins = np.random.default_rng(seed).binomial(samples, rate)
    pq.write_table(pa.table({"gc_id": ids(len(rate)), "wins": wins, "losses": samples - wins}), path)
    return path


def column_set(
    folder: Path,
    lengths: Sequence[int] | np.ndarray,
    scores: Mapping[str, Any],
    source: Mapping[str, Any] | None = None,
    *,
    questions: Any = None,
    shards: int = 2,
    identity: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
) -> Path:
    """A finished set: `scores` by column (those of contract 1 that are not there are null), `source` beside."""
    rows = len(lengths)
    texts = [f"question {row}?" for row in range(rows)] if questions is None else questions
    columns: dict[str, Any] = {"question": pa.array(texts), **(source or {})}
    columns["gc_id"] = pa.array(ids(rows) if names is None else names, pa.string())
    counts = pa.array(np.asarray(lengths), pa.int32())
    columns |= {"gc_prompt_tokens": counts, "gc_prefix_tokens": counts, "gc_question_tokens": counts}
    for name in [*_SCORES, *(name for name in scores if name not in _SCORES)]:
        values = scores.get(name, pa.nulls(rows, pa.float32()))
        if isinstance(values, np.ndarray | list):  # a score that is not there is null, never NaN
            values = pa.array(values, pa.float32(), from_pandas=True)
        columns[name] = values
    table = pa.table(columns)
    facts = {**sets.IDENTITY_OF_SETS, **(identity or {})}
    size = max(1, -(-rows // shards))
    parts = [table.slice(start, size) for start in range(0, rows, size)] or [table]
    fresh = [pa.Table.from_pylist(part.to_pylist(), schema=table.schema) for part in parts]
    return sets.write_set(folder, fresh, facts)
