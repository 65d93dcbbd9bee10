"""Trinity-RFT follows a run: the selector that its settings name."""

from gaincurate.trainers.names import from_live

__getattr__ = from_live(__name__, "Trinity-RFT 0.6", "RunSelector")
