"""One reader per file format: a schema, the number of rows, and batches of rows from any row on.

Every reader streams and can start at any row, because a killed run resumes in the middle of a file.

The types of a text file (JSON lines, a JSON array, CSV) are inferred from the whole file before the first
batch, so that a column that is empty for a million rows keeps its type.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from gaincurate.core.arrow import (
    MOST_COLUMNS,
    Refuse,
    ipc_batches,
    one_line,
    parquet_batches,
    parquet_head,
    validate,
)
from gaincurate.core.foreign import LONGEST_LINE, json_value
from gaincurate.errors import SourceError, storage_error

BATCH_ROWS = 1024
Row = dict[str, Any]
_BOM = b"\xef\xbb\xbf"
_LONGEST_ARRAY = 1 << 30  # bytes
_CSV_BLOCK = 1 << 23
# A number that a double stores as written: no leading zero, at most 15 digits before the point.
_FRACTION = r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
# The errors of Arrow and Python for a value that does not fit a type.
_UNFIT = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError)


@dataclass(frozen=True, slots=True)
class Reader:
    """A part of the source: its columns and types, and its number of rows.

    `raw` takes a schema, which formats without types of their own follow, and the number of rows to skip. It
    returns the other rows in batches of any size. `notes` are sentences for the user.
    """

    path: Path
    schema: pa.Schema
    rows: int
    raw: Callable[[pa.Schema, int], Iterator[pa.RecordBatch]]
    notes: tuple[str, ...] = ()

    def batches(self, schema: pa.Schema, skip: int) -> Iterator[pa.RecordBatch]:
        """The rows after the first `skip`, cast to `schema`; a column that the part lacks is null."""
        for batch in self.raw(schema, skip):
            # A batch may be a whole file, and its rows become Python objects later.
            for start in range(0, batch.num_rows, BATCH_ROWS):
                part = batch.slice(start, BATCH_ROWS)
                if not part.schema.equals(schema):
                    columns = [self._column(part, field) for field in schema]
                    part = pa.RecordBatch.from_arrays(columns, schema=schema)
                yield part

    def _column(self, part: pa.RecordBatch, field: pa.Field) -> pa.Array:
        place = part.schema.get_field_index(field.name)
        column = part.column(place) if place >= 0 else pa.nulls(part.num_rows, field.type)
        try:
            return column if column.type == field.type else column.cast(field.type)
        except pa.ArrowException as error:
            raise _no_cast(self.path, f"column {field.name!r}", error) from error


def open_file(path: Path) -> Reader:
    """The reader for a file with one of the known suffixes; raises a SourceError for a damaged file."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        refuse = unreadable_as(path, "Parquet")
        schema, rows = parquet_head(path, refuse)
        return Reader(
            path, schema, rows, lambda _, skip: parquet_batches(path, refuse, rows=BATCH_ROWS, skip=skip)
        )
    if name.endswith(".arrow"):
        refuse = unreadable_as(path, "Arrow")
        schema, batches = ipc_batches(path, refuse)

        def arrow(_: pa.Schema, skip: int) -> Iterator[pa.RecordBatch]:
            return (validate(batch, path, refuse) for batch in _after(skip, ipc_batches(path, refuse)[1]))

        return Reader(path, schema, sum(batch.num_rows for batch in batches), arrow)
    return _open_csv(path) if name.endswith(".csv") else _open_json(path)


def refused(path: Path | str, why: str, **data: Any) -> SourceError:
    """The error for a data file; its sentence begins with the file's path."""
    return SourceError(f"{path}{why}", path=str(path), **data)


def unreadable_as(path: Path, kind: str) -> Refuse:
    """A function that makes the error for a file that is damaged or of another kind."""
    end = "Is it complete, and is its name's ending right?"
    return lambda why: refused(path, f" is no readable {kind} file: {why}. {end}")


def _after(skip: int, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches without their first `skip` rows."""
    for batch in batches:
        if skip < batch.num_rows:
            yield batch.slice(skip)
        skip = max(0, skip - batch.num_rows)


def _no_cast(path: Path, where: str, error: BaseException) -> SourceError:
    why = f"a value does not fit the type that the rest of its column has ({one_line(error)})"
    return refused(path, f", {where}: {why}. Make the column alike everywhere, for instance text.")


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed; errors of gzip and the file system become ours."""
    try:
        with cast("IO[bytes]", gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise refused(path, f" is no readable gzip file: {one_line(error)}.") from error
    except OSError as error:
        raise storage_error(path, error, "read") from error


def _chunks(path: Path) -> Iterator[tuple[str, list[Row]]]:
    """The objects of a JSON file in batches, each with its place in the file."""
    with _opened(path) as file:
        objects = json_rows(path, file)
        while chunk := list(islice(objects, BATCH_ROWS)):
            yield f"{chunk[0][0]} to {chunk[-1][0]}", [row for _, row in chunk]


def _open_json(path: Path) -> Reader:
    """A .json or .jsonl file, also gzipped: one object per line, or one array of objects.

    It is read once, with one batch in memory, to check it and to infer its types. A column of lists or
    objects that fits no Arrow type (`[["and", 2], ["not"]]`) is kept as JSON text.
    """
    kinds, rows, texts = dict[str, pa.DataType](), 0, set[str]()
    for place, batch in _chunks(path):
        names = dict.fromkeys(key for row in batch for key in row)
        # Checked before types are inferred: thousands of new keys in each row would take hours.
        if len(names.keys() - kinds.keys()) + sum(map(_fields, kinds.values())) > MOST_COLUMNS:
            why = f"its objects have more than {MOST_COLUMNS:,} different keys"
            raise refused(path, f": {why}. Keep what varies in a list, or as text.")
        rows += len(batch)
        for name in names:
            values = [_as_text(row.get(name)) if name in texts else row.get(name) for row in batch]
            try:
                try:
                    # Widened: null to any type, integers to fractions, fields added.
                    both = [
                        pa.schema([(name, kind)])
                        for kind in (kinds.get(name, pa.null()), pa.array(values).type)
                    ]
                    kinds[name] = pa.unify_schemas(both, promote_options="permissive").field(0).type
                except (pa.ArrowInvalid, pa.ArrowTypeError):
                    before = kinds.get(name, pa.null())
                    nested = pa.types.is_nested(before) or pa.types.is_null(before)
                    if not nested or not all(isinstance(value, dict | list | None) for value in values):
                        raise
                    texts.add(name)
                    kinds[name] = pa.array(list(map(_as_text, values))).type
            except _UNFIT as error:
                why = f"column {name!r} mixes types, or holds a value that no column can ({one_line(error)})"
                text = f", {place}: {why}. Convert it, or leave the column out."
                raise refused(path, text, column=name) from error
    notes = [
        f"{path}: column {name!r} mixes types in its lists or objects, so it is kept as JSON text"
        for name in kinds
        if name in texts
    ]
    return Reader(path, pa.schema(list(kinds.items())), rows, partial(_json, path, texts), tuple(notes))


def _json(path: Path, texts: set[str], schema: pa.Schema, skip: int) -> Iterator[pa.RecordBatch]:
    for place, batch in _chunks(path):
        if skip < len(batch):
            for row in batch if texts else ():
                row.update({name: _as_text(row[name]) for name in texts & row.keys()})
            try:
                yield pa.RecordBatch.from_pylist(batch[skip:], schema=schema)
            except _UNFIT as error:
                raise _no_cast(path, place, error) from error
        skip = max(0, skip - len(batch))


def _fields(kind: pa.DataType) -> int:
    return 1 + sum(_fields(kind.field(place).type) for place in range(kind.num_fields))


def _as_text(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def json_rows(path: Path, file: IO[bytes]) -> Iterator[tuple[str, Row]]:
    """The objects of a JSON file, each with its place; a SourceError for broken JSON or another value."""
    head = b""
    while not head.removeprefix(_BOM).strip() and (block := file.read(1 << 12)):
        head = block
    file.seek(0)
    objects: Iterator[tuple[str, Any]]
    if head.removeprefix(_BOM).lstrip().startswith(b"["):
        values = _parsed(path, "the array", file.read(_LONGEST_ARRAY + 1), _LONGEST_ARRAY)
        objects = ((f"item {number}", value) for number, value in enumerate(values, 1))
    else:
        # At most LONGEST_LINE bytes of a line: a few kilobytes of gzip can hold gigabytes.
        lines = enumerate(iter(partial(file.readline, LONGEST_LINE + 1), b""), 1)
        objects = (
            (place, _parsed(path, place, line, LONGEST_LINE))
            for place, line in ((f"line {number}", line) for number, line in lines)
            if line.removeprefix(_BOM).strip()
        )
    for place, value in objects:
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise refused(path, f", {place}: holds {kind} where an object (one row) is expected.")
        yield place, value


def _parsed(path: Path, place: str, data: bytes, longest: int) -> Any:
    try:
        if len(data) > longest:
            raise ValueError(f"more than {longest:,} bytes")
        return json_value(data, surrogates=True)
    except ValueError as error:
        expected = "A .json or .jsonl file holds one object per line, or one array of objects, in UTF-8."
        raise refused(path, f", {place}: broken JSON ({one_line(error)}). {expected}") from error


def _open_csv(path: Path) -> Reader:
    """A .csv file with a header; a column is int64 or double if all its values are, else text."""
    names = [name for batch in islice(_csv_batches(path, {}), 1) for name in batch.schema.names]
    possible = {name: [pa.int64(), pa.float64()] for name in names}
    rows, filled = 0, dict.fromkeys(names, False)
    for batch in _csv_batches(path, dict.fromkeys(names, pa.string())):
        rows += batch.num_rows
        for name, column in zip(names, batch.columns, strict=True):
            values = column.filter(pc.not_equal(column, ""))
            filled[name] = filled[name] or len(values) > 0
            possible[name] = [kind for kind in possible[name] if _parses(values, kind)]
    kinds = {name: (possible[name] or [pa.string()])[0] if filled[name] else pa.string() for name in names}
    schema = pa.schema([(name, kinds[name]) for name in names])
    return Reader(path, schema, rows, lambda _, skip: _after(skip, _csv_batches(path, kinds)))


def _csv_batches(path: Path, kinds: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    try:
        with _opened(path) as file:
            reader = pacsv.open_csv(
                file,
                pacsv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK),
                pacsv.ParseOptions(newlines_in_values=True),
                pacsv.ConvertOptions(column_types=kinds, null_values=[""], strings_can_be_null=False),
            )
            _ = reader.schema.names  # raises for a header in another encoding, which Arrow opens
            yield from reader
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        text = one_line(error)
        if "Empty CSV file" in text and not kinds:
            return
        if "straddl" in text:
            text = f"a row is over {_CSV_BLOCK >> 20} MiB, or a quote is never closed"
        raise refused(path, f" is no readable CSV file in UTF-8: {text}.") from error


def _parses(values: pa.Array, kind: pa.DataType) -> bool:
    """Whether every text is the written form of a value of `kind`: 007 is a text, not the number 7."""
    try:
        parsed = values.cast(kind)
    except pa.ArrowInvalid:
        return False
    if kind == pa.int64():
        return bool(parsed.cast(pa.string()).equals(values))
    good = pc.and_(pc.match_substring_regex(values, _FRACTION), pc.is_finite(parsed))
    return bool(pc.all(good, min_count=0).as_py())
