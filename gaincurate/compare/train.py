"""`[train]` of a comparison: fields of TRL's GRPOConfig that all arms share.

The fields that the comparison uses are checked here, and no number may be infinite or NaN, which would train
nothing. All other fields are passed on unchanged, because TRL's class checks them
(`gaincurate.compare.runner.check_means`).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

LEARNING_RATE = 1e-6
"""Where `[train]` names none: TRL's own."""
OURS = {
    "output_dir",
    "num_train_epochs",
    "max_steps",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "num_generations",
    "shuffle_dataset",
    "seed",
    "resume_from_checkpoint",
    "temperature",
    "max_completion_length",
    "logging_strategy",
    "logging_steps",
    "per_device_train_batch_size",
    "generation_batch_size",
    "steps_per_generation",
    "num_iterations",
    "warmup_ratio",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "generation_kwargs",
    "eval_strategy",
    "save_only_model",
    "load_best_model_at_end",
    "push_to_hub",
}
"""Fields that the comparison sets itself."""
_SCHEDULES = ("constant", "constant_with_warmup")

Rate = Annotated[float, Field(ge=0, le=1e9)]


class Train(BaseModel):
    """Settings of the trainer; written as they were given, without defaults, which are TRL's."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    learning_rate: Rate = LEARNING_RATE
    lr_scheduler_type: Any = "constant"
    """Without a last step, because a budget of tokens has none."""
    warmup_steps: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """A whole number: TRL takes a share below 1 as one of all steps."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1, lt=2**31)] = 1

    @field_validator("lr_scheduler_type")
    @classmethod
    def _without_end(cls, schedule: Any) -> Any:
        if schedule not in _SCHEDULES:
            raise ValueError(
                "it needs to know the last step, and a budget of tokens has none; it is one of "
                f"{', '.join(_SCHEDULES)}"
            )
        return schedule

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A comparison's file and identity keep what was written, so that a new field here changes none.
        return {name: value for name, value in handler(self).items() if name in self.model_fields_set}

    def given(self) -> dict[str, Any]:
        """What the file has, by the names of GRPOConfig's fields."""
        return self.model_dump()
