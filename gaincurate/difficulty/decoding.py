"""Local generation, token by token: one prefill per prompt, sampled from seeds of each rollout's own.

A rollout's text does not depend on its neighbours in the batch, so a killed run goes on to the same texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers.cache_utils import DynamicLayer

States = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of a text for each layer, `[heads, tokens, width]`."""

SAMPLING_RULE = "inverse-cdf/1"
PREFILL_RULE = "shared/1"
PIECE = 8
"""Tokens after which rows that have ended leave."""
LOGPROBS = "of the distribution sampled from: after temperature and top-p"
_LIKELY = 1024  # tokens among which the nucleus mostly is
_FEWEST = 16  # tokens of a common beginning that are worth a forward of their own


class Sampler(transformers.LogitsProcessor):
    """Draws a token for each row and leaves the others no chance, so that a greedy search takes it.

    Args:
        noise: `[rows, max tokens]`, float64, uniform inside (0, 1).
        temperature: the logits are divided by it.
        top_p: the smallest set of most probable tokens that reaches this mass is drawn from.
    """

    def __init__(self, noise: torch.Tensor, temperature: float, top_p: float) -> None:
        self._noise, self._temperature, self._top_p = noise, temperature, top_p
        self.logprobs: list[torch.Tensor] = []
        """For each step, of the drawn tokens: `[rows]`, float64."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores `[rows, vocabulary]` with 0 at the drawn token and minus infinity elsewhere."""
        chances = torch.softmax(scores.double() / self._temperature, -1)
        if self._top_p < 1:
            chances = nucleus(chances, self._top_p)
            chances /= chances.sum(-1, keepdim=True)
        mass = chances.cumsum(-1)  # [rows, vocabulary]
        whole = mass[:, -1:].contiguous()  # [rows, 1], which rounding may leave beside 1
        drawn = torch.searchsorted(mass, self._noise[:, len(self.logprobs), None] * whole, right=True)
        # Rounding must not carry the draw past the last token that has any mass.
        drawn = torch.minimum(drawn, torch.searchsorted(mass, whole)).clamp_max(mass.shape[-1] - 1)
        self.logprobs.append(chances.gather(-1, drawn)[:, 0].log())
        return torch.full_like(scores, -torch.inf).scatter_(-1, drawn, 0.0)


def nucleus(chances: torch.Tensor, top_p: float) -> torch.Tensor:
    """`chances` `[rows, vocabulary]`, 0 outside the fewest most probable tokens that reach `top_p`.

    Of equally probable tokens the first come first. The vocabulary is sorted only where it must be: that
    would take longer than all else about a draw.
    """
    best = chances.topk(min(_LIKELY, chances.shape[-1]), -1).values
    if (best.sum(-1) < top_p).any():
        best = chances.sort(dim=-1, descending=True).values
    count = (best.cumsum(-1) - best < top_p).sum(-1, keepdim=True)
    border = best.gather(-1, count - 1)
    above, equal = chances > border, chances == border
    room = count - above.sum(-1, keepdim=True)
    if (equal.sum(-1, keepdim=True) > room).any():
        equal &= equal.cumsum(-1) <= room
    return torch.where(above | equal, chances, 0.0)


class SharedPrefill:
    """The prefill of a wave's batches.

    Args:
        prompts: the token ids of all prompts of the wave, so that nothing depends on which are done already.
    """

    def __init__(self, prompts: Sequence[npt.NDArray[np.int32]]) -> None:
        # Two tokens of each prompt stay: one for its prefill, and the last, whose logits begin a completion.
        prefix = common_prefix(prompts)[: max(0, min(map(len, prompts), default=0) - 2)]
        self._prefix = prefix if len(prefix) >= _FEWEST and len(prompts) > 1 else prefix[:0]
        self._states: States | None = None
        self._works = min(map(len, prompts), default=0) >= 2

    def __call__(self, model: Any, ids: torch.Tensor, mask: torch.Tensor, rows: torch.Tensor) -> Any:
        """A cache with all but the last token of each prompt, or None: the model must do its own prefill.

        Args:
            model: with its head; its `generation_config` is set.
            ids: `[prompts, tokens]`, each prompt once, padded on the left.
            mask: `[prompts, tokens]`, 0 where there is padding.
            rows: the prompt of each completion, `[completions]`.
        """
        if not self._works:
            return None
        cache = _run(model, ids[:, :-1], mask[:, :-1], self._beginning(model, mask))
        self._works = cache is not None
        if cache is not None:
            cache.batch_select_indices(rows)
        return cache

    def _beginning(self, model: Any, mask: torch.Tensor) -> Any:
        """A cache with the first columns of a batch: its padding, and so much of the prefix as comes then.

        Padding moves a prompt to the right but not its positions, so a key is right in any column.
        """
        if not len(self._prefix):
            return None
        if self._states is None:
            text = torch.from_numpy(self._prefix.astype(np.int64))[None].to(mask.device)
            computed = _run(model, text, torch.ones_like(text), None)
            if computed is None:
                return None
            self._states = [(layer.keys[0], layer.values[0]) for layer in computed.layers]
        # [prompts, prefix tokens]: which token of the prefix stands in each column
        places = torch.arange(len(self._prefix), device=mask.device) - (mask == 0).sum(1, keepdim=True)
        places.clamp_(min=0)  # padding: any finite states do, for nothing attends to them
        cache = transformers.DynamicCache()
        for number, (keys, values) in enumerate(self._states):
            cache.update(keys[:, places].transpose(0, 1), values[:, places].transpose(0, 1), number)
        return cache


def _run(model: Any, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> Any:
    """The cache after `ids`, of which `cache` may hold the first columns; None where it is of another kind.

    `generate` gives each model the positions and masks that it wants; the token that it draws is not used.
    """
    options = {} if cache is None else {"past_key_values": cache}
    output = model.generate(
        ids, attention_mask=mask, max_new_tokens=1, return_dict_in_generate=True, use_cache=True, **options
    )
    new_cache: Any = getattr(output, "past_key_values", None)
    layers = getattr(new_cache, "layers", [])
    plain = bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
    return new_cache if plain and new_cache.get_seq_length() == ids.shape[1] else None


def common_prefix(texts: Sequence[npt.NDArray[np.int32]]) -> npt.NDArray[np.int32]:
    """The tokens that all texts begin with."""
    if not texts:
        return np.zeros(0, np.int32)
    prefix = texts[0]
    for text in texts[1:]:
        count = min(len(prefix), len(text))
        other = np.flatnonzero(prefix[:count] != text[:count])
        prefix = prefix[: other[0] if len(other) else count]
    return prefix


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
    """Tokens and their log-probabilities, `[completions, max tokens]`; after an end token they mean nothing.

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
        drawn = ids[:, mask.shape[1] :]  # [going, tokens of this piece]
        tokens[going, done : done + drawn.shape[1]] = drawn
        logprobs[going, done : done + drawn.shape[1]] = torch.stack(sampler.logprobs, 1)
        done += piece
        left = torch.isin(drawn, torch.tensor(ends, device=drawn.device)).logical_not().all(1).nonzero()[:, 0]
        ids, mask = ids[left], torch.nn.functional.pad(mask[left], (0, drawn.shape[1]), value=1)
        if cache is not None and len(left) < len(going):
            cache.batch_select_indices(left)
        going = going[left]
    return tokens, logprobs
