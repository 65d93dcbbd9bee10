"""A Gaussian over pass rates whose mean falls over the run: from easy prompts to hard ones on a fixed plan.

After the description of Nemotron 3 Nano's curriculum (arXiv 2512.20848, section 3.2.2): within each domain
prompts are chosen by a Gaussian over their pass rate, its mean falls linearly, and prompts that always pass
are dropped. `--stratify COLUMN` makes the domains. The widths and ends here are ours. Prompt q has weight
exp(-(p_q - mean)^2 / (2 sigma^2)), so a pass rate that many prompts have is drawn more often.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from gaincurate.core.rng import Floats, Ints
from gaincurate.errors import InputError
from gaincurate.schedule import base
from gaincurate.schedule.base import Pool
from gaincurate.schedule.context import Context


class FallingOptions(base.Options):
    """The Gaussian over pass rates."""

    first: float = Field(default=0.8, ge=0, le=1)
    """Its mean in the first round."""
    last: float = Field(default=0.2, ge=0, le=1)
    """Its mean in the last round."""
    sigma: float = Field(default=0.15, ge=1e-9)
    """Its width, in pass rates."""


class Falling(base.Selector):
    """Pass rates around a mean that falls.

    Args:
        pool: what is drawn from.
        options: see `FallingOptions`.
    """

    Options: ClassVar[type[base.Options]] = FallingOptions
    by: ClassVar[str | None] = "gc_difficulty"
    ordering: ClassVar[base.Ordering] = "fixed"
    leaves_out: ClassVar[bool] = True

    def __init__(self, pool: Pool, options: FallingOptions) -> None:
        super().__init__(pool, options)
        self._pass_rates: Floats = np.zeros(0)  # [rows], by rank; NaN where the column has none
        self._mean = options.first

    def prepare(self, context: Context) -> None:
        """Read the pass rates, and set the mean of the round.

        Raises:
            InputError: a value is no rate.
        """
        config, options = context.run.config, self.options
        rates = context.run.order(context.order).values
        outside = np.flatnonzero((rates < 0) | (rates > 1))
        if len(outside):
            raise InputError(
                f"strategy {config.strategy} needs rates from 0 to 1, and {config.by} has "
                f"{rates[outside[0]]:g}; name a column of pass rates with --by."
            )
        self._pass_rates = 1 - rates if config.by == "gc_difficulty" else rates
        done = context.round / max(config.rounds - 1, 1)
        self._mean = options.first + done * (options.last - options.first)

    def draw(self, round_: int) -> Ints:
        """`[budget]` distinct ranks, none with a pass rate of 1 or without one."""
        distance = (self._pass_rates - self._mean) / self.options.sigma
        log_weights = np.nan_to_num(-0.5 * distance * distance)
        return self.pool.draw(log_weights, round_, leave_out=self._left_out())

    def _left_out(self) -> Ints:
        """Ranks whose rollouts all passed, which teach nothing, and those without a pass rate."""
        return np.flatnonzero(~(self._pass_rates < 1))

    def metrics(self) -> dict[str, float]:
        """The mean of the round that was drawn, and how many prompts are left out."""
        if not len(self._pass_rates):  # after the last round nothing is prepared
            return {}
        return {"mean": self._mean, "left_out": len(self._left_out())}
