"""gaincurate: scores and orders RL training sets for language models.

Importing it loads neither torch nor Arrow; the names below load what they need on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "RoundDataset", "RunSession", "Schedule", "ScoreConfig", "ScoredSet", "export", "open_scores", "predict",
    "rollout", "score",
]  # fmt: skip

if TYPE_CHECKING:
    from gaincurate.core.scored_set import ScoredSet, open_scores
    from gaincurate.difficulty.predict import predict
    from gaincurate.difficulty.rollout import rollout
    from gaincurate.schedule.driver import Schedule
    from gaincurate.scoring.config import ScoreConfig
    from gaincurate.scoring.pipeline import score
    from gaincurate.trainers.export import export
    from gaincurate.trainers.round_dataset import RoundDataset
    from gaincurate.trainers.session import RunSession

_HOMES = {
    "RoundDataset": "gaincurate.trainers.round_dataset",
    "RunSession": "gaincurate.trainers.session",
    "Schedule": "gaincurate.schedule.driver",
    "ScoreConfig": "gaincurate.scoring.config",
    "ScoredSet": "gaincurate.core.scored_set",
    "export": "gaincurate.trainers.export",
    "open_scores": "gaincurate.core.scored_set",
    "predict": "gaincurate.difficulty.predict",
    "rollout": "gaincurate.difficulty.rollout",
    "score": "gaincurate.scoring.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gaincurate' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
