"""The two plain controls: every prompt once per pass, at random or in the order of the set.

A round that the end of a pass cuts through takes its rest from the next pass, and what it would take twice
waits until that pass's end, so a round's prompts are distinct and each pass has every prompt once.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from gaincurate.core.rng import Ints, Keys, between, keys_of
from gaincurate.schedule import base
from gaincurate.schedule.base import Json, Pool

_AT_THE_END = np.uint64(1 << 63)


class Uniform(base.Selector):
    """Passes over the set, each in a random order of its own.

    Args:
        pool: what is drawn from.
        options: none.
    """

    foresees: ClassVar[bool] = True
    reads_scores: ClassVar[bool] = False

    def __init__(self, pool: Pool, options: base.Options) -> None:
        super().__init__(pool, options)
        self._pass = self._cursor = 0
        self._last: list[int] = []
        """What the round that began this pass had taken from the one before: it comes last here."""

    def draw(self, round_: int) -> Ints:
        """`[budget]` distinct ranks."""
        size, rows = self.pool.budget, self.pool.rows
        ranks = self._part(self._cursor, min(self._cursor + size, rows))
        self._cursor += len(ranks)
        if len(ranks) < size:
            self._pass, self._cursor = self._pass + 1, size - len(ranks)
            self._last = ranks.tolist()
            ranks = np.concatenate([ranks, self._part(0, self._cursor)])
        return ranks

    def _part(self, start: int, stop: int) -> Ints:
        """Ranks at these places of the pass."""
        keys = self._keys()
        keys[self._last] |= _AT_THE_END
        return between(keys, start, stop)

    def _keys(self) -> Keys:
        return keys_of(self.pool.seed, self._pass, 1, self.pool.rows)

    def state_dict(self) -> Json:
        """See `Selector`."""
        return {"pass": self._pass, "cursor": self._cursor, "last": self._last}

    def load_state_dict(self, state: Json) -> None:
        """See `Selector`."""
        self._pass, self._cursor, self._last = state["pass"], state["cursor"], list(state["last"])

    def metrics(self) -> dict[str, float]:
        """See `Selector`."""
        return {"pass": self._pass + self._cursor / self.pool.rows}


class FileOrder(Uniform):
    """Passes over the set in its own order, or in that of a column (`--by`)."""

    ordering: ClassVar[base.Ordering] = "fixed"

    def _keys(self) -> Keys:
        return np.arange(self.pool.rows, dtype=np.uint64)
