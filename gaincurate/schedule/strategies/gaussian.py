"""Gaussians whose centre moves: over ranks with the model (GAIN-RL), over pass rates on a fixed plan.

In GAIN-RL's dynamic data selection (arXiv 2506.02281) rank i of N is drawn with p_i proportional to
exp(-(i - mu)^2 / (2 sigma^2)), `budget` distinct ranks a round; mu starts at 0 and moves between rounds by

    (n/2) tanh(alpha (Acc_t - beta)) + (n/2) tanh(alpha C_t),    n = budget.

The scale n/2 is second-hand (no full text of the paper was at hand); the released code has 500, which agrees
for n = 1,000. The released code also clamps the step to [0, 1000]: `step_low=0, step_high=1000`. The paper
says nothing of the ends of the list; here mu stays within [0, N - 1].

`Falling` is after the description of Nemotron 3 Nano's curriculum (arXiv 2512.20848, section 3.2.2): within
each domain prompts are chosen by a Gaussian over their pass rate, its mean falls linearly, and prompts that
always pass are dropped. `--stratify COLUMN` makes the domains. The widths and ends here are ours. Prompt q
has weight exp(-(p_q - mean)^2 / (2 sigma^2)), so a pass rate that many prompts have is drawn more often.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, field_validator, model_validator

from gaincurate.core.options import GAIN_RL, Option
from gaincurate.core.rng import Floats, Ints
from gaincurate.errors import InputError
from gaincurate.schedule import base
from gaincurate.schedule.base import Context, Json, Observed, Pool


class GaussianOptions(base.Options):
    """The paper's parameters, with what its code has."""

    sigma: Annotated[str, Option("Width in ranks, or of the set (0.1N).", GAIN_RL, metavar="N")] = "1000"
    alpha: float = Field(default=2.0, ge=0)
    """Sensitivity of gain-rl."""
    beta: float = Field(default=0.5, ge=0, le=1)
    """Target accuracy of gain-rl."""
    scale: float | None = Field(default=None, ge=0)
    """Scale of both terms, in ranks. Default: half the budget."""
    step_low: float | None = None
    """Least step, in ranks; the released code has 0, so mu never goes back."""
    step_high: float | None = None
    """Largest step, in ranks; the released code has 1000."""

    @field_validator("sigma", mode="before")
    @classmethod
    def _check_sigma(cls, value: object) -> str:
        text = str(value)
        try:
            # The square of a distance in such widths is still a float.
            good = 1e-9 <= float(text.removesuffix("N")) <= 1e15
        except ValueError:
            good = False
        if not good:
            raise ValueError(
                "a width is a number of ranks from 1e-9 to 1e15 (1000) or a share of the set (0.1N)"
            )
        return text

    @model_validator(mode="after")
    def _check_steps(self) -> GaussianOptions:
        low, high = self.step_low, self.step_high
        if low is not None and high is not None and low >= high:
            raise ValueError("the least step must be less than the largest")
        return self


class GainRL(base.Selector):
    """GAIN-RL: highest angle concentration first; options as in `GaussianOptions`."""

    Options: ClassVar[type[base.Options]] = GaussianOptions
    by: ClassVar[str | None] = "gc_angle"
    ascending: ClassVar[bool] = False
    ordering: ClassVar[base.Ordering] = "any"

    def __init__(self, pool: Pool, options: GaussianOptions) -> None:
        super().__init__(pool, options)
        share = options.sigma.endswith("N")
        self.sigma = float(options.sigma.removesuffix("N")) * (pool.rows if share else 1)
        self.mu = 0.0
        self._scale = pool.budget / 2 if options.scale is None else options.scale

    def draw(self, round_: int) -> Ints:
        """`[budget]` distinct ranks in drawn order."""
        return self.pool.draw_by(self.log_weights, round_)

    def log_weights(self, start: int, stop: int) -> Floats:
        """Of ranks `start` to `stop`, up to a constant: -(i - mu)^2 / (2 sigma^2)."""
        distance = (np.arange(start, stop) - self.mu) / self.sigma
        return -0.5 * distance * distance

    def step(self, accuracy: float, concentration: float) -> float:
        """Mu's next step in ranks, before it is kept within the list."""
        options = self.options
        step = self._scale * math.tanh(options.alpha * (accuracy - options.beta))
        step += self._scale * math.tanh(options.alpha * concentration)
        low = -math.inf if options.step_low is None else options.step_low
        return min(max(step, low), math.inf if options.step_high is None else options.step_high)

    def observe(self, observed: Observed) -> None:
        """Move mu."""
        self.mu = self._within(self.mu + self.step(observed.accuracy, observed.concentration))

    def _within(self, mu: float) -> float:
        return min(max(mu, 0.0), self.pool.rows - 1.0)

    def reach(self, rounds: int) -> tuple[int, int]:
        """First and last rank that so many rounds may draw from, tails past 3 sigma left out."""
        low, high = self.pool.angles
        down, up = min(self.step(0.0, low), 0.0), max(self.step(1.0, high), 0.0)
        first = self._within(self.mu + rounds * down) - 3 * self.sigma
        last = self._within(self.mu + rounds * up) + 3 * self.sigma
        return max(0, math.floor(first)), min(self.pool.rows - 1, math.ceil(last))

    def state_dict(self) -> Json:
        """See `Selector`."""
        return {"mu": self.mu}

    def load_state_dict(self, state: Json) -> None:
        """See `Selector`."""
        self.mu = self._within(float(state["mu"]))

    def metrics(self) -> dict[str, float]:
        """See `Selector`."""
        return {"mu": self.mu, "sigma": self.sigma}


class Length(GainRL):
    """The control: the same machinery over an order by length, shortest question first."""

    by: ClassVar[str | None] = "gc_question_tokens"
    ascending: ClassVar[bool] = True
    reads_scores: ClassVar[bool] = False


class FallingOptions(base.Options):
    """The Gaussian over pass rates."""

    first: float = Field(default=0.8, ge=0, le=1)
    """Its mean in the first round."""
    last: float = Field(default=0.2, ge=0, le=1)
    """Its mean in the last round."""
    sigma: float = Field(default=0.15, ge=1e-9)
    """Its width, in pass rates."""


class Falling(base.Selector):
    """Pass rates around a mean that falls from easy prompts to hard ones; options as in `FallingOptions`."""

    Options: ClassVar[type[base.Options]] = FallingOptions
    by: ClassVar[str | None] = "gc_difficulty"
    ordering: ClassVar[base.Ordering] = "fixed"
    leaves_out: ClassVar[bool] = True

    def __init__(self, pool: Pool, options: FallingOptions) -> None:
        super().__init__(pool, options)
        self._pass_rates: Floats = np.zeros(0)  # [rows], by rank; NaN where the column has none
        self._mean = options.first

    def prepare(self, context: Context) -> None:
        """Read the pass rates, and set the mean of the round. InputError: a value is no rate."""
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
        """`[budget]` distinct ranks, none without a pass rate, or with one of 1, which teaches nothing."""
        distance = (self._pass_rates - self._mean) / self.options.sigma
        log_weights = np.nan_to_num(-0.5 * distance * distance)
        return self.pool.draw(log_weights, round_, leave_out=np.flatnonzero(~(self._pass_rates < 1)))

    def metrics(self) -> dict[str, float]:
        """The mean of the round that was drawn, and how many prompts are left out."""
        if not len(self._pass_rates):  # after the last round nothing is prepared
            return {}
        return {"mean": self._mean, "left_out": int((~(self._pass_rates < 1)).sum())}
