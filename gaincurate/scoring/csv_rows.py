"""Reading CSV: takes a path, yields record batches whose types were found by reading the whole file once.

Knows nothing of prompts.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from gaincurate.core.arrow import one_line
from gaincurate.errors import SourceError
from gaincurate.scoring.parts import conformed, dropped, opened

_CSV_BLOCK = 1 << 23
# A number that a double holds as it is written: no leading zero, at most 15 digits before the point.
_FRACTION = r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][+-]?[0-9]+)?$"


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
            yield from conformed(self.path, dropped(batch, skip), schema)
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
