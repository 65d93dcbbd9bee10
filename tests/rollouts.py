"""Rollout groups for tests: made from an id and a step, the same every time, each unlike all others."""

from __future__ import annotations

import json
from dataclasses import astuple
from typing import Any

import numpy as np

from gaincurate.replay.buffer import ReplayBuffer
from gaincurate.replay.config import ReplayConfig
from gaincurate.replay.group import RolloutGroup


def group(
    name: str, step: int = 0, right: int = 1, size: int = 4, version: int | None = None, **other: Any
) -> RolloutGroup:
    """A group of `size` rollouts, the first `right` correct; its numbers are those of no other group."""
    version = step if version is None else version
    mark = sum(name.encode()) * 31 + step * 7 + version
    lengths = [1 + (mark + place) % 4 for place in range(size)]
    starts = [1000 * mark + 10 * place for place in range(size)]
    ids = [np.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)]
    correct = np.array([place < right for place in range(size)], np.float64)
    given: dict[str, Any] = {
        "gc_id": name,
        "prompt_ids": np.array([mark, 1, 2]),
        "completion_ids": ids,
        "mask": [np.arange(n) % 3 != 2 for n in lengths],
        "logprobs": [-(one % 977) / np.float32(100) for one in ids],
        "rewards": 2 * correct + 0.25,
        "correct": correct,
        "advantages": 2 * (correct - correct.mean()),
        "policy_version": version,
        "step": step,
        "temperature": 0.6,
        "top_p": 0.95,
        "extra": {"place": mark},
    }
    return RolloutGroup(**{**given, **other})


def buffer(batch: int = 8, size: int = 4, capacity: int = 10, **other: Any) -> ReplayBuffer:
    return ReplayBuffer(ReplayConfig(batch, size, capacity, **other))


def digest(made: RolloutGroup) -> str:
    """All that a group holds, as a text that groups with other bits do not share."""
    return json.dumps(astuple(made), default=lambda array: [str(array.dtype), array.tolist()])


def digests(groups: Any) -> list[str]:
    """What the groups hold."""
    return [digest(made) for made in groups]
