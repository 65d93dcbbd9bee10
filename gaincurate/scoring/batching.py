"""Rows to batches under a token budget, and the packed layout that has no padding.

Packed batches keep the rows in their order and are not sorted by length: without padding there is nothing to
save by that. Padded batches are sorted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gaincurate.scoring.packed_attention import KeysAndValues
from gaincurate.scoring.segment import Segmented
from gaincurate_kernels import RMSNorm, UnitSums


class SharedPrefix:
    """The hidden states `[tokens, hidden]` of a prefix that many prompts have in common.

    Whoever scores the first of those prompts puts their `sums` (one segment) in the place of `hidden`. `last`
    is the last token's state after the last norm, `[width]`, where those were asked for. `attended` has the
    keys and values in each attention module.
    """

    def __init__(
        self,
        hidden: Tensor,
        last: Tensor | None = None,
        attended: dict[nn.Module, KeysAndValues] | None = None,
    ) -> None:
        self.hidden: Tensor | None = hidden
        self.tokens, self.last, self.attended = len(hidden), last, attended
        self.sums: UnitSums | None = None


@dataclass(frozen=True, slots=True)
class PackedStates:
    """Hidden states of a batch without padding.

    `hidden` is `[tokens, hidden]` in the model's dtype. Prompt b's question has the rows `questions[b]`,
    `[prompts, 2]`, its prefix the rows `prefixes[b]`, which are none where `shared[b]` stands for it. Both
    are int64 on the CPU. With `norm`, the states are its input, and its output is what is scored. `final` are
    the same tokens after the last norm, `[tokens, width]`, where they were asked for. `ends`, `[prompts]`
    int64 on the CPU, are the rows after each prompt's last computed token, which may be one of its tail.
    """

    hidden: Tensor
    questions: Tensor
    prefixes: Tensor
    shared: tuple[SharedPrefix | None, ...]
    ends: Tensor
    norm: RMSNorm | None = None
    final: Tensor | None = None

    @classmethod
    def of(
        cls,
        hidden: Tensor,
        prompts: Sequence[Segmented],
        norm: RMSNorm | None = None,
        final: Tensor | None = None,
        lengths: Tensor | None = None,
        shared: Sequence[SharedPrefix | None] | None = None,
    ) -> PackedStates:
        """Where the prompts stand one after the other: so many tokens of each, else prefix and question."""
        shared = tuple(shared or [None] * len(prompts))
        # This and what follows: [prompts]. A prefix that was run apart has no rows.
        own = torch.tensor([0 if before else p.prefix for p, before in zip(prompts, shared, strict=True)])
        questions = torch.tensor([prompt.question_tokens for prompt in prompts])
        lengths = own + questions if lengths is None else lengths
        ends = lengths.cumsum(0)
        starts = ends - lengths
        middles = starts + own
        bounds = (torch.stack([middles, middles + questions], 1), torch.stack([starts, middles], 1))
        return cls(hidden, *bounds, shared, ends, norm, final)


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts that were run together: their `places` in what was asked for, and the tokens computed for
    them, a shared prefix counted where it was run.
    """

    places: list[int]
    states: PackedStates
    tokens: int


def padded_batches(lengths: Sequence[int], budget: int, long: Sequence[bool] = ()) -> list[list[int]]:
    """Group places so that rows x longest row stays within `budget`, shortest first.

    Similar lengths stand together, which keeps padding low. The grouping depends on the arguments alone. A
    row longer than the budget is a batch of its own. `long` rows come last and in batches of their own.
    """
    kinds = long or [False] * len(lengths)
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: (kinds[place], lengths[place])):
        batch = batches[-1] if batches else []
        # Ascending order: the newest row is the longest of its batch.
        if batch and kinds[batch[0]] == kinds[place] and (len(batch) + 1) * lengths[place] <= budget:
            batch.append(place)
        else:
            batches.append([place])
    return batches


def packed_batches(lengths: Sequence[int], budget: int, long: Sequence[bool] = ()) -> list[list[int]]:
    """Group places in their order so that the sum of lengths stays within `budget`.

    The grouping depends on the arguments alone. A row longer than the budget is a batch of its own. `long`
    rows come last and in batches of their own.
    """
    kinds, room = long or [False] * len(lengths), 0
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=kinds.__getitem__):
        if not batches or lengths[place] > room or kinds[batches[-1][0]] != kinds[place]:
            batches.append([])
            room = budget
        batches[-1].append(place)
        room -= lengths[place]
    return batches
