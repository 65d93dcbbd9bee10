"""Rollout groups as rows of Arrow record batches, and back.

A row is a group, and carries a digest of it, so that a group that lost a part is never taken for a whole one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gaincurate.core.arrow import read_stream
from gaincurate.core.foreign import json_value
from gaincurate.errors import OutcomeError, OutputError
from gaincurate.replay.group import RolloutGroup

FORMAT = 1
DIGEST = "digest"
_TOKENS = 1 << 30  # of a batch: Arrow counts them in 31 bits
_RAGGED = {"completion_ids": pa.int32(), "mask": pa.bool_(), "logprobs": pa.float32()}
_NUMBERS = ("rewards", "correct", "advantages")

SCHEMA = pa.schema(
    [
        pa.field("gc_id", pa.string()),
        pa.field("policy_version", pa.int64()),
        pa.field("step", pa.int64()),
        pa.field("group_size", pa.int32()),
        pa.field("prompt_ids", pa.list_(pa.int32())),
        *[pa.field(name, pa.list_(pa.list_(kind))) for name, kind in _RAGGED.items()],
        *[pa.field(name, pa.list_(pa.float64())) for name in _NUMBERS],
        pa.field("temperature", pa.float64()),
        pa.field("top_p", pa.float64()),
        pa.field("logprobs_of", pa.string()),
        pa.field("extra", pa.string()),
        pa.field(DIGEST, pa.string()),
    ],
    metadata={"gaincurate": json.dumps({"rollout_groups": FORMAT})},
)


def batches_of(groups: Sequence[RolloutGroup]) -> Iterator[pa.RecordBatch]:
    """The groups in order: one batch, more where there are too many tokens for one."""
    begin = tokens = 0
    for place, group in enumerate(groups):
        size = group.tokens + len(group.prompt_ids)
        if place > begin and tokens + size > _TOKENS:
            yield batch_of(groups[begin:place])
            begin, tokens = place, 0
        tokens += size
    if begin < len(groups):
        yield batch_of(groups[begin:])


def batch_of(groups: Sequence[RolloutGroup]) -> pa.RecordBatch:
    """The groups in order, a row each."""
    columns: dict[str, pa.Array] = {
        "gc_id": pa.array([group.gc_id for group in groups], pa.string()),
        "group_size": pa.array([group.size for group in groups], pa.int32()),
        "prompt_ids": _lists([group.prompt_ids for group in groups], pa.int32()),
        "extra": pa.array([json.dumps(dict(g.extra), ensure_ascii=False) for g in groups], pa.string()),
        DIGEST: pa.array([group.digest() for group in groups], pa.string()),
    }
    for name, kind in _RAGGED.items():
        each = [array for group in groups for array in getattr(group, name)]
        offsets = np.cumsum([0, *[group.size for group in groups]])
        columns[name] = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), _lists(each, kind))
    for name in _NUMBERS:
        columns[name] = _lists([getattr(group, name) for group in groups], pa.float64())
    for field in SCHEMA:
        if field.name not in columns:
            columns[field.name] = pa.array([getattr(group, field.name) for group in groups], field.type)
    return pa.record_batch([columns[field.name] for field in SCHEMA], schema=SCHEMA)


def _lists(arrays: Sequence[npt.NDArray[Any]], kind: pa.DataType) -> pa.Array:
    flat = np.concatenate(arrays) if arrays else np.zeros(0, kind.to_pandas_dtype())
    offsets = np.cumsum([0, *map(len, arrays)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat, kind))


def groups_of(batch: pa.RecordBatch, where: str) -> Iterator[RolloutGroup]:
    """The groups of a batch, in order, each checked against its digest.

    Args:
        batch: of `SCHEMA`.
        where: for sentences, the file for one.

    Raises:
        OutputError: a row is not what was written.
    """
    plain = {
        field.name: batch.column(field.name).to_pylist()
        for field in SCHEMA
        if not pa.types.is_list(field.type)
    }
    for row in range(batch.num_rows):
        about = {name: values[row] for name, values in plain.items()}
        digest, size = about.pop(DIGEST), about.pop("group_size")
        try:
            about["extra"] = json_value(about["extra"])
            about["prompt_ids"] = batch.column("prompt_ids")[row].values.to_numpy(zero_copy_only=False)
            for name in _NUMBERS:
                about[name] = batch.column(name)[row].values.to_numpy(zero_copy_only=False)
            for name in _RAGGED:
                about[name] = _arrays(batch.column(name)[row].values)
            group = RolloutGroup(**about)
        except (OutcomeError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(where, row, str(error)) from error
        if group.digest() != digest or group.size != size:
            raise _damaged(where, row, "the row does not match the digest in it")
        yield group


def _arrays(lists: pa.ListArray) -> list[npt.NDArray[Any]]:
    return [lists[place].values.to_numpy(zero_copy_only=False) for place in range(len(lists))]


def _damaged(where: str, row: int, why: str) -> OutputError:
    return OutputError(
        f"{where}, rollout group {row}, is damaged: {why}. Go back to a checkpoint before it, or take the "
        "file away.",
        row=row,
    )


def encode(groups: Sequence[RolloutGroup]) -> bytes:
    """The groups as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        for batch in batches_of(groups):
            writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def decode(data: bytes, where: str) -> list[RolloutGroup]:
    """The groups of `encode`.

    Raises:
        OutputError: the bytes are damaged, or of another format.
    """
    table = read_stream(
        data, Path(where), lambda why: OutputError(f"{where} holds no rollout groups: {why}.")
    )
    check_schema(table.schema, where)
    return [group for batch in table.to_batches() for group in groups_of(batch, where)]


def check_schema(schema: pa.Schema, where: str) -> None:
    """See that rows of this schema can be read.

    Raises:
        OutputError: they are of another format.
    """
    if not schema.equals(SCHEMA, check_metadata=True):
        raise OutputError(
            f"{where} holds no rollout groups of format {FORMAT}; use the gaincurate version that wrote it."
        )
