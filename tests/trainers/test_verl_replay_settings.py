from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import runs
from gaincurate.errors import InputError, OutcomeError
from gaincurate.replay.config import ReplayConfig
from gaincurate.replay.group import RolloutGroup
from gaincurate.trainers.verl.replay_settings import (
    Trajectory,
    check,
    groups_of,
    replay_overrides,
    rows_of,
    sizes_of,
)

SAMPLED: dict[str, Any] = {"n": 4, "calculate_log_probs": True, "temperature": 0.6, "top_p": 1, "top_k": -1}
SAMPLED |= {"logprobs_mode": "processed_logprobs"}
SIZES = {"batch_groups": 8, "group_size": 4, "capacity": 16, "fresh_share": 0.25}
GOOD: dict[str, Any] = {
    "trainer.v1.sampler.custom_sampler.path": "pkg://gaincurate.trainers.verl.replay",
    "trainer.v1.sampler.sampler_kwargs": {**SIZES, "temperature": 0.6},
    "trainer.v1.trainer_mode": "sync",
    "data.train_files": "train.parquet",
    "data.train_batch_size": 2,
    **{f"actor_rollout_ref.rollout.{name}": value for name, value in SAMPLED.items()},
    "actor_rollout_ref.actor.ppo_mini_batch_size": 2,
    "algorithm.rollout_correction.bypass_mode": True,
}


def said(**other: Any) -> list[str]:
    settings = GOOD | {name.replace("__", "."): value for name, value in other.items()}
    try:
        check(settings.get)
    except InputError as error:
        return str(error).splitlines()
    return []


def test_good_settings_are_good() -> None:
    assert said() == []
    released = {
        "algorithm__rollout_correction__bypass_mode": False,
        "algorithm__rollout_correction__rollout_is": "token",
    }
    assert said(**released) == []


ROLLOUT = "actor_rollout_ref.rollout"
REWARD = "reward.reward_model.enable"


@pytest.mark.parametrize(
    ("name", "value", "why", "fix"),
    [
        ("trainer.v1.sampler.custom_sampler.path", None, "nothing would be replayed", "=GroupReplayBuffer."),
        ("trainer.v1.trainer_mode", "colocate_async", "prompts are fetched ahead", "trainer_mode=sync."),
        ("data.gen_batch_size", 3, "prompts are read so many at a time", "gen_batch_size=1."),
        ("algorithm.filter_groups.enable", True, "groups are replaced by further", "enable=false."),
        ("trainer.v1.sync.parameter_sync_step", 2, "a step's prompts are taken apart", "sync_step=1."),
        (REWARD, True, "the reward model rewards rollouts after the adapter", "enable_resource_pool=true."),
        ("data.train_batch_size", 8, "a step that replays generates 2 of 8 groups", "train_batch_size=2."),
        (f"{ROLLOUT}.n", 8, "a group in the buffer has 4 rollouts", "rollout.n=4."),
        ("actor_rollout_ref.actor.ppo_mini_batch_size", 3, "verl would pad the batch of 8", "divisor of 8."),
        (f"{ROLLOUT}.calculate_log_probs", False, "no log-probs of the policy", "calculate_log_probs=true."),
        ("algorithm.rollout_correction.bypass_mode", None, "replayed rollouts would", "in the released code."),
        (f"{ROLLOUT}.top_p", 0.95, "it changes the distribution that is sampled from", "rollout.top_p=1."),
        (f"{ROLLOUT}.top_k", 50, "it changes the distribution that is sampled from", "rollout.top_k=-1."),
        (f"{ROLLOUT}.logprobs_mode", "raw_logprobs", "the engine's log-probs have no", "processed_logprobs."),
    ],
)  # fmt: skip
def test_a_setting_under_which_replay_is_not_what_it_says(name: str, value: Any, why: str, fix: str) -> None:
    sentence = said(**{name.replace(".", "__"): value})[0]
    shown = f"{REWARD}_resource_pool is null" if name == REWARD else f"{name} is {json.dumps(value)}"
    assert sentence.startswith(f"{shown.replace(chr(34), '')}: {why}")
    assert sentence.endswith(fix)


def test_a_run_is_refused(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    (found,) = said(data__train_files=str(run.folder))
    assert found.startswith(f"data.train_files is {run.folder}: a run hands out as many prompts each step")


@pytest.mark.parametrize("name", ["batch_groups", "group_size", "capacity"])
def test_a_size_that_is_missing_is_named(name: str) -> None:
    given = {k: v for k, v in GOOD["trainer.v1.sampler.sampler_kwargs"].items() if k != name}
    with pytest.raises(InputError, match=rf"sampler_kwargs\.{name} is not set: replay needs it \(\+trainer"):
        sizes_of(given)


def test_the_overrides_give_the_sizes_back() -> None:
    sizes = ReplayConfig(512, 8, 256, 0.5, max_age=4, seed=7)
    found = dict(one.split("=", 1) for one in replay_overrides(sizes))
    begin = "+trainer.v1.sampler.sampler_kwargs."
    own = {name.removeprefix(begin): value for name, value in found.items() if name.startswith(begin)}
    assert own.pop("temperature") == "${actor_rollout_ref.rollout.temperature}"
    assert sizes_of({name: float(v) if "." in v else int(v) for name, v in own.items()}) == sizes
    assert found["data.train_batch_size"] == "256"
    assert found["actor_rollout_ref.rollout.n"] == "8"
    assert not any("max_age" in one for one in replay_overrides(ReplayConfig(8, 2, 8)))


# Rows as groups, and back.


def row(uid: str = "u", place: int = 0, reward: float = 1.0, index: int = 0, **other: Any) -> Trajectory:
    tokens = torch.tensor([3, 4, 5 + place])
    mask = torch.tensor([1, 0, 1])
    fields = {
        "uid": uid,
        "prompts": torch.tensor([1, 2]),
        "responses": tokens,
        "input_ids": torch.tensor([1, 2, *tokens.tolist()]),
        "position_ids": torch.arange(5),
        "response_mask": mask,
        "loss_mask": mask,
        "rm_scores": torch.tensor([0.0, 0.0, reward]),
        "rollout_log_probs": torch.tensor([-0.25, 0.0, -1.5 - place]),
        "extra_info": {"index": 4, "gc_id": "p4"},
        "raw_prompt": [{"role": "user", "content": "?"}],
        "multi_modal_inputs": {},
        "num_turns": np.int64(2),
        "old_log_probs": torch.zeros(3),
        "advantages": torch.ones(3),
        **other,
    }
    tag = {"min_global_steps": 6, "max_global_steps": 6, "status": "success", "global_steps": 7}
    return Trajectory(f"{uid}_{place}_{index}", tag, {k: v for k, v in fields.items() if v is not None})


def grouped(rows: list[Trajectory], span: tuple[float, float] = (0.0, 1.0)) -> list[RolloutGroup]:
    return groups_of(rows, 7, 2, span, temperature=0.6, top_p=1.0)


def test_a_group_has_what_the_rows_have() -> None:
    (found,) = grouped([row(place=1, reward=0.0), row()])
    assert (found.gc_id, found.step, found.policy_version, found.size) == ("p4", 7, 7, 2)
    assert found.prompt_ids.tolist() == [1, 2]
    assert [one.tolist() for one in found.completion_ids] == [[3, 4, 5], [3, 4, 6]]  # by place
    assert [one.tolist() for one in found.mask] == [[True, False, True]] * 2
    assert [one.tolist() for one in found.logprobs] == [[-0.25, 0.0, -1.5], [-0.25, 0.0, -2.5]]
    assert (found.rewards.tolist(), found.advantages.tolist()) == ([1.0, 0.0], [0.5, -0.5])
    assert (found.temperature, found.logprobs_of) == (0.6, "sampled")


def test_rows_come_back_without_what_a_step_computes() -> None:
    given = [row(), row(place=1, reward=0.0)]
    (group,) = grouped(given)
    back = rows_of(group, "replay9-0", 9)
    assert [one.key for one in back] == ["replay9-0_0_0", "replay9-0_1_0"]
    for was, now in zip(given, back, strict=True):
        assert set(now.fields) == set(was.fields) - {"old_log_probs", "advantages"}
        for name, value in now.fields.items():
            if isinstance(value, torch.Tensor):
                assert value.dtype == was.fields[name].dtype
                assert torch.equal(value, was.fields[name])
            elif name != "uid":
                assert value == was.fields[name]
        assert now.fields["uid"] == "replay9-0"
        assert now.tag == {
            "status": "success",
            "prompt_len": 2,
            "response_len": 3,
            "seq_len": 5,
            "global_steps": 9,
            "min_global_steps": 6,  # the versions that generated it
            "max_global_steps": 6,
        }


def test_a_prompt_some_of_whose_rollouts_failed_is_left_out() -> None:
    given = [row("a"), row("b"), row("b", 1, 0.0)]
    assert [one.size for one in grouped(given)] == [2]
    assert grouped([]) == []


def test_without_an_id_the_prompts_tokens_name_it() -> None:
    names = [
        grouped([row(place=n, extra_info=extra, prompts=torch.tensor([1, k])) for n in (0, 1)])[0].gc_id
        for extra, k in ((None, 2), ({"index": 3}, 2), (None, 3))
    ]
    assert names[0] == names[1] != names[2]


def test_rewards_are_correct_by_their_range() -> None:
    given = [row(reward=-1.0), row(place=1, reward=1.0)]
    (found,) = grouped(given, (-1.0, 1.0))
    assert found.correct.tolist() == [0.0, 1.0]
    with pytest.raises(OutcomeError, match="correct has values outside 0 to 1"):
        grouped(given)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([row(), row(index=1)], "^rollout u_0 has several trajectories; replay keeps one per rollout. Train"),
        ([row(rollout_log_probs=None), row(place=1)], "^u_0_0 has no rollout_log_probs: set "),
        ([row(), row(place=1, rm_scores=None)], "^u_0_0 has no rm_scores: set "),
        ([row(routed_experts=torch.zeros(3)), row(place=1)], "^the field routed_experts of a rollout is a"),
    ],
)
def test_rows_that_replay_cannot_keep_are_refused(rows: list[Trajectory], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        grouped(rows)
