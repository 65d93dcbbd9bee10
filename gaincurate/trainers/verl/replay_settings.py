"""verl's settings for replay, and its trajectories as rollout groups (verl 0.9.1); tested without verl.

Rules that also hold without replay are in `profile.py`. Groups lack old log-probs: each step computes them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from gaincurate.core.files import digest_json
from gaincurate.core.schema import ID
from gaincurate.errors import InputError
from gaincurate.replay.config import ReplayConfig
from gaincurate.replay.group import RolloutGroup
from gaincurate.trainers.doctor.common import LIVE, must, only
from gaincurate.trainers.doctor.findings import Rule, RuleContext, ask, refuse
from gaincurate.trainers.doctor.settings import Resolved, Settings
from gaincurate.trainers.verl.profile import groups, reward_pool, synchronous, whole_batches
from gaincurate.trainers.verl.settings import Lookup, run_in

MODULE = "gaincurate.trainers.verl.replay"
_SAMPLER = "trainer.v1.sampler.custom_sampler"
_OWN = "trainer.v1.sampler.sampler_kwargs"
_TAP = {f"{_SAMPLER}.path": f"pkg://{MODULE}", f"{_SAMPLER}.name": "GroupReplayBuffer"}
_ROLLOUT = "actor_rollout_ref.rollout"
_CORRECTION = "algorithm.rollout_correction"
_MADE_AGAIN = {
    "prompts", "responses", "input_ids", "position_ids", "response_mask", "loss_mask", "rm_scores",
    "rollout_log_probs", "uid", "old_log_probs", "ref_log_prob", "entropy", "advantages", "returns",
    "rollout_is_weights",
}  # fmt: skip
"""Fields that a group stores elsewhere, or that each step computes again."""
_TAGS = ("min_global_steps", "max_global_steps")


def replay_overrides(sizes: ReplayConfig) -> list[str]:
    """The arguments of `python -m verl.trainer.main_ppo` for a training with replay.

    The clip is centred on 1, as in the paper. `sizes.group_size` is `actor_rollout_ref.rollout.n`.
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
    """The sizes in `sampler_kwargs`; raises InputError if one is missing or out of range."""
    names = {field.name for field in fields(ReplayConfig)}
    sizes = {name: value for name, value in dict(given or {}).items() if name in names}
    for name in ("batch_groups", "group_size", "capacity"):
        if name not in sizes:
            raise InputError(f"{_OWN}.{name} is not set: replay needs it (+{_OWN}.{name}=N).")
    return ReplayConfig(**sizes)


def check(setting: Lookup) -> None:
    """Raise one InputError for all settings that replay does not support."""
    rules = (*_rules(sizes_of(setting(_OWN))), synchronous, *groups, whole_batches, reward_pool)
    refuse(ask(rules, Resolved(setting), RuleContext("live"))[0])


def _rules(sizes: ReplayConfig) -> tuple[Rule, ...]:
    """Rules on the settings that replay with these sizes needs."""
    row = partial(must, name="replay", severity="stops", modes=LIVE)
    fresh, size, batch = sizes.fresh_groups, sizes.group_size, sizes.batch_groups
    distribution = "it changes the distribution that is sampled from, which the engine's log-probs follow "
    distribution += "and the actor's do not, so their ratio is no ratio of policies"

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


class Trajectory(NamedTuple):
    """A trajectory: its key `{uid}_{session}_{index}`, its tag, and its fields by name."""

    key: str
    tag: Mapping[str, Any]
    fields: dict[str, Any]


def groups_of(
    rows: Sequence[Trajectory], step: int, size: int, span: tuple[float, float] = (0.0, 1.0), **sampled: float
) -> list[RolloutGroup]:
    """The whole groups of `size` rollouts among a step's trajectories, in the order of their first row.

    A prompt with failed rollouts, or with rollouts without tokens, is left out. `span` is the range of
    rewards; `sampled` has `temperature` and `top_p`. Raises InputError if a rollout has several trajectories,
    or rows lack log-probs or rewards, and OutcomeError as `RolloutGroup` or for a reward outside the range.
    """
    by_prompt: dict[str, dict[int, Trajectory]] = defaultdict(dict)
    for row in rows:
        uid, session, index = row.key.split("_")
        if index != "0":
            raise InputError(
                f"rollout {uid}_{session} has several trajectories; replay keeps one per rollout. Train "
                "agents that branch or compress without replay."
            )
        by_prompt[uid][int(session)] = row
    groups = [[sessions[session] for session in sorted(sessions)] for sessions in by_prompt.values()]
    return [
        _group(group, step, span, sampled)
        for group in groups
        if len(group) == size and all(len(row.fields["responses"]) for row in group)
    ]


def _group(
    rows: list[Trajectory], step: int, span: tuple[float, float], sampled: Mapping[str, Any]
) -> RolloutGroup:
    for name in ("rollout_log_probs", "rm_scores"):
        if any(name not in row.fields for row in rows):
            raise InputError(
                f"{rows[0].key} has no {name}: set actor_rollout_ref.rollout.calculate_log_probs=True, and "
                "compute rewards before rollouts are sampled."
            )
    first, fields = rows[0].fields, [row.fields for row in rows]
    rewards = np.array([float(each["rm_scores"].sum()) for each in fields])
    gc_id = (first.get("extra_info") or {}).get(ID)
    return RolloutGroup(
        gc_id=digest_json(first["prompts"].tolist()) if gc_id is None else str(gc_id),
        prompt_ids=first["prompts"].numpy(),
        completion_ids=tuple(each["responses"].numpy() for each in fields),
        mask=tuple(each["response_mask"].numpy() for each in fields),
        logprobs=tuple(each["rollout_log_probs"].float().numpy() for each in fields),
        rewards=rewards,
        correct=(rewards - span[0]) / (span[1] - span[0]),
        advantages=rewards - rewards.mean(),
        policy_version=step,
        step=step,
        extra={
            "fields": [
                {name: _plain(name, value) for name, value in each.items() if name not in _MADE_AGAIN}
                for each in fields
            ],
            "tags": [{name: row.tag.get(name) for name in _TAGS} for row in rows],
        },
        **sampled,
    )


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        raise InputError(f"the field {name} of a rollout is a tensor, which replay does not keep.")
    if isinstance(value, Mapping):
        return {str(key): _plain(name, inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, inner) for inner in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def rows_of(group: RolloutGroup, uid: str, step: int) -> list[Trajectory]:
    """A group's rows for this step, with the log-probs and versions of the policy that generated them.

    The `uid` must have no underscore; verl compares rollouts with the same uid.
    """
    rows = []
    prompt = torch.tensor(group.prompt_ids, dtype=torch.int64)
    for place, (ids, counted, logprobs) in enumerate(group.rollouts):
        response, mask = (torch.tensor(values, dtype=torch.int64) for values in (ids, counted))
        scores = torch.zeros(len(response))
        scores[-1] = float(group.rewards[place])
        whole = torch.cat([prompt, response])
        fields = {
            **group.extra["fields"][place],
            "uid": uid,
            "prompts": prompt,
            "responses": response,
            "input_ids": whole,
            "position_ids": torch.arange(len(whole)),
            "response_mask": mask,
            "loss_mask": mask,
            "rm_scores": scores,
            "rollout_log_probs": torch.tensor(logprobs),
        }
        lengths = {"prompt_len": len(prompt), "response_len": len(response), "seq_len": len(whole)}
        tag = {"status": "success", **lengths, "global_steps": step, **group.extra["tags"][place]}
        rows.append(Trajectory(f"{uid}_{place}_0", tag, fields))
    return rows
