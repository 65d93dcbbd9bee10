"""Prompts by the reward variance that they are expected to have: a Beta posterior of each one's pass rate.

A group of rollouts teaches in proportion to p (1 - p) (DOTS, arXiv 2506.05316, Theorem 1). The posterior of
p is Beta(prior + wins, prior + losses), where wins and losses fade by `memory` each round, because the model
changes; its expected p (1 - p) = a b / ((a + b) (a + b + 1)) is the weight with which a prompt is drawn.
Prompts never seen, easy ones and hard ones each keep a share of every round, so that no pool runs dry and
nothing is given up for good.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from gaincurate.core.rng import Floats, Ints
from gaincurate.schedule import base
from gaincurate.schedule.base import Json, Observed, Pool

_MIDDLE, _UNSEEN, _EASY, _HARD = range(4)


class VarianceOptions(base.Options):
    """How past outcomes count, and what each round keeps for whom."""

    memory: float = Field(default=0.9, gt=0, le=1)
    """What is left of an outcome's weight a round later; 1 forgets nothing."""
    prior: float = Field(default=1.0, gt=0)
    """Wins and losses that every prompt has before it is seen."""
    power: float = Field(default=1.0, ge=0)
    """Exponent of the weight; 0 draws evenly."""
    unseen: float = Field(default=0.1, ge=0, le=1)
    """Least share of the draws for prompts never seen, while there are any."""
    easy: float = Field(default=0.05, ge=0, le=1)
    """Least share for prompts with an expected pass rate over 0.9."""
    hard: float = Field(default=0.05, ge=0, le=1)
    """Least share for prompts with one under 0.1."""

    @model_validator(mode="after")
    def _check_shares(self) -> VarianceOptions:
        if self.unseen + self.easy + self.hard > 1:
            raise ValueError("the shares unseen, easy and hard are over 1 together")
        return self


class Variance(base.Selector):
    """Expected p (1 - p) from outcomes.

    Args:
        pool: what is drawn from.
        options: see `VarianceOptions`.
    """

    Options: ClassVar[type[base.Options]] = VarianceOptions
    reads_scores: ClassVar[bool] = False

    def __init__(self, pool: Pool, options: VarianceOptions) -> None:
        super().__init__(pool, options)
        self._rows = np.zeros(0, np.int64)
        """Rows with outcomes, sorted; beside them their wins and losses, faded to the last round."""
        self._wins, self._losses = np.zeros(0), np.zeros(0)

    def draw(self, round_: int) -> Ints:
        """`[budget]` distinct ranks, best keys first."""
        pool, options = self.pool, self.options
        (plain,) = self._log_weight(np.zeros(1), np.zeros(1))
        log_weights, kinds = np.full(pool.rows, plain), np.full(pool.rows, _UNSEEN, np.int8)
        log_weights[self._rows] = self._log_weight(self._wins, self._losses)
        kinds[self._rows] = self._seen_kinds()
        shares = {_UNSEEN: options.unseen, _EASY: options.easy, _HARD: options.hard}
        floors = [(kinds == kind, share) for kind, share in shares.items()]
        return pool.pick(pool.noisy(log_weights, round_), round_, floors)

    def _log_weight(self, wins: Floats, losses: Floats) -> Floats:
        a, b = self.options.prior + wins, self.options.prior + losses
        weights: Floats = self.options.power * np.log(a * b / ((a + b) * (a + b + 1)))
        return weights

    def _seen_kinds(self) -> npt.NDArray[np.int8]:
        prior = self.options.prior
        mean = (prior + self._wins) / (2 * prior + self._wins + self._losses)
        kinds = np.full(len(mean), _MIDDLE, np.int8)
        kinds[mean >= 0.9] = _EASY
        kinds[mean <= 0.1] = _HARD
        return kinds

    def observe(self, observed: Observed) -> None:
        """Fade what is known by a round, then add what came back."""
        self._wins *= self.options.memory
        self._losses *= self.options.memory
        for rows, wins, losses in ((observed.rows, observed.wins, observed.losses), observed.late):
            judged = wins + losses > 0
            self._add(rows[judged], wins[judged], losses[judged])

    def _add(self, rows: Ints, wins: Floats, losses: Floats) -> None:
        every, places = np.unique(np.concatenate([self._rows, rows]), return_inverse=True)
        sums = [
            np.bincount(places, np.concatenate(pair), len(every)).astype(np.float64)
            for pair in ((self._wins, wins), (self._losses, losses))
        ]
        self._wins, self._losses = sums
        self._rows = every

    def state_dict(self) -> Json:
        """See `Selector`."""
        return {
            "rows": self._rows.tolist(),
            "wins": self._wins.tolist(),
            "losses": self._losses.tolist(),
        }

    def load_state_dict(self, state: Json) -> None:
        """See `Selector`."""
        self._rows = np.asarray(state["rows"], np.int64)
        self._wins, self._losses = np.asarray(state["wins"], float), np.asarray(state["losses"], float)

    def metrics(self) -> dict[str, float]:
        """See `Selector`."""
        kinds = self._seen_kinds()
        return {
            "seen": len(self._rows),
            "easy": int((kinds == _EASY).sum()),
            "hard": int((kinds == _HARD).sum()),
        }
