"""NeMo-RL follows a run: the data loader that its settings name, and `report`."""

from gaincurate.trainers.names import from_live

__getattr__ = from_live(__name__, "NeMo-RL 7ea279abf (2026-08-22)", "RunBatches", "next_batch", "report")
