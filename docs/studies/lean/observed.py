"""Influence observed on rollouts that the training makes anyway: an arm that a user could have.

After a round the gradients of every second group that differs are multiplied with the mean of the others, at
the newest weights, and the other way round. So no prompt's own rollouts are on both sides. A prompt that was
not drawn has what its neighbours in the embedding showed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from choosing import Exact, drawn_by, sampled_influences
from pydantic import Field

from gaincurate.core.rng import Ints
from gaincurate.schedule import base

_PASSES = (
    0.2  # generated tokens that two passes over one token cost; the mean's gradient is the training's own
)
_SHUFFLE = 0x4F54  # of the seed's noise; no strategy uses it


class ObservedOptions(base.Options):
    """How observations become draws."""

    neighbours: int = Field(default=32, ge=1)
    """Observed prompts that speak for one: the nearest, itself included."""
    temperature: float = Field(default=0.1, gt=0)
    """A neighbour's weight is exp((cosine - 1) / temperature)."""
    fade: float = Field(default=0.7, gt=0, le=1)
    """What a round leaves of an observation's weight."""
    prior: float = Field(default=1.0, gt=0)
    """Observations that the mean of all counts for."""
    power: float = Field(default=2.0, ge=0)
    """Exponent of the weight of a draw, as of the oracle."""


class Observed(base.Selector):
    """Draws by influence as it was observed, of a prompt and of its neighbours.

    Args:
        pool: what is drawn from.
        options: see `ObservedOptions`.
    """

    Options: ClassVar[type[base.Options]] = ObservedOptions

    def __init__(self, pool: base.Pool, options: Any) -> None:
        super().__init__(pool, options)
        self._read = 0  # tokens, not yet charged
        self._sums, self._weights = np.zeros(pool.rows), np.zeros(pool.rows)
        self._values = np.zeros(pool.rows)
        self._kernel = np.zeros((0, 0))

    def prepare(self, context: Any) -> None:
        """Pay for what was read; take the embeddings."""
        context.bill["influence"] += round(_PASSES * self._read)
        self._read, self._rows = 0, context.rows
        if not len(self._kernel):
            units = np.asarray(context.embeddings(), np.float64)
            units -= units.mean(0)
            units /= np.linalg.norm(units, axis=1, keepdims=True)
            self._kernel = np.exp((units @ units.T - 1) / self.options.temperature)

    def rolled(self, exact: Exact, places: Ints, groups: Sequence[Any]) -> None:
        """Measure a round's groups. Those whose rewards do not differ have an influence of 0."""
        prompts = exact.prompts
        completions: list[list[list[int]]] = [[] for _ in range(len(prompts))]
        weights = {}
        for number, (place, group) in enumerate(zip(places.tolist(), groups, strict=True)):
            if group.advantages.any():
                completions[place] = group.completions
                weights[place] = torch.zeros(len(group.completions), 2)
                weights[place][:, number % 2] = torch.from_numpy(group.advantages) / len(group.completions)
                self._read += len(group.prompt) + sum(map(len, group.completions))
        self._values = np.zeros(len(prompts))
        if weights:
            of_all = torch.cat([weights[place] for place in sorted(weights)])
            self._values = sampled_influences(exact.policy, prompts, completions, of_all).sum(0)

    def observe(self, observed: base.Observed) -> None:
        """Remember what `rolled` measured, in units of the round: gradients shrink as a policy learns."""
        values = self._values[observed.rows]
        self._sums *= self.options.fade
        self._weights *= self.options.fade
        self._sums[observed.rows] += values / (np.abs(values).mean() or 1.0)
        self._weights[observed.rows] += 1

    def draw(self, round_: int) -> Ints:
        """`[budget]` distinct rows."""
        return drawn_by(self._means()[self._rows], self.options.power, self.pool, round_, _SHUFFLE)

    def _means(self) -> Any:
        """`[N]`: what is expected of each prompt; the same of all before anything was observed."""
        there, options = np.flatnonzero(self._weights), self.options
        if not len(there):
            return np.ones(len(self._weights))
        near = self._kernel[:, there] * self._weights[there]
        if len(there) > options.neighbours:
            near[near < np.partition(near, -options.neighbours, axis=1)[:, [-options.neighbours]]] = 0
        of_all = self._sums.sum() / self._weights.sum()
        sums = near @ (self._sums[there] / self._weights[there]) + options.prior * of_all
        return sums / (near.sum(1) + options.prior)
