"""A set's prompts as messages, in batches, and how a check reports rows.

A hit stands for one row, also where it names another that it collides with. So what is dropped and what is
listed are the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gaincurate.core.columns import is_text
from gaincurate.core.prompts import Message, prompts_of
from gaincurate.core.schema import ID, take
from gaincurate.core.scored_set import ScoredSet

Json = dict[str, Any]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
BATCH = 1024
"""Rows of a batch, so few that arrays over their characters stay in a processor's cache."""
SAMPLE = 2000


@dataclass(frozen=True, slots=True)
class Hit:
    """One row that a check found.

    `place` is the row's in the set and `other` that of the row which it collides with, where there is one.
    `reason` says why in words, `facts` the same for programs.
    """

    place: int
    reason: str
    other: int | None = None
    facts: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The hits of one check in the order of the set, with facts about the check."""

    check: str
    hits: list[Hit]
    note: str = ""


@dataclass(frozen=True, slots=True)
class CheckSummary:
    """One check for a report: plain values.

    `rows` is how many rows it found and `share` their part of the set. `examples` are a few rows, each
    {"gc_id", "text", "with"}: the prompt's beginning, and what it collides with or why it was found.
    """

    check: str
    rows: int
    share: float
    examples: list[Json]
    note: str


def batches(scored: ScoredSet, alive: Mask) -> Iterator[tuple[Ints, pa.Table]]:
    """Places in the set of the `alive` rows (`[rows]`), and the rows; a batch at a time, in source order."""
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
    """The messages of a table's rows; one without any is an OutputError, as the set's identity is wrong."""
    if (texts := _texts(scored, table)) is not None:
        return [[{"role": "user", "content": text}] for text in texts]
    return prompts_of(table, scored.identity, bare=True)


def asked(scored: ScoredSet, table: pa.Table) -> list[str]:
    """The question of each row of a table, see `read`: all messages except the system message, joined.

    Raises:
        OutputError: see `read`.
    """
    if (texts := _texts(scored, table)) is not None:
        return [text or "" for text in texts]
    return [joined(messages) for messages in read(scored, table)]


def joined(messages: Sequence[Message]) -> str:
    """The texts of all messages but the system's, one below the other."""
    return "\n".join(m["content"] or "" for m in messages if m["role"] != "system")


def _texts(scored: ScoredSet, table: pa.Table) -> list[Any] | None:
    """The prompts of a set whose prompts are texts, each one user message."""
    source = scored.identity["source"]
    name = str(source["prompt_column"])
    chats = source.get("chat_text") or name == "messages"
    is_plain = name in table.column_names and is_text(table.schema.field(name).type) and not chats
    return list(table.column(name).to_pylist()) if is_plain else None


def sample(scored: ScoredSet, alive: Mask) -> list[str]:
    """The questions of at most 2,000 evenly spaced prompts."""
    there = np.flatnonzero(alive)
    places = there[np.unique(np.linspace(0, len(there) - 1, min(SAMPLE, len(there))).astype(np.int64))]
    return asked(scored, scored.take(places)) if len(places) else []


def ids(scored: ScoredSet, places: Sequence[int]) -> list[str]:
    """The ids of rows."""
    values: list[str] = scored.column(ID).combine_chunks().take(pa.array(places, pa.int64())).to_pylist()
    return values
