"""DOTS (arXiv 2506.05316): prompts near a target difficulty, observed on a few and predicted for all.

Before each draw K new reference prompts are drawn and observed, and the other prompts' failure rates d are
predicted from them (`prepare`). Prompt q is then drawn with P(q) proportional to exp(-|d_q - alpha| / tau),
without replacement. References are left out. With `target = variance` what is predicted is p (1 - p) itself
and P(q) is proportional to exp(v_q / tau). With `auto` the references of round 0 say which of the two, once
for the whole run. d is the failure rate everywhere: 1 where every rollout fails.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from gaincurate.core.rng import Floats, Ints, log_softmin
from gaincurate.difficulty.prompts import draw_references
from gaincurate.schedule import base
from gaincurate.schedule.base import Json, Pool
from gaincurate.schedule.context import Context
from gaincurate.schedule.foresight import foresee
from gaincurate.schedule.references import seed_of
from gaincurate.schedule.strategies.dots_options import DotsOptions


class Dots(base.Selector):
    """Prompts near the target.

    Args:
        pool: what is drawn from.
        options: see `DotsOptions`.
    """

    Options: ClassVar[type[base.Options]] = DotsOptions
    observes_references: ClassVar[bool] = True

    def __init__(self, pool: Pool, options: DotsOptions) -> None:
        super().__init__(pool, options)
        self._values, self._references = np.zeros(0), np.zeros(0, np.int64)
        self._reference_facts: Json = {}
        self._drawn: float | None = None
        self._aim = options.aim

    def prepare(self, context: Context) -> None:
        """Have the references observed and the failure rates of all prompts predicted."""
        references = self.references(context.round)
        values, self._aim, self._reference_facts = foresee(context, references, self.options, self._aim)
        self.inform(values, references)

    def references(self, round_: int) -> Ints:
        """`[K]`: the rows that are observed before a round is drawn, distinct.

        They are those of `gaincurate difficulty rollout --reference K --seed` with `seed_of`.
        """
        pool = self.pool
        return draw_references(pool.rows, self.options.references, seed_of(pool.seed, round_))

    def inform(self, values: Floats, references: Ints) -> None:
        """Take what is predicted for the next draw.

        Args:
            values: `[rows]`, failure rates, or p (1 - p) where that is the target.
            references: rows that are not drawn.
        """
        self._values, self._references = values, references

    def draw(self, round_: int) -> Ints:
        """`[budget]` distinct rows, none of them a reference."""
        weights = log_softmin(self._distance(), self.options.temperature)
        drawn = self.pool.draw(weights, round_, leave_out=self._references)
        self._drawn = float(self._values[drawn].mean())
        return drawn

    def _distance(self) -> Floats:
        """How far each row is from what is best, `[rows]`, 0 or more."""
        if self._aim == "variance":
            below_best: Floats = self._values.max() - self._values
            return below_best
        return np.abs(self._values - float(self.options.target_difficulty))

    def state_dict(self) -> Json:
        """What the references of round 0 said, where they were asked."""
        return {"aim": self._aim} if self.options.aim == "auto" else {}

    def load_state_dict(self, state: Json) -> None:
        """Go on with that aim."""
        if self.options.aim == "auto":
            self._aim = state.get("aim", "difficulty")

    def plan_facts(self, rows: Ints) -> Json:
        """The predictions of the prompts, and what the references did."""
        return {"predicted": self._values[rows].tolist(), "references": self._reference_facts}

    def metrics(self) -> dict[str, float]:
        """The mean prediction of the last draw's prompts, and of all."""
        if self._drawn is None:
            return {}
        return {"predicted": self._drawn, "predicted_of_all": float(self._values.mean())}
