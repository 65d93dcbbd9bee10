"""The options of strategy `dots`, and whether they go with a scored set and with each other.

Apart from the strategy itself, because what asks for references and predictions goes by these options too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from gaincurate.core.options import DOTS, Option, json_object
from gaincurate.core.schema import EMBEDDING
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.sealed import read_sealed
from gaincurate.difficulty.config import RolloutConfig, make_config
from gaincurate.difficulty.embeddings import see_same_maker
from gaincurate.difficulty.prompts import answer_column
from gaincurate.difficulty.verifier import VerifierConfig
from gaincurate.errors import InputError
from gaincurate.schedule import base
from gaincurate.schedule.config import ScheduleConfig

Predictor = Literal["adapter", "group-mean", "gp"]
_EXAMPLE = '\'{"verifier": "math", "samples": 8}\''
NOT_IN_ROLLOUT = {"scored", "out", "model", "reference", "seed", "overwrite", "backoff"}


def _rollout(text: str) -> dict[str, Any]:
    return json_object(text, "--rollout", _EXAMPLE.strip("'"))


class DotsOptions(base.Options):
    """The paper's parameters under names of their own, and where the references' outcomes come from."""

    target_difficulty: Annotated[
        float, Field(ge=0, le=1), Option("The failure rate to aim at, the paper's alpha.", DOTS)
    ] = 0.5
    temperature: Annotated[float, Field(gt=0), Option("How sharply to aim, the paper's tau.", DOTS)] = 1e-3
    target: Annotated[
        Literal["auto", "difficulty", "variance"],
        Option(
            "Aim at a failure rate, as in the paper, or at the largest p (1 - p). auto: what round 0's "
            "references say is better.",
            DOTS,
        ),
    ] = "auto"
    references: Annotated[int, Field(ge=3), Option("Prompts observed before each draw.", DOTS)] = 256
    refresh_every: Annotated[int, Field(ge=1), Option("Steps that one draw is for.", DOTS)] = 2
    step_prompts: Annotated[
        int | None, Field(ge=1), Option("The trainer's prompts per step. Default: by --budget.", DOTS)
    ] = None
    adapter: Annotated[
        str | None, Option("What `difficulty fit` wrote. Default: no training.", DOTS, metavar="PATH")
    ] = None
    group_column: Annotated[
        str | None,
        Option("Predict by the mean of this column's groups, the baseline.", DOTS, metavar="NAME"),
    ] = None
    reuse_references: Annotated[
        float | None,
        Field(ge=0, le=1),
        Option("Name references within W of the target in the plan, to train on.", DOTS, metavar="W"),
    ] = None
    success: float | None = Field(default=None, gt=0, le=1)
    """Count a reference's rollout in a rollout set as right from this reward on. Default: as its reward."""
    rollout: Annotated[
        dict[str, Any] | None,
        Option(
            "Observe references by `difficulty rollout` with these options "
            '(\'{"verifier": "math", "samples": 8}\'); with "server" by that, else with the newest '
            "checkpoint.",
            DOTS,
            metavar="JSON",
            read=_rollout,
        ),
    ] = None

    @field_validator("adapter")
    @classmethod
    def _whole_path(cls, value: str | None) -> str | None:
        return None if value is None else str(Path(value).absolute())

    @model_validator(mode="after")
    def _check_pairs(self) -> DotsOptions:
        if self.adapter is not None and self.group_column is not None:
            raise ValueError("--adapter and --group-column are two predictors; give one of them")
        if self.adapter is not None and self.target == "variance":
            raise ValueError("--adapter predicts failure rates; it does not go with --target variance")
        if self.target == "variance" and "target_difficulty" in self.model_fields_set:
            raise ValueError(
                "--target-difficulty goes with --target difficulty; the variance p (1 - p) has no target, "
                "the largest is best"
            )
        return self

    @property
    def aim(self) -> Literal["difficulty", "variance", "auto"]:
        """The target. A target difficulty that was given is aimed at."""
        given = "target_difficulty" in self.model_fields_set
        return "difficulty" if given and self.target == "auto" else self.target

    @property
    def predictor(self) -> Predictor:
        """What predicts, by its name for `gaincurate difficulty predict`."""
        if self.adapter is not None:
            return "adapter"
        return "gp" if self.group_column is None else "group-mean"

    def round_size(self, budget: int | None) -> int:
        """The prompts of a round: those of all steps that one draw is for.

        Raises:
            InputError: the budget is something else, or not known.
        """
        steps, size = self.refresh_every, self.step_prompts
        if size is None:
            if budget is None:
                raise InputError(
                    "strategy dots needs --step-prompts N, the trainer's prompts a step, or --budget, which "
                    "is --refresh-every times that."
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

    def check_run(self, config: ScheduleConfig, scored: ScoredSet) -> None:
        """See that references can be observed, and the others predicted, for every round.

        Raises:
            InputError: the set lacks what that needs, or a package does.
        """
        budget, rows = self.round_size(config.budget), len(scored)
        if self.references + budget > rows:
            raise InputError(
                f"--references {self.references:,} and {budget:,} prompts to draw are "
                f"{self.references + budget:,}, and {scored.folder} has {rows:,}: references are not drawn "
                "in their own round. Take fewer references."
            )
        if self.group_column is not None:
            scored.column(self.group_column)
        elif EMBEDDING not in scored.schema.names:
            raise InputError(
                f"{scored.folder} has no {EMBEDDING}, from which strategy dots predicts: score it with "
                "`--signals angle,nll,entropy,embedding`, or predict by a group's mean with --group-column."
            )
        if self.adapter is not None:
            _check_adapter(Path(self.adapter), scored)
        if self.rollout is not None:
            _check_rollout(config, scored, self, self.rollout)


def _check_adapter(folder: Path, scored: ScoredSet) -> None:
    """See that it is one and is for these embeddings; its weights are checked when they are used."""
    path = folder / "config.json"
    if not path.exists():
        raise InputError(
            f"--adapter {folder} is no fitted predictor: it has no config.json. `gaincurate difficulty fit` "
            "makes one."
        )
    see_same_maker(scored, read_sealed(path, "fit the predictor again")["embedding"])


def _check_rollout(
    config: ScheduleConfig, scored: ScoredSet, options: DotsOptions, options_given: dict[str, Any]
) -> None:
    """See that `gaincurate difficulty rollout` will take the options."""
    fields = dict.fromkeys([*RolloutConfig.__annotations__, *RolloutConfig.model_fields])  # its own first
    names = [name for name in fields if name not in NOT_IN_ROLLOUT]
    unknown = [name for name in options_given if name not in names]
    if unknown:
        raise InputError(f"--rollout has no option {unknown[0]!r}; it takes: {', '.join(names)}.")
    if "verifier" not in options_given:
        raise InputError(f"--rollout needs a verifier: {_EXAMPLE}.")
    model = None if "server" in options_given else config.model or ""
    rollout = make_config(
        scored=config.scored, out=config.run, model=model, reference=options.references, **options_given
    )
    if model == "":
        raise InputError(
            f"--rollout generates with the model that training begins with, and which one scored "
            f"{scored.folder} is not known; give --model, or a server in --rollout."
        )
    verifier = VerifierConfig(rollout.verifier, gold_as=rollout.gold_as)
    answer_column(scored, rollout.answer_column, needed=not verifier.own)
    if options.target == "variance" and rollout.samples < 2:
        raise InputError("--target variance needs two samples of a reference or more; --rollout has 1.")
