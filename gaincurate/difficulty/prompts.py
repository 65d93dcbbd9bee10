"""The prompts of a scored set that get rollouts, as messages with gold answers.

References are drawn by our own Philox bits and a seed, so that one seed gives the same prompts with every
version of NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from gaincurate.core.foreign import json_value
from gaincurate.core.prompts import Columns, Message, Tool, chats_of, column_values
from gaincurate.core.rng import REFERENCES, Ints, between, keys_of
from gaincurate.core.schema import ID, PREFIX
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.source_columns import find_columns
from gaincurate.errors import InputError

_FIRST = 1024  # rows that show whether a column of text holds JSON


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row: the chat that the model sees, its gold answer, and its source columns with `gc_id`."""

    gc_id: str
    messages: list[Message]
    answer: Any
    row: dict[str, Any]
    tokens: int
    """Of the whole rendered prompt, under the model that scored it."""
    tools: list[Tool] | None = None


def draw_references(count: int, references: int, seed: int, round_: int = 0) -> Ints:
    """`references` distinct of 0 to `count` - 1, in drawn order: the same for one seed and round, anywhere.

    Raises:
        InputError: more than there are.
    """
    if references > count:
        raise InputError(f"--reference {references}: the set has {count:,} prompts; ask for at most that.")
    return between(keys_of(seed, round_, REFERENCES, count), 0, references)


def answer_column(scored: ScoredSet, asked: str | None, *, needed: bool) -> str | None:
    """The column with the gold answers: the one asked for, else the one that the set was scored with.

    Raises:
        InputError: there is none and one is needed, or no column of that name.
    """
    schema = pa.schema([field for field in scored.schema if not field.name.startswith(PREFIX)])
    column = asked or scored.identity["source"].get("answer_column")
    if column is None:
        if not needed:
            return None
        raise InputError(
            f"{scored.folder} was scored without an answer column; name the one with the gold answers with "
            f"--answer-column. The columns are: {', '.join(schema.names)}."
        )
    first = scored.take(np.arange(min(len(scored), _FIRST))).select(schema.names)
    prompt = Columns.of(scored.identity).prompt
    return find_columns(schema, first, prompt=prompt, answer=column, tools="none").answer


def read_prompts(scored: ScoredSet, places: Ints | range, answer: str | None) -> list[Prompt]:
    """The rows at these places of the set, as prompts.

    Raises:
        OutputError: a row's prompt cannot be read, so the set is not what its identity says.
    """
    table = scored.take(np.asarray(places, np.int64))
    ids = table.column(ID).to_pylist()
    answers = column_values(table, answer) if answer is not None else [None] * len(ids)
    names = [name for name in table.column_names if not name.startswith(PREFIX) or name == ID]
    rows = table.select(names).to_pylist()
    tokens = table.column("gc_prompt_tokens").to_pylist()
    chats = chats_of(table, scored.identity)
    return [
        Prompt(gc_id, chat.messages, gold, row, count, chat.tools)
        for gc_id, chat, gold, row, count in zip(ids, chats, answers, rows, tokens, strict=True)
    ]


def parts(places: Ints | range, size: int) -> Sequence[Ints | range]:
    """The places cut into pieces of `size`."""
    return [places[begin : begin + size] for begin in range(0, len(places), size)]


def fitting_verifier(scored: ScoredSet) -> str | None:
    """The verifier that a set's rows were made for, by the first of them; None where there are no answers."""
    if scored.identity["source"].get("answer_column") is None or not len(scored):
        return None
    row = scored.take([0]).to_pylist()[0]
    metadata = row.get("metadata")
    if isinstance(metadata, str):
        with suppress(ValueError):
            metadata = json_value(metadata)
    named = metadata.get("source_dataset") if isinstance(metadata, dict) else None
    return "math" if named is None and row.get("source_dataset") is None else "reasoning-gym"
