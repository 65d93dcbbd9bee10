"""Rollouts to groups and back: padding, processes, and what makes no group."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.errors import OutcomeError
from gaincurate.trainers.trl.replay import (
    Row,
    batched,
    groups_of,
    ragged,
    rows_of,
    rows_of_groups,
    with_logprobs,
)

CHANCE = np.random.default_rng(0)


def batch_of(rows: list[Row], multiple: int | None = None) -> dict[str, Any]:
    trainer = SimpleNamespace(
        _tokenizer=SimpleNamespace(pad_token_id=0),
        pad_to_multiple_of=multiple,
        accelerator=SimpleNamespace(device="cpu"),
    )
    return batched(trainer, rows)


def row(gc_id: str, length: int = 3, advantage: float = 0.5, prompt: int = 2) -> Row:
    ids = CHANCE.integers(1, 9, length).astype(np.int32)
    logprobs = -CHANCE.random(length).astype(np.float32)
    prompt_ids = np.arange(1, prompt + 1, dtype=np.int32) + len(gc_id)
    return Row(gc_id, prompt_ids, ids, np.ones(length, bool), logprobs, advantage)


def grouped(rows: list[Row], rewards: list[Any], correct: list[float] | None = None, **more: Any) -> Any:
    options: dict[str, Any] = {"policy_version": 3, "step": 5, "temperature": 0.7, "top_p": 0.9}
    return groups_of(rows, rewards, correct or rewards, 2, logprobs_of="tempered", **(options | more))


@given(st.lists(st.integers(1, 6), min_size=2, max_size=8), st.sampled_from([None, 4]))
def test_a_stored_rollout_comes_back_as_it_was(lengths: list[int], multiple: int | None) -> None:
    lengths = lengths[: len(lengths) // 2 * 2]
    made = [row("ab"[place // 2 % 2] * (1 + place // 2), length) for place, length in enumerate(lengths)]
    found = rows_of_groups(grouped(made, [float(place % 2) for place in range(len(made))]))
    assert len(found) == len(made)
    batch = batch_of(found, multiple)
    assert batch["replayed"].all()
    for name in ("prompt_ids", "completion_ids"):
        assert batch[name].shape == batch[name.replace("ids", "mask")].shape
        assert multiple is None or batch[name].shape[1] % multiple == 0
    for place, one in enumerate(made):
        there = batch["prompt_mask"][place].bool()
        assert batch["prompt_ids"][place][there].tolist() == one.prompt_ids.tolist()
        assert there.tolist() == sorted(there.tolist())  # padded on the left
        there = batch["completion_mask"][place].bool()
        assert there.tolist() == sorted(there.tolist(), reverse=True)
        assert batch["completion_ids"][place][there].tolist() == one.completion_ids.tolist()
        assert batch["behaviour_logps"][place][there].tolist() == one.logprobs.tolist()
        assert (batch["behaviour_logps"][place][~there] == 0).all()
        assert batch["advantages"][place] == one.advantage
    assert [array.tolist() for array in ragged(batch["behaviour_logps"], found)] == [
        one.logprobs.tolist() for one in made
    ]


def test_groups_carry_what_was_sampled_with() -> None:
    (group,) = grouped([row("a"), row("a", 1)], [1.0, 0.25], [1.0, 0.0])
    assert (group.policy_version, group.step, group.temperature, group.top_p) == (3, 5, 0.7, 0.9)
    assert (group.rewards.tolist(), group.correct.tolist()) == ([1.0, 0.25], [1.0, 0.0])


def test_a_group_that_nobody_could_judge_is_none() -> None:
    found = grouped([row("a"), row("a"), row("bb"), row("bb")], [1.0, None, 1.0, 0.0])
    assert [group if group is None else group.gc_id for group in found] == [None, "bb"]


@pytest.mark.parametrize(
    ("rows", "rewards", "sentence"),
    [
        ([row("a"), row("bb")], [1.0, 0.0], "^the 2 rollouts of a group are of 'a' and of 'bb': the rows come"),
        ([row("a"), row("a", prompt=3)], [1.0, 0.0], "of a group are of 'a' and of 'a'"),  # another prompt
        ([row("a")] * 3, [1.0, 0.0, 1.0], "^3 rollouts came with 3 rewards, which do not make groups of 2"),
        ([row("a")] * 4, [1.0, 0.0], "^4 rollouts came with 2 rewards"),
        ([row("a")] * 2, [1.0, 0.0, 1.0, 1.0], "^2 rollouts came with 4 rewards"),
        ([row("a")] * 2, [-1.0, 1.0], "^a reward of 'a' is -1, and whether a group is worth keeping is seen"),
    ],
)  # fmt: skip
def test_what_makes_no_group_is_refused(rows: list[Row], rewards: list[float], sentence: str) -> None:
    with pytest.raises(OutcomeError, match=sentence):
        grouped(rows, rewards)


def test_a_token_that_an_engine_could_not_score_is_left_out() -> None:
    (found,) = with_logprobs([row("a", 3)], [np.array([-1.0, math.nan, -2.0], np.float32)])
    assert found.mask.tolist() == [True, False, True]
    assert found.logprobs.tolist() == [-1.0, 0.0, -2.0]
    batch = batch_of([found])
    assert batch["completion_mask"].tolist() == [[1, 1, 1]]  # attended to all the same
    assert batch["tool_mask"].tolist() == [[1, 0, 1]]


def test_rows_without_an_id_are_known_by_their_prompt() -> None:
    output = {
        "prompt_ids": torch.tensor([[0, 5], [5, 6], [0, 5]]),
        "prompt_mask": torch.tensor([[0, 1], [1, 1], [0, 1]]),
        "completion_mask": torch.tensor([[1, 1], [0, 0], [1, 0]]),
        "advantages": torch.tensor([0.5, -0.5, 0.0]),
    }
    found = rows_of([{}, {}, {}], [[7, 8], [7, 8], [7]], output)
    assert found[0].gc_id == found[2].gc_id != found[1].gc_id
    assert [given.prompt_ids.tolist() for given in found] == [[5], [5, 6], [5]]
    assert [given.completion_ids.tolist() for given in found] == [[7, 8], [7, 8], [7]]
    assert [given.mask.tolist() for given in found] == [[True, True], [False, False], [True]]
    assert rows_of([{"gc_id": 3}], [[7, 8]], output)[0].gc_id == "3"
