"""How a rollout is seen from outside: takes events, yields a summary. Prints nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


class Watch:
    """What a caller may want to see of a run; each method does nothing until overridden."""

    def gold(self, checked: int, count: int) -> None:
        """So many of the gold answers were verified."""

    def start(self, prompts: int, done: int) -> None:
        """Rollouts begin; `done` of `prompts` prompts are in finished shards."""

    def advance(self, completions: int, tokens: int) -> None:
        """Completions arrived."""

    def shard(self, index: int, count: int, prompts: int) -> None:
        """Shard `index` of `count` was written, with so many prompts."""


@dataclass(slots=True)
class RolloutSummary:
    """How a run went: `generated` completions, their `tokens` and `elapsed` seconds are of this process.

    `other_lengths` counts its prompts that have another number of tokens than when they were scored. The rest
    is of the finished set; `unjudged` rollouts have a reason in the place of a reward.
    """

    out: Path
    generated: int = 0
    tokens: int = 0
    elapsed: float = 0.0
    other_lengths: int = 0
    prompts: int = 0
    rollouts: int = 0
    unjudged: int = 0
    rejected: int = 0
    pass_rate: float | None = None
    reasons: dict[str, int] = field(default_factory=dict)
    """Why rollouts were not judged, most frequent first: at most five."""
