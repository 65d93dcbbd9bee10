"""Embeddings that `gaincurate score --signals angle,embedding` stored, as float32 matrices.

They are read by block or by id and never as a whole, because those of a large set do not fit into memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.schema import EMBEDDING, ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError

Matrix = npt.NDArray[np.float32]
BLOCK = 2048  # rows that a method predicts at once, whatever the size of a shard


def matrix(table: pa.Table, folder: Path) -> Matrix:
    """The embeddings of a table's rows, `[rows, width]`.

    Raises:
        InputError: the table has none, or a row has none.
    """
    if EMBEDDING not in table.column_names:
        raise InputError(
            f"{folder} has no {EMBEDDING}: score it with `--signals angle,embedding`, or take --method "
            "group-mean.",
            column=EMBEDDING,
        )
    column = table.column(EMBEDDING)
    if not pa.types.is_fixed_size_list(column.type):
        raise InputError(f"{folder}: {EMBEDDING} has type {column.type}, not lists of one size.")
    if column.null_count:
        row = table.column(ID)[pc.indices_nonzero(column.is_null())[0].as_py()]
        raise InputError(f"{folder}: {column.null_count:,} rows have no {EMBEDDING}, {row} among them.")
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    joined = np.concatenate(flat) if flat else np.zeros(0)
    return joined.astype(np.float32).reshape(len(table), column.type.list_size)


def of_ids(sets: Sequence[ScoredSet], ids: Sequence[str]) -> Matrix:
    """The embeddings of these prompts, `[ids, width]`, in this order, from whichever set has them.

    Raises:
        InputError: an id that no set has, a set without embeddings, or sets of different models.
    """
    for other in sets[1:]:
        if maker(other) != maker(sets[0]):
            raise InputError(
                f"{other.folder} has embeddings of another model than {sets[0].folder}; one predictor "
                "reads those of one."
            )
    wanted, places = pa.array(ids, pa.string()), np.full(len(ids), -1)
    parts, before = [], 0
    for scored in sets:
        names = scored.column(ID)
        rows = pc.index_in(wanted, value_set=names.combine_chunks()).to_numpy(zero_copy_only=False)
        fresh = np.flatnonzero((places < 0) & ~np.isnan(rows.astype(float)))
        parts.append(matrix(scored.take(rows[fresh].astype(np.int64)), scored.folder))
        places[fresh] = np.arange(before, before + len(fresh))
        before += len(fresh)
    if (places < 0).any():
        absent = [ids[i] for i in np.flatnonzero(places < 0).tolist()]
        raise InputError(
            f"{len(absent):,} of {len(ids):,} prompts with outcomes are in no scored set given, "
            f"{absent[0]!r} among them: are the outcomes of another set?",
            ids=absent,
        )
    embeddings: Matrix = np.concatenate(parts)[places]
    return embeddings


def maker(scored: ScoredSet) -> dict[str, Any]:
    """The model that made a set's embeddings: its name, the hash of its weights, and their width."""
    model = scored.identity["model"]
    kind = scored.schema.field(EMBEDDING).type if EMBEDDING in scored.schema.names else None
    return {
        "model": model["name"],
        "weights": model.get("weights"),
        "width": kind.list_size if kind is not None and pa.types.is_fixed_size_list(kind) else None,
    }
