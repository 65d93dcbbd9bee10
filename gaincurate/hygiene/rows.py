"""A set's prompts as messages, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gaincurate.core.columns import is_text
from gaincurate.core.prompts import Message, prompts_of
from gaincurate.core.schema import ID, take
from gaincurate.core.scored_set import ScoredSet

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
BATCH = 1024
"""Rows of a batch, so few that arrays over their characters stay in a processor's cache."""
SAMPLE = 2000


def batches(scored: ScoredSet, alive: Mask) -> Iterator[tuple[Ints, pa.Table]]:
    """Places of rows in the set, and the rows with all columns; a batch at a time, in source order.

    Args:
        scored: the set.
        alive: `[rows]`, which rows.
    """
    begin = 0
    for shard in scored.tables():
        for offset in range(0, shard.num_rows, BATCH):
            table = shard.slice(offset, BATCH)
            chosen = np.flatnonzero(alive[begin : begin + table.num_rows])
            if len(chosen) == table.num_rows:
                yield begin + chosen, table
            elif len(chosen):
                yield begin + chosen, take(table, pa.array(chosen))
            begin += table.num_rows


def read(scored: ScoredSet, table: pa.Table) -> list[list[Message]]:
    """The messages of a table's rows.

    Raises:
        OutputError: a row has none, so the set is not what its identity says.
    """
    if (name := _plain_column(scored, table)) is not None:
        return [[{"role": "user", "content": text}] for text in table.column(name).to_pylist()]
    return prompts_of(table, scored.identity, bare=True)


def asked(scored: ScoredSet, table: pa.Table) -> list[str]:
    """The question of each row of a table: all messages except the system message, one below the other.

    Raises:
        OutputError: see `read`.
    """
    if (name := _plain_column(scored, table)) is not None:
        return [text or "" for text in table.column(name).to_pylist()]
    return [joined(messages) for messages in read(scored, table)]


def joined(messages: Sequence[Message]) -> str:
    """The texts of all messages but the system's, one below the other."""
    return "\n".join(m["content"] or "" for m in messages if m["role"] != "system")


def _plain_column(scored: ScoredSet, table: pa.Table) -> str | None:
    """The column of a set whose prompts are texts, each one user message."""
    source = scored.identity["source"]
    name = str(source["prompt_column"])
    chats = source.get("chat_text") or name == "messages"
    is_plain = name in table.column_names and is_text(table.schema.field(name).type) and not chats
    return name if is_plain else None


def sample(scored: ScoredSet, alive: Mask) -> list[str]:
    """The questions of at most 2,000 evenly spaced prompts."""
    there = np.flatnonzero(alive)
    places = there[np.unique(np.linspace(0, len(there) - 1, min(SAMPLE, len(there))).astype(np.int64))]
    return asked(scored, scored.take(places)) if len(places) else []


def ids(scored: ScoredSet, places: Sequence[int]) -> list[str]:
    """The ids of rows."""
    column = scored.column(ID).combine_chunks()
    values: list[str] = column.take(pa.array(places, pa.int64())).to_pylist()
    return values
