"""verl 0.9 follows a run: the classes that its settings name, and `overrides`, which are those settings.

The trainer itself is imported when one of these names is asked for, so its rules can be read where it is
not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gaincurate.trainers.names import from_live

if TYPE_CHECKING:
    from gaincurate.trainers.verl.live import RunCheckpoint as RunCheckpoint
    from gaincurate.trainers.verl.live import RunDataset as RunDataset
    from gaincurate.trainers.verl.live import RunReplayBuffer as RunReplayBuffer
    from gaincurate.trainers.verl.live import overrides as overrides

__getattr__ = from_live(__name__, "verl 0.9.1", "RunCheckpoint", "RunDataset", "RunReplayBuffer", "overrides")
