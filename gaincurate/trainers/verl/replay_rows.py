"""verl's trajectories as rollout groups, and rows of TransferQueue again.

Values that the present step computes (old log-probs, advantages) are not stored: verl computes them again.
Imports no verl, so that it is tested without.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gaincurate.core.files import digest_json
from gaincurate.core.schema import ID
from gaincurate.errors import InputError
from gaincurate.replay.group import RolloutGroup

Fields = dict[str, Any]
_MADE_AGAIN = {
    "prompts", "responses", "input_ids", "position_ids", "response_mask", "loss_mask", "rm_scores",
    "rollout_log_probs", "uid", "old_log_probs", "ref_log_prob", "entropy", "advantages", "returns",
    "rollout_is_weights",
}  # fmt: skip
"""Fields that a group has a place for, or that the present step computes."""
_TAGS = ("min_global_steps", "max_global_steps")


@dataclass(frozen=True, slots=True)
class Row:
    """A trajectory: its key `{uid}_{session}_{index}`, its tag, and its fields by name."""

    key: str
    tag: Mapping[str, Any]
    fields: Fields


@dataclass(frozen=True, slots=True)
class Sampling:
    """How rollouts are made and judged; `low` and `high` are the range of rewards."""

    size: int
    temperature: float = 1.0
    top_p: float = 1.0
    low: float = 0.0
    high: float = 1.0


def groups_of(rows: Sequence[Row], step: int, sampling: Sampling) -> list[RolloutGroup]:
    """The whole groups among a step's trajectories, in the order of their first row.

    A prompt with failed rollouts, or with rollouts without a token, is left out.

    Raises:
        InputError: a rollout of several trajectories, or rows without log-probs or rewards.
        OutcomeError: see `RolloutGroup`; a reward outside its range is a correctness outside 0 to 1.
    """
    by_prompt: dict[str, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        uid, session, index = row.key.split("_")
        if index != "0":
            raise InputError(
                f"rollout {uid}_{session} is of several trajectories; replay keeps one a rollout. Train "
                "agents that branch or compress without replay."
            )
        by_prompt[uid][int(session)] = row
    whole = [found for found in by_prompt.values() if len(found) == sampling.size]
    return [
        _group([found[session] for session in sorted(found)], step, sampling)
        for found in whole
        if all(len(row.fields["responses"]) for row in found.values())
    ]


def _group(rows: list[Row], step: int, sampling: Sampling) -> RolloutGroup:
    for name in ("rollout_log_probs", "rm_scores"):
        if any(name not in row.fields for row in rows):
            raise InputError(
                f"{rows[0].key} has no {name}: set actor_rollout_ref.rollout.calculate_log_probs=True, and "
                "let the rewards be there when rollouts are sampled."
            )
    first = rows[0].fields
    rewards = np.array([float(row.fields["rm_scores"].sum()) for row in rows])
    prompt = first["prompts"].numpy()
    extra = first.get("extra_info") or {}
    known = extra.get(ID)
    return RolloutGroup(
        gc_id=str(known) if known is not None else digest_json(prompt.tolist()),
        prompt_ids=prompt,
        completion_ids=tuple(row.fields["responses"].numpy() for row in rows),
        mask=tuple(row.fields["response_mask"].numpy() for row in rows),
        logprobs=tuple(row.fields["rollout_log_probs"].float().numpy() for row in rows),
        rewards=rewards,
        correct=(rewards - sampling.low) / (sampling.high - sampling.low),
        advantages=rewards - rewards.mean(),
        policy_version=step,
        step=step,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        extra={
            "fields": [
                {name: _plain(name, value) for name, value in row.fields.items() if name not in _MADE_AGAIN}
                for row in rows
            ],
            "tags": [{name: row.tag.get(name) for name in _TAGS} for row in rows],
        },
    )


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        raise InputError(f"the field {name} of a rollout is a tensor, which replay does not keep.")
    if isinstance(value, Mapping):
        return {str(key): _plain(name, inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, inner) for inner in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def rows_of(group: RolloutGroup, uid: str, step: int) -> list[Row]:
    """A group's rows as if they were of this step, but for log-probs and the versions that generated them.

    Args:
        group: that `groups_of` made.
        uid: without an underscore; verl compares rollouts of one uid with each other.
        step: verl's.
    """
    found = []
    prompt = torch.tensor(group.prompt_ids, dtype=torch.int64)
    for place in range(group.size):
        response = torch.tensor(group.completion_ids[place], dtype=torch.int64)
        mask = torch.tensor(group.mask[place], dtype=torch.int64)
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
            "rollout_log_probs": torch.tensor(group.logprobs[place]),
        }
        tag = {
            "status": "success",
            "prompt_len": len(prompt),
            "response_len": len(response),
            "seq_len": len(prompt) + len(response),
            "global_steps": step,
            **group.extra["tags"][place],
        }
        found.append(Row(f"{uid}_{place}_0", tag, fields))
    return found
