"""What a process that trains one arm of a comparison is told, and where it leaves what; imports no trainer.

Knows nothing of other arms.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

TASK, PROGRESS, COST = "arm.json", "progress.json", "cost.json"
TRAINED = 0.9
"""The share of an arm's work that is training; the rest is judging."""
STEP = "gaincurate/step"
"""The key of a trainer's log entry under which what a step cost is kept."""
RUN, TRAINER, MARKS, ROLLOUTS = "run", "trainer", "marks", "rollouts"


class Task(BaseModel):
    """What `arm.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """Where training begins."""
    verifier: str
    """The reward, as in `gaincurate difficulty rollout`."""
    answer_column: str | None
    """With the gold answers."""
    success: float
    """A completion is right, reward 1, from this value of the verifier on; else its reward is 0."""
    scoring: int
    """Tokens that are spent before the first rollout: the scoring pass, where the arm's order needs one."""
    prefill_weight: float
    """What a token of a scoring pass during the training is charged as."""
    mark_tokens: list[int]
    """Rising; the last one ends the training."""
    trainer: dict[str, Any]
    """Fields of TRL's GRPOConfig."""
    replay: dict[str, Any] | None
    """Fields of `gaincurate.trainers.trl_replay.Replay`; None trains without."""
    evaluation: dict[str, Any]
    """Fields of `RolloutConfig` for the held-out prompts, all but `model` and `out`."""
