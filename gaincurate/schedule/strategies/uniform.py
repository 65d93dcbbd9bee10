"""The two plain controls: every prompt once per pass, at random or in the order of the set.

A round that begins in one pass and ends in the next draws no prompt twice: its prompts from the first pass go
to the end of the next. So a round's prompts are distinct, and each pass has every prompt once. With strata
(`--stratify`) each group has its own passes.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from gaincurate.core.rng import PASSES, Ints, Keys, between, keys_of
from gaincurate.schedule import base
from gaincurate.schedule.base import Json, Pool

_AT_THE_END = np.uint64(1 << 63)


class Uniform(base.Selector):
    """Passes over the set, each in a new random order."""

    reads_scores: ClassVar[bool] = False

    def __init__(self, pool: Pool, options: base.Options) -> None:
        super().__init__(pool, options)
        groups = 1 if pool.strata is None else len(pool.strata.names)
        self._places: list[Json] = [{"pass": 0, "cursor": 0, "last": []} for _ in range(groups)]
        """Of each group: its pass, how many of its prompts that has had, and what the round that began it
        had taken from the pass before, which comes last in it."""

    def draw(self, round_: int) -> Ints:
        """`[budget]` distinct ranks."""
        return self.pool.by_groups(round_, self._take)

    def _take(self, group: int, ranks: Ints, size: int) -> Ints:
        """The next `size` of the ranks of a group, `[size]`."""
        place, count = self._places[group], len(ranks)
        stream = 1 if self.pool.strata is None else PASSES + group
        taken = np.zeros(0, np.int64)
        while len(taken) < size:
            if place["cursor"] == count:
                place |= {"pass": place["pass"] + 1, "cursor": 0, "last": taken.tolist()}
            keys = self._keys(place["pass"], stream, count)
            keys[place["last"]] |= _AT_THE_END
            stop = min(place["cursor"] + size - len(taken), count)
            taken = np.concatenate([taken, between(keys, place["cursor"], stop)])
            place["cursor"] = stop
        return ranks[taken]

    def _keys(self, pass_: int, stream: int, count: int) -> Keys:
        return keys_of(self.pool.seed, pass_, stream, count)

    def state_dict(self) -> Json:
        """See `Selector`."""
        return self._places[0] if self.pool.strata is None else {"groups": self._places}

    def load_state_dict(self, state: Json) -> None:
        """See `Selector`."""
        self._places = [state] if self.pool.strata is None else state["groups"]

    def metrics(self) -> dict[str, float]:
        """See `Selector`."""
        rows, strata = self.pool.rows, self.pool.strata
        counts = [rows] if strata is None else strata.sizes.tolist()
        passes = 0.0
        for place, count in zip(self._places, counts, strict=True):
            passes += (place["pass"] + place["cursor"] / max(count, 1)) * (count / rows)
        return {"pass": passes}


class FileOrder(Uniform):
    """Passes over the set in its own order, or in that of a column (`--by`)."""

    ordering: ClassVar[base.Ordering] = "fixed"

    def _keys(self, pass_: int, stream: int, count: int) -> Keys:
        return np.arange(count, dtype=np.uint64)
