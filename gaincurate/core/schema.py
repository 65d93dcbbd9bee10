"""The columns that a scored set adds to its source, and the Arrow schema of both (contract 1).

`FORMAT` increases when a reader of the old format would read wrong values. A new column that readers may
ignore does not change it, so old sets stay readable.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gaincurate.core.foreign import json_value

FORMAT = 1
ID = "gc_id"
PREFIX = "gc_"
EMBEDDING = "gc_embedding"
LIKELIHOODS = ("gc_nll", "gc_entropy", "gc_last_entropy")

SCORE_FIELDS = (
    pa.field(ID, pa.string()),
    pa.field("gc_prompt_tokens", pa.int32()),
    pa.field("gc_prefix_tokens", pa.int32()),
    pa.field("gc_question_tokens", pa.int32()),
    pa.field("gc_angle", pa.float32()),
    pa.field("gc_angle_intra", pa.float32()),
    pa.field("gc_angle_inter", pa.float32()),
    pa.field("gc_angle_intra_offdiag", pa.float32()),
)


@dataclass(frozen=True, slots=True)
class Score:
    """One row's scores, by the names of the columns without `gc_`; None becomes null.

    `prompt_tokens` counts the whole rendered prompt, `prefix_tokens` what stands before the question,
    `question_tokens` the question. The angles are cosines, so without a unit. The others are there where
    they were asked for: `nll` and the entropies in nats (`Likelihood` says where each is read), `embedding`
    the mean final state over the question, `[width]`.
    """

    prompt_tokens: int
    prefix_tokens: int
    question_tokens: int
    angle: float
    angle_intra: float
    angle_inter: float | None
    angle_intra_offdiag: float | None
    nll: float | None = None
    entropy: float | None = None
    last_entropy: float | None = None
    embedding: npt.NDArray[np.float16] | None = None


def signal_fields(signals: Sequence[str], width: int | None = None) -> list[pa.Field]:
    """The columns that a run's signals add after `SCORE_FIELDS`; `width` is an embedding's."""
    fields = [pa.field(LIKELIHOODS[0], pa.float32())] if "nll" in signals else []
    if "entropy" in signals:
        fields += [pa.field(name, pa.float32()) for name in LIKELIHOODS[1:]]
    if "embedding" in signals:
        assert width is not None
        fields.append(pa.field(EMBEDDING, pa.list_(pa.float16(), width)))
    return fields


def source_fields(schema: pa.Schema) -> list[pa.Field]:
    """The source columns that a scored set keeps: all but those that it writes itself (`gc_*`)."""
    return [field for field in schema if not field.name.startswith(PREFIX)]


def scored_schema(source: pa.Schema, more: Sequence[pa.Field] = ()) -> pa.Schema:
    """Unchanged source columns, then the score columns, then `more`, with updated schema metadata.

    The score columns are added to the features in the source's `huggingface` entry, because `datasets` uses
    that entry instead of the schema.
    """
    metadata = dict(source.metadata or {})
    try:
        listed = json_value(metadata[b"huggingface"])["info"]["features"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        metadata.pop(b"huggingface", None)  # not what `datasets` writes
    else:
        features = {name: feature for name, feature in listed if not name.startswith(PREFIX)}
        features |= {field.name: _feature(field.type) for field in (*SCORE_FIELDS, *more)}
        # Without its fingerprint of the unscored rows, by which a cache would answer for the scored ones.
        metadata[b"huggingface"] = json.dumps({"info": {"features": features}}).encode()
    return pa.schema([*source_fields(source), *SCORE_FIELDS, *more], metadata=metadata or None)


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """A score column's type as `datasets` writes it."""
    if pa.types.is_fixed_size_list(kind):
        return {"feature": _feature(kind.value_type), "length": kind.list_size, "_type": "Sequence"}
    names = {"float": "float32", "halffloat": "float16"}
    return {"dtype": names.get(str(kind), str(kind)), "_type": "Value"}


def scored_table(
    source: pa.Table, ids: list[str], scores: dict[int, Score], more: Sequence[pa.Field] = ()
) -> pa.Table:
    """The rows that have a score, by their place in `source`, with the score columns and `more` after them.

    Every column is copied into fresh buffers, so a shard's bytes do not depend on how its rows were sliced.
    """
    rows, places = source.unify_dictionaries().combine_chunks(), pa.array(list(scores), pa.int64())
    columns = [_taken(rows.column(field.name), places) for field in source_fields(source.schema)]
    columns.append(pa.array([ids[place] for place in scores], pa.string()))
    for field in (*SCORE_FIELDS[1:], *more):
        values = [getattr(score, field.name.removeprefix(PREFIX)) for score in scores.values()]
        if pa.types.is_fixed_size_list(field.type):
            flat = np.concatenate(values) if values else np.zeros(0, np.float16)
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float16()), type=field.type))
        else:
            columns.append(pa.array(values, field.type))
    return pa.table(columns, schema=scored_schema(source.schema, more)).combine_chunks()


def take(table: pa.Table, places: pa.Array) -> pa.Table:
    """The rows of a table at these places, also of views, from which Arrow itself cannot take."""
    try:
        return table.take(places)
    except pa.ArrowNotImplementedError:
        return pa.table([_taken(column, places) for column in table.columns], schema=table.schema)


def _taken(column: pa.ChunkedArray, places: pa.Array) -> pa.ChunkedArray:
    # Arrow cannot take from views (polars writes them), so they go through their plain form.
    plain = _plain(column.type)
    return column.take(places) if plain == column.type else column.cast(plain).take(places).cast(column.type)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type with every view in it, at any depth, laid out as offsets and bytes."""
    if kind in (pa.string_view(), pa.binary_view()):
        return pa.large_string() if kind == pa.string_view() else pa.large_binary()
    return _with_inner(kind, _plain)


def object_type(kind: pa.DataType) -> pa.DataType:
    """The type of a column made from Python objects in place of a column of type `kind`.

    Arrow builds no extension arrays and few dictionaries from Python objects. It reads Parquet's JSON as an
    extension.
    """
    while isinstance(kind, pa.BaseExtensionType) or pa.types.is_dictionary(kind):
        kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind.value_type
    return _with_inner(kind, object_type)


def _with_inner(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """The type with `change` applied to the types of its direct children."""
    inner = [kind.field(place) for place in range(kind.num_fields)]
    fields = [field.with_type(change(field.type)) for field in inner]
    if fields == inner:
        return kind
    if pa.types.is_struct(kind):
        return pa.struct(fields)
    if pa.types.is_map(kind):
        return pa.map_(*fields[0].type.fields, kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(*fields, kind.list_size)
    return (pa.large_list if pa.types.is_large_list(kind) else pa.list_)(*fields)
