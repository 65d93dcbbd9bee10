"""A comparison as frozen, checked values, read from a TOML file: arms, seeds, a budget and what all share.

Unknown names are refused, because a misspelt setting would change nothing and look as if it did. The arms
`uniform` and `length` are added where they are missing: a strategy that beats neither is of no use. An arm
that replays, or whose steps have another size, gets uniform sampling with the same settings as its control:
more steps at equal tokens often gain more than a choice of prompts does. Of `[train]`, the fields that a
comparison uses are checked here, and `runner.check_means` refuses fields that TRL does not have.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import TypedDict

from gaincurate.core.files import reading
from gaincurate.core.foreign import read_text, toml_value
from gaincurate.core.options import refusals
from gaincurate.core.schema import PREFIX
from gaincurate.errors import InputError
from gaincurate.replay.config import ReplayConfig
from gaincurate.schedule.base import load
from gaincurate.schedule.config import BY_EMBEDDING

CONTROLS: dict[str, dict[str, Any]] = {
    "uniform": {"strategy": "uniform"},
    "length": {"strategy": "length", "options": {"sigma": "0.13N"}},  # the paper's width, for its set's size
}
"""Arms that every comparison has: random prompts, and an order by length, which needs no model."""
OURS = {
    "output_dir", "num_train_epochs", "max_steps", "save_strategy", "save_steps", "save_total_limit",
    "num_generations", "shuffle_dataset", "seed", "resume_from_checkpoint", "temperature",
    "max_completion_length", "logging_strategy", "logging_steps", "per_device_train_batch_size",
    "generation_batch_size", "steps_per_generation", "num_iterations", "warmup_ratio", "top_p", "top_k",
    "min_p", "repetition_penalty", "generation_kwargs", "eval_strategy", "save_only_model",
    "load_best_model_at_end", "push_to_hub",
}  # fmt: skip
"""Fields of TRL's GRPOConfig that the comparison sets itself."""
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Seeds = Annotated[list[Seed], Field(min_length=1, max_length=10_000)]
Factors = Annotated[list[Annotated[float, Field(gt=0, le=1e6)]], Field(min_length=1, max_length=100)]
Marks = Annotated[int, Field(ge=1, le=10_000)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Tokens = Annotated[int, Field(ge=1, lt=2**53)]
_COUNTS = {"gc_prompt_tokens", "gc_question_tokens", "gc_prefix_tokens"}


class Frozen(BaseModel):
    """Immutable settings that refuse unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Train(TypedDict, total=False):
    """`[train]`: fields of TRL's GRPOConfig, as they were given and without defaults, which are TRL's."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)  # type: ignore[misc]

    learning_rate: Annotated[float, Field(ge=0, le=1e9)]
    lr_scheduler_type: Literal["constant", "constant_with_warmup"]  # a budget of tokens has no last step
    warmup_steps: Annotated[int, Field(ge=0, lt=2**31)]  # TRL takes a share below 1 as one of all steps
    gradient_accumulation_steps: Count


class ReplayArm(Frozen):
    """Rollout replay; see `gaincurate.trainers.trl.replay.Replay`."""

    capacity: Count | None = None  # prompts in the buffer. Default: `step_prompts`
    fresh_share: float = Field(default=0.5, gt=0, lt=1)  # of a step's prompts, those that are generated for
    max_age: Count | None = None  # updates after which a group is not replayed
    clip: Literal["one", "old"] = "one"  # the policy that ratios are clipped around


class Arm(Frozen):
    """One way to choose prompts; its schedule's settings are as in `gaincurate schedule start`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")  # its name in tables and of its folder
    strategy: str
    by: str | None = None  # the column of its order
    ascending: bool | None = None  # low values first
    options: dict[str, Any] = Field(default_factory=dict)  # the strategy's own options
    rescore: dict[str, Any] = Field(default_factory=dict)  # `what`, `every`, `probe`, `drift`
    stratify: str = "none"  # the groups that each round keeps the shares of
    clusters: int | None = Field(default=None, ge=2, lt=2**31)  # at most, with `stratify = "embedding"`
    group_weights: dict[str, float] | None = None  # each group's share of a round, where it is not the set's
    replay: ReplayArm | None = None  # train on earlier rollouts too
    step_prompts: Count | None = None  # prompts of an optimizer step, where this arm's differ
    round_steps: Count | None = None  # steps in a round, where this arm's differ
    spent_before: int = Field(default=0, ge=0, lt=2**53)
    """Tokens that its order cost beforehand, besides the scoring pass, such as rollouts for pass rates."""

    @property
    def needs_scores(self) -> bool:
        """Whether its draws depend on scores or embeddings, which cost a scoring pass.

        Raises:
            InputError: there is no such strategy.
        """
        if self.stratify == BY_EMBEDDING:
            return True
        kind = load(self.strategy)
        by = self.by or kind.by
        if by is not None and by.startswith(PREFIX) and by not in _COUNTS:
            return True
        if ":" in self.strategy and self.by is not None:  # a custom strategy, by a column of the data
            return False
        return kind.goes_by_scores(self.options)


class Evaluation(Frozen):
    """How a checkpoint is judged on the held-out prompts."""

    samples: int = Field(default=4, ge=1, le=10_000)  # completions of each prompt; pass@k up to it
    temperature: float = Field(default=1.0, gt=0)  # of the sampling
    top_p: float = Field(default=1.0, gt=0, le=1)  # nucleus of the sampling
    seed: int = Field(default=0, ge=0, lt=2**63)  # the same for all arms, seeds and marks
    batch_tokens: Count | None = None  # as in `gaincurate difficulty rollout`


class Tune(Frozen):
    """The grid of `gaincurate compare --tune`: uniform sampling before any arm, at equal tokens.

    Every combination of factors of the learning rate of `[train]`, of `step_prompts` and of `group` is tried.
    """

    learning_rate: Factors = [0.5, 1.0, 2.0]
    step_prompts: Factors = [0.5, 1.0]
    group: Factors = [0.5, 1.0, 2.0]
    seeds: Seeds = [100, 101]  # of these trainings; no arm shares random numbers with them


class Comparison(Frozen):
    """The settings of `gaincurate compare`."""

    scored: Path  # the scored set to train on
    heldout: Path  # another scored set, to be judged on: no prompt of it may be in `scored`
    model: str | None = None  # the model at the start of every arm. Default: the model that scored the set
    verifier: str  # as in `gaincurate difficulty rollout`; the reward, and the judge of the held-out prompts
    answer_column: str | None = None  # with the gold answers. Default: the one that the set was scored with
    tasks: list[str] | None = None
    """Columns of the held-out set that together identify a prompt's task; `[]` for no tasks.
    Default: one that is named like a source or a task and has more than one value."""
    success: float = Field(default=1.0, gt=0, le=1)  # a completion is right from this reward on
    budget_tokens: Tokens  # generated tokens of each arm and seed, all costs included
    prefill_weight: float = Field(default=1.0, ge=0)  # of a scoring pass's token, in generated tokens
    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads of a training. Default: torch's. Numbers depend on it, on a CPU."""
    marks: Marks = 4  # evaluations, evenly over the budget, besides the one at the start
    seeds: Seeds = [0, 1, 2]  # of the schedule, the sampling and the trainer
    step_prompts: Count = 8  # prompts that are generated for at a time
    round_steps: Count = 2  # steps in a round of the schedule
    group: int = Field(default=8, ge=2, lt=2**31)  # rollouts of a prompt
    temperature: float = Field(default=1.0, gt=0)  # of the training's rollouts
    max_tokens: Count = 64  # of a completion, in training and evaluation
    train: Train = Train()  # more fields of TRL's GRPOConfig, the same for all arms
    evaluation: Evaluation = Evaluation()  # how checkpoints are judged
    tune: Tune = Tune()  # the grid of `--tune`
    controls: bool = True  # add uniform sampling with the replay and the `step_prompts` of each arm
    arms: list[Arm] = Field(max_length=1_000)  # `uniform` and `length` are added if they are missing

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [arm.name for arm in self.arms]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two arms have the name {twice[0]!r}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} has one twice")
        if taken := sorted(OURS & self.train.keys()):
            raise ValueError(f"[train] {taken[0]} is set by the comparison itself; leave it out")
        json.dumps(self.train, allow_nan=False, default=str)  # a number that is none would train nothing
        if self.marks > self.budget_tokens:
            raise ValueError(f"{self.marks} marks in a budget of {self.budget_tokens} tokens")
        for arm in self.arms:
            changed = arm.strategy != arm.name or arm.replay is not None or arm.step_prompts is not None
            if arm.name in CONTROLS and changed:
                raise ValueError(
                    f"the arm {arm.name!r} is what others are compared with: strategy {arm.name!r}, without "
                    "replay or step_prompts of its own; give this one another name"
                )
            try:
                self.replay_of(arm)
            except InputError as error:
                raise ValueError(f"the arm {arm.name!r}: {str(error).rstrip('.')}") from error
        for prompts in [self.step_prompts, *map(self.prompts_of, self.arms)]:
            if (rollouts := prompts * self.group) % self.micro_batches:
                raise ValueError(
                    f"[train] gradient_accumulation_steps {self.micro_batches} does not divide the "
                    f"{rollouts} rollouts of a step (step_prompts times group)"
                )
        return self

    @property
    def micro_batches(self) -> int:
        """Forward and backward passes of a step."""
        return self.train.get("gradient_accumulation_steps", 1)

    @property
    def learning_rate(self) -> float:
        """Of every arm's training."""
        return self.train.get("learning_rate", 1e-6)  # TRL's default

    @property
    def mark_tokens(self) -> list[int]:
        """Generated tokens at which checkpoints are judged, rising, the last one the budget."""
        return [self.budget_tokens * k // self.marks for k in range(1, self.marks + 1)]

    def prompts_of(self, arm: Arm) -> int:
        """Prompts of a step of an arm, replayed ones included."""
        return arm.step_prompts or self.step_prompts

    def steps_of(self, arm: Arm) -> int:
        """Steps in a round of an arm."""
        return arm.round_steps or self.round_steps

    def replay_of(self, arm: Arm) -> ReplayConfig | None:
        """The sizes of an arm's replay, in prompts of a step.

        Raises:
            InputError: sizes under which nothing would ever be replayed.
        """
        if arm.replay is None:
            return None
        prompts, replay = self.prompts_of(arm), arm.replay
        return ReplayConfig(prompts, self.group, replay.capacity or prompts, replay.fresh_share)

    def control_of(self, arm: Arm) -> Arm | None:
        """Uniform sampling with the replay and the size of a step that an arm has.

        None if the arm shares both with `uniform`, or is such a control itself. If the comparison has such an
        arm under another name, that arm is the control.
        """
        prompts, shared = self.prompts_of(arm), {"replay", "step_prompts", "round_steps"}
        if arm.replay is None and prompts == self.step_prompts:
            return None
        size = "" if prompts == self.step_prompts else f"-at-{prompts}"
        name = f"uniform{size}{'' if arm.replay is None else '-replay'}"
        made = Arm(name=name, strategy="uniform", **{field: getattr(arm, field) for field in shared})
        free = {"name", "round_steps", "step_prompts"}
        for other in self.arms:
            alike = other.model_dump(exclude=free) == made.model_dump(exclude=free)
            if alike and self.prompts_of(other) == prompts:
                return None if other.name == arm.name else other
        taken = {other.name for other in self.arms}  # such as by replay with other settings
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        return made.model_copy(update={"name": next(name for name in names if name not in taken)})

    def with_controls(self) -> Comparison:
        """The comparison with the missing controls of its arms added at the end, if `controls` is true."""
        comparison = self
        for arm in self.arms if self.controls else ():
            control = comparison.control_of(arm)
            if control is not None and control not in comparison.arms:
                comparison = comparison.model_copy(update={"arms": [*comparison.arms, control]})
        return comparison

    def grid(self) -> list[tuple[float, int, int]]:
        """Learning rates, prompts of a step, rollouts of a prompt that `--tune` tries, each setting once."""
        settings = [
            (factor * self.learning_rate, _half_up(part * self.step_prompts), _half_up(times * self.group, 2))
            for times in self.tune.group
            for part in self.tune.step_prompts
            for factor in self.tune.learning_rate
        ]
        return list(dict.fromkeys(settings))

    def tuned(self, learning_rate: float, step_prompts: int, group: int) -> Comparison:
        """The comparison with another learning rate, `step_prompts` and `group` for arms that share them.

        A round keeps its number of prompts, so smaller steps mean more steps per round: the other costs of a
        round, such as references, do not change.

        Raises:
            InputError: an arm cannot have steps of this size.
        """
        settings = self.model_dump()
        settings |= {"step_prompts": step_prompts, "group": group}
        settings["train"] = self.train | {"learning_rate": learning_rate}
        for shared in (settings, *settings["arms"]):
            if shared["round_steps"] is not None and (shared is settings or shared["step_prompts"] is None):
                shared["round_steps"] = _half_up(shared["round_steps"] * self.step_prompts / step_prompts)
        try:
            return Comparison(**settings).with_controls()
        except ValidationError as error:
            setting = f"step_prompts = {step_prompts}, group = {group}"
            raise InputError(f"[tune] {setting}: {refusals(error)[0].what}.") from error


def _half_up(value: float, least: int = 1) -> int:
    """The nearest whole number, halves rounded up, and at least `least`."""
    return max(least, math.floor(value + 0.5))


def read_comparison(path: Path) -> Comparison:
    """Read a comparison from a TOML file; folders in it are relative to the file.

    Raises:
        InputError: it does not exist, is not TOML, or has an unknown name or an invalid value.
        StorageError: it cannot be read.
    """
    try:
        with reading(path):
            if not path.exists():
                raise InputError(f"{path} does not exist.", path=str(path))
            settings = toml_value(read_text(path))
    except ValueError as error:
        raise InputError(f"{path} is not TOML: {error}.", path=str(path)) from error
    for name in ("scored", "heldout", "model"):
        value = settings.get(name)
        if isinstance(value, str) and (name != "model" or (path.parent / value).exists()):
            settings[name] = str((path.parent / value).resolve())
    return checked_comparison(settings, str(path))


def checked_comparison(settings: dict[str, Any], where: str = "the comparison") -> Comparison:
    """A comparison from plain values, with `uniform` and `length` in front if they are missing.

    Raises:
        InputError: an unknown name or an invalid value.
    """
    try:
        comparison = Comparison(**settings)
    except ValidationError as error:
        refused = refusals(error)
        # An unknown name is often the misspelling of a required one.
        wrong = [f"there is no setting {refusal.name}" for refusal in refused if refusal.kind == "unknown"]
        wrong += [f"{refusal.name} is missing" for refusal in refused if refusal.kind == "missing"]
        raise InputError(f"{where}: {'; '.join(wrong) or refused[0]}.") from error
    names = {arm.name for arm in comparison.arms}
    added = [Arm(name=name, **control) for name, control in CONTROLS.items() if name not in names]
    comparison = comparison.model_copy(update={"arms": [*added, *comparison.arms]})
    return comparison.with_controls()
