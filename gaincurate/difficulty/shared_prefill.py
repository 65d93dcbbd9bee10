"""Prefill that is shared: takes a model and a batch's prompts, yields keys and values for its completions.

What all prompts of a wave begin with (system message, examples) goes through the model once a wave, and what
is left of a prompt once, however many samples of it are wanted. Only for models all of whose layers attend to
the whole text: others keep states that cannot be put together so. Knows nothing of sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers.cache_utils import DynamicLayer

RULE = "shared/1"
_FEWEST = 16  # tokens of a common beginning that are worth a forward of their own
States = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of a text for each layer, `[heads, tokens, width]`."""


class SharedPrefill:
    """The prefill of a wave's batches.

    Args:
        prompts: the token ids of all prompts of the wave, so that nothing depends on which are done already.
    """

    def __init__(self, prompts: Sequence[npt.NDArray[np.int32]]) -> None:
        # Two tokens of each prompt stay: one for its prefill, and the last, whose logits begin a completion.
        found = common_prefix(prompts)[: max(0, min(map(len, prompts), default=0) - 2)]
        self._prefix = found if len(found) >= _FEWEST and len(prompts) > 1 else found[:0]
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
            found = _run(model, text, torch.ones_like(text), None)
            if found is None:
                return None
            self._states = [(layer.keys[0], layer.values[0]) for layer in found.layers]
        places = torch.arange(len(self._prefix), device=mask.device) - (mask == 0).sum(1, keepdim=True)
        places.clamp_(min=0)  # padding: any finite states do, for nothing attends to them
        cache = transformers.DynamicCache()
        for number, (keys, values) in enumerate(self._states):
            cache.update(keys[:, places].transpose(0, 1), values[:, places].transpose(0, 1), number)
        return cache


def _run(model: Any, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> Any:
    """The cache behind `ids`, of which `cache` may hold the first columns; None where it is of another kind.

    `generate` gives each model the positions and masks that it wants; the token that it draws is not used.
    """
    given = {} if cache is None else {"past_key_values": cache}
    made = model.generate(
        ids, attention_mask=mask, max_new_tokens=1, return_dict_in_generate=True, use_cache=True, **given
    )
    found: Any = getattr(made, "past_key_values", None)
    layers = getattr(found, "layers", [])
    plain = bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
    return found if plain and found.get_seq_length() == ids.shape[1] else None


def common_prefix(texts: Sequence[npt.NDArray[np.int32]]) -> npt.NDArray[np.int32]:
    """The tokens that all texts begin with."""
    if not texts:
        return np.zeros(0, np.int32)
    found = texts[0]
    for text in texts[1:]:
        count = min(len(found), len(text))
        other = np.flatnonzero(found[:count] != text[:count])
        found = found[: other[0] if len(other) else count]
    return found
