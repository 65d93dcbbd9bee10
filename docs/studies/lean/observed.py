"""Influence observed on rollouts that the training makes anyway: an arm that a user could have.

After a round the gradients of every second group that differs are multiplied with the mean of the others, at
the newest weights, and the other way round. So no prompt's own rollouts are on both sides. A prompt that was
not drawn has what its neighbours in the embedding showed.

Usage: python docs/studies/lean/observed.py FOLDER SEED. Before each round of a training it prints how many
prompts have groups that differ with a chance of .02 or more, and the rank correlation of what it expects, and
of p (1 - p), with exact influence: of all these prompts, of those drawn before, and of the others.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from choosing import Exact, drawn_by, sampled_influences
from pydantic import Field

from gaincurate.core.rng import Ints, permutation
from gaincurate.core.stats import spearman
from gaincurate.schedule import base

_PASSES = (
    0.2  # generated tokens that two passes over one token cost; the mean's gradient is the training's own
)
_SHUFFLE, _DEAL = 0x4F54, 0x4F55  # of the seed's noise; no strategy uses them


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
    charged: bool = True
    """Whether what is read is paid for. A control: what would it be worth for nothing?"""
    dealt: bool = False
    """Whether a round's values go to each other's prompts. A control: is what they say worth anything?"""


class Observed(base.Selector):
    """Draws by influence as it was observed, of a prompt and of its neighbours.

    Args:
        pool: what is drawn from.
        options: see `ObservedOptions`.
    """

    Options: ClassVar[type[base.Options]] = ObservedOptions

    @classmethod
    def goes_by_scores(cls, options: Mapping[str, Any]) -> bool:
        """Whether the scoring pass is charged, which the embeddings come from."""
        return bool(options.get("charged", True))

    def __init__(self, pool: base.Pool, options: Any) -> None:
        super().__init__(pool, options)
        self._read = 0  # tokens, not yet charged
        self._sums, self._weights = np.zeros(pool.rows), np.zeros(pool.rows)
        self._values = np.zeros(pool.rows)
        self._kernel = np.zeros((0, 0))

    def prepare(self, context: Any) -> None:
        """Pay for what was read; take the embeddings."""
        if self.options.charged:
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
        if self.options.dealt:
            values = values[permutation(self.pool.seed, observed.round, _DEAL, len(values))]
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


def known(folder: Path, seed: int) -> Iterator[str]:
    """Lines of what it expects against exact influence, round by round: all, drawn before, and the others."""
    from influence import LIVE, differing
    from loop import Arm, Training
    from world import World

    arm = Arm(
        name="observed-free",
        strategy="observed:Observed",
        options={"charged": False},
        step_prompts=4,
        round_steps=20,
    )
    training = Training(World(folder), arm, seed)
    selector: Any = training.chooser.selector
    prepare, lines = selector.prepare, list[str]()

    def seen(context: Any) -> None:
        prepare(context)
        rates, exact = context.exact.accuracies(), context.exact.influences()[context.rows]
        rates, means = rates[context.rows], selector._means()[context.rows]
        live, drawn = differing(rates) >= LIVE, selector._weights[context.rows] > 0
        for chosen in (live, live & drawn, live & ~drawn):
            for values in (means, rates * (1 - rates)):
                found = spearman(values[chosen], exact[chosen])
                lines.append(f"{chosen.sum():8}{math.nan if found is None else found:8.2f}")

    selector.prepare = seen
    for _ in training.train():
        if lines:
            yield "".join(lines)
            lines.clear()


if __name__ == "__main__":
    for line in known(Path(sys.argv[1]), int(sys.argv[2])):
        print(line, flush=True)
