"""The replay buffer: which groups a step generates and which it replays.

The draw depends on the seed, the step and the groups alone, so that every process of a trainer, and a run
that goes on from a checkpoint, plans the same. Groups whose rollouts were all equally correct have nothing
to compare and are not kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from gaincurate.core.rng import between, keys_of
from gaincurate.errors import OutcomeError, OutputError
from gaincurate.replay.config import ReplayConfig
from gaincurate.replay.group import Key, RolloutGroup
from gaincurate.replay.rows import decode, encode

_STREAM = 0x5250  # of the seed's noise; no strategy uses it


@dataclass(slots=True)
class Counts:
    """Counts since the buffer was made; every inserted group is one of kept, uninformative or too old.

    `evicted` groups left because newer ones came, `aged` ones because of `max_age`. `repeated` were there
    already and changed nothing. `steps` were planned, `replay_steps` of them with replay, and `waiting` since
    the last of these. Tokens are completion tokens.
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
    tokens_generated: int = 0
    tokens_trained: int = 0


class ReplayPlan(NamedTuple):
    """The batch of a step: `fresh_groups` to generate, and groups to replay, `[0]` or `[B - fresh]`."""

    fresh_groups: int
    replayed: tuple[RolloutGroup, ...]


class ReplayBuffer:
    """At most `capacity` informative groups, first in first out.

    One process holds it, or each process one with the same seed that gets the same groups. Its memory is
    that of the groups in it and of those of the last plan:
    `(C + B - fresh) (G (9 L + 24) + 4 P)` bytes for completions of L and prompts of P tokens, and about 3 kB
    per group for objects.

    Attributes:
        counts: see `Counts`.
        step: the step last planned; -1 before the first.
        policy_version: that of the step last planned; -1 before the first.
        last_plan: the plan of that step; empty before the first.

    Args:
        config: the sizes.
    """

    def __init__(self, config: ReplayConfig) -> None:
        self.config = config
        self.counts = Counts()
        self.step = self.policy_version = -1
        self.last_plan = ReplayPlan(0, ())
        self._groups: deque[RolloutGroup] = deque(maxlen=config.capacity)
        self._seen: set[Key] = set()

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def groups(self) -> tuple[RolloutGroup, ...]:
        """The stored groups, the oldest first."""
        return tuple(self._groups)

    @property
    def nbytes(self) -> int:
        """Bytes of the groups in it and of those of the last plan that have left."""
        return sum({id(group): group.nbytes for group in (*self._groups, *self.last_plan.replayed)}.values())

    def plan(self, step: int, policy_version: int | None = None) -> ReplayPlan:
        """Plan the groups that a step generates and replays; call it before generation.

        Replays `B - fresh` groups, drawn uniformly without replacement, where the buffer has so many; else
        the whole batch is fresh. The draw depends on the seed, the step and what is in the buffer. Asking for
        the same step again gives the same plan, also after its `insert`.

        Args:
            step: rising from call to call.
            policy_version: of the weights that will generate; None where each step has new weights, so that
                it is the step.

        Raises:
            OutcomeError: the step or the version lies before the last one.
        """
        version = step if policy_version is None else policy_version
        if (step, version) == (self.step, self.policy_version) and step >= 0:
            return self.last_plan
        if step <= self.step or version < self.policy_version:
            raise OutcomeError(
                f"step {step} with policy version {version} is asked for and the buffer is at step "
                f"{self.step} with version {self.policy_version}: both rise. Where the trainer went back to "
                "a checkpoint, load the buffer's state from there too.",
                step=step,
            )
        sizes, counts = self.config, self.counts
        young = [group for group in self._groups if not self._too_old(group, version)]
        counts.aged += len(self._groups) - len(young)
        self._groups, held = deque(young, sizes.capacity), len(young)
        replayed: tuple[RolloutGroup, ...] = ()
        if held >= sizes.replayed_groups:
            keys = keys_of(sizes.seed, step, _STREAM, held)
            replayed = tuple(young[place] for place in between(keys, 0, sizes.replayed_groups))
        counts.steps += 1
        counts.replay_steps += bool(replayed)
        counts.waiting = 0 if replayed else counts.waiting + 1
        counts.tokens_trained += sum(group.tokens for group in replayed)
        self.step, self.policy_version, self._seen = step, version, set()
        self.last_plan = ReplayPlan(sizes.batch_groups - len(replayed), replayed)
        return self.last_plan

    def _too_old(self, group: RolloutGroup, version: int) -> bool:
        limit = self.config.max_age
        return limit is not None and version - group.policy_version > limit

    def insert(self, groups: Iterable[RolloutGroup]) -> int:
        """Take in the step's fresh groups, all at once or in parts; the oldest leave where there is no place.

        A group that came before (same id, version and step) changes nothing, whatever is in it, and is
        counted: a step that is done again after a restart, or groups that every process hands in, are
        stored once.

        Args:
            groups: of the step last planned.

        Returns:
            How many were kept.

        Raises:
            OutcomeError: a group of another step or size, of weights not planned, or more groups than
                planned; nothing was taken.
        """
        new, counts, kept = self._new(groups), self.counts, self.counts.kept
        for group in new:
            counts.tokens_generated += group.tokens
            counts.tokens_trained += group.tokens
            if self._too_old(group, self.policy_version):
                counts.too_old += 1
            elif not group.informative:
                counts.uninformative += 1
            else:
                counts.kept += 1
                counts.evicted += len(self._groups) == self.config.capacity
                self._groups.append(group)
        self._seen |= {group.key for group in new}
        return counts.kept - kept

    def _new(self, arrived: Iterable[RolloutGroup]) -> list[RolloutGroup]:
        """Those that did not come before, all checked; the others are counted."""
        new: dict[Key, RolloutGroup] = {}
        size, repeated = self.config.group_size, 0
        for group in arrived:
            if (group.step, group.size) != (self.step, size) or group.policy_version > self.policy_version:
                raise OutcomeError(
                    f"the group of prompt {group.gc_id!r} has step {group.step}, {group.size} rollouts and "
                    f"policy version {group.policy_version}; the last plan is of step {self.step}, {size} "
                    f"rollouts a group and version {self.policy_version}. Call `plan` before generation and "
                    "`insert` after it, and gather groups that processes share.",
                    gc_id=group.gc_id,
                )
            if group.key in self._seen or group.key in new:
                repeated += 1
            else:
                new[group.key] = group
        come, planned = len(self._seen) + len(new), self.last_plan.fresh_groups
        if come > planned:
            raise OutcomeError(
                f"step {self.step} has {come} fresh groups and {planned} were planned: with the replayed "
                f"ones its batch would be more than {self.config.batch_groups}. Generate what `plan` says.",
                step=self.step,
            )
        self.counts.repeated += repeated
        return list(new.values())

    def state_dict(self) -> dict[str, Any]:
        """All of it, to be saved with the trainer's checkpoint: plain values, and `groups` as bytes.

        The bytes are a Parquet file: what is in the buffer, then what was replayed and has left since.
        """
        stored = {id(group): group for group in (*self._groups, *self.last_plan.replayed)}
        places = {key: place for place, key in enumerate(stored)}
        return {
            "config": asdict(self.config),
            "counts": asdict(self.counts),
            "step": self.step,
            "policy_version": self.policy_version,
            "fresh_groups": self.last_plan.fresh_groups,
            "replayed": [places[id(group)] for group in self.last_plan.replayed],
            "seen": sorted(map(list, self._seen)),
            "held": len(self._groups),
            "groups": encode(list(stored.values())),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Become what a buffer was at its `state_dict`: contents, order, counts and the place in the noise.

        Raises:
            OutputError: it is of another version, or of a buffer of other sizes; nothing was changed.
        """
        sizes, theirs = asdict(self.config), state["config"]
        if differing := [name for name, value in sizes.items() if theirs.get(name) != value]:
            name = differing[0]
            raise OutputError(
                f"the checkpoint's replay buffer has {name} {theirs.get(name)} and this one "
                f"{sizes[name]}: set it to what it was, or begin with an empty buffer.",
                keys=differing,
            )
        groups = decode(state["groups"], "the replay buffer's state")
        self._groups = deque(groups[: state["held"]], self.config.capacity)
        self.counts = Counts(**state["counts"])
        self.last_plan = ReplayPlan(
            state["fresh_groups"], tuple(groups[place] for place in state["replayed"])
        )
        self._seen = {(gc_id, version, step) for gc_id, version, step in state["seen"]}
        self.step, self.policy_version = state["step"], state["policy_version"]
