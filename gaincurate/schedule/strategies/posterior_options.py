"""The options of strategy `posterior`, and the settings of methods in papers under their names.

A preset fills the options that are not given. It has the equations and the settings of a method, and nothing
that a trainer does with its prompts.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from gaincurate.core.options import POSTERIOR, Option, names_of
from gaincurate.core.scored_set import ScoredSet
from gaincurate.schedule import base
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.groups import check_groups

Aim = Literal["groups", "variance", "thompson"]
_OWN: dict[str, Any] = {"labels": "none", "prior": 1.0}
PRESETS: dict[str, dict[str, Any]] = {
    "variance": {**_OWN, "aim": "variance", "draw": "weights"},
    "mopps": {**_OWN, "aim": "thompson", "draw": "top", "candidates": 16, "memory": 1.0},
    "mapp": {**_OWN, "draw": "weights", "candidates": 8, "memory": 0.5},
}
"""The options that each preset sets apart from the defaults."""
AUTO, NO_LABELS = "auto", "none"


def _bounds(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


class PosteriorOptions(base.Options):
    """Evidence, the aim, and how a round is drawn."""

    preset: Annotated[
        Literal["variance", "mopps", "mapp"] | None,
        Option("The settings of a method. Options that you give come before its own.", POSTERIOR),
    ] = None
    labels: Annotated[
        str,
        Option(
            "Columns that say which prompts are alike, or none. auto: those that predict the first "
            "outcomes best.",
            POSTERIOR,
            metavar="NAME,...",
        ),
    ] = AUTO
    prior: float = Field(default=0.05, ge=1e-9, le=1e9)
    """Wins and losses that every prompt has before it is seen."""
    memory: float = Field(default=0.9, ge=0, le=1)
    """The share of an outcome's weight that is left when the prompt is observed again. 1 forgets nothing."""
    aim: Aim = "groups"
    """What makes a prompt worth drawing: the chance that its group differs, the mean of p (1 - p), or a
    sample of p near `target_pass_rate`."""
    draw: Literal["passes", "weights", "top"] = "passes"
    """In passes without replacement, by weights in each round anew, or the best."""
    retest: float = Field(default=0.1, gt=0, le=1)
    """Chance at least that a prompt is drawn in a pass. 1 makes passes those of `uniform`."""
    candidates: int | None = Field(default=None, ge=1)
    """A round is chosen among so many times its prompts, at random (`weights`, `top`). Default: among all."""
    group_size: int = Field(default=8, ge=2, le=100_000)
    """Rollouts per prompt before any were observed."""
    group_sizes: Annotated[tuple[int, int] | None, BeforeValidator(_bounds)] = None
    """The least and the most rollouts of a prompt (`4,16`): more where they make it likelier that the group
    differs, with `group_size` as their mean in each batch. Default: the trainer's size for all prompts."""
    target_pass_rate: float = Field(default=0.5, ge=0, le=1)
    """The pass rate that `thompson` aims at."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        settings = PRESETS.get(str(values.get("preset")), {}) if isinstance(values, dict) else {}
        return {**settings, **values} if settings else values

    @model_validator(mode="after")
    def _check_pairs(self) -> PosteriorOptions:
        if self.aim == "thompson" and self.draw != "top":
            raise ValueError("aim thompson takes the best of its samples: give draw=top with it")
        if self.group_sizes and not 1 < self.group_sizes[0] <= self.group_size <= self.group_sizes[1]:
            raise ValueError(
                f"group_sizes are 2 or more and have group_size = {self.group_size}, the trainer's rollouts "
                "per prompt, between them"
            )
        if self.candidates is not None and self.draw == "passes":
            raise ValueError("passes draw among all prompts: leave candidates out, or give draw=weights")
        return self

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        if self.group_sizes is None:  # plans without group sizes do not name the option
            values.pop("group_sizes", None)
        return values

    @property
    def columns(self) -> list[str]:
        """The columns that `labels` names."""
        return [] if self.labels in (AUTO, NO_LABELS) else names_of(self.labels)

    def check_run(self, config: ScheduleConfig, scored: ScoredSet) -> None:
        """See that the set has the labels.

        Raises:
            InputError: it has not.
        """
        for name in self.columns:
            check_groups(scored, name, f"labels = {self.labels}")
