"""A verifier and sets for comparisons of a tiny model."""

from __future__ import annotations

from typing import Any


def even(completion: str, row: dict[str, Any]) -> float:
    """Whether a completion has an even number of characters: about half of them, whatever the model."""
    return float(len(completion) % 2 == 0)
