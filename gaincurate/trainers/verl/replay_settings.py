"""verl's settings for replay: takes sizes, yields Hydra overrides, or takes settings, yields what is wrong.

Knows nothing of verl's code: settings are looked up by their dotted names (verl 0.9.1, `ppo_trainer.yaml`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from gaincurate.errors import InputError
from gaincurate.replay.config import ReplayConfig
from gaincurate.trainers.verl.settings import Lookup, run_in

MODULE = "gaincurate.trainers.verl_replay"
_SAMPLER = "trainer.v1.sampler.custom_sampler"
_OWN = "trainer.v1.sampler.sampler_kwargs"
_TAP = f"{_SAMPLER}.path=pkg://{MODULE} {_SAMPLER}.name=GroupReplayBuffer"
_ROLLOUT = "actor_rollout_ref.rollout"
_CORRECTION = "algorithm.rollout_correction"
_PAPER = f"{_CORRECTION}.bypass_mode=True"
_RELEASED = f"{_CORRECTION}.rollout_is=token"


def replay_overrides(sizes: ReplayConfig) -> list[str]:
    """What to put behind `python -m verl.trainer.main_ppo` to train with replay.

    The clip is centred on 1, as in the paper.

    Args:
        sizes: `group_size` is `actor_rollout_ref.rollout.n`.
    """
    given = {one.name: getattr(sizes, one.name) for one in fields(sizes)}
    return [
        *_TAP.split(),
        *[f"+{_OWN}.{name}={value}" for name, value in given.items() if value is not None],
        f"+{_OWN}.temperature=${{{_ROLLOUT}.temperature}}",
        f"trainer.checkpoint_callback_class={MODULE}.ReplayCheckpoint",
        f"data.train_batch_size={sizes.fresh_groups}",
        f"{_ROLLOUT}.n={sizes.group_size}",
        f"{_ROLLOUT}.calculate_log_probs=True",
        _PAPER,
    ]


def sizes_of(given: Any) -> ReplayConfig:
    """The sizes in `sampler_kwargs`.

    Raises:
        InputError: one is missing or cannot be.
    """
    known = {one.name for one in fields(ReplayConfig)}
    own = {name: value for name, value in dict(given or {}).items() if name in known}
    for name in ("batch_groups", "group_size", "capacity"):
        if name not in own:
            raise InputError(f"{_OWN}.{name} is not set: replay needs it (+{_OWN}.{name}=N).")
    return ReplayConfig(**own)


def check(setting: Lookup) -> None:
    """Refuse settings under which replay would not be what it says.

    Raises:
        InputError: all that is wrong, a sentence each.
    """
    if found := list(problems(setting)):
        raise InputError("\n".join(found))


def problems(setting: Lookup) -> Iterator[str]:
    """What is wrong with verl's settings, a sentence each with the setting that mends it."""
    sizes = sizes_of(setting(_OWN))
    if setting(f"{_SAMPLER}.path") is None:
        yield f"{_SAMPLER} is not set, so nothing would be replayed: set {_TAP}."
    if run_in(setting("data.train_files")) is not None:
        yield (
            "data.train_files is a run, which hands out as many prompts each step, and replay asks for more "
            "until its buffer is filled: give verl a data file, or train by the run without replay."
        )
    yield from _size_problems(setting, sizes)
    yield from _ratio_problems(setting)
    mode = setting("trainer.v1.trainer_mode")
    if mode != "sync":
        yield (
            f"trainer.v1.trainer_mode={mode} generates ahead of what is replayed: set "
            "trainer.v1.trainer_mode=sync."
        )
    for name in ("algorithm.filter_groups.enable", "trainer.v1.sampler.sync_refill_failed_groups"):
        if setting(name):
            yield f"{name}=True is left to a custom sampler by verl, and this one does not: set {name}=False."
    if (setting("trainer.v1.sync.parameter_sync_step") or 1) > 1:
        yield (
            "trainer.v1.sync.parameter_sync_step takes a step's prompts apart: set "
            "trainer.v1.sync.parameter_sync_step=1."
        )
    if setting("reward.reward_model.enable") and not setting("reward.reward_model.enable_resource_pool"):
        yield (
            "reward.reward_model without a resource pool of its own rewards rollouts after they were "
            "sampled, too late to be kept: set reward.reward_model.enable_resource_pool=True."
        )


def _size_problems(setting: Lookup, sizes: ReplayConfig) -> Iterator[str]:
    fresh, batch = sizes.fresh_groups, setting("data.train_batch_size")
    if batch != fresh:
        yield (
            f"data.train_batch_size is {batch} and a step that replays generates {fresh} of "
            f"{sizes.batch_groups} groups: set data.train_batch_size={fresh}."
        )
    chunk = setting("data.gen_batch_size") or batch
    if not chunk or fresh % chunk or sizes.batch_groups % chunk:
        yield (
            f"prompts are read {chunk} at a time (data.gen_batch_size, else data.train_batch_size), which "
            f"divides not both {fresh} and {sizes.batch_groups}: set data.gen_batch_size=1."
        )
    if setting(f"{_ROLLOUT}.n") != sizes.group_size:
        yield (
            f"{_ROLLOUT}.n is {setting(f'{_ROLLOUT}.n')} and a group in the buffer has {sizes.group_size} "
            f"rollouts: set {_ROLLOUT}.n={sizes.group_size}."
        )
    mini = setting("actor_rollout_ref.actor.ppo_mini_batch_size")
    if not mini or sizes.batch_groups % mini:
        yield (
            f"actor_rollout_ref.actor.ppo_mini_batch_size is {mini}, and verl would pad the batch of "
            f"{sizes.batch_groups} groups to a multiple of it: set it to a divisor of {sizes.batch_groups}."
        )


def _ratio_problems(setting: Lookup) -> Iterator[str]:
    if not setting(f"{_ROLLOUT}.calculate_log_probs"):
        yield (
            "no log-probs of the policy that generates would be kept: set "
            f"{_ROLLOUT}.calculate_log_probs=True."
        )
    if not setting(f"{_CORRECTION}.bypass_mode") and setting(f"{_CORRECTION}.rollout_is") != "token":
        yield (
            "replayed rollouts would be weighed as if the present policy had generated them: set "
            f"{_PAPER} (clip centred on 1, as in the paper), or {_RELEASED} with a high "
            f"{_CORRECTION}.rollout_is_threshold (centred on pi_old / pi_behaviour, as in the released code)."
        )
    top_p, top_k = setting(f"{_ROLLOUT}.top_p"), setting(f"{_ROLLOUT}.top_k")
    if (top_p is not None and top_p != 1) or (top_k is not None and top_k > 0):
        yield (
            f"{_ROLLOUT}.top_p={top_p} and top_k={top_k} change the distribution that is sampled from, which "
            "the engine's log-probs follow and the actor's do not, so their ratio is no ratio of policies: "
            f"set {_ROLLOUT}.top_p=1 and {_ROLLOUT}.top_k=-1."
        )
    mode, temperature = setting(f"{_ROLLOUT}.logprobs_mode"), setting(f"{_ROLLOUT}.temperature")
    if mode not in (None, "processed_logprobs") and temperature != 1:
        yield (
            f"{_ROLLOUT}.logprobs_mode={mode} leaves the temperature {temperature} out of the engine's "
            f"log-probs, and the actor's have it: set {_ROLLOUT}.logprobs_mode=processed_logprobs."
        )
