"""verl 0.9 follows a run: the classes that its settings name, and `overrides`, which are those settings.

The trainer itself is imported when one of these names is asked for, so its rules can be read where it is
not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaincurate.trainers.verl.live import RunCheckpoint as RunCheckpoint
    from gaincurate.trainers.verl.live import RunDataset as RunDataset
    from gaincurate.trainers.verl.live import RunReplayBuffer as RunReplayBuffer
    from gaincurate.trainers.verl.live import overrides as overrides

_PUBLIC = (
    "RunCheckpoint",
    "RunDataset",
    "RunReplayBuffer",
    "overrides",
)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.live"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
