"""A set's prompts as messages, in batches, and how a check reports rows.

A hit is one row, even if it names another row that it collides with. So the listed rows are the
dropped rows.
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


@dataclass(frozen=True, slots=True)
class Hit:
    """One row that a check found.

    `place` is the index of the row in the set, `other` that of the row that it collides with, if there is
    one. `reason` is for people, `facts` has the same for programs.
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
    """The summary of a check for a report, as plain values.

    `rows` is the number of flagged rows and `share` their share of the set. `examples` are a few of them:
    {"gc_id", "text", "with"}, the beginning of the prompt, and the row that it collides with or the reason.
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
    """The messages of a table's rows; an OutputError for a row without messages."""
    if (texts := _texts(scored, table)) is not None:
        return [[{"role": "user", "content": text}] for text in texts]
    return prompts_of(table, scored.identity, bare=True)


def asked(scored: ScoredSet, table: pa.Table) -> list[str]:
    """The question of each row of a table: the texts of all messages but the system message, joined.

    Raises:
        OutputError: see `read`.
    """
    if (texts := _texts(scored, table)) is not None:
        return [text or "" for text in texts]
    return [joined(messages) for messages in read(scored, table)]


def joined(messages: Sequence[Message]) -> str:
    """The texts of all messages but the system message, joined by line breaks."""
    return "\n".join(m["content"] or "" for m in messages if m["role"] != "system")


def _texts(scored: ScoredSet, table: pa.Table) -> list[Any] | None:
    """The prompts of a set whose prompts are texts (each one user message); None for any other set."""
    source = scored.identity["source"]
    name = str(source["prompt_column"])
    chats = source.get("chat_text") or name == "messages"
    is_plain = name in table.column_names and is_text(table.schema.field(name).type) and not chats
    return list(table.column(name).to_pylist()) if is_plain else None


def sample(scored: ScoredSet, alive: Mask) -> list[str]:
    """The questions of at most 2,000 evenly spaced prompts."""
    there = np.flatnonzero(alive)
    places = there[np.unique(np.linspace(0, len(there) - 1, min(2000, len(there))).astype(np.int64))]
    return asked(scored, scored.take(places)) if len(places) else []


def ids(scored: ScoredSet, places: Sequence[int]) -> list[str]:
    """The ids of rows."""
    values: list[str] = scored.column(ID).combine_chunks().take(pa.array(places, pa.int64())).to_pylist()
    return values
