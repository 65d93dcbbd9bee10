"""Decoding a batch: takes a model, prompts and uniform numbers, yields the drawn tokens.

Rows that have ended leave the batch every few tokens, so that one long completion does not keep all others in
it. Knows nothing of requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers

from gaincurate.difficulty.sampler import Sampler
from gaincurate.difficulty.shared_prefill import SharedPrefill

PIECE = 8
"""Tokens after which rows that have ended leave."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of a batch: `ids` and `mask`, `[prompts, tokens]`, padded on the left.

    `rows`, `[completions]`, says which prompt each completion is of.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    rows: torch.Tensor


def decode(
    model: Any,
    prompts: Prompts,
    prefill: SharedPrefill,
    noise: torch.Tensor,
    *,
    temperature: float,
    top_p: float,
    ends: list[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and their log-probabilities, `[completions, max tokens]`; behind an end token they mean nothing.

    Args:
        model: with its head; its `generation_config` is set.
        prompts: of the batch.
        prefill: of the wave.
        noise: `[completions, max tokens]`, float64, uniform inside (0, 1).
        temperature: see `Sampler`.
        top_p: see `Sampler`.
        ends: tokens that end a completion.
    """
    count, limit = noise.shape
    tokens = torch.zeros((count, limit), dtype=torch.long, device=noise.device)
    logprobs = torch.zeros((count, limit), dtype=torch.float64, device=noise.device)
    going, done = torch.arange(count, device=noise.device), 0
    cache = prefill(model, prompts.ids, prompts.mask, prompts.rows)
    ids, mask = prompts.ids[prompts.rows], prompts.mask[prompts.rows]
    while len(going) and done < limit:
        piece = limit if cache is None else min(PIECE, limit - done)
        sampler = Sampler(noise[going, done : done + piece], temperature, top_p)
        ids = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=piece,
            logits_processor=transformers.LogitsProcessorList([sampler]),
            **({} if cache is None else {"past_key_values": cache}),
        )
        drawn = ids[:, mask.shape[1] :]
        tokens[going, done : done + drawn.shape[1]] = drawn
        logprobs[going, done : done + drawn.shape[1]] = torch.stack(sampler.logprobs, 1)
        done += piece
        left = torch.isin(drawn, torch.tensor(ends, device=drawn.device)).logical_not().all(1).nonzero()[:, 0]
        ids, mask = ids[left], torch.nn.functional.pad(mask[left], (0, drawn.shape[1]), value=1)
        if cache is not None and len(left) < len(going):
            cache.batch_select_indices(left)
        going = going[left]
    return tokens, logprobs
