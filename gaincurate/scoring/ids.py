"""Stable row ids, computed once and read by every writer from one memory-mapped file.

An id is a hash of the row's messages and its answer, so it survives shuffling, filtering and a new file name.
It does not include `--system` and `--shots`, so a row keeps its id under another prompt format.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gaincurate.core.files import write_stream
from gaincurate.core.prompts import Columns, PromptProblem, column_values
from gaincurate.errors import SourceError

# A row of the file: the digest, and the number of equal digests before it.
RECORD = np.dtype([("high", ">u8"), ("low", ">u8"), ("copy", "<u4")])
_MESSAGES, _ANSWER = (
    json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys, default=str)
    for sort_keys in (False, True)
)


def digest(value: Any, columns: Columns, answer: Any) -> bytes:
    """BLAKE2b-128 of the compact JSON `[messages, answer]`; 16 bytes.

    A value that is not a prompt is hashed as it is, so that rejected rows have ids too.
    """
    try:
        messages: Any = [{"role": m["role"], "content": m["content"]} for m in columns.messages(value)]
    except PromptProblem:
        messages = value
    text = f"[{_MESSAGES.encode(messages)},{_ANSWER.encode(answer)}]"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def content_ids(table: pa.Table, columns: Columns) -> list[str]:
    """The ids, `[rows]`, that a scoring run gives the rows of a source; `table` is the whole source.

    Raises:
        SourceError: a null or empty value in the id column.
    """
    copies: Counter[bytes] = Counter()
    ids = []
    for name, key in _digests(table, columns, 0):
        ids.append(name if name is not None else _id_of(key, copies[key]))
        copies[key] += 1
    return ids


def _id_of(key: bytes, copy: int) -> str:
    """The id of a row after `copy` rows with the same content."""
    return key.hex() + (f"-{copy}" if copy else "")


def ids_of(table: pa.Table, columns: Columns, start: int, records: npt.NDArray[Any]) -> list[str]:
    """The ids, `[rows]`, of `table`, which has the source's rows from number `start` and their `records`.

    Raises:
        SourceError: a row changed since the records were written.
    """
    ids = []
    digests = _digests(table, columns, start)
    for row, ((name, key), record) in enumerate(zip(digests, records, strict=True), start):
        if key != record.tobytes()[:16]:
            raise SourceError(
                f"row {row} (from 0) is not what it was when the ids were made: the source changed. Start "
                "over with --overwrite.",
                row=row,
            )
        ids.append(name if name is not None else _id_of(key, int(record["copy"])))
    return ids


def _digests(table: pa.Table, columns: Columns, start: int) -> Iterator[tuple[str | None, bytes]]:
    """Per row: its id, None without an id column, and the digest in its record."""
    if columns.id is not None:
        for offset, value in enumerate(column_values(table, columns.id, start)):
            if value is None or value == "":
                raise SourceError(
                    f"id column {columns.id!r} is {'null' if value is None else 'empty'} in row "
                    f"{start + offset} (from 0); every row needs an id.",
                    row=start + offset,
                )
            name = str(value)
            yield name, hashlib.blake2b(name.encode(), digest_size=16).digest()
        return
    prompts = column_values(table, columns.prompt, start)
    answers = column_values(table, columns.answer, start) if columns.answer else [None] * table.num_rows
    for prompt, answer in zip(prompts, answers, strict=True):
        yield None, digest(prompt, columns, answer)


def write_ids(path: Path, batches: Iterator[pa.RecordBatch], columns: Columns) -> None:
    """Read the whole source once and write `path`, a `RECORD` per row; copies are numbered in file order.

    Raises:
        SourceError: a null, empty or repeated value in the id column.
        StorageError: the file system refused the write.
    """
    row = 0
    with write_stream(path) as file:
        for table in map(pa.Table.from_batches, ([batch] for batch in batches)):
            file.write(b"".join(key + b"\0" * 4 for _, key in _digests(table, columns, row)))
            row += table.num_rows
        file.flush()
        records: np.memmap[Any, np.dtype[Any]] = np.memmap(file.name, RECORD, "r+")
        order = np.lexsort((records["low"], records["high"]))  # stable: equal digests stay in file order
        keys = records[order]
        same = np.zeros(len(order), bool)  # as the digest before
        same[1:] = (keys["high"][1:] == keys["high"][:-1]) & (keys["low"][1:] == keys["low"][:-1])
        if columns.id is not None and same.any():
            place = int(np.argmax(same))
            first, second = int(order[place - 1]), int(order[place])
            raise SourceError(
                f"id column {columns.id!r} has the same value in rows {first} and {second} (from 0); ids "
                "must be unique. Choose another --id-column, or none to have ids made.",
                rows=[first, second],
            )
        positions = np.arange(len(order))
        starts = np.maximum.accumulate(np.where(same, 0, positions))
        records["copy"][order] = (positions - starts).astype(np.uint32)
        records.flush()
