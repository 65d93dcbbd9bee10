"""One streaming reader per file format: takes a path, yields Arrow record batches of one fixed schema.

Text formats are read through once to find their types, because a type guessed from the first rows is
wrong for the file whose row 5,000 has the first fraction. Knows nothing of prompts.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from gaincurate.errors import SourceError

BATCH_ROWS = 1024
_CSV_BLOCK = 1 << 23


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
                yield from _conform(_drop(batch, skip), schema)
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
                yield from _conform(_drop(batch, skip), schema)
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
        for _, batch in _chunks(_json_objects(self.path)):
            if skip < len(batch):
                yield pa.RecordBatch.from_pylist(batch[skip:], schema=schema)
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
        kinds: dict[str, pa.DataType] = dict.fromkeys(names, pa.int64())
        rows, filled = 0, dict.fromkeys(names, False)
        for batch in _csv_batches(path, dict.fromkeys(names, pa.string())):
            rows += batch.num_rows
            for name, column in zip(names, batch.columns, strict=True):
                values = column.filter(pc.not_equal(column, ""))
                filled[name] = filled[name] or len(values) > 0
                while not _parses(values, kinds[name]):
                    kinds[name] = pa.float64() if kinds[name] == pa.int64() else pa.string()
        kinds = {name: kind if filled[name] else pa.string() for name, kind in kinds.items()}
        return cls(path, pa.schema(list(kinds.items())), rows)

    def batches(self, schema: pa.Schema, skip: int) -> Iterator[pa.RecordBatch]:
        """See `Reader`."""
        own = {field.name: field.type for field in self.schema}
        for batch in _csv_batches(self.path, own):
            yield from _conform(_drop(batch, skip), schema)
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


def _conform(batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Reorder, fill absent columns with null and cast where files of one source differ."""
    if batch.num_rows == 0:
        return
    if batch.schema.equals(schema):
        yield batch
        return
    columns = []
    for field in schema:
        place = batch.schema.get_field_index(field.name)
        column = batch.column(place) if place >= 0 else pa.nulls(batch.num_rows, field.type)
        columns.append(column if column.type == field.type else column.cast(field.type))
    yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _open_bytes(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def _json_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each object stands (for messages) and the object."""
    with _open_bytes(path) as file:
        try:
            head = b""
            while not head.strip(b"\xef\xbb\xbf \t\r\n") and (block := file.read(64)):
                head = block
            file.seek(0)
            if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[":
                yield from _json_array(path, file)
            else:
                yield from _json_lines(path, file)
        except (gzip.BadGzipFile, EOFError) as error:
            raise SourceError(
                f"{path} is no readable gzip file: {_one_line(error)}.", path=str(path)
            ) from error


def _json_lines(path: Path, file: Iterable[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, raw in enumerate(file, 1):
        line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{path}, line {number}: byte {error.start + 1} is not UTF-8. Convert the file first, "
                "for instance with `iconv -t UTF-8`.",
                path=str(path),
                line=number,
            ) from error
        except json.JSONDecodeError as error:
            raise SourceError(
                f"{path}, line {number}: broken JSON ({error.msg.removesuffix(' at')}, column {error.colno}). A .json or "
                ".jsonl file holds one object per line, or one array of objects.",
                path=str(path),
                line=number,
            ) from error
        yield f"line {number}", _object(path, f"line {number}", value)


def _json_array(path: Path, file: IO[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    # ijson parses an array of any length without holding it; imported here because few files need it.
    import ijson

    number = 0
    try:
        for value in ijson.items(file, "item", use_float=True):
            number += 1
            yield f"item {number}", _object(path, f"item {number}", value)
    except ijson.JSONError as error:
        text = _one_line(error)
        reason = "text that is not UTF-8" if "UTF8" in text.upper() else f"broken JSON ({text[:120]})"
        raise SourceError(
            f"{path}: {reason} after item {number} of the array. Check it with `python -m json.tool`.",
            path=str(path),
            item=number,
        ) from error


def _object(path: Path, place: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SourceError(
            f"{path}, {place}: holds {type(value).__name__} where an object (one row) is expected.",
            path=str(path),
        )
    return value


def _chunks(
    objects: Iterator[tuple[str, dict[str, Any]]],
) -> Iterator[tuple[list[str], list[dict[str, Any]]]]:
    places: list[str] = []
    batch: list[dict[str, Any]] = []
    for place, value in objects:
        places.append(place)
        batch.append(value)
        if len(batch) == BATCH_ROWS:
            yield places, batch
            places, batch = [], []
    if batch:
        yield places, batch


def _merge_json(path: Path, schema: pa.Schema, places: list[str], batch: list[dict[str, Any]]) -> pa.Schema:
    """Widen `schema` by the types of a batch: null to anything, integers to fractions, fields added."""
    for name in dict.fromkeys(key for row in batch for key in row):
        values = [row.get(name) for row in batch]
        try:
            schema = _widen(schema, name, pa.array(values).type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
            # Slow, and only on the way to an error: find the first row that does not fit.
            for place, value in zip(places, values, strict=True):
                try:
                    schema = _widen(schema, name, pa.array([value]).type)
                except UnicodeEncodeError as error:
                    raise SourceError(
                        f"{path}, {place}: column {name!r} holds half of a surrogate pair, which is "
                        "no valid text.",
                        path=str(path),
                    ) from error
                except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
                    raise _mixed(path, place, name, schema, value) from error
            # Every row fits what stood before it, so the values differ among themselves below the top.
            raise _mixed(path, places[0], name, schema, values[0]) from None
    return schema


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
        with _open_bytes(path) as file:
            lines = (line.decode("utf-8-sig") for line in file)
            names = next(csv.reader(lines), [])
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path}, line 1: not UTF-8. Convert the file first, for instance with `iconv -t UTF-8`.",
            path=str(path),
        ) from error
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
        with _open_bytes(path) as file:
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
        raise SourceError(f"{path} is no readable CSV file: {text}.", path=str(path)) from error


def _parses(values: pa.Array, kind: pa.DataType) -> bool:
    """Whether every text stands for a value of `kind`; 007 is a text, not the number 7."""
    if kind == pa.string():
        return True
    try:
        parsed = values.cast(kind)
    except pa.ArrowInvalid:
        return False
    return bool(kind != pa.int64() or parsed.cast(pa.string()).equals(values))
