"""TRL follows a run: `attach` and `dataset`, and `async_arguments` for `AsyncGRPOTrainer`.

The trainer itself is imported when one of these names is asked for, so its rules can be read where it is
not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaincurate.trainers.trl.asynchronous import async_arguments as async_arguments
    from gaincurate.trainers.trl.live import Follower as Follower
    from gaincurate.trainers.trl.live import attach as attach
    from gaincurate.trainers.trl.live import dataset as dataset

_PUBLIC = {
    "Follower": "live",
    "async_arguments": "asynchronous",
    "attach": "live",
    "dataset": "live",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
