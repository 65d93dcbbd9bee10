"""The options of a run as frozen, checked values; takes keywords, yields what `run.json` holds.

Knows nothing of the command line. Unknown names are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gaincurate.errors import InputError


class RescoreConfig(BaseModel):
    """When a checkpoint scores prompts anew, and how much of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: Literal["off", "round", "window", "full"] = "off"
    """Nothing; the round's own prompts, for C_t; those that mu can reach until the next time; all."""
    every: int = Field(default=1, ge=1)
    """After so many rounds each."""
    probe: int = Field(default=512, ge=0)
    """Prompts that are scored first; 0 for none."""
    drift: float = Field(default=0.98, ge=-1, le=1)
    """While the probe's rank correlation with the scores in use stays at this or above, the rest is left."""
    options: list[str] = Field(default_factory=list)
    """More options for `gaincurate score` (`--device cuda:1`)."""


class ScheduleConfig(BaseModel):
    """What `gaincurate schedule start` opens; the command's options under the same names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scored: Path
    """The scored set."""
    run: Path
    """The run's folder."""
    strategy: str
    """A name of `STRATEGIES`, or module:Class."""
    budget: int = Field(ge=1)
    """Distinct prompts in a round."""
    rounds: int = Field(ge=1)
    """Rounds in the run."""
    seed: int = Field(default=0, ge=0, lt=2**64)
    """Of everything random."""
    by: str | None = None
    """The column of the order. Default: the strategy's."""
    ascending: bool | None = None
    """Low values first. Default: the strategy's where `by` is its own, else high ones first."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The strategy's own options."""
    align_to: int = Field(default=1, ge=1)
    """The trainer's prompts a batch; the budget must be a multiple of it."""
    order: Literal["drawn", "rank"] = "drawn"
    """Of the rows in a round."""
    reward_low: float = 0.0
    """The reward of a failure."""
    reward_high: float = 1.0
    """The reward of a success."""
    min_coverage: float = Field(default=1.0, gt=0, le=1)
    """Share of a round's prompts that must have an outcome."""
    bare: bool = False
    """Leave the scoring run's system message and examples out of `prompt`."""
    with_scores: bool = False
    """Put all gc_ columns into `data.parquet`."""
    model: str | None = None
    """What {checkpoint} is in round 0. Default: the model that scored the set."""
    rescore: RescoreConfig = RescoreConfig()
    """Scoring anew at checkpoints."""


def checked(**options: Any) -> ScheduleConfig:
    """The options as a config; `rescore` may be a mapping.

    Raises:
        InputError: an option that there is not, or a value that it does not take.
    """
    try:
        return ScheduleConfig(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = "--" + "-".join(map(str, first["loc"])).replace("_", "-")
        raise InputError(f"{name} {first['input']}: {first['msg'].lower()}.") from error
