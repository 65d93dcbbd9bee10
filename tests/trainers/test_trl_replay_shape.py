"""What replay makes of a TRL trainer's batch and rollouts, and every setting that would break it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.errors import InputError, OutcomeError
from gaincurate.trainers.trl.batching import shape_of
from gaincurate.trainers.trl.replay import (
    Replay,
    Row,
    batched,
    check_replay,
    config_of,
    groups_of,
    ragged,
    rows_of,
    rows_of_groups,
    with_logprobs,
)


def trainer(*, processes: int = 1, **changed: Any) -> Any:
    """The settings that are looked at, as TRL 1.16.0 has them by default, but for a loss that is allowed."""
    accelerated = SimpleNamespace(split_batches=False, dispatch_batches=None)
    args = {
        "generation_batch_size": 64, "per_device_train_batch_size": 16, "steps_per_generation": 4,
        "gradient_accumulation_steps": 4, "seed": 42, "save_strategy": "steps", "save_steps": 500,
        "save_only_model": False, "accelerator_config": accelerated, "generation_kwargs": None,
    }  # fmt: skip
    own = {
        "num_generations": 8, "num_iterations": 1, "loss_type": "dapo", "importance_sampling_level": "token",
        "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "beta": 0.0, "use_vllm": False,
        "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0,
        "vllm_importance_sampling_correction": True, "tools": [], "environment_factories": None,
        "rollout_func": None, "_is_vlm": False, "reward_func_names": ["right", "short"], "train_dataset": [],
    }  # fmt: skip
    for name, value in changed.items():
        assert name in args or name in own
        (args if name in args else own)[name] = value
    accelerator = SimpleNamespace(num_processes=processes, process_index=0)
    return SimpleNamespace(args=SimpleNamespace(**args), accelerator=accelerator, **own)


def check(replay: Replay | None = None, **changed: Any) -> None:
    made, chosen = trainer(**changed), replay or Replay(capacity=8)
    check_replay(made, chosen, config_of(made, chosen))


def test_sizes_come_from_the_trainer() -> None:
    config = config_of(trainer(), Replay(capacity=16, fresh_share=0.25, max_age=3))
    assert (config.batch_groups, config.group_size, config.capacity) == (8, 8, 16)
    assert (config.fresh_groups, config.replayed_groups, config.max_age, config.seed) == (2, 6, 3, 42)


def test_what_is_harmless_is_let_through() -> None:
    for loss_type in ("grpo", "bnpo", "dr_grpo", "dapo"):
        check(loss_type=loss_type)
    check(use_vllm=True, vllm_importance_sampling_correction=False)
    check(top_p=0.95)  # transformers generates, and the log-probs are the trainer's own
    check(Replay(capacity=8, clip="old", correct="right"))
    check(processes=2, per_device_train_batch_size=8)
    check(save_strategy="no", save_only_model=True)
    check(save_steps=3, num_iterations=3)
    check(save_strategy="epoch")


def test_a_followed_run_is_dealt_in_fresh_prompts() -> None:
    made = trainer(processes=2, per_device_train_batch_size=8)
    assert shape_of(made).prompts == 8
    made.prompts_a_generation = 4
    assert shape_of(made).prompts == 4


ENGINE: dict[str, Any] = {"use_vllm": True, "vllm_importance_sampling_correction": False}


@pytest.mark.parametrize(
    ("changed", "begins", "ends"),
    [
        ({"loss_type": "cispo"}, "loss_type='cispo' clips no ratio by token; 'grpo' is the paper's", "='grpo'"),
        ({"importance_sampling_level": "sequence"}, "importance_sampling_level='sequence' has no", "='token'"),
        ({"top_entropy_quantile": 0.2}, "top_entropy_quantile=0.2 would choose tokens by one", "quantile=1"),
        ({"off_policy_mask_threshold": 0.5}, "off_policy_mask_threshold=0.5 drops", "threshold=None"),
        ({"beta": 0.04}, "beta=0.04 needs a reference policy's log-probs", "Set beta=0"),
        ({"use_vllm": True}, "vllm_importance_sampling_correction=True would correct twice", "correction=False"),
        (ENGINE | {"top_p": 0.95}, "top_p=0.95 with vLLM: its log-probs are of what is left", "Set top_p=1"),
        (ENGINE | {"generation_kwargs": {"top_k": 50, "seed": 1}}, "top_k=50 with vLLM: its log-probs", "Set top_k=0"),
        ({"tools": [print]}, "tools=[<built-in function print>] is more than text that the trainer", ""),
        ({"environment_factories": {}}, "environment_factories={} is more than text", ""),
        ({"rollout_func": print}, "rollout_func=<built-in function print> is more", ""),
        ({"_is_vlm": True}, "_is_vlm=True is more than text", ""),
        ({"train_dataset": iter(())}, "train_dataset is a tuple_iterator, which TRL deals", "a map-style dataset"),
        ({"accelerator_config": SimpleNamespace(split_batches=True)}, "accelerator_config.split_batches is", ""),
        ({"save_only_model": True}, "save_only_model is true: a checkpoint has no optimizer", ""),
        ({"save_steps": 1, "num_iterations": 2}, "save_steps is 1: it is inside a generation's window", "save_steps=2"),
        ({"save_strategy": "best"}, "save_strategy is best: the adapter refuses it", ""),
    ],
)  # fmt: skip
def test_a_setting_that_breaks_replay_is_refused(changed: dict[str, Any], begins: str, ends: str) -> None:
    with pytest.raises(InputError) as refused:
        check(**changed)
    assert str(refused.value).startswith(begins)
    assert str(refused.value).endswith(f"{ends}.")


def test_all_that_would_break_replay_is_refused_at_once() -> None:
    with pytest.raises(InputError) as refused:
        check(Replay(capacity=8, clip="two"), beta=0.04, tools=[print], save_only_model=True)  # type: ignore[arg-type]
    begins = ["clip='two' is unknown", "beta=0.04 needs", "tools=[", "save_only_model is true"]
    lines = str(refused.value).splitlines()
    assert len(lines) == len(begins)
    assert all(line.startswith(begin) for line, begin in zip(lines, begins, strict=True))


@pytest.mark.parametrize(
    ("replay", "changed", "sentence"),
    [
        ({"clip": "two"}, {}, "clip='two' is unknown; it must be one of one, old."),
        ({"correct": "long"}, {}, "the reward function 'long' does not exist; the trainer has right, short."),
        ({"correct": "right"}, {"reward_func_names": ["right", "right"]}, "the reward function 'right' occurs more"),
        ({"capacity": 3}, {}, "capacity 3 is less than the 4 groups that a step would replay"),
        (
            {"fresh_share": 0.375},
            {"processes": 4, "per_device_train_batch_size": 2, "steps_per_generation": 8},
            "fresh_share 0.375 of 8 prompts is 3, whose 24 rollouts do not divide by 32, 4 processes with 8 "
            "micro-batches each. Take a larger per_device_train_batch_size, now 2, with fewer",
        ),
    ],
)  # fmt: skip
def test_wrong_choices_and_sizes_are_refused(
    replay: dict[str, Any], changed: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError) as refused:
        check(Replay(**{"capacity": 8, **replay}), **changed)
    assert str(refused.value).startswith(sentence)


# Rollouts to groups and back: padding, processes, and what makes no group.


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
        ([row("a"), row("bb")], [1.0, 0.0], "^the 2 rollouts of a group are of 'a' and of 'bb': the rows are"),
        ([row("a"), row("a", prompt=3)], [1.0, 0.0], "of a group are of 'a' and of 'a'"),  # another prompt
        ([row("a")] * 3, [1.0, 0.0, 1.0], "^3 rollouts came with 3 rewards, which do not make groups of 2"),
        ([row("a")] * 4, [1.0, 0.0], "^4 rollouts came with 2 rewards"),
        ([row("a")] * 2, [1.0, 0.0, 1.0, 1.0], "^2 rollouts came with 4 rewards"),
        ([row("a")] * 2, [-1.0, 1.0], "^a reward of 'a' is -1, and replay needs correctness from 0 to 1"),
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
