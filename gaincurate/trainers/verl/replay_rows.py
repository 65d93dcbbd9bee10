"""verl's trajectories as rollout groups, and rows of TransferQueue again.

Values that the present step computes (old log-probs, advantages) are not stored: verl computes them again.
Imports no verl, so that it is tested without.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from gaincurate.core.files import digest_json
from gaincurate.core.schema import ID
from gaincurate.errors import InputError
from gaincurate.replay.group import RolloutGroup

_MADE_AGAIN = {
    "prompts", "responses", "input_ids", "position_ids", "response_mask", "loss_mask", "rm_scores",
    "rollout_log_probs", "uid", "old_log_probs", "ref_log_prob", "entropy", "advantages", "returns",
    "rollout_is_weights",
}  # fmt: skip
"""Fields that a group has a place for, or that the present step computes."""
_TAGS = ("min_global_steps", "max_global_steps")


class Row(NamedTuple):
    """A trajectory: its key `{uid}_{session}_{index}`, its tag, and its fields by name."""

    key: str
    tag: Mapping[str, Any]
    fields: dict[str, Any]


def groups_of(
    rows: Sequence[Row], step: int, size: int, span: tuple[float, float] = (0.0, 1.0), **sampled: float
) -> list[RolloutGroup]:
    """The whole groups of `size` rollouts among a step's trajectories, in the order of their first row.

    A prompt with failed rollouts, or with rollouts without a token, is left out. `span` is the range of
    rewards; `sampled` has `temperature` and `top_p`.

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
    groups = [[sessions[session] for session in sorted(sessions)] for sessions in by_prompt.values()]
    return [
        _group(group, step, span, sampled)
        for group in groups
        if len(group) == size and all(len(row.fields["responses"]) for row in group)
    ]


def _group(rows: list[Row], step: int, span: tuple[float, float], sampled: Mapping[str, Any]) -> RolloutGroup:
    for name in ("rollout_log_probs", "rm_scores"):
        if any(name not in row.fields for row in rows):
            raise InputError(
                f"{rows[0].key} has no {name}: set actor_rollout_ref.rollout.calculate_log_probs=True, and "
                "let the rewards be there when rollouts are sampled."
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


def rows_of(group: RolloutGroup, uid: str, step: int) -> list[Row]:
    """A group's rows as if they were of this step, but for log-probs and the versions that generated them.

    The `uid` has no underscore; verl compares rollouts of one uid with each other.
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
        rows.append(Row(f"{uid}_{place}_0", tag, fields))
    return rows
