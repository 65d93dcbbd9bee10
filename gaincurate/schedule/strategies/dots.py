"""DOTS (arXiv 2506.05316): prompts near a target difficulty, observed on a few and predicted for all.

Before each draw K new reference prompts are drawn and observed, and the other prompts' failure rates d are
predicted from them (`prepare`). Prompt q is then drawn with P(q) proportional to exp(-|d_q - alpha| / tau),
without replacement. References are left out. With `target = variance` what is predicted is p (1 - p) itself
and P(q) is proportional to exp(v_q / tau). With `auto` the references of round 0 say which of the two, once
for the whole run. d is the failure rate everywhere: 1 where every rollout fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from gaincurate.core.options import DOTS, Option, checked, json_object
from gaincurate.core.rng import Floats, Ints, keys_of, log_softmin
from gaincurate.core.schema import EMBEDDING
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.sealed import read_sealed
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.embeddings import see_same_maker
from gaincurate.difficulty.prompts import answer_column, draw_references
from gaincurate.errors import InputError
from gaincurate.schedule import base
from gaincurate.schedule.base import Json, Pool
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.context import Context

Aim = Literal["auto", "difficulty", "variance"]
_EXAMPLE = '\'{"verifier": "math", "samples": 8}\''
_OF_THE_RUN = {"scored", "out", "model", "reference", "seed", "overwrite", "backoff"}
_SEEDS = 3  # stream of random numbers


def seed_of(seed: int, round_: int) -> int:
    """A round's own seed, below 2^63, of its references and of their rollouts."""
    return int(keys_of(seed, round_, _SEEDS, 1)[0])


class DotsOptions(base.Options):
    """The paper's parameters under names of their own, and where the references' outcomes come from."""

    target_difficulty: float = Field(default=0.5, ge=0, le=1)
    """The failure rate to aim at, the paper's alpha."""
    temperature: float = Field(default=1e-3, gt=0)
    """How sharply to aim, the paper's tau."""
    target: Aim = "auto"
    """Aim at a failure rate, as in the paper, or at the largest p (1 - p). Round 0's references decide."""
    references: Annotated[int, Field(ge=3), Option("Prompts observed before each draw.", DOTS)] = 256
    refresh_every: int = Field(default=2, ge=1)
    """Steps that one draw is for."""
    step_prompts: int | None = Field(default=None, ge=1)
    """The trainer's prompts per step. Default: by the budget."""
    adapter: str | None = None
    """Folder that `difficulty fit` wrote. Default: no training."""
    group_column: str | None = None
    """Predict by the mean of this column's groups, the baseline."""
    reuse_references: float | None = Field(default=None, ge=0, le=1)
    """Name references within so much of the target in the plan, to train on."""
    success: float | None = Field(default=None, gt=0, le=1)
    """Count a reference's rollout in a rollout set as right from this reward on. Default: as its reward."""
    rollout: Annotated[
        dict[str, Any] | None,
        Option(
            "Observe references with `difficulty rollout` and these options "
            '(\'{"verifier": "math", "samples": 8}\'): on "server" if given, else with the newest '
            "checkpoint.",
            DOTS,
            metavar="JSON",
            read=lambda text: json_object(text, "--rollout", _EXAMPLE.strip("'")),
        ),
    ] = None

    @field_validator("adapter")
    @classmethod
    def _whole_path(cls, value: str | None) -> str | None:
        return None if value is None else str(Path(value).absolute())

    @model_validator(mode="after")
    def _check_pairs(self) -> DotsOptions:
        if self.adapter is not None and self.group_column is not None:
            raise ValueError("adapter and group_column are two predictors; give one of them")
        if self.adapter is not None and self.target == "variance":
            raise ValueError("adapter predicts failure rates; it does not go with target = variance")
        if self.target == "variance" and "target_difficulty" in self.model_fields_set:
            raise ValueError("target_difficulty goes with target = difficulty; the variance has no target")
        return self

    @property
    def aim(self) -> Aim:
        """The target. A target difficulty that was given is aimed at."""
        given = "target_difficulty" in self.model_fields_set
        return "difficulty" if given and self.target == "auto" else self.target

    def round_size(self, budget: int | None) -> int:
        """The prompts of all steps that one draw is for; InputError if the budget is another or not known."""
        steps, size = self.refresh_every, self.step_prompts
        if size is not None and budget in (None, steps * size):
            return steps * size
        if size is None and budget is not None and budget % steps == 0:
            return budget
        raise InputError(
            f"strategy dots draws prompts for refresh_every = {steps} steps: give step_prompts, the prompts "
            f"of a step, or a budget of {steps} times that; budget is {budget}, step_prompts {size}."
        )

    def check_run(self, config: ScheduleConfig, scored: ScoredSet) -> None:
        """See that references can be observed, and the others predicted, for every round.

        Raises:
            InputError: the set lacks what that needs, or a package does.
        """
        budget, rows = self.round_size(config.budget), len(scored)
        if self.references + budget > rows:
            raise InputError(
                f"--references {self.references:,} and {budget:,} prompts to draw are more than the {rows:,} "
                f"of {scored.folder}: references are not drawn in their own round. Take fewer references."
            )
        if self.group_column is not None:
            scored.column(self.group_column)
        elif EMBEDDING not in scored.schema.names:
            raise InputError(
                f"{scored.folder} has no {EMBEDDING}, from which strategy dots predicts: score it with "
                "`--signals angle,nll,entropy,embedding`, or predict by a group's mean with group_column."
            )
        if self.adapter is not None:
            path = Path(self.adapter, "config.json")
            facts = read_sealed(path, "fit the predictor again") if path.exists() else {}
            if "embedding" not in facts:
                raise InputError(
                    f"adapter {self.adapter} is no fitted predictor: it has no config.json of one. "
                    "`gaincurate difficulty fit` makes one."
                )
            see_same_maker(scored, facts["embedding"])  # its weights are checked when they are used
        if self.rollout is not None:
            _check_rollout(config, scored, self, self.rollout)


class Dots(base.Selector):
    """Prompts near the target; options as in `DotsOptions`."""

    Options: ClassVar[type[base.Options]] = DotsOptions
    observes_references: ClassVar[bool] = True

    def __init__(self, pool: Pool, options: DotsOptions) -> None:
        super().__init__(pool, options)
        self._values, self._references = np.zeros(0), np.zeros(0, np.int64)
        self._reference_facts: Json = {}
        self._drawn: float | None = None
        self._aim = options.aim

    def prepare(self, context: Context) -> None:
        """Have the references observed and the failure rates of all prompts predicted."""
        from gaincurate.schedule.foresight import foresee  # which reads these options

        references = self.references(context.round)
        values, self._aim, self._reference_facts = foresee(context, references, self.options, self._aim)
        self.inform(values, references)

    def references(self, round_: int) -> Ints:
        """`[K]`: the distinct rows to observe first, as of `difficulty rollout --reference K --seed`."""
        return draw_references(self.pool.rows, self.options.references, seed_of(self.pool.seed, round_))

    def inform(self, values: Floats, references: Ints) -> None:
        """Take what is predicted for the next draw.

        Args:
            values: `[rows]`, failure rates, or p (1 - p) where that is the target.
            references: rows that are not drawn.
        """
        self._values, self._references = values, references

    def draw(self, round_: int) -> Ints:
        """`[budget]` distinct rows, none of them a reference."""
        if self._aim == "variance":
            distance = self._values.max() - self._values
        else:
            distance = np.abs(self._values - float(self.options.target_difficulty))
        weights = log_softmin(distance, self.options.temperature)
        drawn = self.pool.draw(weights, round_, leave_out=self._references)
        self._drawn = float(self._values[drawn].mean())
        return drawn

    def state_dict(self) -> Json:
        """The target that the references of round 0 decided, if they did."""
        return {"aim": self._aim} if self.options.aim == "auto" else {}

    def load_state_dict(self, state: Json) -> None:
        """Go on with that aim."""
        if self.options.aim == "auto":
            self._aim = state.get("aim", "difficulty")

    def plan_facts(self, rows: Ints) -> Json:
        """The predictions of the prompts, and what the references did."""
        return {"predicted": self._values[rows].tolist(), "references": self._reference_facts}

    def metrics(self) -> dict[str, float]:
        """The mean prediction of the last draw's prompts, and of all."""
        if self._drawn is None:
            return {}
        return {"predicted": self._drawn, "predicted_of_all": float(self._values.mean())}


def _check_rollout(
    config: ScheduleConfig, scored: ScoredSet, options: DotsOptions, given: dict[str, Any]
) -> None:
    """See that `gaincurate difficulty rollout` will take the options."""
    if own := _OF_THE_RUN & given.keys():
        raise InputError(f"--rollout has no option {min(own)!r}: the run settles it.")
    if "verifier" not in given:
        raise InputError(f"--rollout needs a verifier: {_EXAMPLE}.")
    model = None if "server" in given else config.model or ""
    fixed = {"scored": config.scored, "out": config.run, "model": model, "reference": options.references}
    rollout = checked(RolloutConfig, fixed | given)
    if model == "":
        raise InputError(
            f"--rollout generates with the model that training begins with, and which one scored "
            f"{scored.folder} is not known; give --model, or a server in --rollout."
        )
    answer_column(scored, rollout.answer_column, needed=rollout.needs_answer)
    if options.target == "variance" and rollout.samples < 2:
        raise InputError("target = variance needs two samples of a reference or more; --rollout has 1.")
