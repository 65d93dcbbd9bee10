"""A round's training rows: takes rows of a scored set, yields the table that a trainer reads.

The source columns, `gc_id`, and `prompt`: the full chat messages as they were scored. A source column of
that name which is not the prompt is kept as `source_prompt`. Knows nothing of rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gaincurate.core.arrow import read_parquet
from gaincurate.core.artifact import Json, broken
from gaincurate.errors import OutputError
from gaincurate.files import write_stream
from gaincurate.schema import ID, PREFIX
from gaincurate.scoring.columns import Message, PromptProblem, column_values, to_messages, with_additions

PROMPT = "prompt"


def training_rows(rows: pa.Table, identity: Json, *, bare: bool, with_scores: bool) -> pa.Table:
    """The table for a trainer.

    Args:
        rows: rows of a scored set.
        identity: the set's identity, which says where the prompt is and what was added to it.
        bare: leave the added system message and examples out.
        with_scores: keep all `gc_` columns.

    Raises:
        OutputError: a row's prompt cannot be read, so the set is not what its identity says.
    """
    column, prompts = identity["source"]["prompt_column"], prompts_of(rows, identity, bare=bare)
    kept = [name for name in rows.column_names if not name.startswith(PREFIX) or name == ID or with_scores]
    table = rows.select(kept).replace_schema_metadata(None)
    messages = pa.array(prompts, None if prompts else pa.list_(pa.struct({})))
    if PROMPT not in kept:
        return table.append_column(PROMPT, messages)
    if column != PROMPT:
        table = table.append_column(f"source_{PROMPT}", table.column(PROMPT))
    return table.set_column(table.column_names.index(PROMPT), PROMPT, messages)


def prompts_of(rows: pa.Table, identity: Json, *, bare: bool) -> list[list[Message]]:
    """The chat messages of each row as they were scored, or with `bare` the row's own.

    Raises:
        OutputError: as `training_rows`.
    """
    column, segmentation = identity["source"]["prompt_column"], identity.get("segmentation", {})
    system, shots = (None, []) if bare else (segmentation.get("system"), segmentation.get("shots", []))
    override, prompts = segmentation.get("system_override", False), []
    for place, value in enumerate(column_values(rows, column)):
        try:
            prompts.append(with_additions(to_messages(value, column), system, shots, override=override))
        except PromptProblem as error:
            raise OutputError(f"row {rows.column(ID)[place]} of the scored set: {error}.") from error
    return prompts


def read_rows(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows that `write_rows` wrote.

    Raises:
        OutputError: the file is broken, or lacks one of `columns`.
        StorageError: it cannot be read.
    """
    return read_parquet(path, broken(path, "Restore it from a copy."), columns)


def write_rows(path: Path, table: pa.Table) -> None:
    """Write them as Parquet, atomically.

    Raises:
        StorageError: the file system refused.
    """
    with write_stream(path) as file:
        pq.write_table(table, file)
