"""What a replay buffer has counted: plain numbers, from its first step on. Knows nothing of groups."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """What happened since the buffer was made; every inserted group is kept, uninformative or too old.

    `evicted` groups left because newer ones came, `aged` ones because of `max_age`. `repeated` were there
    already and changed nothing. `steps` were planned, `replay_steps` of them with replay. Since the last step
    that replayed, `waiting` were planned, and the buffer was found empty by the last `empty` plans.
    Tokens are completion tokens.
    """

    kept: int = 0
    uninformative: int = 0
    too_old: int = 0
    evicted: int = 0
    aged: int = 0
    repeated: int = 0
    steps: int = 0
    replay_steps: int = 0
    waiting: int = 0
    empty: int = 0
    tokens_generated: int = 0
    tokens_trained: int = 0
