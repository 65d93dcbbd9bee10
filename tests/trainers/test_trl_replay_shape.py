"""What replay makes of a TRL trainer's batch, and every setting that would break it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gaincurate.errors import InputError
from gaincurate.trainers.trl.batching import shape_of
from gaincurate.trainers.trl.replay import Replay, check_replay, config_of


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
def test_a_setting_that_would_break_replay_is_refused_by_name(
    changed: dict[str, Any], begins: str, ends: str
) -> None:
    with pytest.raises(InputError) as refused:
        check(**changed)
    assert str(refused.value).startswith(begins)
    assert str(refused.value).endswith(f"{ends}.")


def test_all_that_would_break_replay_is_refused_at_once() -> None:
    with pytest.raises(InputError) as refused:
        check(Replay(capacity=8, clip="two"), beta=0.04, tools=[print], save_only_model=True)  # type: ignore[arg-type]
    begins = ["clip='two' is not", "beta=0.04 needs", "tools=[", "save_only_model is true"]
    lines = str(refused.value).splitlines()
    assert len(lines) == len(begins)
    assert all(line.startswith(begin) for line, begin in zip(lines, begins, strict=True))


@pytest.mark.parametrize(
    ("replay", "changed", "sentence"),
    [
        ({"clip": "two"}, {}, "clip='two' is not there; it is one of one, old."),
        ({"correct": "long"}, {}, "the reward function 'long' is not there; the trainer has right, short."),
        ({"correct": "right"}, {"reward_func_names": ["right", "right"]}, "the reward function 'right' is there more"),
        ({"capacity": 3}, {}, "capacity 3 is less than the 4 groups that a step would replay"),
        (
            {"fresh_share": 0.375},
            {"processes": 4, "per_device_train_batch_size": 2, "steps_per_generation": 8},
            "fresh_share 0.375 of 8 prompts is 3, whose 24 rollouts do not divide by 32, 4 processes with 8 "
            "micro-batches each. Take a larger per_device_train_batch_size, now 2, with fewer",
        ),
    ],
)  # fmt: skip
def test_choices_and_sizes_that_cannot_be_are_refused(
    replay: dict[str, Any], changed: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError) as refused:
        check(Replay(**{"capacity": 8, **replay}), **changed)
    assert str(refused.value).startswith(sentence)
