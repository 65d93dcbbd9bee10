"""verl's settings for replay: the Hydra overrides for given sizes, and what is refused (verl 0.9.1).

What also holds for a run without replay (synchronous steps, whole groups) is in `rules.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from gaincurate.errors import InputError
from gaincurate.replay.config import ReplayConfig
from gaincurate.trainers.doctor.findings import Context, Finding, ask, refuse
from gaincurate.trainers.doctor.settings import Resolved, Settings
from gaincurate.trainers.verl.rules import groups, reward_pool, synchronous, whole_batches
from gaincurate.trainers.verl.settings import Lookup, run_in

MODULE = "gaincurate.trainers.verl.replay"
_SAMPLER = "trainer.v1.sampler.custom_sampler"
_OWN = "trainer.v1.sampler.sampler_kwargs"
_TAP = {f"{_SAMPLER}.path": f"pkg://{MODULE}", f"{_SAMPLER}.name": "GroupReplayBuffer"}
_ROLLOUT = "actor_rollout_ref.rollout"
_CORRECTION = "algorithm.rollout_correction"
_PAPER = f"{_CORRECTION}.bypass_mode=True"
_RELEASED = f"{_CORRECTION}.rollout_is=token"


def replay_overrides(sizes: ReplayConfig) -> list[str]:
    """What to put after `python -m verl.trainer.main_ppo` to train with replay.

    The clip is centred on 1, as in the paper.

    Args:
        sizes: `group_size` is `actor_rollout_ref.rollout.n`.
    """
    given = {one.name: getattr(sizes, one.name) for one in fields(sizes)}
    return [
        *[f"{key}={value}" for key, value in _TAP.items()],
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
        InputError: all that is wrong, a sentence each with the settings that fix it.
    """
    settings = Resolved(setting)
    sizes = sizes_of(setting(_OWN))
    findings = [*_plugged(settings), *_sizes(settings, sizes), *_ratios(settings)]
    shared, _ = ask((synchronous, *groups, whole_batches, reward_pool), settings, Context("live"))
    refuse([*findings, *shared])


def _finding(title: str, fix: dict[str, Any] | None = None, advice: str = "") -> Finding:
    return Finding("replay", "stops", title, fix or {}, advice)


def _plugged(settings: Settings) -> Iterator[Finding]:
    if settings[f"{_SAMPLER}.path"] is None:
        yield _finding(f"{settings.told(f'{_SAMPLER}.path')}, so nothing would be replayed", _TAP)
    if run_in(settings["data.train_files"]) is not None:
        yield _finding(
            "data.train_files is a run, which hands out as many prompts each step, and replay asks for more "
            "until its buffer is filled",
            advice="give verl a data file, or train by the run without replay",
        )


def _sizes(settings: Settings, sizes: ReplayConfig) -> Iterator[Finding]:
    fresh, key = sizes.fresh_groups, "data.train_batch_size"
    batch = settings[key]
    if batch != fresh:
        yield _finding(
            f"{settings.told(key)}, and a step that replays generates {fresh} of {sizes.batch_groups} groups",
            {key: fresh},
        )
    chunk = settings["data.gen_batch_size"] or batch
    if not chunk or fresh % chunk or sizes.batch_groups % chunk:
        yield _finding(
            f"prompts are read {chunk} at a time (data.gen_batch_size, else data.train_batch_size), which "
            f"does not divide both {fresh} and {sizes.batch_groups}",
            {"data.gen_batch_size": 1},
        )
    key = f"{_ROLLOUT}.n"
    if settings[key] != sizes.group_size:
        title = f"{settings.told(key)}, and a group in the buffer has {sizes.group_size} rollouts"
        yield _finding(title, {key: sizes.group_size})
    key = "actor_rollout_ref.actor.ppo_mini_batch_size"
    mini = settings[key]
    if not mini or sizes.batch_groups % mini:
        yield _finding(
            f"{settings.told(key)}, and verl would pad the batch of {sizes.batch_groups} groups to a "
            "multiple of it",
            advice=f"set it to a divisor of {sizes.batch_groups}",
        )


def _ratios(settings: Settings) -> Iterator[Finding]:
    key = f"{_ROLLOUT}.calculate_log_probs"
    if not settings[key]:
        title = f"{settings.told(key)}: no log-probs of the policy that generates would be kept"
        yield _finding(title, {key: True})
    key = f"{_CORRECTION}.bypass_mode"
    if not settings[key] and settings[f"{_CORRECTION}.rollout_is"] != "token":
        yield _finding(
            f"{settings.told(key)}: replayed rollouts would be weighed as if the present policy had "
            "generated them",
            {key: True},
            f"or {_RELEASED} with a high {_CORRECTION}.rollout_is_threshold. The first centres the clip "
            "on 1, as in the paper, the second on pi_old / pi_behaviour, as in the released code",
        )
    top_p, top_k = settings[f"{_ROLLOUT}.top_p"], settings[f"{_ROLLOUT}.top_k"]
    if (top_p is not None and top_p != 1) or (top_k is not None and top_k > 0):
        yield _finding(
            f"{_ROLLOUT}.top_p={top_p} and top_k={top_k} change the distribution that is sampled from, which "
            "the engine's log-probs follow and the actor's do not, so their ratio is no ratio of policies",
            {f"{_ROLLOUT}.top_p": 1, f"{_ROLLOUT}.top_k": -1},
        )
    key, temperature = f"{_ROLLOUT}.logprobs_mode", settings[f"{_ROLLOUT}.temperature"]
    if settings[key] not in (None, "processed_logprobs") and temperature != 1:
        yield _finding(
            f"{settings.told(key)}, which leaves the temperature {temperature} out of the engine's "
            "log-probs, and the actor's have it",
            {key: "processed_logprobs"},
        )
