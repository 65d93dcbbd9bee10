"""Scored sets with embeddings, made by hand, and files of what policies did on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from column_sets import column_set
from column_sets import ids as names
from sets import IDENTITY_OF_SETS

__all__ = ["make_set", "names", "write_rates"]


def make_set(
    folder: Path,
    embeddings: npt.NDArray[Any],
    *,
    shards: int = 3,
    weights: str = "w" * 32,
    tokens: npt.NDArray[Any] | None = None,
) -> Path:
    """A finished set; `question` names a row's group, one of five. All have 3 tokens unless told otherwise."""
    rows, width = embeddings.shape
    flat = pa.array(embeddings.astype(np.float16).reshape(-1))
    return column_set(
        folder,
        np.full(rows, 3) if tokens is None else tokens,
        {"gc_angle": np.full(rows, 0.5), "gc_embedding": pa.FixedSizeListArray.from_arrays(flat, width)},
        questions=[f"group {i % 5}" for i in range(rows)],
        shards=shards,
        identity={"model": {**IDENTITY_OF_SETS["model"], "weights": weights}},
    )


def write_rates(path: Path, rows: npt.ArrayLike, losses: npt.NDArray[Any], rollouts: int = 8) -> Path:
    """Wins and losses of these rows of such a set."""
    chosen = np.asarray(rows)
    failed = losses[chosen]
    columns = {"gc_id": [f"id{i:05d}" for i in chosen], "wins": rollouts - failed, "losses": failed}
    pq.write_table(pa.table(columns), path)
    return path
