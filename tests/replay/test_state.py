from __future__ import annotations

from pathlib import Path

import pytest

from gaincurate.errors import OutputError
from gaincurate.replay.buffer import ReplayBuffer
from gaincurate.replay.state import load, save
from rollouts import buffer, digests, group


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


def test_a_plan_whose_groups_have_left_since_comes_back_too(tmp_path: Path) -> None:
    """As a trainer saves that uses one generation for several updates."""
    one = trained(5)
    drawn = digests(one.last_plan.replayed)
    assert not set(drawn) <= set(digests(one.groups))
    save(one, tmp_path / "state")
    back = buffer(capacity=9, max_age=20, seed=11)
    load(back, tmp_path / "state")
    assert digests(back.plan(4, 8).replayed) == drawn
    again = [group(f"p{n}", 4, 1, version=8) for n in range(4)]  # generated anew, perhaps otherwise
    assert back.insert(again) == 0
    assert digests(back.groups) == digests(one.groups)


def test_saving_changes_nothing_and_gives_the_same_bytes(tmp_path: Path) -> None:
    one = trained(6)
    save(one, tmp_path / "a")
    save(one, tmp_path / "b")
    load(one, tmp_path / "b")
    save(one, tmp_path / "c")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_a_damaged_file_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    one = trained(6)
    path = tmp_path / "state"
    save(one, path)
    whole = path.read_bytes()
    before = one.state_dict()
    head = whole.index(b"\n")
    other = whole.replace(b'"held": 9', b'"held": 8')
    assert other != whole
    for data in (b"", b"x", b"[]\n", whole[:head], whole[:-1], whole[:-90] + b"\1" + whole[-89:], other):
        path.write_bytes(data)
        with pytest.raises(OutputError) as caught:
            load(one, path)
        assert str(caught.value) == (
            f"{path} is damaged: it is cut short, or no state of a replay buffer. Go back to the checkpoint before it."
        )
        assert one.state_dict() == before


def test_a_missing_file_is_refused_unless_the_buffer_may_begin_empty(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=f"^{tmp_path} has no none: it was saved by a trainer that did not"):
        load(buffer(), tmp_path / "none")
    made = buffer()
    load(made, tmp_path / "none", begin_empty=True)
    assert made.state_dict() == buffer().state_dict()
