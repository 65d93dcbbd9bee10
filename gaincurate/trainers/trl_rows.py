"""A scored set as TRL reads it: yields a `datasets.Dataset` with one row a prompt, and the order of a round.

Rows are made when they are asked for, from memory-mapped shards, so a large set costs nothing to open. Read
in TRL 1.16.0. Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import torch

from gaincurate.errors import InputError
from gaincurate.schedule.rows import training_rows
from gaincurate.schedule.run import Run
from gaincurate.schema import ID
from gaincurate.trainers.trl_shape import Shape


def dataset(run: str | Path) -> datasets.Dataset:
    """The scored set of a run as rows for training: `prompt`, `gc_id` and the source's columns.

    Args:
        run: the run's folder.

    Returns:
        All rows of the set, `[rows]`, in its order; `prompt` is the chat messages as they were scored.

    Raises:
        OutputError: no run, or its scored set is gone.
    """
    opened = Run(run)
    scored, config = opened.scored, opened.config
    table = pa.concat_tables(scored.tables())  # memory-mapped, and not hashed: the manifest's hash will do
    schema = table.schema
    whole = datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint=scored.manifest_hash)

    def rows(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        few = pa.Table.from_pydict(batch, pa.schema([schema.field(name) for name in batch]))
        found: dict[str, list[Any]] = training_rows(
            few, scored.identity, bare=config.bare, with_scores=config.with_scores
        ).to_pydict()
        return found

    return whole.with_transform(rows)


def places_of(rows: datasets.Dataset, ids: Sequence[str]) -> list[int]:
    """Where the rows with these ids are, `[ids]`.

    Raises:
        InputError: one is not there.
    """
    if ID not in rows.column_names:
        raise InputError(
            f"train_dataset has no {ID} column: train on `gaincurate.trainers.trl.dataset(run)`, or on rows "
            "that were exported with their ids."
        )
    column = rows.select_columns(ID).with_format("arrow")[:].column(ID)
    places = pc.index_in(pa.array(ids, pa.string()), value_set=pc.cast(column, pa.string()).combine_chunks())
    if places.null_count:
        missing = ids[pc.indices_nonzero(pc.is_null(places))[0].as_py()]
        raise InputError(
            f"train_dataset has no row for {missing!r}, which the plan asks for ({places.null_count:,} of "
            f"{len(ids):,} are missing): it is not made of the run's scored set, or was filtered."
        )
    found: list[int] = places.to_pylist()
    return found


class RoundSampler(torch.utils.data.Sampler[int]):
    """A round's prompts as TRL's RepeatSampler would give them, in the plan's order.

    For every generation of B prompts: R times, each prompt G times in a row. All processes walk through the
    same sequence and take their slices of it.

    Args:
        places: called when an epoch begins; the rows of the round, `[budget]`.
        budget: prompts in a round.
        shape: of the trainer.
    """

    def __init__(self, places: Callable[[], Sequence[int]], budget: int, shape: Shape) -> None:
        self._places, self._budget, self._shape = places, budget, shape

    def __len__(self) -> int:
        return self._budget * self._shape.group * self._shape.repeats

    def __iter__(self) -> Iterator[int]:
        places, shape = self._places(), self._shape
        for start in range(0, len(places), shape.prompts):
            for _ in range(shape.repeats):
                for place in places[start : start + shape.prompts]:
                    for _ in range(shape.group):
                        yield place
