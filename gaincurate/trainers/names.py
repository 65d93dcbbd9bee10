"""The trainers' names and the parts that each one has: the only list to which a new trainer is added.

Help texts read this list, so it imports no profile, which would load Arrow. A test compares it with them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from gaincurate.errors import InputError

_WITH_LAYOUT = ("trl", "verl", "openrlhf", "nemo-rl", "skyrl", "slime", "prime-rl", "trinity", "areal")
_WITH_RULES = (*_WITH_LAYOUT, "ms-swift")
TRAINERS = (*_WITH_RULES, "roll", "open-instruct")
"""All trainers, in the order of help texts; each is a folder beside this file with a profile."""


def with_part(part: Literal["layout", "recipe", "rules"]) -> list[str]:
    """The trainers whose profile has a checkpoint layout or rules, or whose folder has a `recipe.sh`."""
    if part == "recipe":
        return [n for n in TRAINERS if (Path(__file__).parent / folder_of(n) / "recipe.sh").is_file()]
    return list(_WITH_LAYOUT if part == "layout" else _WITH_RULES)


def folder_of(name: str) -> str:
    """The name of a trainer's folder."""
    return name.replace("-", "_")


def from_live(package: str, trainer: str, *public: str) -> Callable[[str], Any]:
    """A package's `__getattr__`, which imports the module `live`, and with it the trainer, on first use.

    `public` are the names in `live`. It raises an InputError that names the `trainer` if the import fails.
    """

    def attribute(name: str) -> Any:
        if name not in public:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(importlib.import_module(f"{package}.live"), name)
        except ImportError as error:
            raise InputError(
                f"this adapter is for {trainer} and only works inside it, and it cannot be imported here "
                f"({error}). Install {trainer}, or use `gaincurate schedule run`, which needs no adapter."
            ) from error

    return attribute
