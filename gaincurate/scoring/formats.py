"""One streaming reader per file format: takes a path, yields Arrow record batches of one fixed schema.

Text formats are read through once to find their types, because a type guessed from the first rows is
wrong for the file whose row 5,000 has the first fraction. Knows nothing of prompts.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from gaincurate.errors import SourceError, StorageError
from gaincurate.scoring.json_rows import Place, Row, json_rows

BATCH_ROWS = 1024
_CSV_BLOCK = 1 << 23
# A number that a double holds as it is written: no leading zero, at most 15 digits before the point.
_FRACTION = r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
# What Arrow and Python say of a value that is not, or cannot be, of a type.
_UNFIT = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError)


class Reader(Protocol):
    """A part of the source with a known schema and number of rows."""

    @property
    def schema(self) -> pa.Schema:
        """Columns and types, fixed for the whole part."""

    @property
    def rows(self) -> int:
        """How many rows it has."""

    def batches(self, schema: pa.Schema, skip: int) -> Iterator[pa.RecordBatch]:
        """The rows from number `skip` on, cast to `schema` (of which this part may lack columns)."""


@dataclass(frozen=True, slots=True)
class ParquetReader:
    """A .parquet file; row groups before `skip` are not read."""

    path: Path
    schema: pa.Schema
    rows: int

    @classmethod
    def open(cls, path: Path) -> ParquetReader:
        """Read the footer only."""
        with _reading(path, "Parquet"), pq.ParquetFile(path) as file:
            return cls(path, file.schema_arrow, file.metadata.num_rows)

    def batches(self, schema: pa.Schema, skip: int) -> Iterator[pa.RecordBatch]:
        """See `Reader`."""
        with _reading(self.path, "Parquet"), pq.ParquetFile(self.path) as file:
            groups = list(range(file.metadata.num_row_groups))
            while groups and skip >= (size := file.metadata.row_group(groups[0]).num_rows):
                skip -= size
                groups.pop(0)
            for batch in file.iter_batches(BATCH_ROWS, row_groups=groups):
                yield from _conform(self.path, _drop(batch, skip), schema)
                skip = max(0, skip - batch.num_rows)


@dataclass(frozen=True, slots=True)
class ArrowReader:
    """An .arrow file, in the IPC file format or the stream format that `datasets` caches use."""

    path: Path
    schema: pa.Schema
    rows: int

    @classmethod
    def open(cls, path: Path) -> ArrowReader:
        """Read the schema and count the rows."""
        with _reading(path, "Arrow"):
            schema, batches = _arrow_batches(path)
            return cls(path, schema, sum(batch.num_rows for batch in batches))

    def batches(self, schema: pa.Schema, skip: int) -> Iterator[pa.RecordBatch]:
        """See `Reader`."""
        with _reading(self.path, "Arrow"):
            for batch in _arrow_batches(self.path)[1]:
                yield from _conform(self.path, _drop(batch, skip), schema)
                skip = max(0, skip - batch.num_rows)


def _arrow_batches(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    mapped = pa.memory_map(str(path))
    try:
        file = pa.ipc.open_file(mapped)
    except pa.ArrowInvalid:
        mapped.seek(0)
        stream = pa.ipc.open_stream(mapped)
        return stream.schema, iter(stream)
    return file.schema, (file.get_batch(i) for i in range(file.num_record_batches))


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


@dataclass(frozen=True, slots=True)
class CsvReader:
    """A .csv file with a header; a column is int64 or double where every value in it is, else text."""

    path: Path
    schema: pa.Schema
    rows: int

    @classmethod
    def open(cls, path: Path) -> CsvReader:
        """Read the whole file once as text to check it and find its types."""
        names = _csv_header(path)
        possible = {name: [pa.int64(), pa.float64()] for name in names}
        rows, filled = 0, dict.fromkeys(names, False)
        for batch in _csv_batches(path, dict.fromkeys(names, pa.string())):
            rows += batch.num_rows
            for name, column in zip(names, batch.columns, strict=True):
                values = column.filter(pc.not_equal(column, ""))
                filled[name] = filled[name] or len(values) > 0
                possible[name] = [kind for kind in possible[name] if _parses(values, kind)]
        kinds = [(possible[name] or [pa.string()])[0] if filled[name] else pa.string() for name in names]
        return cls(path, pa.schema(list(zip(names, kinds, strict=True))), rows)

    def batches(self, schema: pa.Schema, skip: int) -> Iterator[pa.RecordBatch]:
        """See `Reader`."""
        own = {field.name: field.type for field in self.schema}
        for batch in _csv_batches(self.path, own):
            yield from _conform(self.path, _drop(batch, skip), schema)
            skip = max(0, skip - batch.num_rows)


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


class _reading:
    """Turns what Arrow says of a broken file into our sentence; a bug of ours passes through."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind = path, kind

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno:  # without a number it is Arrow's own
            raise unreadable(self.path, error) from error
        if isinstance(error, (pa.ArrowInvalid, OSError)):
            raise SourceError(
                f"{self.path} is no readable {self.kind} file: {_one_line(error)}. Is it complete, and "
                "is its name's ending right?",
                path=str(self.path),
            ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")[:300]


def _drop(batch: pa.RecordBatch, skip: int) -> pa.RecordBatch:
    return batch.slice(min(skip, batch.num_rows))


def _conform(path: Path, batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Cut into small batches; reorder, fill absent columns with null and cast where files differ.

    A file's own batch may be the whole file, and its rows become Python objects further on.
    """
    for start in range(0, batch.num_rows, BATCH_ROWS):
        part = batch.slice(start, BATCH_ROWS)
        yield part if part.schema.equals(schema) else _cast(path, part, schema)


def _cast(path: Path, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = []
    for field in schema:
        place = batch.schema.get_field_index(field.name)
        column = batch.column(place) if place >= 0 else pa.nulls(batch.num_rows, field.type)
        try:
            columns.append(column if column.type == field.type else column.cast(field.type))
        except pa.ArrowException as error:
            raise _no_cast(f"{path}, column {field.name!r}", error) from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked; what the file system or gzip says against it becomes a sentence."""
    try:
        with cast("IO[bytes]", gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(f"{path} is no readable gzip file: {_one_line(error)}.", path=str(path)) from error
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path | str, error: OSError) -> StorageError:
    """The sentence for a file that the file system does not give."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return StorageError(
        f"cannot read {path}: {reason.lower()}. Put that right and run the same command again.",
        path=str(path),
        errno=error.errno,
    )


def _json_objects(path: Path) -> Iterator[tuple[Place, Row]]:
    with _opened(path) as file:
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
        except _UNFIT:
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
    except _UNFIT as error:
        for place, row in zip(places, batch, strict=True):
            try:
                pa.RecordBatch.from_pylist([row], schema=schema)
            except _UNFIT as reason:
                raise _no_cast(f"{path}, {place}", reason) from reason
        raise _no_cast(str(path), error) from error


def _no_cast(where: str, error: BaseException) -> SourceError:
    return SourceError(
        f"{where}: a value does not fit the type that the rest of its column has ({_one_line(error)}). "
        "Make the column alike everywhere, for instance text.",
        path=where,
    )


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


def _csv_header(path: Path) -> list[str]:
    try:
        with _opened(path) as file:
            lines = io.TextIOWrapper(file, "utf-8-sig", newline="")
            names = next(filter(None, csv.reader(lines)), [])
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path}: not UTF-8. Convert the file first, for instance with `iconv -t UTF-8`.", path=str(path)
        ) from error
    except csv.Error as error:
        raise SourceError(f"{path} is no readable CSV file: {_one_line(error)}.", path=str(path)) from error
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SourceError(
            f"{path}: the header names column {repeated[0]!r} twice; rename one.", path=str(path)
        )
    return names


def _csv_batches(path: Path, kinds: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    if not kinds:
        return
    try:
        with _opened(path) as file:
            yield from pacsv.open_csv(
                file,
                pacsv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK),
                pacsv.ParseOptions(newlines_in_values=True),
                pacsv.ConvertOptions(column_types=kinds, null_values=[""], strings_can_be_null=False),
            )
    except pa.ArrowInvalid as error:
        text = _one_line(error)
        if "UTF8" in text:
            text = "it holds text that is not UTF-8; convert it with `iconv -t UTF-8`"
        elif "straddl" in text:
            text = f"a row is over {_CSV_BLOCK >> 20} MiB, or a quote is never closed"
        raise SourceError(f"{path} is no readable CSV file: {text}.", path=str(path)) from error


def _parses(values: pa.Array, kind: pa.DataType) -> bool:
    """Whether every text stands for a value of `kind` and for no more: 007 is a text, not the number 7."""
    try:
        parsed = values.cast(kind)
    except pa.ArrowInvalid:
        return False
    if kind == pa.int64():
        return bool(parsed.cast(pa.string()).equals(values))
    good = pc.and_(pc.match_substring_regex(values, _FRACTION), pc.is_finite(parsed))
    return bool(pc.all(good, min_count=0).as_py())
