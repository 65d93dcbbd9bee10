"""What a process that trains one arm of a comparison is told, and where it leaves what; imports no trainer.

Knows nothing of other arms.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

TASK = "arm.json"
RUN = "run"
TRAINER = "trainer"
MARKS = "marks"
COST = "cost.json"


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
    charged: int
    """Tokens that are spent before the first rollout: the scoring pass, where the arm's order needs one."""
    mark_tokens: list[int]
    """Rising; the last one ends the training."""
    trainer: dict[str, Any]
    """Fields of TRL's GRPOConfig."""
