"""verl's settings for replay: the Hydra overrides for given sizes, and what is refused (verl 0.9.1).

What also holds for a run without replay (synchronous steps, whole groups) is in `profile.py`.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from functools import partial
from typing import Any

from gaincurate.errors import InputError
from gaincurate.replay.config import ReplayConfig
from gaincurate.trainers.doctor.common import LIVE, must, only
from gaincurate.trainers.doctor.findings import Context, Rule, ask, refuse
from gaincurate.trainers.doctor.settings import Resolved, Settings
from gaincurate.trainers.verl.profile import groups, reward_pool, synchronous, whole_batches
from gaincurate.trainers.verl.settings import Lookup, run_in

MODULE = "gaincurate.trainers.verl.replay"
_SAMPLER = "trainer.v1.sampler.custom_sampler"
_OWN = "trainer.v1.sampler.sampler_kwargs"
_TAP = {f"{_SAMPLER}.path": f"pkg://{MODULE}", f"{_SAMPLER}.name": "GroupReplayBuffer"}
_ROLLOUT = "actor_rollout_ref.rollout"
_CORRECTION = "algorithm.rollout_correction"


def replay_overrides(sizes: ReplayConfig) -> list[str]:
    """The arguments of `python -m verl.trainer.main_ppo` that train with replay.

    The clip is centred on 1, as in the paper.

    Args:
        sizes: `group_size` is `actor_rollout_ref.rollout.n`.
    """
    return [
        *[f"{key}={value}" for key, value in _TAP.items()],
        *[f"+{_OWN}.{name}={value}" for name, value in asdict(sizes).items() if value is not None],
        f"+{_OWN}.temperature=${{{_ROLLOUT}.temperature}}",
        f"trainer.checkpoint_callback_class={MODULE}.ReplayCheckpoint",
        f"data.train_batch_size={sizes.fresh_groups}",
        f"{_ROLLOUT}.n={sizes.group_size}",
        f"{_ROLLOUT}.calculate_log_probs=True",
        f"{_CORRECTION}.bypass_mode=True",
    ]


def sizes_of(given: Any) -> ReplayConfig:
    """The sizes in `sampler_kwargs`; raises InputError where one is missing or cannot be."""
    names = {field.name for field in fields(ReplayConfig)}
    own = {name: value for name, value in dict(given or {}).items() if name in names}
    for name in ("batch_groups", "group_size", "capacity"):
        if name not in own:
            raise InputError(f"{_OWN}.{name} is not set: replay needs it (+{_OWN}.{name}=N).")
    return ReplayConfig(**own)


def check(setting: Lookup) -> None:
    """Refuse settings under which replay would not be what it says, all in one error."""
    rules = (*_rules(sizes_of(setting(_OWN))), synchronous, *groups, whole_batches, reward_pool)
    refuse(ask(rules, Resolved(setting), Context("live"))[0])


def _rules(sizes: ReplayConfig) -> tuple[Rule, ...]:
    """The settings that replay of these sizes needs."""
    row = partial(must, name="replay", severity="stops", modes=LIVE)
    fresh, size, batch = sizes.fresh_groups, sizes.group_size, sizes.batch_groups
    distribution = (
        "it changes the distribution that is sampled from, which the engine's log-probs follow and "
    )
    distribution += "the actor's do not, so their ratio is no ratio of policies"

    def reads_evenly(settings: Settings) -> bool:
        chunk = settings["data.gen_batch_size"] or settings["data.train_batch_size"]
        return bool(chunk) and fresh % chunk == 0 and batch % chunk == 0

    return (
        row(f"{_SAMPLER}.path", lambda value: value is not None, "nothing would be replayed", fix=_TAP),
        row("data.train_files", lambda files: run_in(files) is None,
            "a run hands out as many prompts each step, and replay asks for more until its buffer is filled",
            advice="give verl a data file, or train by the run without replay"),
        row("data.train_batch_size", lambda value: value == fresh,
            f"a step that replays generates {fresh} of {batch} groups", fix={"data.train_batch_size": fresh}),
        only(lambda settings, _: not reads_evenly(settings),
            row("data.gen_batch_size", lambda _: False, "prompts are read so many at a time (by default "
            f"data.train_batch_size), which does not divide both {fresh} and {batch}",
            fix={"data.gen_batch_size": 1})),
        row(f"{_ROLLOUT}.n", lambda value: value == size, f"a group in the buffer has {size} rollouts",
            fix={f"{_ROLLOUT}.n": size}),
        row("actor_rollout_ref.actor.ppo_mini_batch_size", lambda value: value and batch % value == 0,
            f"verl would pad the batch of {batch} groups to a multiple of it",
            advice=f"set it to a divisor of {batch}"),
        row(f"{_ROLLOUT}.calculate_log_probs", True,
            "no log-probs of the policy that generates would be kept"),
        only(lambda settings, _: settings[f"{_CORRECTION}.rollout_is"] != "token",
            row(f"{_CORRECTION}.bypass_mode", True, "replayed rollouts would be weighed as if the present "
            "policy had generated them", advice=f"or {_CORRECTION}.rollout_is=token with a high "
            f"{_CORRECTION}.rollout_is_threshold. The first centres the clip on 1, as in the paper, the "
            "second on pi_old / pi_behaviour, as in the released code")),
        row(f"{_ROLLOUT}.top_p", lambda value: value in (None, 1), distribution,
            fix={f"{_ROLLOUT}.top_p": 1}),
        row(f"{_ROLLOUT}.top_k", lambda value: value is None or value <= 0, distribution,
            fix={f"{_ROLLOUT}.top_k": -1}),
        only(lambda settings, _: settings[f"{_ROLLOUT}.temperature"] != 1,
            row(f"{_ROLLOUT}.logprobs_mode", lambda value: value in (None, "processed_logprobs"),
            "the engine's log-probs have no temperature, and the actor's have it",
            fix={f"{_ROLLOUT}.logprobs_mode": "processed_logprobs"})),
    )  # fmt: skip
