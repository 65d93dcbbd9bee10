"""prime-rl follows a run: the taskset that an environment package of yours hands on.

The trainer itself is imported when one of these names is asked for, so its rules can be read where it is
not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gaincurate.trainers.names import from_live

if TYPE_CHECKING:
    from gaincurate.trainers.prime_rl.live import RunConfig as RunConfig
    from gaincurate.trainers.prime_rl.live import RunData as RunData
    from gaincurate.trainers.prime_rl.live import RunTask as RunTask
    from gaincurate.trainers.prime_rl.live import RunTaskset as RunTaskset

_VERSION = "verifiers a60a606ec (2026-08-21)"
__getattr__ = from_live(__name__, _VERSION, "RunConfig", "RunData", "RunTask", "RunTaskset")
