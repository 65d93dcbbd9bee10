"""TRL's batch arithmetic: takes settings, yields prompts, steps and windows of one generation; TRL 1.16.0."""

from __future__ import annotations

import math

from gaincurate.trainers.doctor.findings import About
from gaincurate.trainers.doctor.settings import Settings


def micro_batch(settings: Settings) -> float:
    """Completions of one forward and backward, over all processes."""
    return (settings.number("per_device_train_batch_size") or 1) * processes(settings)


def processes(settings: Settings) -> float:
    """Processes of one training, as `accelerate launch` and `torchrun` are told of them; else one."""
    return settings.number("num_processes") or settings.number("nproc_per_node") or 1


def per_generation(settings: Settings) -> float:
    """Completions that one generation makes, over all processes."""
    if given := settings.number("generation_batch_size"):
        return given
    steps = settings.number("steps_per_generation") or settings.number("gradient_accumulation_steps") or 1
    return micro_batch(settings) * steps


def prompts(settings: Settings) -> int:
    """Prompts that one generation has."""
    return int(per_generation(settings) // (settings.number("num_generations") or 1))


def window_of(settings: Settings) -> int:
    """Optimizer steps that one generation is used for."""
    micro = micro_batch(settings)
    steps = per_generation(settings) / micro * (settings.number("num_iterations") or 1)
    return max(1, int(steps // (settings.number("gradient_accumulation_steps") or 1)))


def steps_of(settings: Settings, about: About) -> int | None:
    """Optimizer steps of one round."""
    if about.budget is None or not prompts(settings):
        return None
    micro = micro_batch(settings)
    each = per_generation(settings) / micro * (settings.number("num_iterations") or 1)
    whole = about.budget // prompts(settings)
    return math.ceil(whole * each / (settings.number("gradient_accumulation_steps") or 1))
