"""Columns of a scored set by dotted name, which may reach into a struct (`extra_info.level`), and groups.

Report and schedule both read the groups of prompts here, so they agree on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from gaincurate.core.rng import Labels
from gaincurate.core.scored_set import ScoredSet

NO_GROUP = "(none)"
"""The group of rows without a value in the column of groups."""


def fields(schema: Iterable[pa.Field]) -> Iterator[tuple[str, pa.DataType]]:
    """Every column and every field inside a struct, with its dotted name."""
    for column in schema:
        if pt.is_struct(column.type):
            yield from ((f"{column.name}.{name}", kind) for name, kind in fields(column.type))
        else:
            yield column.name, column.type


def read_column(scored: ScoredSet | pa.Table, name: str) -> pa.ChunkedArray:
    """A column of a whole set or table by dotted name; the column must exist."""
    head, *path = _path(scored.schema, name)
    column = scored.column(head)
    return pc.struct_field(column, path) if path else column


def _path(columns: Iterable[pa.Field], name: str) -> list[str]:
    """Split a dotted name into a column and its nested fields, whose names may have dots themselves."""
    for column in columns:
        if column.name == name:
            return [name]
        if pt.is_struct(column.type) and name.startswith(f"{column.name}."):
            inside = _path(column.type, name.removeprefix(f"{column.name}."))
            if inside:
                return [column.name, *inside]
    return []


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is text, in any layout."""
    if pt.is_dictionary(kind):
        kind = kind.value_type
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def can_group(kind: pa.DataType) -> bool:
    """Whether a column holds names of groups: texts, whole numbers, or true and false."""
    return is_text(kind) or bool(pt.is_integer(kind) or pt.is_boolean(kind))


def as_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column's values as plain strings. Arrow itself cannot decode a dictionary of views."""
    if pt.is_dictionary(column.type):
        chunks = [chunk.dictionary.cast(pa.string()).take(chunk.indices) for chunk in column.chunks]
        return pa.chunked_array(chunks, pa.string())
    return column if pt.is_string(column.type) else column.cast(pa.string())


def coded(column: pa.ChunkedArray, most: int) -> tuple[list[str], Labels] | tuple[None, None]:
    """The sorted distinct values as texts and each row's index, `[rows]`, -1 for null; None over `most`."""
    texts = as_texts(column)
    names = pc.unique(texts).drop_null()
    if len(names) > most:
        return None, None
    in_order = sorted(names.to_pylist())
    return in_order, pc.index_in(texts, pa.array(in_order, pa.string())).fill_null(-1).to_numpy()
