"""Prompts by the reward variance that they are expected to have: a Beta posterior of each one's pass rate.

A group of rollouts teaches in proportion to p (1 - p) (DOTS, arXiv 2506.05316, Theorem 1). This is strategy
`posterior` with each prompt's own outcomes alone, under the name, the options and the defaults that runs were
opened with before there was that. Its plans have no predictions in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, model_validator

from gaincurate.core.rng import Ints
from gaincurate.schedule import base
from gaincurate.schedule.base import Json, Pool
from gaincurate.schedule.strategies.posterior import Posterior
from gaincurate.schedule.strategies.posterior_options import PosteriorOptions


class VarianceOptions(base.Options):
    """How past outcomes count, and what each round keeps for whom."""

    memory: float = Field(default=0.9, gt=0, le=1)
    """What is left of an outcome's weight a round later; 1 forgets nothing."""
    prior: float = Field(default=1.0, ge=1e-9, le=1e9)
    """Wins and losses that every prompt has before it is seen."""
    power: float = Field(default=1.0, ge=0, le=1e6)
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


class Variance(Posterior):
    """Expected p (1 - p) from outcomes.

    Args:
        pool: what is drawn from.
        options: see `VarianceOptions`.
    """

    Options: ClassVar[type[base.Options]] = VarianceOptions

    def __init__(self, pool: Pool, options: VarianceOptions) -> None:
        super().__init__(pool, PosteriorOptions(**options.model_dump()))

    @classmethod
    def goes_by_scores(cls, options: Mapping[str, Any]) -> bool:
        """It does not."""
        return False

    def _mixed(self, drawn: Ints, round_: int) -> Ints:
        """By their keys, as runs that were opened before have them."""
        return drawn

    def metrics(self) -> dict[str, float]:
        """How many prompts were seen, and how many of them are easy and hard."""
        return {name: value for name, value in super().metrics().items() if name in ("seen", "easy", "hard")}

    def plan_facts(self, rows: Ints) -> Json:
        """Nothing, as ever."""
        return {}
