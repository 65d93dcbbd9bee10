"""Embeddings of a set that was scored with `--signals angle,embedding`: read, whitened, and compared.

They are read by block or by id, never as a whole, because those of a large set do not fit into memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.rng import Floats, Ints
from gaincurate.core.schema import EMBEDDING, ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError

Matrix = npt.NDArray[np.float32]
BLOCK = 2048  # rows that a method predicts at once, whatever the size of a shard
DIRECTIONS = 64
SAMPLE = 1024  # embeddings that the directions are taken from


def matrix(table: pa.Table, folder: Path) -> Matrix:
    """The embeddings of a table's rows, `[rows, width]`. Raises `InputError` if a row has none."""
    if EMBEDDING not in table.column_names:
        raise InputError(
            f"{folder} has no {EMBEDDING}: score it with `--signals angle,nll,entropy,embedding`.",
            column=EMBEDDING,
        )
    column = table.column(EMBEDDING)
    if column.null_count:
        row = table.column(ID)[pc.indices_nonzero(column.is_null())[0].as_py()]
        raise InputError(f"{folder}: {column.null_count:,} rows have no {EMBEDDING}, {row} among them.")
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    embeddings: Matrix = flat.astype(np.float32).reshape(len(table), column.type.list_size)
    return embeddings


def of_ids(sets: Sequence[ScoredSet], ids: Sequence[str]) -> Matrix:
    """The embeddings of these prompts, `[ids, width]`, in this order, from the first set that has each.

    Raises `InputError` for an id that no set has, a set without embeddings, or sets of different models.
    """
    for other in sets[1:]:
        if maker(other) != maker(sets[0]):
            raise InputError(
                f"{other.folder} has embeddings of another model than {sets[0].folder}; one predictor "
                "reads those of one."
            )
    rows = dict[str, Matrix]()
    for scored in sets:
        here = list(set(scored.column(ID).to_pylist()).intersection(ids).difference(rows))
        rows.update(zip(here, matrix(scored.rows(here), scored.folder), strict=True))
    if absent := [gc_id for gc_id in ids if gc_id not in rows]:
        raise strangers(absent, len(ids), "in no scored set given")
    return np.stack([rows[gc_id] for gc_id in ids])


def strangers(absent: Sequence[str], count: int, where: str) -> InputError:
    """The error for outcomes of prompts that a set does not have."""
    return InputError(
        f"{len(absent):,} of {count:,} prompts with outcomes are {where}, {absent[0]!r} among them: are the "
        "outcomes of another set?",
        ids=absent,
    )


def maker(scored: ScoredSet) -> dict[str, Any]:
    """The model that made a set's embeddings: its name, the hash of its weights, and their width."""
    model = scored.identity["model"]
    kind = scored.schema.field(EMBEDDING).type if EMBEDDING in scored.schema.names else None
    width = kind.list_size if kind is not None and pa.types.is_fixed_size_list(kind) else None
    return {"model": model["name"], "weights": model.get("weights"), "width": width}


def see_same_maker(scored: ScoredSet, fitted_on: dict[str, Any]) -> None:
    """Raise `InputError` if an adapter was fitted on embeddings of another model than the set's."""
    if fitted_on == (made_by := maker(scored)):
        return
    theirs, ours = (
        f"{m['model']} ({m['width']} wide, weights {str(m['weights'])[:8]})" for m in (fitted_on, made_by)
    )
    raise InputError(
        f"the adapter was fitted on embeddings of {theirs}, and {scored.folder} has those of {ours}; score "
        "with that model, or fit again."
    )


@dataclass(frozen=True, slots=True)
class Space:
    """The space of the cosines: (embedding - `mean`, `[width]`) @ `directions`, `[width, directions]`."""

    mean: Floats
    directions: Floats

    def __call__(self, embeddings: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Unit vectors, `[rows, directions]`, computed in the precision of the embeddings.

        In float32 they take half the memory. In float64 machines agree to a part in 10^13.
        """
        precision = embeddings.dtype
        points = (embeddings - self.mean.astype(precision)) @ self.directions.astype(precision)
        lengths = np.sqrt((points * points).sum(1, keepdims=True, dtype=np.float64))
        return np.asarray(points / np.maximum(lengths, 1e-30), precision)


def whitening(sample: Matrix, directions: int = DIRECTIONS, exponent: float = 1.0) -> Space:
    """The strongest directions of a sample `[rows, width]`, each divided by its deviation ** `exponent`.

    An `exponent` of 1 gives every direction variance 1; 0 keeps the variances. The result has fewer than
    `directions` if the sample has fewer; directions that are only rounding errors do not count.
    """
    mean = sample.mean(0, dtype=np.float64)
    centred = sample - mean
    # Of the two symmetric products the smaller one: both have the same eigenvalues but for zeros.
    wide = centred.shape[1] > len(centred)
    product = centred @ centred.T if wide else centred.T @ centred
    values, vectors = np.linalg.eigh(product)
    strongest = np.flatnonzero(values > max(values[-1], 0.0) * 1e-9)[-directions:]
    values, vectors = values[strongest], vectors[:, strongest]
    if wide:
        vectors = centred.T @ (vectors / np.sqrt(values))
    return Space(mean, vectors * np.sqrt(len(sample) / values) ** exponent)


def evenly_spaced(rows: int, most: int = SAMPLE) -> Ints:
    """At most `most` places among this many rows, evenly spaced and ascending; all if there are no more."""
    return np.unique(np.linspace(0, rows - 1, min(rows, most)).astype(np.int64))
