"""What a strategy can learn before it draws a round: the scored set by row, and the newest policy.

Nothing is read before it is asked for. The set is the one that the run was opened with, also after a
re-scoring: embeddings of two models do not compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gaincurate.core.columns import fields, read_column
from gaincurate.core.rng import Floats, Ints
from gaincurate.core.schema import EMBEDDING, ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.embeddings import matrix
from gaincurate.schedule import history
from gaincurate.schedule.checkpoints import AS_IT_IS, Held
from gaincurate.schedule.observations import Note, silent
from gaincurate.schedule.run import Run


@dataclass(frozen=True, slots=True)
class Context:
    """What `Selector.prepare` is given.

    A row is a place in the scored set, from 0. A rank is a place in the order that the strategy draws from.
    """

    run: Run
    """The run, for its folder and options."""
    round: int
    """The round that is drawn next, from 0."""
    order: str
    """The digest of the order that it is drawn from."""
    checkpoint: str | None = None
    """The newest policy: the run's model before round 0, then what the last round left, None for nothing."""
    note: Note = silent
    """Takes a sentence for the person at the terminal."""
    held: Held = AS_IT_IS
    """Takes the run and a checkpoint, yields a folder of it that stays as it is."""
    reference_outcomes: Path | None = None
    """What a person gave with `--reference-outcomes`."""
    opening: bool = False
    """The run is being opened, or its rounds are only forecast. What takes long has to wait: raise
    `NotReadyError`, and `schedule next` or `run` asks again."""

    @property
    def scored(self) -> ScoredSet:
        """The scored set; its shards are mapped, not loaded."""
        return self.run.scored

    @property
    def rows(self) -> Ints:
        """`[N]`: the row at each rank."""
        return self.run.orders.find(self.order).rows

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of the scored set by row, `[N]`, mapped; `.to_numpy()` makes an array of it.

        Args:
            name: of a column, or with dots of a field inside a struct.

        Raises:
            InputError: no such column; lists those there are.
        """
        if name in dict(fields(self.scored.schema)):
            return read_column(self.scored, name)
        return self.scored.column(name)

    @property
    def history(self) -> Floats | None:
        """Wins and losses in earlier training by row, `[2, N]` (`--history`); None without one."""
        return history.read(self.run)

    @property
    def rates(self) -> Floats | None:
        """Pass rates of other models by row, `[N, models]`, NaN for none (`--rates`); None without any."""
        return history.rates(self.run)

    def embeddings(self, rows: npt.ArrayLike | None = None) -> npt.NDArray[np.float32]:
        """The embeddings of these rows, `[rows, width]`, in this order.

        Args:
            rows: default: all, which is `4 * N * width` bytes at once.

        Raises:
            InputError: the set has none, or a row has none.
        """
        if rows is not None:
            return matrix(self.scored.take(rows), self.scored.folder)
        columns = [name for name in (ID, EMBEDDING) if name in self.scored.schema.names]
        blocks = [matrix(table, self.scored.folder) for table in self.scored.tables(columns)]
        return np.concatenate(blocks)
