"""Signs that a trainer's checkpoint is complete, as far as several trainers share them.

Each check reads what the trainer writes last. A file that cannot be read to its end is one that is being
written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gaincurate.core.foreign import json_file, read_text

_SHORT = 1 << 10  # bytes of a file that holds a number
TRACKER = "latest_checkpointed_iteration.txt"
"""Megatron's file, which trainers on top of it keep too."""


def tracker(name: str) -> Callable[[Path, int], str | None]:
    """For trainers that write the newest complete step into a file next to the checkpoints."""

    def unfinished(path: Path, step: int) -> str | None:
        file = path.parent / name
        newest = number_in(file)
        if newest is None:
            return f"{path} is not finished: {file} does not say so"
        return None if newest >= step else f"{path} is not finished: {file} has step {newest}"

    return unfinished


def number_in(file: Path, prefix: str = "") -> int | None:
    """The number that a small file holds; None where there is no such file, or something else in it."""
    try:
        return int(read_text(file, _SHORT).strip().removeprefix(prefix))
    except (OSError, ValueError):
        return None


def tokenizer_unfinished(folder: Path) -> str | None:
    """The file that `save_pretrained` of a tokenizer has not written: the configuration or the vocabulary."""
    why, file = unreadable(folder / "tokenizer_config.json"), folder / "tokenizer.json"
    others = ("tokenizer.model", "*.tiktoken", "vocab.*", "*.model")
    if why is None and (file.is_file() or not any(any(folder.glob(name)) for name in others)):
        why = unreadable(file)
    return why


def unreadable(file: Path) -> str | None:
    """The reason if a JSON file, which is written last, is missing or not finished."""
    if not file.is_file():
        return f"{file.parent} has no {file.name}, which is written last"
    return None if json_or_none(file) is not None else f"{file} is not finished"


def json_or_none(file: Path) -> Any:
    """The content of a JSON file; None if it cannot be read to its end."""
    try:
        return json_file(file)
    except (OSError, ValueError):
        return None
