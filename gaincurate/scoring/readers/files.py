"""One reader per file format, each with `schema`, `rows` and `batches(schema, skip)`.

Every reader streams and can begin at any row, because a run that was killed goes on in the middle of a file.

Types of a text file (JSON lines, a JSON array, CSV) are found over the whole file before the first batch, so
that a column that is empty for a million rows does not change its type after them.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from gaincurate.core.arrow import MOST_COLUMNS, ipc_batches, one_line, parquet_batches, parquet_head, validate
from gaincurate.core.foreign import DEEPEST, JSON, LONGEST_LINE, json_value, see_depth
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

Place = str
Row = dict[str, Any]
_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\n]*")
_LONGEST_ARRAY = 1 << 30  # bytes
_CSV_BLOCK = 1 << 23
# A number that a double holds as it is written: no leading zero, at most 15 digits before the point.
_FRACTION = r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][+-]?[0-9]+)?$"


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
    """A .json or .jsonl file, also gzipped: one object per line, or one array of objects.

    A column of lists or objects that no Arrow type fits (`[["and", 2], ["not"]]`) is kept as JSON text.
    """

    path: Path
    schema: pa.Schema
    rows: int
    notes: tuple[str, ...] = ()
    """One for each column that is kept as JSON text."""

    @classmethod
    def open(cls, path: Path) -> JsonReader:
        """Read the whole file once, keeping one batch in memory, to check it and find its types."""
        kinds, notes, rows = dict[str, pa.DataType](), dict[str, str](), 0
        for places, batch in _chunks(path):
            names = dict.fromkeys(key for row in batch for key in row)
            # Before their types are found: thousands of new keys in each row would take hours.
            if (count := len(kinds.keys() | names)) <= MOST_COLUMNS:
                _merge_json(path, kinds, notes, names, places, batch)
                count = sum(map(_fields, kinds.values()))
            rows += len(batch)
            if count > MOST_COLUMNS:
                raise SourceError(
                    f"{path}: its objects have {count:,} different keys up to {places[-1]}, more than "
                    f"{MOST_COLUMNS:,}. Keep what varies in a list, or as text.",
                    path=str(path),
                )
        return cls(path, pa.schema(list(kinds.items())), rows, tuple(notes.values()))

    def batches(self, schema: pa.Schema, skip: int) -> Iterator[pa.RecordBatch]:
        """See `Reader`."""
        texts = [field.name for field in self.schema if field.type == pa.string()] if self.notes else []
        for places, batch in _chunks(self.path):
            if skip < len(batch):
                for row in batch:
                    row.update({n: _json_text(row[n]) for n in texts if isinstance(row.get(n), dict | list)})
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


def _chunks(path: Path) -> Iterator[tuple[list[Place], list[Row]]]:
    """The objects of a JSON file in batches, with the place of each."""
    with opened(path) as file:
        objects = json_rows(path, file)
        while chunk := list(islice(objects, BATCH_ROWS)):
            places, batch = map(list, zip(*chunk, strict=True))
            yield places, batch


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _merge_json(
    path: Path,
    kinds: dict[str, pa.DataType],
    notes: dict[str, str],
    names: Iterable[str],
    places: list[Place],
    batch: list[Row],
) -> None:
    """Widen `kinds` by the types of a batch: null to anything, integers to fractions, fields added.

    `notes` get a line for each column whose lists or objects no type fits; its kind is text from then on.
    """
    for name in names:
        values = [row.get(name) for row in batch]
        if name in notes:
            values = [_json_text(value) if isinstance(value, dict | list) else value for value in values]
        try:
            _widen(kinds, name, pa.array(values).type)
        except UNFIT:
            # Slow: find the first row that does not fit.
            for place, value in zip(places, values, strict=True):
                try:
                    _widen(kinds, name, pa.array([value]).type)
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
                    nested = kinds.get(name) is None or pa.types.is_nested(kinds[name])
                    if not isinstance(value, dict | list) or not nested:
                        raise _mixed(path, place, name, kinds.get(name), value) from error
                    kinds[name] = pa.string()
                    notes[name] = (
                        f"{path}: column {name!r} mixes types in its lists or objects ({place}, key "
                        f"{_mixed_key(value, name)!r}), so it is kept as JSON text"
                    )
                    return _merge_json(path, kinds, notes, names, places, batch)
    return None


def _mixed_key(value: Any, key: str) -> str:
    """The innermost key whose value no Arrow type fits."""
    for name, inner in value.items() if isinstance(value, dict) else ():
        try:
            pa.array([inner])
        except UNFIT:
            return _mixed_key(inner, f"{key}.{name}")
    return key


def _fields(kind: pa.DataType) -> int:
    return 1 + sum(_fields(kind.field(place).type) for place in range(kind.num_fields))


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


def _widen(kinds: dict[str, pa.DataType], name: str, kind: pa.DataType) -> None:
    both = [pa.schema([(name, each)]) for each in (kinds.get(name, kind), kind)]
    kinds[name] = pa.unify_schemas(both, promote_options="permissive").field(0).type


def _mixed(path: Path, place: str, name: str, kind: pa.DataType | None, value: Any) -> SourceError:
    before = f"{kind} before" if kind is not None else "several types"
    shown = json.dumps(value, ensure_ascii=False, default=str)[:60]
    return SourceError(
        f"{path}, {place}: column {name!r} mixes types: {shown} after {before}. One column, one type: "
        "convert it, or leave the column out.",
        path=str(path),
        column=name,
    )


def json_rows(path: Path, file: IO[bytes]) -> Iterator[tuple[Place, Row]]:
    """Where each object stands (for messages) and the object.

    Raises:
        SourceError: broken JSON, text that is not UTF-8, or something else than objects.
    """
    head = b""
    while not head.removeprefix(_BOM).strip() and (block := file.read(1 << 12)):
        head = block
    file.seek(0)
    array = head.removeprefix(_BOM).lstrip().startswith(b"[")
    for place, value in _array(path, file) if array else _lines(path, file):
        if not isinstance(value, dict):
            raise SourceError(
                f"{path}, {place}: holds {type(value).__name__} where an object (one row) is expected.",
                path=str(path),
            )
        yield place, value


def _lines(path: Path, file: IO[bytes]) -> Iterator[tuple[Place, Any]]:
    # Not all of a line that has no end: a few kilobytes of gzip are gigabytes.
    first = True
    for number, raw in enumerate(iter(partial(file.readline, LONGEST_LINE + 1), b""), 1):
        place = f"line {number}"
        if len(raw) > LONGEST_LINE:
            raise SourceError(
                f"{path}, {place}: the line has more than {LONGEST_LINE:,} bytes. A .json or .jsonl file "
                "holds one object per line, or one array of objects.",
                path=str(path),
                line=number,
            )
        line = raw.removeprefix(_BOM) if number == 1 else raw
        if not line.strip():
            continue
        try:
            value = json_value(line, surrogates=True)
        except UnicodeDecodeError as error:
            reason = f"byte {error.start + 1} is not UTF-8"
            raise SourceError(
                f"{path}, {place}: {reason}. Convert the file first, for instance with `iconv -t UTF-8`.",
                path=str(path),
                line=number,
            ) from error
        except ValueError as error:
            pretty = first and isinstance(error, json.JSONDecodeError)
            if pretty and (whole := _one_object(line, file)) is not None:
                yield place, whole
                return
            column = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            raise SourceError(
                f"{path}, {place}: broken JSON ({_reason(error)}{column}). A .json or .jsonl file holds "
                "one object per line, or one array of objects.",
                path=str(path),
                line=number,
            ) from error
        first = False
        yield place, value


def _one_object(line: bytes, file: IO[bytes]) -> Row | None:
    """The object that begins in a line and ends with the file; None for anything else."""
    rest = file.read(LONGEST_LINE)
    try:
        value = json_value(line + rest, surrogates=True)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _array(path: Path, file: IO[bytes]) -> Iterator[tuple[Place, Any]]:
    """The items, parsed one by one: the whole text is in memory, and one object at a time."""
    number = place = 0
    data = file.read(_LONGEST_ARRAY + 1)
    if len(data) > _LONGEST_ARRAY:
        raise SourceError(
            f"{path}: the array has more than {_LONGEST_ARRAY:,} bytes. Write one object per line.",
            path=str(path),
        )
    try:
        text = data.decode("utf-8-sig")
        del data
        place = _after(text, "[", place)
        while text[place : place + 1] != "]":
            place = _after(text, "," if number else "", place)
            value, end = JSON.raw_decode(text, place)
            # As of a line, which is looked at only where it could be too deep.
            if text.count("[", place, end) + text.count("{", place, end) > DEEPEST:
                see_depth(value)
            number += 1
            yield f"item {number}", value
            place = _after(text, "", end)
        if _after(text, "]", place) < len(text):
            raise ValueError("text after the end of the array")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path}: byte {error.start + 1} is not UTF-8. Convert the file first, for instance with "
            "`iconv -t UTF-8`.",
            path=str(path),
        ) from error
    except (ValueError, RecursionError) as error:
        line = 1 + text.count("\n", 0, place) if place else 1
        raise SourceError(
            f"{path}: broken JSON after item {number} of the array, about line {line} ({_reason(error)}). "
            "Check it with `python -m json.tool`.",
            path=str(path),
            item=number,
        ) from error


def _after(text: str, mark: str, place: int) -> int:
    """The place of the next character that is no white space, after a mark and white space before it."""
    place = _SPACE.match(text, place).end()  # type: ignore[union-attr] # an empty match at least
    if not text.startswith(mark, place):
        raise ValueError(f"expected {mark!r}")
    return _SPACE.match(text, place + len(mark)).end()  # type: ignore[union-attr]


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    return text.partition(";")[0].removesuffix(" at")


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
        types = {field.name: field.type for field in self.schema}
        for batch in _csv_batches(self.path, types):
            yield from conformed(self.path, batch.slice(min(skip, batch.num_rows)), schema)
            skip = max(0, skip - batch.num_rows)


def _csv_header(path: Path) -> list[str]:
    try:
        with opened(path) as file:
            lines = io.TextIOWrapper(file, "utf-8-sig", newline="")
            names = next(filter(None, csv.reader(lines)), [])
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path}: not UTF-8. Convert the file first, for instance with `iconv -t UTF-8`.", path=str(path)
        ) from error
    except csv.Error as error:
        raise SourceError(f"{path} is no readable CSV file: {one_line(error)}.", path=str(path)) from error
    if len(names) > MOST_COLUMNS:
        raise SourceError(
            f"{path}: the header names {len(names):,} columns, more than {MOST_COLUMNS:,}.", path=str(path)
        )
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise SourceError(
            f"{path}: the header names column {repeated[0]!r} twice; rename one.", path=str(path)
        )
    return names


def _csv_batches(path: Path, kinds: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    if not kinds:
        return
    try:
        with opened(path) as file:
            yield from pacsv.open_csv(
                file,
                pacsv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK),
                pacsv.ParseOptions(newlines_in_values=True),
                pacsv.ConvertOptions(column_types=kinds, null_values=[""], strings_can_be_null=False),
            )
    except pa.ArrowInvalid as error:
        text = one_line(error)
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
