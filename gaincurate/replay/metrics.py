"""Metrics of replay for the trainer's log, under `replay/`, and a warning if nothing is replayed.

The warning gives the reason, because a user may not look at the metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from gaincurate.replay.buffer import ReplayBuffer
from gaincurate.replay.group import RolloutGroup

_WAIT = 10


def step_metrics(buffer: ReplayBuffer, fresh: Sequence[RolloutGroup]) -> dict[str, float]:
    """The metrics of a step, after its `insert`; counts and tokens are sums since the start.

    Args:
        buffer: the buffer, whose last plan is the step's.
        fresh: the groups that the step generated.

    Returns:
        `share`, the replayed share of the batch's groups; `age_mean` and `age_max` in policy versions;
        `overlap`, the share of replayed groups whose prompt also has a fresh group; `groups` and `bytes` in
        the buffer; `tokens_saved`, the share of trained tokens that were not generated; and the `Counts`. If
        nothing was replayed, the ages and the overlap are 0.
    """
    replayed, counts = buffer.last_plan.replayed, buffer.counts
    ages = [buffer.policy_version - group.policy_version for group in replayed] or [0]
    prompts = {group.gc_id for group in fresh}
    figures = {
        "share": len(replayed) / max(len(fresh) + len(replayed), 1),
        "age_mean": sum(ages) / len(ages),
        "age_max": float(max(ages)),
        "overlap": sum(group.gc_id in prompts for group in replayed) / max(len(replayed), 1),
        "groups": float(len(buffer)),
        "bytes": float(buffer.nbytes),
        "tokens_saved": 1 - counts.tokens_generated / counts.tokens_trained if counts.tokens_trained else 0.0,
        **{name: float(value) for name, value in asdict(counts).items()},
    }
    return {f"replay/{name}": value for name, value in figures.items()}


def warning(buffer: ReplayBuffer, steps: int = _WAIT) -> str | None:
    """A warning each time that nothing was replayed in `steps` more consecutive plans, or None."""
    counts = buffer.counts
    if counts.waiting == 0 or counts.waiting % steps:
        return None
    return (
        f"Nothing was replayed in the last {counts.waiting} steps: the buffer holds {len(buffer)} groups and "
        f"a step replays {buffer.config.replayed_groups}. Of {counts.kept + counts.uninformative:,} groups, "
        f"{counts.kept:,} had rollouts that differ in correctness; {counts.too_old + counts.aged:,} were "
        f"older than max_age, and {counts.evicted:,} made room for newer ones. Train on prompts of medium "
        "difficulty, check that `correct` is the verifier's verdict, or set fresh_share or max_age higher."
    )
