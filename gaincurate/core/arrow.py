"""Reads Arrow and Parquet files, and validates their data before anything uses it.

Arrow trusts the offsets in a file. An offset outside its buffer crashes the process, or copies foreign memory
into the next file that is written. A hash in the file does not help, because the author of the file also made
the hash. So values are validated in full, which costs about a third of a second per GB. A caller that needs
two columns of many validates only those (`open_ipc`, then `validate`).

Every function takes `refuse`, which makes the caller's exception of a reason, and raises that exception for a
broken file: only the caller knows the purpose of the file and the remedy. Every function raises StorageError
if the file system refuses.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from gaincurate.core.files import write_stream
from gaincurate.core.foreign import json_value, lines_of, open_regular
from gaincurate.errors import GaincurateError, storage_error

Refuse = Callable[[str], GaincurateError]
MOST_COLUMNS = 4096  # also keys of an object in a data file. Time grows with the square of their number
_UNUSABLE = (
    pa.types.is_run_end_encoded, pa.types.is_union, pa.types.is_interval, pa.types.is_list_view,
    pa.types.is_large_list_view,
)  # fmt: skip
_LONGEST_REASON = 300
_Data = TypeVar("_Data", pa.Table, pa.RecordBatch)


@contextmanager
def refusing(path: Path, refuse: Refuse) -> Iterator[None]:
    """Raise the exception that `refuse` makes of Arrow's error about a broken file."""
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # a column's name may be no UTF-8
        if isinstance(error, OSError) and error.errno:  # without a number it is Arrow's own
            raise storage_error(path, error, "read") from error
        raise refuse(one_line(error)) from error


def one_line(error: BaseException) -> str:
    """An error's text, fit for the middle of a sentence."""
    return " ".join(str(error).split()).rstrip(".")[:_LONGEST_REASON]


def open_ipc(path: Path, refuse: Refuse) -> pa.Table:
    """A file in the IPC file format, memory-mapped. Its columns are NOT yet validated: see `validate`.

    Raises:
        GaincurateError: from `refuse`: it is no such file, or its schema cannot be used.
    """
    with refusing(path, refuse):
        table = pa.ipc.open_file(pa.memory_map(_regular(path))).read_all()
        _check_names(table.schema)
    return table


def read_ipc(path: Path, refuse: Refuse) -> pa.Table:
    """A file in the IPC file format, memory-mapped and validated in full."""
    return validate(open_ipc(path, refuse), path, refuse)


def ipc_schema(data: bytes, path: Path, refuse: Refuse) -> pa.Schema:
    """The schema of the bytes of a file in the IPC file format."""
    with refusing(path, refuse):
        return pa.ipc.open_file(data).schema


def ipc_batches(path: Path, refuse: Refuse) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The record batches of an IPC file or stream (`datasets` caches are streams), memory-mapped.

    The batches are NOT yet validated, see `validate`: counting rows needs no validation.
    """
    with refusing(path, refuse):
        mapped = pa.memory_map(_regular(path))
        try:
            reader = pa.ipc.open_file(mapped)
        except pa.ArrowInvalid:
            mapped.seek(0)
            reader = pa.ipc.open_stream(mapped)
        _check_names(reader.schema)

    def batches() -> Iterator[pa.RecordBatch]:
        with refusing(path, refuse):
            if isinstance(reader, pa.ipc.RecordBatchFileReader):
                yield from map(reader.get_batch, range(reader.num_record_batches))
                return
            yield from reader
            if (rest := mapped.size() - mapped.tell()) > 0:
                raise pa.ArrowInvalid(
                    f"{rest:,} bytes stand after the end of its stream; was another one appended?"
                )

    return reader.schema, batches()


def _regular(path: Path) -> str:
    """The path of a regular file. A pipe would wait for ever, and a device may have no end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise pa.ArrowInvalid("it is no regular file")
    return str(path)


def parquet_head(path: Path, refuse: Refuse) -> tuple[pa.Schema, int]:
    """The schema and the number of rows of a Parquet file, from its footer."""
    with refusing(path, refuse), pq.ParquetFile(_regular(path)) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        _check_names(schema)
        if rows < 0:
            raise refuse(f"it says that it has {rows} rows")
    return schema, rows


def parquet_batches(path: Path, refuse: Refuse, *, rows: int, skip: int = 0) -> Iterator[pa.RecordBatch]:
    """The rows from row `skip` on, in validated batches of `rows` at most; skipped groups are not read."""
    with refusing(path, refuse), pq.ParquetFile(_regular(path)) as file:
        groups = list(range(file.metadata.num_row_groups))
        while groups and skip >= (size := file.metadata.row_group(groups[0]).num_rows):
            skip -= size
            groups.pop(0)
        # One group at a time: a batch across two cannot hold a dictionary inside a struct or list.
        for group in groups:
            for batch in file.iter_batches(rows, row_groups=[group]):
                yield validate(batch, path, refuse).slice(min(skip, batch.num_rows))
                skip = max(0, skip - batch.num_rows)


def read_parquet(path: Path, refuse: Refuse, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file as a table, validated in full; refused if it lacks one of `columns`."""
    with refusing(path, refuse), pq.ParquetFile(_regular(path)) as file:
        _check_names(file.schema_arrow)
        names = file.schema_arrow.names
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise refuse(f"it has two columns named {repeated[0]!r}")
        if missing := set(columns or ()) - set(names):
            raise refuse(f"it has no column {min(missing)!r}")
        table = file.read(columns)
    return validate(table, path, refuse)


def parquet_in_memory(data: bytes) -> pa.Table:
    """The table of a Parquet file of ours, with its checksums verified; raises as pyarrow does."""
    table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    table.validate(full=True)
    return table


def read_json_lines(path: Path, refuse: Refuse, columns: Collection[str]) -> pa.Table:
    """The objects of a JSON lines file as a table. Columns other than `columns` contain only nulls.

    Arrow's own JSON reader is not used, because deeply nested lists crash the process in it.

    Raises:
        GaincurateError: from `refuse`: a line is no JSON object, or a column mixes types.
    """
    names, rows = set[str](), 0
    values: dict[str, list[Any]] = {name: [] for name in columns}
    with refusing(path, refuse), open_regular(path) as file:
        for number, (line, _) in enumerate(lines_of(file), 1):
            if line is not None and not line.strip():
                continue
            try:
                # A completion may end in half of a pair, and is none of the columns.
                row = None if line is None else json_value(line, surrogates=True)
            except ValueError as error:
                raise refuse(f"line {number} is broken ({one_line(error)})") from error
            if not isinstance(row, dict):
                raise refuse(f"line {number} is no JSON object")
            names |= row.keys()
            rows += 1
            if len(names) > MOST_COLUMNS:
                raise refuse(f"it has more than {MOST_COLUMNS:,} columns")
            for name, column in values.items():
                column.append(row.get(name))
        try:
            there = sorted(names)
            return pa.table([pa.array(values[n]) if n in values else pa.nulls(rows) for n in there], there)
        except OverflowError as error:
            raise refuse("it holds a whole number of more than 64 bits") from error
        except UnicodeEncodeError as error:
            raise refuse("a text in it holds half of a surrogate pair") from error


def validate(data: _Data, path: Path, refuse: Refuse) -> _Data:
    """The same data, each value of which lies inside its buffers and each text of which is UTF-8."""
    with refusing(path, refuse):
        data.validate(full=True)
    return data


def _check_names(schema: pa.Schema) -> None:
    """Refuse names that are not UTF-8, and types whose rows Arrow cannot take or write to Parquet."""
    if len(schema) > MOST_COLUMNS:
        raise pa.ArrowInvalid(f"it has {len(schema):,} columns, more than {MOST_COLUMNS:,}")
    _ = schema.names  # read as UTF-8 here, where `refusing` sees it
    kinds = list(schema.types)
    for kind in kinds:  # the types inside a type are appended
        if isinstance(kind, pa.BaseExtensionType):
            kinds.append(kind.storage_type)
        elif pa.types.is_dictionary(kind):
            kinds.append(kind.value_type)
        elif any(is_kind(kind) for is_kind in _UNUSABLE):
            raise pa.ArrowInvalid(f"a column in it has the type {kind}; write plain values or lists")
        elif pa.types.is_fixed_size_list(kind) and kind.list_size < 0:  # Arrow would end the process
            raise pa.ArrowInvalid("lists in it have a length below 0")
        elif kind.num_fields:
            fields = [kind.field(place) for place in range(kind.num_fields)]
            if len({field.name for field in fields}) < len(fields):
                names = ", ".join(field.name for field in fields)
                raise pa.ArrowInvalid(f"a struct in it has two fields of one name ({names})")
            kinds += [field.type for field in fields]


def write_ipc(path: Path, table: pa.Table) -> None:
    """Write a table as an Arrow file, whole or not at all; StorageError if the file system refuses."""
    with write_stream(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
