"""verl 0.9 follows a run: the classes that its settings name, and `overrides`, which are those settings."""

from gaincurate.trainers.names import from_live

__getattr__ = from_live(__name__, "verl 0.9.1", "RunCheckpoint", "RunDataset", "RunReplayBuffer", "overrides")
