"""Grouping a shard's prompts into batches: takes lengths and a token budget, yields lists of places.

Knows nothing of tokens' values or of models.
"""

from __future__ import annotations

from collections.abc import Sequence


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
