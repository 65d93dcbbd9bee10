"""Trinity-RFT follows a run: the selector that its settings name.

The trainer itself is imported when one of these names is asked for, so its rules can be read where it is
not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gaincurate.trainers.names import from_live

if TYPE_CHECKING:
    from gaincurate.trainers.trinity.live import RunSelector as RunSelector

__getattr__ = from_live(__name__, "Trinity-RFT 0.6", "RunSelector")
