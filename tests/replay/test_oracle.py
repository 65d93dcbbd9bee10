"""The buffer against the paper's Algorithm 1, written out slowly, over 200 steps: contents and draws, each step."""

from __future__ import annotations

import random
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

from gaincurate.replay.buffer import ReplayBuffer
from gaincurate.replay.config import ReplayConfig
from gaincurate.replay.group import RolloutGroup
from rollouts import group

STEPS = 200


@dataclass
class Algorithm:
    """Algorithm 1 of arXiv 2506.05316 from `if |R| >= (1 - delta) B` on, over plain tuples and lists.

    A group is (prompt, step, [correct or not, ...]). Only the source of its random numbers is ours: raw Philox
    words, of which the lowest are drawn.
    """

    delta: Fraction
    batch: int
    capacity: int
    seed: int

    def __post_init__(self) -> None:
        self.held: list[tuple[str, int, list[int]]] = []

    def draw(self, step: int) -> list[tuple[str, int, list[int]]]:
        wanted = (1 - self.delta) * self.batch
        if len(self.held) < wanted:
            return []
        words = np.random.Philox(
            counter=np.array([0, 0, step, 0x5250], np.uint64), key=np.array([self.seed, 0], np.uint64)
        ).random_raw(len(self.held))
        places = 2 ** len(self.held).bit_length()
        # Half the word, its lowest bits given to the place, so that no two are equal.
        keys = [(int(word) // 2) // places * places + place for place, word in enumerate(words)]
        lowest = sorted(keys)[: int(wanted)]
        return [self.held[key % places] for key in lowest]

    def add(self, fresh: list[tuple[str, int, list[int]]]) -> None:
        for one in fresh:
            mean = sum(one[2]) / len(one[2])
            if mean not in (0, 1):
                self.held.append(one)
        while len(self.held) > self.capacity:
            del self.held[0]


def chance_of(step: int) -> float:
    """How likely a prompt's rollouts differ: hardly ever at first, often, never for 50 steps, now and then."""
    if step < 25:
        return 0.004
    return 0.7 if step < 60 else 0.0 if step < 110 else 0.25


def rollouts(step: int, count: int, dice: random.Random) -> list[tuple[str, int, list[int]]]:
    found = []
    for name in dice.sample(range(4 * count), count):
        right = [1, 0] if dice.random() < chance_of(step) else [dice.randrange(2)] * 2
        found.append((f"p{name}", step, right))
    return found


def plain(groups: tuple[RolloutGroup, ...] | list[RolloutGroup]) -> list[tuple[str, int, list[int]]]:
    return [(one.gc_id, one.step, one.correct.astype(int).tolist()) for one in groups]


@pytest.mark.parametrize(
    ("batch", "capacity", "delta"),
    [(64, 32, 0.5), (64, 64, 0.5), (8, 4, 0.5), (8, 5, 0.5), (8, 64, 0.25), (10, 3, 0.8), (2, 1, 0.5)],
)
def test_contents_and_draws_are_the_papers(batch: int, capacity: int, delta: float) -> None:
    config = ReplayConfig(batch, 2, capacity, delta, seed=2**63 + 17)
    ours, theirs = ReplayBuffer(config), Algorithm(Fraction(str(delta)), batch, capacity, config.seed)
    dice = random.Random(batch + capacity)
    replaying = 0
    for step in range(STEPS):
        plan, drawn = ours.plan(step), theirs.draw(step)
        assert plain(plan.replayed) == drawn
        assert plan.fresh_groups == batch - len(drawn)
        assert plan.fresh_groups == (round(delta * batch) if drawn else batch)
        assert all(one.step < step for one in plan.replayed)
        fresh = rollouts(step, plan.fresh_groups, dice)
        theirs.add(fresh)
        ours.insert(group(name, at, sum(right), 2) for name, at, right in fresh)
        assert plain(ours.groups) == theirs.held
        assert len(ours) <= capacity
        replaying += bool(drawn)
    assert 0 < replaying < STEPS  # both branches were taken
    assert ours.counts.replay_steps == replaying
