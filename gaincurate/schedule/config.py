"""The options of a run, frozen and checked: the options of `schedule start` and what `run.json` holds.

One model does both, so an option has the same name, default and check wherever it comes from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gaincurate.core.options import ADVANCED, CHOICE, RESCORING, STRATA, Option, json_object, names_of
from gaincurate.core.store import located
from gaincurate.errors import InputError

STRATEGIES = {
    "uniform": "gaincurate.schedule.strategies.uniform:Uniform",
    "file-order": "gaincurate.schedule.strategies.uniform:FileOrder",
    "length": "gaincurate.schedule.strategies.gaussian:Length",
    "gain-rl": "gaincurate.schedule.strategies.gaussian:GainRL",
    "falling": "gaincurate.schedule.strategies.gaussian:Falling",
    "posterior": "gaincurate.schedule.strategies.posterior:Posterior",
    "dots": "gaincurate.schedule.strategies.dots:Dots",
}
"""The class of each strategy by its name, which the help of `--strategy` lists."""


Names = Annotated[list[str], BeforeValidator(names_of)]
"""A list of names, which may be given as one text."""

BY_EMBEDDING, CLUSTERS = "embedding", 16
"""The value of `--stratify` for clusters of embeddings, and the default number of clusters."""


def group_weights_of(text: str) -> dict[str, Any]:
    """Parse `--group-weights`: `code=.3,math=.7`, or a JSON object if a name has a comma or a =."""
    if text.lstrip().startswith("{"):
        return json_object(text, "--group-weights", '{"code": 0.3, "math": 0.7}')
    try:
        pairs = [pair.strip().rpartition("=") for pair in text.split(",")]
        return {name: float(weight if name else "") for name, _, weight in pairs}
    except ValueError as error:
        raise InputError(f"--group-weights {text}: expected NAME=NUMBER, as in code=.3,math=.7.") from error


class RescoreConfig(BaseModel):
    """When a checkpoint scores prompts again, and how much of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    what: Annotated[
        Literal["off", "round", "window", "full"],
        Option(
            "Prompts to score again with a checkpoint: none, those of the round, the window that mu can "
            "reach until the next re-scoring, or all.",
            RESCORING,
            names=("--rescore",),
        ),
    ] = "off"
    every: Annotated[
        int,
        Field(ge=1),
        Option("Rounds from one re-scoring to the next.", RESCORING, names=("--rescore-every",)),
    ] = 1
    probe: Annotated[
        int,
        Field(ge=0),
        Option(
            "Prompts to score first, to decide on the rest. 0: always score all.",
            RESCORING,
            names=("--probe",),
        ),
    ] = 512
    drift: Annotated[
        float,
        Field(ge=-1, le=1),
        Option(
            "Skip the rest if the probe's rank correlation with the scores in use is at least this.",
            RESCORING,
            names=("--drift",),
        ),
    ] = 0.98
    options: list[str] = Field(default_factory=list)
    """More options for `gaincurate score` (`--device cuda:1`), checked by the command."""


class ScheduleConfig(BaseModel):
    """Options of `gaincurate schedule start`, which `run.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scored: Annotated[
        Path,
        BeforeValidator(located),
        Option("A finished scored set.", metavar="DIR", argument=True, stores=True),
    ]
    run: Annotated[Path, Option("Folder for the run.")]
    strategy: Annotated[
        str, Option(f"{', '.join(STRATEGIES)}, or module:Class for your own.", metavar="NAME")
    ]
    budget: int = Field(ge=1)
    """Distinct prompts in a round. If a strategy's own options determine it, the command computes it."""
    rounds: Annotated[int, Field(ge=1, le=1_000_000), Option("Rounds in the run.")]
    seed: Annotated[int, Field(ge=0, lt=2**64), Option("Seed of all random numbers.")] = 0
    by: Annotated[
        str | None,
        Option("Column of the order. Default: the strategy's own (gain-rl: gc_angle).", metavar="NAME"),
    ] = None
    ascending: Annotated[
        bool | None,
        Option(
            "Low values first. Default with --by: high values first.", names=("--ascending/--descending",)
        ),
    ] = None
    options: dict[str, Any] = Field(default_factory=dict)
    """The strategy's own options."""
    where: Annotated[
        str | None,
        Option(
            "Draw only rows for which this holds, such as \"source != 'web' and gc_difficulty < 1\".",
            CHOICE,
            metavar="CONDITION",
        ),
    ] = None
    rollouts: Annotated[
        Path | None, Option("A rollout set or pass rates: adds pass_rate and samples to --where.", CHOICE)
    ] = None
    history: Annotated[
        list[Path],
        BeforeValidator(lambda value: [value] if isinstance(value, str | Path) else value),
        Option(
            "posterior: outcomes of earlier training; repeatable. A run, a rollout set, outcomes, or a table "
            "of rewards or pass rates by gc_id or by the text of the prompt.",
            CHOICE,
        ),
    ] = Field(default_factory=list)
    rates: Annotated[
        Names,
        Option(
            "posterior: columns with the pass rates of other models.", CHOICE, metavar="NAME,...", read=str
        ),
    ] = Field(default_factory=list)
    stratify: Annotated[
        str,
        Option(
            "Keep the set's shares of this column's groups (source, task) in every round, or of clusters of "
            "embeddings (embedding). The strategy chooses within each group.",
            STRATA,
            metavar="NAME",
        ),
    ] = "none"
    clusters: int | None = Field(default=None, ge=2)
    """Maximum number of clusters for `--stratify embedding`; the smallest are merged. Default: 16."""
    group_weights: Annotated[
        dict[str, float] | None,
        Option(
            "--stratify COLUMN: each group's share of a round in place of the set's, in any unit. Name every "
            "group. 0 leaves one out.",
            STRATA,
            metavar="NAME=W,...",
            read=group_weights_of,
        ),
    ] = None
    align_to: Annotated[
        int, Field(ge=1), Option("Prompts per batch of the trainer. The budget must be a multiple.", ADVANCED)
    ] = 1
    order: Literal["drawn", "rank"] = "drawn"
    """Order of the rows in a round: as drawn, or by rank."""
    reward_low: float = 0.0
    """The reward of a failure."""
    reward_high: float = 1.0
    """The reward of a success."""
    min_coverage: Annotated[
        float, Field(gt=0, le=1), Option("Share of a round's prompts that must have an outcome.", ADVANCED)
    ] = 1.0
    bare: bool = False
    """Leave the scoring run's system message and examples out."""
    with_scores: bool = False
    """Put all gc_ columns into `data.parquet`."""
    model: Annotated[
        str | None,
        Option(
            "The model of round 0, for {checkpoint}. Default: the model that scored the set.", metavar="NAME"
        ),
    ] = None
    rescore: RescoreConfig = RescoreConfig()

    @property
    def observes_with_checkpoint(self) -> bool:
        """Whether references are rolled out with the newest checkpoint."""
        rollout = self.options.get("rollout")
        return rollout is not None and "server" not in rollout


class ScheduleOptions(TypedDict, total=False):
    """Keywords of `gaincurate.Schedule.start`, for type checkers. `ScheduleConfig` says what they mean."""

    seed: int
    by: str | None
    ascending: bool | None
    options: dict[str, Any]
    where: str | None
    rollouts: str | Path | None
    history: str | Path | list[str | Path]
    rates: str | list[str]
    stratify: str
    clusters: int | None
    group_weights: dict[str, float] | None
    align_to: int
    order: Literal["drawn", "rank"]
    reward_low: float
    reward_high: float
    min_coverage: float
    bare: bool
    with_scores: bool
    model: str | None
    rescore: RescoreConfig | dict[str, Any]
