"""Scored sets made by hand: the reader's and the commands' side without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from gaincurate.core.artifact import Artifact
from gaincurate.core.schema import FORMAT, SCORE_FIELDS
from gaincurate.core.scored_set import SCORES

IDENTITY_OF_SETS: dict[str, Any] = {
    "format": FORMAT,
    "source": {"fingerprint": "f", "prompt_column": "question"},
    "model": {"name": "some-model"},
    "site": "mlp_input",
    "layer": 2,
    "dtype": "float32",
    "device": "cpu",
}


def scored_row(gc_id: str, question: str = "why?", angle: float = 0.5, tokens: int = 3) -> dict[str, Any]:
    """A row of a scored set with one source column."""
    values = [gc_id, tokens + 2, 1, tokens, angle, angle, 0.0, None]
    return {
        "question": question,
        **{field.name: value for field, value in zip(SCORE_FIELDS, values, strict=True)},
    }


def write_set(folder: Path, tables: Sequence[pa.Table], identity: dict[str, Any]) -> Path:
    """A finished set with one shard per table."""
    folder.mkdir(parents=True, exist_ok=True)
    artifact = Artifact(folder, SCORES)
    artifact.begin(identity)
    facts = {"rejected": [], "truncated": 0, "without_prefix": 0, "zero_vectors": 0, "norm_was_fused": False}
    for index, table in enumerate(tables):
        artifact.write_part(index, identity, table, {"rows": len(table), "prefill": "packed", **facts})
    artifact.finish(identity, len(tables))
    return folder


def make_set(folder: Path, shards: Sequence[Sequence[dict[str, Any]]], *, answer: str | None = None) -> Path:
    """A finished set with one shard per list of rows, with a column of answers where it is named."""
    columns = ["question", *([answer] if answer else [])]
    schema = pa.schema([*(pa.field(name, pa.string()) for name in columns), *SCORE_FIELDS])
    source = {**IDENTITY_OF_SETS["source"], "answer_column": answer}
    identity = {**IDENTITY_OF_SETS, "source": source} if answer else IDENTITY_OF_SETS
    return write_set(folder, [pa.Table.from_pylist(list(rows), schema=schema) for rows in shards], identity)
