"""prime-rl follows a run: the taskset that an environment package of yours hands on.

The trainer itself is imported when one of these names is asked for, so its rules can be read where it is
not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaincurate.trainers.prime_rl.live import RunConfig as RunConfig
    from gaincurate.trainers.prime_rl.live import RunData as RunData
    from gaincurate.trainers.prime_rl.live import RunTask as RunTask
    from gaincurate.trainers.prime_rl.live import RunTaskset as RunTaskset

_PUBLIC = (
    "RunConfig",
    "RunData",
    "RunTask",
    "RunTaskset",
)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.live"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
