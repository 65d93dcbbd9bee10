"""DOTS (arXiv 2506.05316): prompts near a target difficulty, observed on a few and predicted for all.

Before each draw K reference prompts, drawn anew, are observed and the other prompts' failure rates d are
predicted from them (`foresight`). Prompt q is then drawn with P(q) proportional to exp(-|d_q - alpha| / tau),
without replacement; references are left out. With `target = variance` what is predicted is p (1 - p) itself
and P(q) is proportional to exp(v_q / tau). d is the failure rate everywhere: 1 where every rollout fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from gaincurate.errors import InputError
from gaincurate.schedule import base
from gaincurate.schedule.base import Json, Observed, Pool
from gaincurate.schedule.noise import REFERENCES, Floats, Ints, between, draw_within, keys_of

Method = Literal["adapter", "group-mean", "whitened"]
_SEEDS = 3  # stream of random numbers
_EXACT = 2.0**20  # log weights up to here hold the noise to 1e-10
_BRIDGE = 64.0  # Gumbel noise of 52 bits spans 41: over a wider gap it never reaches


class DotsOptions(base.Options):
    """The paper's parameters under names of their own, and where the references' outcomes come from."""

    target_difficulty: float = Field(default=0.5, ge=0, le=1)
    """alpha: the failure rate that is aimed at."""
    temperature: float = Field(default=1e-3, gt=0)
    """tau: how sharply."""
    target: Literal["difficulty", "variance"] = "difficulty"
    """Aim at |d - alpha|, or at the largest p (1 - p)."""
    references: int = Field(default=256, ge=3)
    """K: prompts that are observed before each draw."""
    refresh_every: int = Field(default=2, ge=1)
    """Trainer's steps that one draw is for."""
    step_prompts: int | None = Field(default=None, ge=1)
    """Prompts of one step. Default: the budget's share."""
    adapter: str | None = None
    """A folder of `gaincurate difficulty fit`. Default: the prediction that trains nothing (`whitened`)."""
    group_column: str | None = None
    """Predict by the mean of the references of a prompt's group instead: the baseline."""
    reuse_references: float | None = Field(default=None, ge=0, le=1)
    """Name references within so much of the target in the plan, for a trainer that takes their rollouts."""
    success: float | None = Field(default=None, gt=0, le=1)
    """Count a reference's rollout in a rollout set as right from this reward on. Default: as its reward."""
    rollout: dict[str, Any] | None = None
    """Options of `gaincurate difficulty rollout`, with which the run observes references itself."""

    @field_validator("adapter")
    @classmethod
    def _whole_path(cls, value: str | None) -> str | None:
        return None if value is None else str(Path(value).absolute())

    @model_validator(mode="after")
    def _check_pairs(self) -> DotsOptions:
        if self.adapter is not None and self.group_column is not None:
            raise ValueError("--adapter and --group-column are two predictors; give one of them")
        if self.target == "variance" and "target_difficulty" in self.model_fields_set:
            raise ValueError(
                "--target-difficulty goes with --target difficulty; the variance p (1 - p) has no target, "
                "the largest is best"
            )
        return self

    @property
    def method(self) -> Method:
        """The predictor."""
        if self.adapter is not None:
            return "adapter"
        return "whitened" if self.group_column is None else "group-mean"


def budget_of(options: DotsOptions, budget: int | None) -> int:
    """The prompts of a round: those of all steps that one draw is for.

    Raises:
        InputError: the budget is something else, or not known.
    """
    steps, size = options.refresh_every, options.step_prompts
    if size is None:
        if budget is None:
            raise InputError(
                "strategy dots needs --step-prompts N, the trainer's prompts a step, or --budget, which is "
                "--refresh-every times that."
            )
        if budget % steps:
            raise InputError(
                f"--budget {budget:,} is no multiple of --refresh-every {steps}: one draw is for {steps} "
                "whole steps."
            )
        return budget
    if budget is not None and budget != steps * size:
        raise InputError(
            f"--budget {budget:,} is not --refresh-every {steps} times --step-prompts {size:,}, which is "
            f"{steps * size:,}; leave --budget out."
        )
    return steps * size


def has_references(params: Json) -> bool:
    """Whether a run is of this strategy or a child of it, by its parameters.

    A strategy of one's own may not be importable where a run is only looked at.
    """
    return params.keys() >= DotsOptions.model_fields.keys()


def seed_of(seed: int, round_: int) -> int:
    """A round's own seed, below 2^63, of its references and of their rollouts."""
    return int(keys_of(seed, round_, _SEEDS, 1)[0])


class Dots:
    """Prompts near the target.

    Args:
        pool: what is drawn from.
        options: see `DotsOptions`.
    """

    Options: ClassVar[type[base.Options]] = DotsOptions
    by: ClassVar[str | None] = None
    ascending: ClassVar[bool] = True
    ordering: ClassVar[base.Ordering] = "none"
    foresees: ClassVar[bool] = False

    def __init__(self, pool: Pool, options: DotsOptions) -> None:
        self.options = options
        self._pool = pool
        self._values, self._references = np.zeros(0), np.zeros(0, np.int64)
        self._drawn: float | None = None

    def references(self, round_: int) -> Ints:
        """`[K]`: the rows that are observed before a round is drawn, distinct.

        They are those of `gaincurate difficulty rollout --reference K --seed` with `seed_of`.
        """
        pool = self._pool
        keys = keys_of(seed_of(pool.seed, round_), 0, REFERENCES, pool.rows)
        return between(keys, 0, self.options.references)

    def inform(self, values: Floats, references: Ints) -> None:
        """Take what is predicted for the next draw.

        Args:
            values: `[rows]`, failure rates, or p (1 - p) where that is the target.
            references: rows that are not drawn.
        """
        self._values, self._references = values, np.sort(references)

    def draw(self, round_: int) -> Ints:
        """`[budget]` distinct rows, none of them a reference."""
        pool, left_out = self._pool, self._references
        weights = log_weights(self._distance(), self.options.temperature)

        def kind_of(start: int, stop: int) -> npt.NDArray[np.int8]:
            found = np.zeros(stop - start, np.int8)
            here = slice(*np.searchsorted(left_out, [start, stop]).tolist())
            found[left_out[here] - start] = 1
            return found

        (drawn, _), _ = draw_within(
            pool.rows,
            [pool.budget, 0],
            lambda start, stop: weights[start:stop],
            kind_of,
            seed=pool.seed,
            round_=round_,
        )
        self._drawn = float(self._values[drawn].mean())
        return drawn

    def _distance(self) -> Floats:
        """How far each row is from what is best, `[rows]`, 0 or more."""
        if self.options.target == "variance":
            found: Floats = self._values.max() - self._values
            return found
        return np.abs(self._values - self.options.target_difficulty)

    def observe(self, observed: Observed) -> None:
        """Nothing: what a round's prompts did is old when the next is drawn; references tell what is new."""

    def state(self) -> Json:
        """See `Selector`."""
        return {}

    def restore(self, state: Json) -> None:
        """See `Selector`."""

    def metrics(self) -> dict[str, float]:
        """The mean prediction of the last draw's prompts, and of all."""
        if self._drawn is None:
            return {}
        return {"predicted": self._drawn, "predicted_of_all": float(self._values.mean())}


def log_weights(distance: Floats, temperature: float) -> Floats:
    """-distance / temperature up to a constant, `[rows]`, so that equal distances stay equally likely.

    A temperature next to nothing makes log weights beside which the draw's noise is lost in rounding. Then
    gaps between neighbouring distances that are wider than any noise are cut, which changes no draw.
    """
    with np.errstate(over="ignore"):
        found: Floats = -(distance - distance.min()) / temperature
        if found.min() >= -_EXACT:
            return found
        levels, places = np.unique(distance, return_inverse=True)
        gaps = np.minimum(np.diff(levels) / temperature, _BRIDGE)
    below: Floats = -np.concatenate([[0.0], np.cumsum(gaps)])
    return below[places]
