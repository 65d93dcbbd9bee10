"""Rollout groups as rows of Parquet, and back: in a replay buffer's state, or in files of your own.

The checksums of Parquet's pages show damage, so rows carry none of their own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gaincurate.core.arrow import parquet_in_memory
from gaincurate.core.foreign import json_value
from gaincurate.errors import OutcomeError, OutputError
from gaincurate.replay.group import RolloutGroup

FORMAT = 2


def _lists(kind: pa.DataType) -> pa.DataType:
    return pa.large_list(pa.large_list(kind))  # tokens of a large buffer need 64-bit offsets


SCHEMA = pa.schema(
    [
        pa.field("gc_id", pa.string()),
        pa.field("policy_version", pa.int64()),
        pa.field("step", pa.int64()),
        pa.field("prompt_ids", pa.large_list(pa.int32())),
        pa.field("completion_ids", _lists(pa.int32())),
        pa.field("mask", _lists(pa.bool_())),
        pa.field("logprobs", _lists(pa.float32())),
        *[pa.field(name, pa.large_list(pa.float64())) for name in ("rewards", "correct", "advantages")],
        pa.field("temperature", pa.float64()),
        pa.field("top_p", pa.float64()),
        pa.field("logprobs_of", pa.string()),
        pa.field("extra", pa.string()),
    ],
    metadata={"gaincurate": json.dumps({"rollout_groups": FORMAT})},
)


def encode(groups: Sequence[RolloutGroup]) -> bytes:
    """The groups in order as a Parquet file, one row each."""
    columns = [[getattr(group, field.name) for group in groups] for field in SCHEMA]
    columns[-1] = [json.dumps(dict(extra), ensure_ascii=False) for extra in columns[-1]]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays, schema=SCHEMA), sink, write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def decode(data: bytes, where: str) -> list[RolloutGroup]:
    """The groups of `encode`; `where` names the file in errors.

    Raises:
        OutputError: the bytes are damaged, or of another format.
    """
    try:
        table = parquet_in_memory(data)
        is_ours = table.schema.metadata == SCHEMA.metadata
        groups = [_group(table, row) for row in range(len(table))] if is_ours else []
    except (OutcomeError, pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        raise OutputError(
            f"{where} is damaged: {error}. Go back to a checkpoint before it, or remove the file."
        ) from error
    if not is_ours:
        raise OutputError(
            f"{where} holds no rollout groups of format {FORMAT}; use the gaincurate version that wrote it."
        )
    return groups


def _group(table: pa.Table, row: int) -> RolloutGroup:
    values = {field.name: _value(table.column(field.name)[row]) for field in SCHEMA}
    return RolloutGroup(**{**values, "extra": json_value(values["extra"])})


def _value(cell: pa.Scalar) -> Any:
    if not isinstance(cell, pa.LargeListScalar):
        return cell.as_py()
    if pa.types.is_large_list(cell.type.value_type):
        return [_value(inner) for inner in cell.values]
    return cell.values.to_numpy(zero_copy_only=False)
