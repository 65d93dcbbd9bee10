"""The trainers' names and which parts each one has: the one list that a new trainer is added to.

Help texts read this list, so it imports no profile: a profile loads Arrow. A test compares the two.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from gaincurate.errors import InputError

_WITH_LAYOUT = ("trl", "verl", "openrlhf", "nemo-rl", "skyrl", "slime", "prime-rl", "trinity", "areal")
"""The trainers whose profile has a layout of checkpoints."""

TRAINERS = (*_WITH_LAYOUT, "ms-swift", "roll", "open-instruct")
"""Every folder beside this file that has a profile, in the order in which people are shown them."""


def with_part(part: Literal["layout", "recipe", "rules"]) -> list[str]:
    """The trainers that have a part: a layout, or a file of their folder."""
    if part == "layout":
        return list(_WITH_LAYOUT)
    file = {"recipe": "recipe.sh", "rules": "rules.py"}[part]
    return [name for name in TRAINERS if (Path(__file__).parent / folder_of(name) / file).is_file()]


def folder_of(name: str) -> str:
    """The name of a trainer's folder."""
    return name.replace("-", "_")


def from_live(package: str, trainer: str, *public: str) -> Callable[[str], Any]:
    """A package's `__getattr__`, which imports its `live` module and so the trainer on first use.

    Args:
        package: its name.
        trainer: the trainer with its version, for the InputError where it cannot be imported.
        public: names of `live`.
    """

    def attribute(name: str) -> Any:
        if name not in public:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(importlib.import_module(f"{package}.live"), name)
        except ImportError as error:
            raise InputError(
                f"this adapter is for {trainer} and works inside it alone, and it cannot be imported here "
                f"({error}). Install {trainer}, or use `gaincurate schedule run`, which needs no adapter."
            ) from error

    return attribute
