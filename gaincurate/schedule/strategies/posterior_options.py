"""The options of strategy `posterior`, and the settings that papers had under their names.

A preset fills the options that are not given. It stands here for the equations and the settings of a method,
and for nothing that a trainer does with its prompts.
"""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from gaincurate.core.columns import check_groups
from gaincurate.core.schema import EMBEDDING
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError
from gaincurate.schedule import base
from gaincurate.schedule.config import ScheduleConfig

Preset = Literal["variance", "mopps", "mapp"]
Aim = Literal["expected", "mean", "groups", "thompson"]
_NO_FLOORS: dict[str, Any] = {"unseen": 0.0, "easy": 0.0, "hard": 0.0}
_BY_VISITS: dict[str, Any] = {"fade": "visits", **_NO_FLOORS}
PRESETS: dict[str, dict[str, Any]] = {
    "variance": {},
    "mopps": {"aim": "thompson", "top": True, "candidates": 16, "memory": 1.0, **_BY_VISITS},
    "mapp": {"aim": "groups", "power": 1.0, "candidates": 8, "memory": 0.5, **_BY_VISITS},
}  # fmt: skip
"""What each preset sets apart from the defaults."""


class PosteriorOptions(base.Options):
    """What counts as evidence, what is aimed at, and how a round is drawn."""

    preset: Preset | None = None
    """The settings of a method. Options that are given come before its own."""

    prior: float = Field(default=1.0, ge=1e-9, le=1e9)
    """Wins and losses that every prompt has before it is seen."""
    memory: float = Field(default=0.9, ge=0, le=1)
    """What is left of an outcome's weight after one fading. 1 forgets nothing."""
    fade: Literal["rounds", "visits"] = "rounds"
    """Whether all outcomes fade each round, or those of a prompt when the prompt comes back."""
    neighbours: int = Field(default=0, ge=0)
    """Observed prompts, the nearest by embedding, whose pass rates count for a prompt. 0: none."""
    neighbour_weight: float | None = Field(default=None, ge=0, le=1e9)
    """Rollouts that they count for. Default: as well as they have predicted."""
    group_column: str | None = None
    """A column whose groups' mean pass rates count for their prompts."""
    group_weight: float | None = Field(default=None, ge=0, le=1e9)
    """As `neighbour_weight`."""
    prior_column: str | None = None
    """A column of predicted failure rates, `gc_difficulty` for instance."""
    prior_weight: float | None = Field(default=None, ge=0, le=1e9)
    """As `neighbour_weight`."""

    aim: Aim = "expected"
    """What makes a prompt worth drawing."""
    group_size: int = Field(default=8, ge=1, le=100_000)
    """Rollouts per prompt: G of `groups`."""
    target_pass_rate: float = Field(default=0.5, ge=0, le=1)
    """What `thompson` goes for."""
    top: bool = False
    """Take the best, ties at random. Default: draw by what a prompt is worth."""
    power: float = Field(default=8.0, ge=0, le=1e6)
    """Exponent of what a prompt is worth, where it is drawn by it. 0 draws evenly."""
    candidates: int | None = Field(default=None, ge=1)
    """A round is chosen among so many times its prompts, at random. Default: among all."""
    unseen: float = Field(default=0.1, ge=0, le=1)
    """Least share of the draws for prompts never seen, while there are any."""
    easy: float = Field(default=0.05, ge=0, le=1)
    """Least share for seen prompts with an expected pass rate of 0.9 or above."""
    hard: float = Field(default=0.05, ge=0, le=1)
    """Least share for those with one of 0.1 or below."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        settings = PRESETS.get(str(values.get("preset")), {}) if isinstance(values, dict) else {}
        if settings and values.get("top"):  # the best of what a preset would draw by power
            settings = {name: value for name, value in settings.items() if name != "power"}
        return {**settings, **values} if settings else values

    @model_validator(mode="after")
    def _check_pairs(self) -> PosteriorOptions:
        if self.unseen + self.easy + self.hard > 1:
            raise ValueError("the shares unseen, easy and hard are over 1 together")
        if self.aim == "thompson" and not self.top:
            raise ValueError("aim thompson takes the best of its samples: give top=true with it")
        if self.top and self._differs("power"):
            raise ValueError("top=true takes the best whatever power is: leave one of the two out")
        return self

    def _differs(self, name: str) -> bool:
        """Whether an option has another value than its default. A run's file names those of all options."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)

    @property
    def columns(self) -> list[str]:
        """The columns of the scored set that evidence is taken from."""
        return [name for name in (self.group_column, self.prior_column) if name is not None]

    def check_run(self, config: ScheduleConfig, scored: ScoredSet) -> None:
        """See that the set has what evidence is taken from.

        Raises:
            InputError: it has not.
        """
        for name in self.columns:
            column = scored.column(name)
            if name == self.group_column:
                check_groups(column.type, name, f"group_column = {name}")
            if name == self.prior_column and pa.types.is_temporal(column.type):  # numpy makes numbers of it
                raise InputError(f"prior_column = {name}: it holds no numbers.", column=name)
        if self.neighbours and EMBEDDING not in scored.schema.names:
            raise InputError(
                f"neighbours = {self.neighbours}: {scored.folder} has no {EMBEDDING}; score it with "
                "`--signals angle,embedding`, or leave neighbours out.",
                column=EMBEDDING,
            )
