from __future__ import annotations

from typing import Any

import pytest

from gaincurate.replay.buffer import ReplayBuffer
from gaincurate.replay.group import RolloutGroup
from gaincurate.replay.metrics import step_metrics, warning
from rollouts import buffer, group


def test_a_steps_numbers_are_those_counted_by_hand() -> None:
    one = buffer(batch=4, capacity=4)
    one.plan(0, 0)
    first = [group(name, 0, version=0) for name in "abcd"]
    one.insert(first)
    plan = one.plan(1, 3)
    fresh = [group("a", 1, version=3), group("x", 1, 0, version=3)]
    one.insert(fresh)
    found = step_metrics(one, fresh)
    again = sum(back.gc_id == "a" for back in plan.replayed)
    generated = sum(made.tokens for made in [*first, *fresh])
    trained = generated + sum(back.tokens for back in plan.replayed)
    expected = dict.fromkeys(("too_old", "aged", "repeated", "waiting"), 0.0)
    expected |= {"share": 0.5, "age_mean": 3.0, "age_max": 3.0, "overlap": again / 2}
    expected |= {"groups": 4.0, "bytes": float(one.nbytes), "tokens_saved": 1 - generated / trained}
    expected |= {"kept": 5.0, "uninformative": 1.0, "evicted": 1.0, "steps": 2.0, "replay_steps": 1.0}
    expected |= {"tokens_generated": float(generated), "tokens_trained": float(trained)}
    assert found == {f"replay/{name}": value for name, value in expected.items()}


def test_ages_are_of_what_is_replayed() -> None:
    one = buffer(batch=4, capacity=4, fresh_share=0.25)
    one.plan(0, 0)
    one.insert([group("a", 0, version=0)])
    one.plan(1, 10)
    one.insert([group("b", 1, version=10), group("c", 1, version=9)])
    plan = one.plan(2, 12)
    assert sorted(back.gc_id for back in plan.replayed) == ["a", "b", "c"]
    found = step_metrics(one, [group("z", 2, version=12)])
    assert found["replay/age_mean"] == pytest.approx((12 + 2 + 3) / 3)
    assert (found["replay/age_max"], found["replay/share"], found["replay/overlap"]) == (12, 0.75, 0)


def test_a_step_without_replay_or_without_groups_has_zeros() -> None:
    one = buffer()
    zeros = step_metrics(one, [])
    assert zeros["replay/share"] == zeros["replay/tokens_saved"] == zeros["replay/age_max"] == 0
    one.plan(0)
    fresh = [group("a")]
    one.insert(fresh)
    assert step_metrics(one, fresh)["replay/share"] == 0


def run(one: ReplayBuffer, steps: int, right: int | None, **about: Any) -> list[str | None]:
    said = []
    for step in range(one.step + 1, one.step + 1 + steps):
        plan = one.plan(step)
        if right is not None:
            made: list[RolloutGroup] = [
                group(f"p{n}", step, right, version=step)
                for n in range(about.get("count", plan.fresh_groups))
            ]
            one.insert(made)
        said.append(warning(one, 5))
    return said


def test_a_buffer_that_holds_too_little_says_so_and_why() -> None:
    assert run(buffer(), 10, 4)[4::5] == [
        f"Nothing was replayed in the last {n} steps: the buffer holds 0 groups and a step replays 4. Of {8 * n} "
        "groups, 0 had rollouts that differ in correctness; 0 were older than max_age, and 0 made room for newer ones. "
        "Train on prompts of medium difficulty, check that `correct` is the verifier's verdict, or set "
        "fresh_share or max_age higher."
        for n in (5, 10)
    ]
    said = run(buffer(max_age=1), 5, 1, count=1)
    assert said[:4] == [None] * 4
    assert "the buffer holds 2 groups" in str(said[4])
    assert "Of 5 groups, 5 had rollouts that differ in correctness; 3 were older" in str(said[4])


def test_a_buffer_that_replays_says_nothing() -> None:
    one = buffer()
    assert run(one, 30, 1) == [None] * 30
    assert one.counts.replay_steps == 29
    # It is heard again when replay stops, by then counted from the last step that replayed.
    one = buffer(max_age=1)
    assert run(one, 10, 1)[-1] is None
    assert [place for place, said in enumerate(run(one, 12, 0)) if said] == [5, 10]
