"""The sizes of a replay buffer, and how they divide a batch.

Sizes with which no group would ever be replayed are refused, because the training would not show it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gaincurate.errors import InputError


@dataclass(frozen=True, slots=True)
class ReplayConfig:
    """The sizes of a replay buffer, with their names in the paper (arXiv 2506.05316).

    Args:
        batch_groups: B, the groups that a step trains on, fresh and replayed together.
        group_size: G, the rollouts in each group.
        capacity: C, the most groups in the buffer.
        fresh_share: delta, the share of B that is generated on a step that replays.
        max_age: policy versions after which a group is neither kept nor drawn; None for no limit.
        seed: the seed of the draws, 0 to 2^64 - 1.

    Raises:
        InputError: a value is out of range, or no group would ever be replayed.
    """

    batch_groups: int
    group_size: int
    capacity: int
    fresh_share: float = 0.5
    max_age: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        leasts = {"batch_groups": 2, "group_size": 2, "capacity": 1, "seed": 0}
        leasts |= {} if self.max_age is None else {"max_age": 1}
        for name, least in leasts.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**64:
                raise InputError(f"{name} is {value!r}; it must be a whole number from {least} to 2^64 - 1.")
        if not isinstance(self.fresh_share, float) or not 0 < self.fresh_share < 1:
            why = f"fresh_share is {self.fresh_share!r}; it must be above 0 and below 1."
            raise InputError(f"{why} To train without replay, use no buffer.")
        if not 1 <= self.fresh_groups < self.batch_groups:
            raise InputError(
                f"fresh_share {self.fresh_share} of {self.batch_groups} groups is {self.fresh_groups} fresh "
                f"and {self.replayed_groups} replayed, and each must be at least 1. Take another fresh_share "
                "or a larger batch."
            )
        if self.capacity < self.replayed_groups:
            raise InputError(
                f"capacity {self.capacity} is less than the {self.replayed_groups} groups that a step would "
                f"replay, so nothing ever would be; set it to {self.replayed_groups} or more."
            )

    @property
    def fresh_groups(self) -> int:
        """Groups to generate on a step that replays: delta B, rounded, with halves rounded up."""
        return math.floor(self.fresh_share * self.batch_groups + 0.5)

    @property
    def replayed_groups(self) -> int:
        """Groups to replay on a step that replays: the rest of B."""
        return self.batch_groups - self.fresh_groups
