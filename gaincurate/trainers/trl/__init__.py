"""TRL follows a run: `attach` and `dataset`, and `async_arguments` for `AsyncGRPOTrainer`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gaincurate.trainers.names import from_live

if TYPE_CHECKING:
    from gaincurate.trainers.trl.live import Follower as Follower
    from gaincurate.trainers.trl.live import async_arguments as async_arguments
    from gaincurate.trainers.trl.live import attach as attach
    from gaincurate.trainers.trl.live import dataset as dataset

__getattr__ = from_live(__name__, "TRL 1.16", "Follower", "async_arguments", "attach", "dataset")
