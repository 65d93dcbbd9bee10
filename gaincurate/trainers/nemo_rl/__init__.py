"""NeMo-RL follows a run: the data loader that its settings name, and `report`.

The trainer itself is imported when one of these names is asked for, so its rules can be read where it is
not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gaincurate.trainers.names import from_live

if TYPE_CHECKING:
    from gaincurate.trainers.nemo_rl.live import RunBatches as RunBatches
    from gaincurate.trainers.nemo_rl.live import next_batch as next_batch
    from gaincurate.trainers.nemo_rl.live import report as report

__getattr__ = from_live(__name__, "NeMo-RL 7ea279abf (2026-08-22)", "RunBatches", "next_batch", "report")
