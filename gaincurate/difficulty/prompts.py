"""The prompts of a scored set that get rollouts, and the completions that engines give of them.

References are drawn with raw Philox bits and a seed, so that a seed gives the same prompts with every version
of NumPy. An engine (`LocalEngine`, `ServerEngine`) has an `identity`, with everything that can change a
completion, and `generate(prompts, done)`, which yields the samples of a shard's prompts except those in
`done`, in parts, as they are finished. Yielded completions are final. `prompts` includes those that are
done, so that batches, which may affect completions, do not depend on when a run was killed.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gaincurate.core.prompts import Columns, Message, Tool, chats_of, column_values
from gaincurate.core.rng import REFERENCES, Ints, between, keys_of
from gaincurate.core.schema import ID, PREFIX
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.source_columns import find_columns
from gaincurate.difficulty.verify_worker import GoldProblem, metadata_of
from gaincurate.errors import InputError

_FIRST = 1024  # rows that show whether a column of text holds JSON


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row: the chat that the model sees, its gold answer, and its source columns with `gc_id`."""

    gc_id: str
    messages: list[Message]
    answer: Any
    row: dict[str, Any]
    tokens: int  # of the whole rendered prompt, under the model that scored it
    tools: list[Tool] | None = None


Key = tuple[str, int]  # a prompt's id and the number of the sample, from 0


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """One completion. `tokens` and `prompt_tokens` are counts; None where the engine does not report them.

    `logprobs` is `[tokens]`, float32, natural logarithms; `token_ids` is `[tokens]`, int32.
    """

    gc_id: str
    sample: int
    text: str
    finish_reason: str | None
    tokens: int | None
    prompt_tokens: int | None
    logprobs: npt.NDArray[np.float32] | None = None
    token_ids: npt.NDArray[np.int32] | None = None

    @property
    def key(self) -> Key:
        """The prompt and the sample."""
        return self.gc_id, self.sample


@dataclass(frozen=True, slots=True)
class Refused:
    """A prompt that the engine cannot take, and why."""

    gc_id: str
    reason: str


def draw_references(count: int, references: int, seed: int) -> Ints:
    """`references` distinct numbers from 0 to `count` - 1 in drawn order: the same for one seed, everywhere.

    Raises `InputError` for more than there are.
    """
    if references > count:
        raise InputError(f"--reference {references}: the set has {count:,} prompts; ask for at most that.")
    return between(keys_of(seed, 0, REFERENCES, count), 0, references)


def answer_column(scored: ScoredSet, asked: str | None, *, needed: bool) -> str | None:
    """The column with the gold answers: the one asked for, else the one that the set was scored with.

    Raises `InputError` if there is none although one is needed, or no column of that name.
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
    """The rows at these places. Raises `OutputError` if the set's prompts are not as in its identity."""
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


def fitting_verifier(scored: ScoredSet) -> str | None:
    """The verifier that a set's rows were made for, by its first row; None if there are no answers."""
    if scored.identity["source"].get("answer_column") is None or not len(scored):
        return None
    row, metadata = scored.take([0]).to_pylist()[0], dict[str, Any]()
    with suppress(GoldProblem):
        metadata = metadata_of(row)
    named = metadata.get("source_dataset", row.get("source_dataset"))
    return "math" if named is None else "reasoning-gym"


def request_seed(seed: int, gc_id: str, sample: int) -> int:
    """A seed of 31 bits for one completion, which every server takes."""
    text = f"{seed}\n{sample}\n{gc_id}".encode()
    return int.from_bytes(blake2b(text, digest_size=4).digest(), "little") >> 1
