"""Scored sets with embeddings, made by hand, and files of what policies did on them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

import column_sets
import sets
from gaincurate.core.schema import SCORE_FIELDS, signal_fields

names = column_sets.ids


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
    identity = copy.deepcopy(sets.IDENTITY_OF_SETS)
    identity["model"]["weights"] = weights
    schema = pa.schema(
        [pa.field("question", pa.string()), *SCORE_FIELDS, *signal_fields(["embedding"], width)]
    )
    lengths = [3] * rows if tokens is None else tokens.tolist()
    whole = [
        sets.scored_row(name, f"group {i % 5}", tokens=length)
        for i, (name, length) in enumerate(zip(names(rows), lengths, strict=True))
    ]
    size, tables = -(-rows // shards), []
    for index in range(shards):
        here = slice(index * size, (index + 1) * size)
        table = pa.Table.from_pylist(whole[here], schema=pa.schema(list(schema)[:-1]))
        flat = pa.array(embeddings[here].astype(np.float16).reshape(-1))
        tables.append(table.append_column(schema[-1], pa.FixedSizeListArray.from_arrays(flat, width)))
    return sets.write_set(folder, tables, identity)


def write_rates(path: Path, rows: npt.ArrayLike, losses: npt.NDArray[Any], rollouts: int = 8) -> Path:
    """Wins and losses of these rows of such a set."""
    chosen = np.asarray(rows)
    failed = losses[chosen]
    columns = {"gc_id": [f"id{i:05d}" for i in chosen], "wins": rollouts - failed, "losses": failed}
    pq.write_table(pa.table(columns), path)
    return path
