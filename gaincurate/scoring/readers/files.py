"""One reader per file format, each with `schema`, `rows` and `batches(schema, skip)`.

Every reader streams and can begin at any row, because a run that was killed goes on in the middle of a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from gaincurate.core.arrow import ipc_batches, parquet_batches, parquet_head, validate
from gaincurate.errors import SourceError
from gaincurate.scoring.readers.common import (
    BATCH_ROWS,
    UNFIT,
    Reader,
    conformed,
    no_cast,
    opened,
    unreadable_as,
)
from gaincurate.scoring.readers.text import CsvReader, Place, Row, json_rows


@dataclass(frozen=True, slots=True)
class ParquetReader:
    """A .parquet file; row groups before `skip` are not read."""

    path: Path
    schema: pa.Schema
    rows: int

    @classmethod
    def open(cls, path: Path) -> ParquetReader:
        """Read the footer only."""
        return cls(path, *parquet_head(path, unreadable_as(path, "Parquet")))

    def batches(self, schema: pa.Schema, skip: int) -> Iterator[pa.RecordBatch]:
        """See `Reader`."""
        refuse = unreadable_as(self.path, "Parquet")
        for batch in parquet_batches(self.path, refuse, rows=BATCH_ROWS, skip=skip):
            yield from conformed(self.path, batch, schema)


@dataclass(frozen=True, slots=True)
class ArrowReader:
    """An .arrow file, in the IPC file format or the stream format that `datasets` caches use."""

    path: Path
    schema: pa.Schema
    rows: int

    @classmethod
    def open(cls, path: Path) -> ArrowReader:
        """Read the schema and count the rows."""
        schema, batches = ipc_batches(path, unreadable_as(path, "Arrow"))
        return cls(path, schema, sum(batch.num_rows for batch in batches))

    def batches(self, schema: pa.Schema, skip: int) -> Iterator[pa.RecordBatch]:
        """See `Reader`."""
        refuse = unreadable_as(self.path, "Arrow")
        for batch in ipc_batches(self.path, refuse)[1]:
            if skip < batch.num_rows:
                yield from conformed(self.path, validate(batch, self.path, refuse).slice(skip), schema)
            skip = max(0, skip - batch.num_rows)


@dataclass(frozen=True, slots=True)
class JsonReader:
    """A .json or .jsonl file, also gzipped: one object per line, or one array of objects."""

    path: Path
    schema: pa.Schema
    rows: int

    @classmethod
    def open(cls, path: Path) -> JsonReader:
        """Read the whole file once, keeping one batch in memory, to check it and find its types."""
        schema, rows = pa.schema([]), 0
        for places, batch in _chunks(_json_objects(path)):
            schema = _merge_json(path, schema, places, batch)
            rows += len(batch)
        return cls(path, schema, rows)

    def batches(self, schema: pa.Schema, skip: int) -> Iterator[pa.RecordBatch]:
        """See `Reader`."""
        for places, batch in _chunks(_json_objects(self.path)):
            if skip < len(batch):
                yield _json_batch(self.path, places[skip:], batch[skip:], schema)
            skip = max(0, skip - len(batch))


def open_file(path: Path) -> Reader:
    """The reader for a file by its name; the caller has checked that the name is supported."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        return ParquetReader.open(path)
    if name.endswith(".arrow"):
        return ArrowReader.open(path)
    if name.endswith(".csv"):
        return CsvReader.open(path)
    return JsonReader.open(path)


def _json_objects(path: Path) -> Iterator[tuple[Place, Row]]:
    with opened(path) as file:
        yield from json_rows(path, file)


def _chunks(objects: Iterator[tuple[Place, Row]]) -> Iterator[tuple[list[Place], list[Row]]]:
    places: list[Place] = []
    batch: list[Row] = []
    for place, value in objects:
        places.append(place)
        batch.append(value)
        if len(batch) == BATCH_ROWS:
            yield places, batch
            places, batch = [], []
    if batch:
        yield places, batch


def _merge_json(path: Path, schema: pa.Schema, places: list[Place], batch: list[Row]) -> pa.Schema:
    """Widen `schema` by the types of a batch: null to anything, integers to fractions, fields added."""
    for name in dict.fromkeys(key for row in batch for key in row):
        values = [row.get(name) for row in batch]
        try:
            schema = _widen(schema, name, pa.array(values).type)
        except UNFIT:
            # Slow, and nearly always on the way to an error: find the first row that does not fit.
            for place, value in zip(places, values, strict=True):
                try:
                    schema = _widen(schema, name, pa.array([value]).type)
                except UnicodeEncodeError as error:
                    raise SourceError(
                        f"{path}, {place}: column {name!r} holds half of a surrogate pair, which is "
                        "no valid text.",
                        path=str(path),
                    ) from error
                except OverflowError as error:
                    raise SourceError(
                        f"{path}, {place}: column {name!r} holds a whole number beyond 64 bits; write such "
                        "numbers as text.",
                        path=str(path),
                        column=name,
                    ) from error
                except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                    raise _mixed(path, place, name, schema, value) from error
    return schema


def _json_batch(path: Path, places: list[Place], batch: list[Row], schema: pa.Schema) -> pa.RecordBatch:
    """Rows as Arrow, in types that other rows, or other files, may have widened."""
    try:
        return pa.RecordBatch.from_pylist(batch, schema=schema)
    except UNFIT as error:
        for place, row in zip(places, batch, strict=True):
            try:
                pa.RecordBatch.from_pylist([row], schema=schema)
            except UNFIT as reason:
                raise no_cast(f"{path}, {place}", reason) from reason
        raise no_cast(str(path), error) from error


def _widen(schema: pa.Schema, name: str, kind: pa.DataType) -> pa.Schema:
    new = pa.schema([(name, kind)])
    return pa.unify_schemas([schema, new], promote_options="permissive")


def _mixed(path: Path, place: str, name: str, schema: pa.Schema, value: Any) -> SourceError:
    index = schema.get_field_index(name)
    before = f"{schema.field(index).type} before" if index >= 0 else "several types"
    shown = json.dumps(value, ensure_ascii=False, default=str)[:60]
    return SourceError(
        f"{path}, {place}: column {name!r} mixes types: {shown} after {before}. One column, one type: "
        "convert it, or leave the column out.",
        path=str(path),
        column=name,
    )
