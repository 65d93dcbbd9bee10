"""A set's prompts as messages: takes a scored set, yields them in batches. Knows nothing of checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gaincurate.schedule.rows import prompts_of
from gaincurate.schema import ID
from gaincurate.scored_set import ScoredSet
from gaincurate.scoring.columns import Message

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
BATCH = 4096
SAMPLE = 2000


def prompts(scored: ScoredSet, alive: Mask) -> Iterator[tuple[Ints, list[list[Message]]]]:
    """Places of rows in the set, and each one's own messages; a batch at a time, in source order.

    Args:
        scored: the set.
        alive: `[rows]`, which rows.
    """
    for places, table in batches(scored, alive):
        yield places, read(scored, table)


def batches(scored: ScoredSet, alive: Mask) -> Iterator[tuple[Ints, pa.Table]]:
    """The same as tables, with all columns of the set."""
    begin = 0
    for shard in scored.tables():
        for offset in range(0, shard.num_rows, BATCH):
            table = shard.slice(offset, BATCH)
            kept = np.flatnonzero(alive[begin : begin + table.num_rows])
            if len(kept) == table.num_rows:
                yield begin + kept, table
            elif len(kept):
                yield begin + kept, table.take(pa.array(kept))
            begin += table.num_rows


def read(scored: ScoredSet, table: pa.Table) -> list[list[Message]]:
    """The messages of a table's rows.

    Raises:
        OutputError: a row has none, so the set is not what its identity says.
    """
    return prompts_of(table, scored.identity, bare=True)


def sample(scored: ScoredSet, alive: Mask) -> list[list[Message]]:
    """At most 2,000 prompts, evenly spaced."""
    there = np.flatnonzero(alive)
    places = there[np.unique(np.linspace(0, len(there) - 1, min(SAMPLE, len(there))).astype(np.int64))]
    return read(scored, scored.take(places)) if len(places) else []


def ids(scored: ScoredSet, places: Sequence[int]) -> list[str]:
    """The ids of rows."""
    column = scored.column(ID).combine_chunks()
    found: list[str] = column.take(pa.array(places, pa.int64())).to_pylist()
    return found
