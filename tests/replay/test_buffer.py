from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gaincurate.errors import InputError, OutcomeError, OutputError
from gaincurate.replay.buffer import ReplayBuffer
from gaincurate.replay.config import ReplayConfig
from gaincurate.replay.group import RolloutGroup
from gaincurate.replay.state import load, save
from rollouts import buffer, digests, group


def names(groups: Any) -> list[str]:
    return [one.gc_id for one in groups]


def filled(count: int = 10, **other: Any) -> ReplayBuffer:
    """At step 0, with `count` groups of batch 8 or more."""
    made = buffer(**{"batch": max(8, count), "capacity": 1000, **other})
    made.plan(0)
    made.insert(group(f"p{n}") for n in range(count))
    return made


@pytest.mark.parametrize(
    ("batch", "share", "fresh"),
    [(512, 0.5, 256), (8, 0.25, 2), (100, 0.07, 7), (10, 0.7, 7), (7, 0.5, 4), (9, 0.5, 5), (3, 0.4, 1)],
)
def test_fresh_and_replayed_make_the_batch(batch: int, share: float, fresh: int) -> None:
    sizes = ReplayConfig(batch, 8, batch, share)
    assert (sizes.fresh_groups, sizes.replayed_groups) == (fresh, batch - fresh)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"batch": 1}, "batch_groups is 1; it must be a whole number from 2 to 2^64 - 1."),
        ({"capacity": True}, "capacity is True; it must be a whole number from 1 to 2^64 - 1."),
        ({"max_age": 0}, "max_age is 0; it must be a whole number from 1 to 2^64 - 1."),
        ({"seed": 2**64}, f"seed is {2**64}; it must be a whole number from 0 to 2^64 - 1."),
        ({"fresh_share": float("nan")}, "fresh_share is nan; it must be above 0 and below 1."),
        ({"fresh_share": 0.99}, "fresh_share 0.99 of 8 groups is 8 fresh and 0 replayed, and each must be"),
        ({"fresh_share": 0.01}, "fresh_share 0.01 of 8 groups is 0 fresh and 8 replayed, and each must be"),
        ({"capacity": 3}, "capacity 3 is less than the 4 groups that a step would replay, so nothing ever"),
    ],
)
def test_sizes_that_cannot_be_are_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        buffer(**given)
    assert str(caught.value).startswith(sentence)


def test_draws_are_the_ones_of_every_machine() -> None:
    one = filled(20, seed=3)
    assert [names(one.plan(step).replayed)[:4] for step in (1, 2)] == [
        ["p5", "p14", "p2", "p15"],
        ["p3", "p14", "p2", "p6"],
    ]


def test_a_group_that_comes_again_changes_nothing() -> None:
    one = buffer()
    one.plan(0)
    once = [group("a"), group("b", right=0), group("a", right=2), group("c")]
    assert one.insert(once) == 2
    assert one.insert([*once, group("b", right=2)]) == 0
    assert [(back.gc_id, back.correct.sum()) for back in one.groups] == [("a", 1), ("c", 1)]
    assert (one.counts.kept, one.counts.uninformative, one.counts.repeated) == (2, 1, 6)
    assert one.counts.tokens_generated == sum(made.tokens for made in (once[0], once[1], once[3]))


# --- What a trainer may not do.


def refused(one: ReplayBuffer, made: list[RolloutGroup]) -> str:
    before = (digests(one.groups), one.state_dict())
    with pytest.raises(OutcomeError) as caught:
        one.insert(made)
    assert (digests(one.groups), one.state_dict()) == before
    return str(caught.value)


def test_groups_that_do_not_fit_the_step_are_refused_and_nothing_is_taken() -> None:
    one = filled(8)
    one.plan(4)
    good = group("good", 4)
    said = "the group of prompt 'x' has step 3, 4 rollouts and policy version 3; the last plan is of step 4"
    assert refused(one, [good, group("x", 3)]).startswith(said)
    assert "step 4, 2 rollouts and" in refused(one, [good, group("x", 4, size=2)])
    assert "policy version 5; the" in refused(one, [good, group("x", 4, version=5)])
    many = [good, *(group(f"x{n}", 4) for n in range(4))]
    assert one.insert(many[:2]) == 2
    assert refused(one, many[2:]).startswith("step 4 has 5 fresh groups and 4 were planned: with the")
    assert "the last plan is of step -1" in refused(buffer(), [group("a")])  # before any plan


def test_a_plan_goes_forward_only() -> None:
    one = filled(8)
    one.plan(7, 3)
    for step, version in ((6, None), (8, 2), (7, 4)):
        with pytest.raises(OutcomeError, match=f"^step {step} .* the buffer is at step 7 with version 3:"):
            one.plan(step, version)
    with pytest.raises(OutcomeError, match="step -1 with policy version -1 is asked for"):
        buffer().plan(-1)
    assert one.plan(8, 3).fresh_groups == 4  # several steps may share a version


# --- What is counted.


def test_bytes_are_those_of_the_arrays_and_replayed_groups_that_left_count() -> None:
    one = filled(8, capacity=8)
    assert one.nbytes == sum(back.nbytes for back in one.groups)
    plan = one.plan(1)
    one.insert(group(f"q{n}", 1) for n in range(4))
    gone = [back for back in plan.replayed if back.gc_id not in names(one.groups)]
    assert gone  # the first four left
    assert one.nbytes == sum(back.nbytes for back in [*one.groups, *gone])
    one.plan(2)
    assert len({back.key for back in [*one.groups, *one.last_plan.replayed]}) == 8


# --- State.


def test_a_state_of_other_sizes_is_refused() -> None:
    for name in ("capacity", "seed"):
        with pytest.raises(OutputError, match=f"'s replay buffer has {name} 10 and this one 11: set it to"):
            buffer(**{name: 11}).load_state(buffer(**{name: 10}).state_dict())


def trained(steps: int) -> ReplayBuffer:
    one = buffer(capacity=9, max_age=20, seed=11)
    for step in range(steps):
        plan = one.plan(step, 2 * step)
        one.insert(group(f"p{n}", step, n % 5, version=2 * step) for n in range(plan.fresh_groups))
    return one


@pytest.mark.parametrize("steps", [0, 1, 2, 9])
def test_a_buffer_comes_back_exactly_and_goes_on_the_same(tmp_path: Path, steps: int) -> None:
    one = trained(steps)
    save(one, tmp_path / "state")
    back = buffer(capacity=9, max_age=20, seed=11)
    back.plan(99)  # whatever it was before
    load(back, tmp_path / "state")
    assert digests(back.groups) == digests(one.groups)
    assert (back.counts, back.step, back.policy_version) == (one.counts, one.step, one.policy_version)
    for step in range(steps, steps + 5):
        plans = [each.plan(step, 2 * step) for each in (one, back)]
        assert digests(plans[0].replayed) == digests(plans[1].replayed)
        for each, plan in zip((one, back), plans, strict=True):
            each.insert(group(f"q{n}", step, n % 3, version=2 * step) for n in range(plan.fresh_groups))
    assert one.state_dict() == back.state_dict()


def test_a_damaged_file_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    one = trained(6)
    path = tmp_path / "state"
    save(one, path)
    whole, before = path.read_bytes(), one.state_dict()
    head = whole.index(b"\n")
    other = whole.replace(b'"held": 9', b'"held": 8')
    assert other != whole
    for data in (b"", b"x", b"[]\n", whole[:head], whole[:-1], whole[:-90] + b"\1" + whole[-89:], other):
        path.write_bytes(data)
        with pytest.raises(OutputError, match=f"^{path} is damaged, or no replay buffer's state. Resume"):
            load(one, path)
        assert one.state_dict() == before


def test_a_missing_file_is_refused_unless_the_buffer_may_begin_empty(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=f"^{tmp_path} has no none: it was saved by a trainer that did not"):
        load(buffer(), tmp_path / "none")
    made = buffer()
    load(made, tmp_path / "none", begin_empty=True)
    assert made.state_dict() == buffer().state_dict()
