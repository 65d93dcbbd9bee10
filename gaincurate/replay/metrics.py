"""Metrics of replay for the trainer's log, under `replay/`, and a warning for its user.

The warning says why nothing is replayed: the numbers alone would show it only to a user who looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from gaincurate.replay.buffer import ReplayBuffer
from gaincurate.replay.group import RolloutGroup

_WAIT = 10


def step_metrics(buffer: ReplayBuffer, fresh: Sequence[RolloutGroup]) -> dict[str, float]:
    """A step's numbers, after its `insert`; counts and tokens are sums since the start.

    Args:
        buffer: whose last plan is the step.
        fresh: the groups that the step generated.

    Returns:
        `share`, of the batch's groups those replayed; `age_mean` and `age_max` in policy versions and
        `overlap`, of the replayed groups those whose prompt is also among the fresh ones, 0 where nothing was
        replayed; `groups` and `bytes` in the buffer; `tokens_saved`, of the tokens trained those not
        generated; and `Counts`.
    """
    replayed = buffer.last_plan.replayed
    ages = np.array([buffer.policy_version - group.policy_version for group in replayed])
    prompts = {group.gc_id for group in fresh}
    batch, counts = len(fresh) + len(replayed), buffer.counts
    trained = counts.tokens_trained
    figures = {
        "share": len(replayed) / batch if batch else 0.0,
        "age_mean": float(ages.mean()) if replayed else 0.0,
        "age_max": float(ages.max()) if replayed else 0.0,
        "overlap": sum(g.gc_id in prompts for g in replayed) / len(replayed) if replayed else 0.0,
        "groups": float(len(buffer)),
        "bytes": float(buffer.nbytes),
        "tokens_saved": 1 - counts.tokens_generated / trained if trained else 0.0,
        **{name: float(value) for name, value in asdict(counts).items()},
    }
    return {f"replay/{name}": value for name, value in figures.items()}


def warning(buffer: ReplayBuffer, steps: int = _WAIT) -> str | None:
    """A sentence where nothing was replayed for so many plans in a row, and again after as many more."""
    counts = buffer.counts
    if counts.waiting == 0 or counts.waiting % steps:
        return None
    return (
        f"Nothing was replayed in the last {counts.waiting} steps: the buffer holds {len(buffer)} groups and "
        f"a step replays {buffer.config.replayed_groups}. Of {counts.kept + counts.uninformative:,} groups, "
        f"{counts.kept:,} had rollouts that differ in correctness; {counts.too_old + counts.aged:,} were "
        f"older than max_age, and {counts.evicted:,} left for newer ones. Train on prompts of middling "
        "difficulty, check that `correct` is the verifier's verdict, or set fresh_share or max_age higher."
    )
