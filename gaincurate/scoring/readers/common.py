"""What the readers of data files share: batches of plain rows, schemas that widen, and how a broken file is
named.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol, cast

import pyarrow as pa

from gaincurate.core.arrow import Refuse, one_line
from gaincurate.errors import SourceError, read_error

BATCH_ROWS = 1024
# What Arrow and Python say of a value that is not, or cannot be, of a type.
UNFIT = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError)


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


def unreadable_as(path: Path, kind: str) -> Refuse:
    """Makes the sentence for a file that is no whole file of its kind."""
    return lambda why: SourceError(
        f"{path} is no readable {kind} file: {why}. Is it complete, and is its name's ending right?",
        path=str(path),
    )


def conformed(path: Path, batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
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
            raise no_cast(f"{path}, column {field.name!r}", error) from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked; what the file system or gzip says against it becomes a sentence."""
    try:
        with cast("IO[bytes]", gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(f"{path} is no readable gzip file: {one_line(error)}.", path=str(path)) from error
    except OSError as error:
        raise read_error(path, error) from error


def no_cast(where: str, error: BaseException) -> SourceError:
    """The sentence for a value that does not fit its column."""
    return SourceError(
        f"{where}: a value does not fit the type that the rest of its column has ({one_line(error)}). "
        "Make the column alike everywhere, for instance text.",
        path=where,
    )
