"""What the JSON files of a comparison have to say before anything uses them.

The models only check, as those of `schedule.documents` do.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, FiniteFloat, model_validator

from gaincurate.compare.config import Marks, Seed
from gaincurate.compare.train import Train
from gaincurate.core.manifest import Count, Document, Seconds

Positive = Annotated[Count, Field(ge=1)]


class _Arm(Document):
    name: str


class _Evaluation(Document):
    samples: Positive


class _Settings(Document):
    arms: Annotated[list[_Arm], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    marks: Marks
    budget_tokens: Positive
    evaluation: _Evaluation
    train: Train


class _Chosen(Document):
    learning_rate: float
    step_prompts: Positive


class _Tried(Document):
    learning_rate: FiniteFloat
    step_prompts: Positive
    accuracy: Annotated[float, Field(ge=0, le=1)]
    accuracy_by_seed: list[Annotated[float, Field(ge=0, le=1)]]
    steps: Annotated[float, Field(ge=0, lt=2**53)]


class _Tuned(Document):
    chosen: _Chosen
    grid: list[_Tried]


class Facts(Document):
    """`comparison.json`."""

    format: int
    comparison: _Settings
    sets: dict[str, str]
    begun: dict[str, dict[str, Any]] = Field(default_factory=dict)
    controls: dict[str, str] = Field(default_factory=dict)
    tuned: _Tuned | None = None


class Choice(Document):
    """`tune.json`."""

    asked: dict[str, Any]
    seeds: list[Seed]
    chosen: _Chosen | None = None
    grid: list[_Tried] = Field(default_factory=list)

    @model_validator(mode="after")
    def _tried(self) -> Choice:
        if self.chosen is not None and not self.grid:
            raise ValueError("it has a choice and does not say what was tried")
        return self


class Progress(Document):
    """`progress.json` of a training."""

    share: Annotated[float, Field(ge=0, le=1)]


class _OfStep(Document):
    """What a step cost."""

    round: Count
    tokens: Count
    training: Count
    rollouts: Annotated[int, Field(ge=0, lt=2**31)]
    seconds: Seconds
    prompts: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens: Count | None = None
    effective: Annotated[float | None, Field(ge=0, le=1)] = None
    reward: FiniteFloat | None = None
    angle: FiniteFloat | None = None


class _Logged(Document):
    """An entry of the trainer's log, with what the step cost."""

    cost: _OfStep = Field(alias="gaincurate/step")
    step: Count
    num_tokens: Annotated[float, Field(ge=0, lt=2**63)]
    grad_norm: float | None = None
    replayed: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.0, alias="replay/share")


class Cost(Document):
    """`cost.json` of a mark."""

    tokens: Count
    scoring: Count
    rescoring: Count
    references: Count
    training: Count
    step: Count
    seconds: Seconds
    steps: list[_Logged]
