"""NeMo-RL follows a run: the data loader that its settings name, and `report`.

The trainer itself is imported when one of these names is asked for, so its rules can be read where it is
not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaincurate.trainers.nemo_rl.live import RunBatches as RunBatches
    from gaincurate.trainers.nemo_rl.live import next_batch as next_batch
    from gaincurate.trainers.nemo_rl.live import report as report

_PUBLIC = (
    "RunBatches",
    "next_batch",
    "report",
)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.live"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
