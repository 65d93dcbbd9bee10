"""The replay buffer: plans how many groups a step generates and which ones it replays.

The draw depends only on the seed, the step and the groups, so every process of a trainer makes the same plan,
also after a resume. Groups whose rollouts are all equally correct have no advantages, and are not kept.
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

_STREAM = 0x5250  # the stream of random numbers; no strategy uses it


@dataclass(slots=True)
class Counts:
    """Counts since the buffer was made. Every new group counts as kept, uninformative or too old.

    `evicted` groups made room for newer ones, and `aged` ones exceeded `max_age`. `repeated` groups had been
    inserted before and changed nothing. `steps` were planned, `replay_steps` of them with replay, and
    `waiting` since the last of these. Tokens are completion tokens.
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
    """The batch of a step: the number of groups to generate, and those to replay, `[0]` or `[B - fresh]`."""

    fresh_groups: int
    replayed: tuple[RolloutGroup, ...]


class ReplayBuffer:
    """At most `capacity` informative groups, first in, first out.

    Either one process has a buffer, or each process has one with the same seed and inserts the same groups.
    It takes `(C + B - fresh) (G (9 L + 24) + 4 P)` bytes for completions of L and prompts of P tokens,
    because it also keeps the groups of the last plan, and about 3 kB per group for Python objects.

    Attributes:
        counts: see `Counts`.
        step: the last planned step; -1 before the first.
        policy_version: the policy version of that step; -1 before the first.
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
        """The stored groups, oldest first."""
        return tuple(self._groups)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored groups, and of those in the last plan that are no longer stored."""
        return sum({id(group): group.nbytes for group in (*self._groups, *self.last_plan.replayed)}.values())

    def plan(self, step: int, policy_version: int | None = None) -> ReplayPlan:
        """Plan the groups that a step generates and replays; call it before generation.

        The step replays `B - fresh` groups, drawn uniformly without replacement, if the buffer has so many;
        otherwise the whole batch is fresh. The draw depends on the seed, the step and the stored groups. A
        second call for the same step returns the same plan, also after its `insert`.

        Args:
            step: the step to plan, above those of earlier calls.
            policy_version: the version of the weights that will generate, not below those of earlier calls;
                None if each step has new weights: then it is the step.

        Raises:
            OutcomeError: the step or the version is below an earlier one.
        """
        version = step if policy_version is None else policy_version
        if (step, version) == (self.step, self.policy_version) and step >= 0:
            return self.last_plan
        if step <= self.step or version < self.policy_version:
            raise OutcomeError(
                f"step {step} with policy version {version} is asked for and the buffer is at step "
                f"{self.step} with version {self.policy_version}: both must rise. If the trainer resumed "
                "from a checkpoint, load the buffer's state from it too.",
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
        """Store the step's fresh groups, all at once or in parts; they replace the oldest in a full buffer.

        A group with the id, version and step of an earlier one only increments the count of repeated groups.
        Its content is not compared. So a repeated step, or a group from every process, is stored once.

        Args:
            groups: groups of the last planned step.

        Returns:
            The number of groups that were kept.

        Raises:
            OutcomeError: a group has another step or size or a later version, or there are more than planned;
                nothing is stored.
        """
        counts, kept, size, repeated = self.counts, self.counts.kept, self.config.group_size, 0
        new: dict[Key, RolloutGroup] = {}
        for group in groups:
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
        arrived, planned = len(self._seen) + len(new), self.last_plan.fresh_groups
        if arrived > planned:
            raise OutcomeError(
                f"step {self.step} has {arrived} fresh groups and {planned} were planned: with the replayed "
                f"ones its batch would be more than {self.config.batch_groups}. Generate what `plan` says.",
                step=self.step,
            )
        counts.repeated += repeated
        for group in new.values():
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
        self._seen.update(new)
        return counts.kept - kept

    def state_dict(self) -> dict[str, Any]:
        """The state, to be saved with the trainer's checkpoint: plain values, and `groups` as bytes.

        The bytes are a Parquet file with the stored groups, then those of the last plan that are not stored.
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
        """Restore a state from `state_dict`: groups, order, counts and the last plan.

        Raises:
            OutputError: the state has another format, or is of a buffer with other sizes; nothing changes.
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
        self.last_plan = ReplayPlan(state["fresh_groups"], tuple(groups[i] for i in state["replayed"]))
        self._seen = {(gc_id, version, step) for gc_id, version, step in state["seen"]}
        self.step, self.policy_version = state["step"], state["policy_version"]
