"""Batches under a token budget, and what comes out of one: takes lengths, yields lists of places.

Knows nothing of models or of how a state is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gaincurate.scoring.segment import Segmented
from gaincurate_kernels import RMSNorm, UnitSums


class SharedPrefix:
    """The hidden states `[tokens, hidden]` of a prefix that many prompts have in common.

    They are summed once, by whoever scores the first of those prompts, and then let go. `last` is its last
    token's state behind the last norm, `[width]`, where those were asked for.
    """

    def __init__(self, hidden: Tensor, last: Tensor | None = None) -> None:
        self.tokens = len(hidden)
        self.last = last
        self._hidden: Tensor | None = hidden
        self._sums: UnitSums | None = None

    def sums(self, compute: Callable[[Tensor], UnitSums]) -> UnitSums:
        """Its sums of unit vectors, one segment; `compute` is called the first time."""
        if self._sums is None:
            assert self._hidden is not None
            self._sums = compute(self._hidden)
            self._hidden = None
        return self._sums


@dataclass(frozen=True, slots=True)
class PackedStates:
    """Hidden states of a batch without padding.

    `hidden` is `[tokens, hidden]` in the model's dtype. Prompt b's question has the rows `questions[b]`,
    `[prompts, 2]`, its prefix the rows `prefixes[b]`, which are none where `shared[b]` stands for it. Both
    are int64 on the CPU. With `norm`, the states are its input, and its output is what is scored. `final` are
    the same tokens behind the last norm, `[tokens, width]`, where they were asked for. `stops`, `[prompts]`
    int64 on the CPU, are the rows behind each prompt's last computed token where tails were computed too.
    """

    hidden: Tensor
    questions: Tensor
    prefixes: Tensor
    shared: tuple[SharedPrefix | None, ...]
    norm: RMSNorm | None = None
    final: Tensor | None = None
    stops: Tensor | None = None

    @property
    def ends(self) -> Tensor:
        """`[prompts]`: the row behind each prompt's last computed token."""
        return self.questions[:, 1] if self.stops is None else self.stops

    @classmethod
    def of_whole_prompts(
        cls,
        hidden: Tensor,
        prompts: Sequence[Segmented],
        norm: RMSNorm | None = None,
        final: Tensor | None = None,
        *,
        tails: bool = False,
    ) -> PackedStates:
        """Where every prompt's prefix and question, and with `tails` its tail, stand one behind the other."""
        lengths = torch.tensor([len(p.token_ids) if tails else p.end for p in prompts])
        stops = lengths.cumsum(0)
        starts = stops - lengths
        middles = starts + torch.tensor([prompt.prefix for prompt in prompts])
        ends = starts + torch.tensor([prompt.end for prompt in prompts])
        questions, prefixes = torch.stack([middles, ends], 1), torch.stack([starts, middles], 1)
        nothing_shared = (None,) * len(prompts)
        return cls(hidden, questions, prefixes, nothing_shared, norm, final, stops if tails else None)


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts that were run together: their `places` in what was asked for, and the tokens computed for
    them, a shared prefix counted where it was run. `behind_site` is how many seconds the forward went on
    behind the scored tensor.
    """

    places: list[int]
    states: PackedStates
    tokens: int
    behind_site: float = 0.0


def apart(
    batches: Callable[[Sequence[int]], list[list[int]]], lengths: Sequence[int], kinds: Sequence[bool]
) -> Iterator[list[int]]:
    """What `batches` makes of the lengths of one kind and then of the other, as places in the whole."""
    for kind in (False, True):
        own = [place for place, found in enumerate(kinds) if found == kind]
        for batch in batches([lengths[place] for place in own]):
            yield [own[index] for index in batch]


def padded_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group places so that rows x longest row stays within `budget`, shortest first.

    Similar lengths stand together, which keeps padding low. The grouping depends on `lengths` and
    `budget` alone. A row longer than the budget is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batches: list[list[int]] = []
    for place in order:
        # Ascending order: the newest row is the longest of its batch.
        if batches and (len(batches[-1]) + 1) * lengths[place] <= budget:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def packed_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group places in their order so that the sum of lengths stays within `budget`.

    The grouping depends on `lengths` and `budget` alone. A row longer than the budget is a batch of its own.
    """
    batches: list[list[int]] = []
    room = 0
    for place, length in enumerate(lengths):
        if not batches or length > room:
            batches.append([])
            room = budget
        batches[-1].append(place)
        room -= length
    return batches
