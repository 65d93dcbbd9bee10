"""slime follows a run: the data source and the report that its flags name.

The trainer itself is imported when one of these names is asked for, so its rules can be read where it is
not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gaincurate.trainers.names import from_live

if TYPE_CHECKING:
    from gaincurate.trainers.slime.live import RunDataSource as RunDataSource
    from gaincurate.trainers.slime.live import report as report

__getattr__ = from_live(__name__, "slime 624b824a8 (2026-08-21)", "RunDataSource", "report")
