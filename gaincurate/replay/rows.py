"""Converts rollout groups to Parquet and back, for a replay buffer's state or a user's own files.

Rows need no digests, because the checksums of Parquet's pages reveal damage.
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
_BY_TOKEN = {"completion_ids": pa.int32(), "mask": pa.bool_(), "logprobs": pa.float32()}
SCHEMA = pa.schema(
    [
        ("gc_id", pa.string()),
        ("policy_version", pa.int64()),
        ("step", pa.int64()),
        ("prompt_ids", pa.large_list(pa.int32())),  # the tokens of a large buffer need 64-bit offsets
        *[(name, pa.large_list(pa.large_list(kind))) for name, kind in _BY_TOKEN.items()],
        *[(name, pa.large_list(pa.float64())) for name in ("rewards", "correct", "advantages")],
        ("temperature", pa.float64()),
        ("top_p", pa.float64()),
        ("logprobs_of", pa.string()),
        ("extra", pa.string()),
    ],
    metadata={"gaincurate": json.dumps({"rollout_groups": FORMAT})},
)


def encode(groups: Sequence[RolloutGroup]) -> bytes:
    """The groups as a Parquet file, one row each, in order."""
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
        OutputError: the bytes are damaged or have another format.
    """
    try:
        table = parquet_in_memory(data)
        if table.schema.metadata != SCHEMA.metadata:
            why = f"{where} has no groups of format {FORMAT}"
            raise OutputError(f"{why}; use the gaincurate version that wrote it.")
        groups = []
        for row in range(len(table)):
            fields = {name: _value(table.column(name)[row]) for name in SCHEMA.names}
            groups.append(RolloutGroup(**{**fields, "extra": json_value(fields["extra"])}))
    except (OutcomeError, pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        raise OutputError(
            f"{where} is damaged: {error}. Resume from an earlier checkpoint, or remove the file."
        ) from error
    return groups


def _value(cell: pa.Scalar) -> Any:
    if not isinstance(cell, pa.LargeListScalar):
        return cell.as_py()
    if pa.types.is_large_list(cell.type.value_type):
        return [_value(inner) for inner in cell.values]
    return cell.values.to_numpy(zero_copy_only=False)
