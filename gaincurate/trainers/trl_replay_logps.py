"""Log-probs of rollouts under a TRL trainer's weights: takes rows without padding, yields arrays by token.

By TRL's own forward pass, at the temperature that was sampled with, over the whole vocabulary. Read in TRL
1.16.0. Knows nothing of buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from trl.models.utils import disable_gradient_checkpointing

from gaincurate.errors import InputError
from gaincurate.trainers.trl_replay_rows import Array, Row, padded, ragged

_SHIFT, _MOVED = 16, 0.05  # padding added to see whether log-probs move, and by how much they may on average


def tensors(trainer: Any, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """The rows as the trainer batches them; see `padded`."""
    return padded(
        rows,
        pad=trainer._tokenizer.pad_token_id,
        multiple=trainer.pad_to_multiple_of,
        device=trainer.accelerator.device,
    )


def forward(trainer: Any, rows: Sequence[Row], *, shift: int = 0) -> list[Array]:
    """Log-probs of the rows' completions, `[rows]` arrays of float32, with `shift` more tokens of padding."""
    made = tensors(trainer, rows)
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

    Raises:
        InputError: the model's positions are counted from the padding's beginning.
    """
    (plain,), (moved,) = forward(trainer, [row]), forward(trainer, [row], shift=_SHIFT)
    change = float(abs(plain - moved).mean()) if len(plain) else 0.0
    if change > _MOVED:
        raise InputError(
            f"the model's log-probs move by {change:.2g} with {_SHIFT} tokens of padding in front, so a "
            "rollout replayed among other prompts would have other ratios: take a model with relative "
            "positions."
        )


def old_logps(
    trainer: Any, fresh: Sequence[Row], replayed: Sequence[Row], known: torch.Tensor | None, *, of_all: bool
) -> list[Array]:
    """Log-probs under the weights before this step's updates.

    Args:
        trainer: a `trl.GRPOTrainer`.
        fresh: rollouts of these weights, or of an engine that has them.
        replayed: of older ones.
        known: what TRL made of the fresh ones already, which it does where a generation feeds several steps.
        of_all: whether they are needed of the replayed ones too.

    Returns:
        Of the fresh rows, then of the replayed ones if asked for; none of the fresh where an engine gave its
        own and nobody asks.
    """
    if known is not None:
        found = ragged(known, fresh)
    elif trainer.use_vllm and not of_all:
        found = []
    else:
        found = forward(trainer, fresh)
    return found + (forward(trainer, replayed) if of_all and replayed else [])
