"""Columns of a table by dotted name: takes a schema or a column, yields names, numbers or groups.

A dot goes into a struct (`extra_info.level`). Knows no column's name and no statistics.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from gaincurate.scored_set import ScoredSet
from gaincurate.stats import Floats

_NUMBER = re.compile(r"(?<![\d.])(?:(?<!\w)-)?\d+(?:\.\d+)?")  # the dash of "level-3" is no minus
_WORDS = {
    word: float(place)
    for place, words in enumerate(
        ["trivial", "very easy", "easy", "medium moderate intermediate normal", "hard difficult", "very hard"]
    )
    for word in ([words] if words.startswith("very") else words.split())
}
_INFINITE = 1e100  # sums of squares of larger numbers would be
_MOST_TEXTS = 1000  # of a scale in words or of levels
_PARSED = 0.95  # of the rows, at least, for a column of texts to be one of levels


def fields(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    """Every column and every field inside a struct, with its dotted name."""
    for field in schema:
        yield from _inside(field.name, field.type)


def _inside(name: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    if pt.is_struct(kind):
        for field in kind:
            yield from _inside(f"{name}.{field.name}", field.type)
    else:
        yield name, kind


def read_column(scored: ScoredSet, name: str) -> pa.ChunkedArray:
    """A column of the whole set by dotted name; it must be there."""
    head, *path = _path(scored.schema, name)
    found = scored.column(head)
    if not path:
        return found
    chunks = [pc.struct_field(chunk, path) for chunk in found.chunks]
    return pa.chunked_array(chunks, None if chunks else pa.null())


def _path(fields: Iterable[pa.Field], name: str) -> list[str]:
    """The columns and fields, one inside the other, of a dotted name; their own names may have dots too."""
    for field in fields:
        if field.name == name:
            return [name]
        if pt.is_struct(field.type) and name.startswith(f"{field.name}."):
            inside = _path(field.type, name.removeprefix(f"{field.name}."))
            if inside:
                return [field.name, *inside]
    return []


def is_number(kind: pa.DataType) -> bool:
    """Whether a column holds numbers; true and false count as 1 and 0."""
    return bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_boolean(kind) or pt.is_decimal(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds texts, of whatever layout."""
    if pt.is_dictionary(kind):
        kind = kind.value_type
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def numbers(column: pa.ChunkedArray) -> tuple[Floats, int]:
    """A column of numbers as `[rows]`, NaN for null and infinite (beyond 1e100); how many were infinite."""
    if pt.is_boolean(column.type):
        column = column.cast(pa.int8())
    parts = [_floats(chunk) for chunk in column.chunks]
    found = np.concatenate(parts) if parts else np.zeros(0)
    infinite = np.abs(found) > _INFINITE
    found[infinite] = np.nan
    return found, int(infinite.sum())


def _floats(chunk: pa.Array) -> Floats:
    # Halves have no cast of their own in older versions; numpy has.
    # Integers beyond 2^53 are rounded, which is no reason to refuse them.
    plain = chunk if pt.is_floating(chunk.type) else chunk.cast(pa.float64(), safe=False)
    found: Floats = plain.to_numpy(zero_copy_only=False).astype(np.float64)
    return found


@dataclass(frozen=True, slots=True)
class Levels:
    """Texts read as numbers: `values` is `[rows]`, NaN where a text has none; `how` says what was read."""

    values: Floats
    how: str
    unread: list[str]


def levels(column: pa.ChunkedArray) -> Levels | None:
    """Texts such as "Level 3" or "hard" as numbers; None where too few of them are one.

    Every text of the column must be read the same way: its only number, or its place among easy, medium and
    hard. Up to one row in twenty may be unreadable.
    """
    texts, codes = coded(column)
    if texts is None or codes is None:
        return None
    for how, one in (("the number in its texts", _number_in), ("its words, from easy to hard", _word)):
        found = [one(text) for text in texts]
        table = np.array([*(np.nan if value is None else value for value in found), np.nan])
        values: Floats = table[codes]
        known = int((codes >= 0).sum())
        if known and np.count_nonzero(np.isfinite(values)) >= _PARSED * known:
            unread = [text for text, value in zip(texts, found, strict=True) if value is None]
            return Levels(values, how, unread)
    return None


def _number_in(text: str) -> float | None:
    found = _NUMBER.findall(text)
    return float(found[0]) if len(found) == 1 else None


def _word(text: str) -> float | None:
    return _WORDS.get(" ".join(text.lower().replace("_", " ").replace("-", " ").split()))


def coded(
    column: pa.ChunkedArray, most: int = _MOST_TEXTS
) -> tuple[list[str], np.ndarray] | tuple[None, None]:
    """A column's distinct values as texts, sorted, and each row's place among them, -1 for null.

    None where there are more than `most`.
    """
    kind = column.type
    if pt.is_dictionary(kind):
        column = column.cast(kind.value_type)
    texts = column if pt.is_string(column.type) else column.cast(pa.string())
    encoded = texts.dictionary_encode().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # no rows at all
        return [], np.zeros(0, np.int32)
    if len(encoded.dictionary) > most:
        return None, None
    names = encoded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=lambda place: names[place])
    places = np.empty(len(names) + 1, np.int32)
    places[order] = np.arange(len(names))
    places[-1] = -1
    return [names[place] for place in order], places[encoded.indices.fill_null(-1).to_numpy()]
