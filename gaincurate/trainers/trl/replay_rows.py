"""TRL's tensors of rollouts to whole groups and back.

Log probabilities of replayed rollouts are computed again under the policy of now, in chunks that are as
large as the trainer's own, because the loss needs the ratio to the policy that generated them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import pad

from gaincurate.core.files import digest_bytes
from gaincurate.core.schema import ID
from gaincurate.errors import InputError, OutcomeError
from gaincurate.replay.group import RolloutGroup

Array = npt.NDArray[Any]


class Row(NamedTuple):
    """One rollout without padding. `logprobs` is of the behaviour policy, 0 where the mask is False."""

    gc_id: str
    prompt_ids: Array
    completion_ids: Array
    mask: Array
    logprobs: Array
    advantage: float
    replayed: bool = False


def rows_of(
    inputs: Sequence[Mapping[str, Any]], completions: Sequence[Sequence[int]], output: Mapping[str, Any]
) -> list[Row]:
    """The rollouts that this process generated, `[local]`, without log-probs yet.

    `inputs` are the dataset's rows, `completions` the token ids without padding, one each a rollout, and
    `output` is that of TRL's `_generate_and_score_completions`.
    """
    prompts, prompt_mask = output["prompt_ids"].cpu(), output["prompt_mask"].cpu().bool()
    mask = output["completion_mask"].cpu().numpy().astype(bool)
    advantages = output["advantages"].float().cpu().tolist()
    rows = []
    for place, given in enumerate(inputs):
        prompt = prompts[place][prompt_mask[place]].numpy().astype(np.int32)
        ids = np.asarray(completions[place], np.int32)
        gc_id = str(given[ID]) if ID in given else digest_bytes(prompt.tobytes())
        none = np.zeros(len(ids), np.float32)
        rows.append(Row(gc_id, prompt, ids, mask[place, : len(ids)], none, advantages[place]))
    return rows


def with_logprobs(rows: Sequence[Row], logprobs: Sequence[Array]) -> list[Row]:
    """The rows with the behaviour policy's log-probs; a token that has none is left out of the loss."""
    scored = []
    for row, given in zip(rows, logprobs, strict=True):
        mask = row.mask & np.isfinite(given)
        scored.append(row._replace(mask=mask, logprobs=np.where(mask, given, 0).astype(np.float32)))
    return scored


def ragged(padded: torch.Tensor, rows: Sequence[Row]) -> list[Array]:
    """`[rows, tokens]` without the padding on the right, as float32."""
    whole = padded.detach().float().cpu().numpy()
    return [whole[place, : len(row.completion_ids)] for place, row in enumerate(rows)]


def groups_of(
    rows: Sequence[Row],
    rewards: Sequence[float | None],
    correct: Sequence[float | None],
    size: int,
    **about: Any,
) -> list[RolloutGroup | None]:
    """The groups of a generation, `[groups]`; None for one with a rollout that could not be judged.

    Args:
        rows: of all processes in their order, `[groups * size]`.
        rewards: of the same rollouts; None: not judged.
        correct: of the same rollouts, 0 to 1; None: not judged.
        size: rollouts in a group, G.
        **about: the other fields of the groups.

    Raises:
        OutcomeError: there are not as many rewards, or not whole groups; the rollouts of a group are not of
            one prompt; or a correctness is outside 0 to 1.
    """
    if len(rows) != len(rewards) or len(rows) % size:
        raise OutcomeError(
            f"{len(rows)} rollouts came with {len(rewards)} rewards, which do not make groups of {size}: has "
            "something put itself between the trainer and its reward functions?"
        )
    groups: list[RolloutGroup | None] = []
    for start in range(0, len(rows), size):
        own = slice(start, start + size)
        judged = [[value for value in values[own] if value is not None] for values in (rewards, correct)]
        if min(map(len, judged)) < size:
            groups.append(None)
            continue
        _check(rows[own], judged[1])
        names, prompts, *tokens, advantages, _ = zip(*rows[own], strict=True)
        numbers = map(np.asarray, (*judged, advantages))
        groups.append(RolloutGroup(names[0], prompts[0], *tokens, *numbers, **about))
    return groups


def _check(part: Sequence[Row], correct: Sequence[float]) -> None:
    first = part[0]
    for row in part:
        if row.gc_id != first.gc_id or not np.array_equal(row.prompt_ids, first.prompt_ids):
            raise OutcomeError(
                f"the {len(part)} rollouts of a group are of {first.gc_id!r} and of {row.gc_id!r}: the rows "
                "come in another order than TRL's sampler gives them, so no advantage means anything.",
                gc_id=first.gc_id,
            )
    if wrong := [value for value in correct if not 0 <= value <= 1]:
        raise OutcomeError(
            f"a reward of {first.gc_id!r} is {wrong[0]:g}, and whether a group is worth keeping is seen from "
            "raw correctness, 0 to 1: name the reward function that says it, Replay(..., correct=NAME).",
            gc_id=first.gc_id,
        )


def rows_of_groups(groups: Sequence[RolloutGroup]) -> list[Row]:
    """The stored rollouts, group by group."""
    return [
        Row(group.gc_id, group.prompt_ids, ids, mask, logprobs, float(advantage), replayed=True)
        for group in groups
        for (ids, mask, logprobs), advantage in zip(group.rollouts, group.advantages, strict=True)
    ]


_SHIFT, _MOVED = 16, 0.05  # padding added to see whether log-probs move, and by how much they may on average


def batched(trainer: Any, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """The rows, `[local]`, as TRL batches them: prompts padded on the left, completions on the right.

    Returns:
        `prompt_ids`, `prompt_mask`, `completion_ids`, `completion_mask`, `tool_mask` of int64 and
        `behaviour_logps` of float32, `[local, length]` each; `advantages` of float32 and `replayed` of bool,
        `[local]`. What is attended to is in `completion_mask`, what counts in the loss in TRL's `tool_mask`.
    """
    fill = trainer._tokenizer.pad_token_id
    prompts, completions = [row.prompt_ids for row in rows], [row.completion_ids for row in rows]
    made = {
        "prompt_ids": padded(trainer, prompts, torch.int64, fill, "left"),
        "prompt_mask": padded(trainer, [np.ones_like(ids) for ids in prompts], torch.int64, 0, "left"),
        "completion_ids": padded(trainer, completions, torch.int64, fill),
        "completion_mask": padded(trainer, [np.ones_like(ids) for ids in completions], torch.int64),
        "tool_mask": padded(trainer, [row.mask for row in rows], torch.int64),
        "behaviour_logps": padded(trainer, [row.logprobs for row in rows], torch.float32),
        "advantages": torch.tensor([row.advantage for row in rows], dtype=torch.float32),
        "replayed": torch.tensor([row.replayed for row in rows], dtype=torch.bool),
    }
    return {name: tensor.to(trainer.accelerator.device) for name, tensor in made.items()}


def padded(
    trainer: Any, values: Sequence[Array], kind: torch.dtype, fill: int = 0, side: str = "right"
) -> torch.Tensor:
    """Ragged values by token as the trainer pads them, `[local, length]`."""
    tensors = [torch.tensor(each, dtype=kind) for each in values]
    whole: torch.Tensor = pad(tensors, fill, side, trainer.pad_to_multiple_of)
    return whole


def forward(trainer: Any, rows: Sequence[Row], *, shift: int = 0) -> list[Array]:
    """Log-probs of the rows' completions, `[rows]` arrays of float32, with `shift` more tokens of padding."""
    made = batched(trainer, rows)
    ids = torch.cat([made["prompt_ids"], made["completion_ids"]], dim=1)
    mask = torch.cat([made["prompt_mask"], made["completion_mask"]], dim=1)
    if shift:
        pad = torch.full_like(ids[:, :1], trainer._tokenizer.pad_token_id).expand(-1, shift)
        ids, mask = torch.cat([pad, ids], dim=1), torch.cat([torch.zeros_like(pad), mask], dim=1)
    model, options = trainer.model, trainer.args.gradient_checkpointing_kwargs
    with torch.no_grad(), disable_gradient_checkpointing(model, options):
        logps, _, _ = trainer._get_per_token_logps_and_entropies(
            model,
            ids,
            mask,
            made["completion_ids"].size(1),
            batch_size=trainer.args.per_device_train_batch_size,
        )
    return ragged(logps, rows)


def refuse_padding(trainer: Any, row: Row) -> None:
    """See that a rollout has the same log-probs among other prompts, where it has other padding.

    It has not where the model's positions are counted from the padding's beginning.
    """
    (plain,), (moved,) = forward(trainer, [row]), forward(trainer, [row], shift=_SHIFT)
    change = float(abs(plain - moved).mean()) if len(plain) else 0.0
    if change > _MOVED:
        raise InputError(
            f"the model's log-probs move by {change:.2g} with {_SHIFT} tokens of padding in front, so a "
            "rollout replayed among other prompts would have other ratios: take a model with relative "
            "positions."
        )
