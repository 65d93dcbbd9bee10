"""NLL and entropy by another route: one prompt at a time, whole, with its tail, in float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from gaincurate.scoring.segment import Segmented

Values = tuple[float | None, float | None, float]


@torch.no_grad()
def plain(whole: Any, prompts: Sequence[Segmented]) -> list[Values]:
    """Mean NLL and mean entropy over the question, and the entropy at the last token of the prompt."""
    # Grouped products of experts are in float32 only.
    experts = any("expert" in name for name, _ in whole.named_modules())
    exact, found = whole if experts else copy.deepcopy(whole).double(), list[Values]()
    for prompt in prompts:
        ids = torch.from_numpy(prompt.token_ids).long()[None]
        logits = exact(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0].double()
        shares, entropies = (
            torch.log_softmax(logits, -1),
            torch.distributions.Categorical(logits=logits).entropy(),
        )
        places = torch.arange(max(prompt.prefix, 1), prompt.end)
        means: tuple[float | None, float | None] = (None, None)
        if len(places):
            means = -float(shares[places - 1, ids[0, places]].mean()), float(entropies[places - 1].mean())
        found.append((*means, float(entropies[-1])))
    return found
