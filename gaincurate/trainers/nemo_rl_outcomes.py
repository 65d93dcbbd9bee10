"""Rewards of a NeMo-RL environment: takes what its `step` got and gave, yields lines of the run's outcomes.

May be called in any process; which run it is stands in the metadata. Knows nothing of rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gaincurate.core.artifact import Json
from gaincurate.schema import ID
from gaincurate.trainers.base import ROUND
from gaincurate.trainers.registry import followed
from gaincurate.trainers.shared import reward_of

RUN, STEP = "gc_run", "gc_step"
"""The keys in `extra_env_info`, besides `gc_id` and `gc_round`."""


def report(metadata: Sequence[Json | None], rewards: Any, terminateds: Any = None) -> None:
    """Report from an environment's `step`; what has no id (validation) is let be.

    Args:
        metadata: as `step` got it, `[batch]`.
        rewards: `[batch]`, a tensor or numbers.
        terminateds: `[batch]`; only what ended is reported. Default: all.

    Raises:
        StorageError: the file system refused.
    """
    ended = [True] * len(metadata) if terminateds is None else [bool(one) for one in terminateds]
    lines: dict[str, list[Json]] = {}
    for info, reward, end in zip(metadata, rewards, ended, strict=True):
        if info and ID in info and end:
            line = {
                ID: info[ID],
                "reward": reward_of(float(reward)),
                "round": info[ROUND],
                "step": info[STEP],
            }
            lines.setdefault(info[RUN], []).append(line)
    for run, found in lines.items():
        followed(run).report(found)
