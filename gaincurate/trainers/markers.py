"""Finds out whether a trainer's checkpoint is complete, from the file that the trainer writes last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gaincurate.core.foreign import json_file, read_text

_MEGATRON = "latest_checkpointed_iteration.txt"  # trainers that build on Megatron write it too


def tracker(name: str = _MEGATRON, prefix: str = "") -> Callable[[Path, int], str | None]:
    """`Layout.unfinished` for trainers that write the newest complete step to a file beside checkpoints."""

    def unfinished(path: Path, step: int) -> str | None:
        file = path.parent / name
        try:
            newest = int(read_text(file, 1 << 10).strip().removeprefix(prefix))
        except (OSError, ValueError):
            return f"{path} is not finished: {file} does not say so"
        return None if newest >= step else f"{path} is not finished: {file} has step {newest}"

    return unfinished


def tokenizer_unfinished(folder: Path) -> str | None:
    """A sentence about the file that a tokenizer's `save_pretrained` has not finished; None if it has all."""
    why, file = unreadable(folder / "tokenizer_config.json"), folder / "tokenizer.json"
    others = ("tokenizer.model", "*.tiktoken", "vocab.*", "*.model")
    if why is None and (file.is_file() or not any(any(folder.glob(name)) for name in others)):
        why = unreadable(file)
    return why


def unreadable(file: Path) -> str | None:
    """A sentence if a JSON file that is written last is missing or not finished; else None."""
    if not file.is_file():
        return f"{file.parent} has no {file.name}, which is written last"
    return None if json_or_none(file) is not None else f"{file} is not finished"


def json_or_none(file: Path) -> Any:
    """The content of a JSON file; None if it cannot be read to its end."""
    try:
        return json_file(file)
    except (OSError, ValueError):
        return None
