from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import runs
from gaincurate.errors import InputError
from gaincurate.replay.config import ReplayConfig
from gaincurate.trainers.verl.replay_settings import check, replay_overrides, sizes_of

GOOD: dict[str, Any] = {
    "trainer.v1.sampler.custom_sampler.path": "pkg://gaincurate.trainers.verl.replay",
    "trainer.v1.sampler.sampler_kwargs": {
        "batch_groups": 8,
        "group_size": 4,
        "capacity": 16,
        "fresh_share": 0.25,
        "temperature": 0.6,
    },
    "trainer.v1.trainer_mode": "sync",
    "data.train_files": "train.parquet",
    "data.train_batch_size": 2,
    "actor_rollout_ref.rollout.n": 4,
    "actor_rollout_ref.rollout.calculate_log_probs": True,
    "actor_rollout_ref.rollout.temperature": 0.6,
    "actor_rollout_ref.rollout.top_p": 1,
    "actor_rollout_ref.rollout.top_k": -1,
    "actor_rollout_ref.rollout.logprobs_mode": "processed_logprobs",
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
