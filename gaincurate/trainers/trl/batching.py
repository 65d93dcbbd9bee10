"""TRL's batch arithmetic, from the settings in a file, for the doctor, or of a trainer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from gaincurate.trainers.doctor.settings import Resolved, Settings


@dataclass(frozen=True, slots=True)
class BatchShape:
    """The sizes of a trainer's generations and steps.

    A generation has `prompts` distinct prompts over all processes, with `group` rollouts each. Each process
    uses it for `repeats` micro-batches (steps_per_generation * num_iterations), of which `accumulation` make
    an optimizer step.
    """

    prompts: int
    group: int
    repeats: int
    accumulation: int
    processes: int = 1
    rank: int = 0

    @property
    def batch(self) -> dict[str, int]:
        """The sizes that must be equal when training resumes; the number of processes may change."""
        return {name: getattr(self, name) for name in ("prompts", "group", "repeats", "accumulation")}

    def steps(self, budget: int) -> int:
        """Optimizer steps of a round."""
        return -(-(budget // self.prompts * self.repeats) // self.accumulation)

    def taken(self, step: int) -> int:
        """The prompts of a round that have been generated for after its optimizer step `step`."""
        return step * self.accumulation // self.repeats * self.prompts

    @property
    def window(self) -> int:
        """The smallest number of optimizer steps that use whole generations."""
        return self.repeats // math.gcd(self.repeats, self.accumulation)

    def inside(self, step: int) -> bool:
        """Whether a generation is in use before and after this optimizer step."""
        return bool(step * self.accumulation % self.repeats)


def shape_in(settings: Settings) -> BatchShape:
    """The sizes that follow from settings; `prompts` is 0 if a group is larger than a generation.

    The number of processes is that of `accelerate launch` or `torchrun`, by default 1.
    """
    processes = settings.count("num_processes") or settings.count("nproc_per_node") or 1
    accumulation = settings.count("gradient_accumulation_steps") or 1
    group = settings.count("num_generations") or 1
    micro = (settings.count("per_device_train_batch_size") or 1) * processes
    steps = settings.count("steps_per_generation") or accumulation
    rollouts = settings.count("generation_batch_size") or micro * steps
    repeats = max(1, rollouts // micro) * (settings.count("num_iterations") or 1)
    prompts = settings.count("prompts_a_generation") or rollouts // group
    return BatchShape(prompts, group, repeats, accumulation, processes)


_OF_TRAINER = ("num_generations", "num_iterations", "shuffle_dataset", "prompts_a_generation")


def resolved(trainer: Any) -> Settings:
    """The settings that a `trl.GRPOTrainer` uses.

    A trainer that replays has `prompts_a_generation`, because it generates for fewer prompts.
    """

    def value_of(key: str) -> Any:
        head, _, name = key.partition(".")
        if key == "generation_batch_size":  # TRL sets it from steps_per_generation
            return None
        if key == "num_processes":
            return trainer.accelerator.num_processes
        if key in _OF_TRAINER:
            return getattr(trainer, key, None)
        value = getattr(trainer.args, head, None)
        value = getattr(value, name, None) if name else value
        return getattr(value, "value", value)  # save_strategy, for example, is an enum

    return Resolved(value_of)


def shape_of(trainer: Any) -> BatchShape:
    """The sizes of a `trl.GRPOTrainer`."""
    return replace(shape_in(resolved(trainer)), rank=trainer.accelerator.process_index)
