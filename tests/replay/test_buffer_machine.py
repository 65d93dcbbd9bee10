"""The buffer under any order of plans, inserts, repeats, saves and restores, beside a list that does the same."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gaincurate.replay.buffer import ReplayBuffer
from gaincurate.replay.config import ReplayConfig
from gaincurate.replay.group import RolloutGroup
from gaincurate.replay.state import load, save
from rollouts import digests, group

SIZE = 3


class Machine(RuleBasedStateMachine):
    @initialize(
        batch=st.integers(2, 9),
        more=st.integers(0, 6),
        share=st.sampled_from([0.25, 0.5, 0.7]),
        age=st.none() | st.integers(1, 4),
        seed=st.integers(0, 2**64 - 1),
    )
    def begin(self, batch: int, more: int, share: float, age: int | None, seed: int) -> None:
        fresh = min(max(int(share * batch + 0.5), 1), batch - 1)
        self.config = ReplayConfig(batch, SIZE, batch - fresh + more, fresh / batch, age, seed)
        self.buffer = ReplayBuffer(self.config)
        self.held: list[RolloutGroup] = []
        self.step = self.version = -1
        self.made = self.fresh = self.inserted = 0
        self.sent: list[RolloutGroup] = []

    @rule(steps=st.integers(1, 3), versions=st.integers(0, 3))
    def plan(self, steps: int, versions: int) -> None:
        before = max(self.version, 0)
        self.step, self.version = self.step + steps, before + versions
        plan = self.buffer.plan(self.step, self.version)
        age = self.config.max_age
        self.held = [one for one in self.held if age is None or self.version - one.policy_version <= age]
        drawn = digests(plan.replayed)
        if len(self.held) >= self.config.replayed_groups:
            assert len(set(drawn)) == len(drawn) == self.config.replayed_groups
            assert set(drawn) <= set(digests(self.held))
        else:
            assert drawn == []
        assert plan.fresh_groups + len(drawn) == self.config.batch_groups
        assert plan.fresh_groups in (self.config.fresh_groups, self.config.batch_groups)
        self.fresh, self.sent = plan.fresh_groups, []

    @precondition(lambda self: self.fresh > 0)
    @rule(rights=st.lists(st.integers(0, SIZE), max_size=5), late=st.integers(0, 5))
    def insert(self, rights: list[int], late: int) -> None:
        version = max(0, self.version - late)
        made = []
        for right in rights[: self.fresh]:
            made.append(group(f"p{self.made}", self.step, right, SIZE, version))
            self.made += 1
        self.fresh -= len(made)
        self.buffer.insert(made)
        self.sent += made
        self.inserted += len(made)
        age = self.config.max_age
        if age is None or self.version - version <= age:
            self.held += [one for one in made if 0 < one.correct.sum() < SIZE]
        self.held = self.held[-self.config.capacity :]

    @rule(data=st.data())
    def again(self, data: st.DataObject) -> None:
        if self.sent:
            some = data.draw(st.lists(st.sampled_from(self.sent), max_size=4))
            assert self.buffer.insert(some) == 0

    @rule()
    def save_and_restore(self) -> None:
        with TemporaryDirectory() as folder:
            save(self.buffer, Path(folder) / "state")
            back = ReplayBuffer(self.config)
            load(back, Path(folder) / "state")
        assert back.state_dict() == self.buffer.state_dict()
        assert digests(back.last_plan.replayed) == digests(self.buffer.last_plan.replayed)
        self.buffer = back

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "buffer"):
            return
        assert digests(self.buffer.groups) == digests(self.held)
        counts = self.buffer.counts
        assert len(self.held) <= self.config.capacity
        assert counts.kept + counts.uninformative + counts.too_old == self.inserted
        assert len(self.held) == counts.kept - counts.evicted - counts.aged
        assert counts.tokens_trained >= counts.tokens_generated
        assert counts.replay_steps + counts.waiting <= counts.steps


Machine.TestCase.settings = settings(stateful_step_count=25)
TestBuffer = Machine.TestCase
