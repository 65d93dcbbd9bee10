"""A strategy that draws by the reward variance of each prompt's own outcomes: fast enough for hundreds of forecasts."""

from __future__ import annotations

from typing import Any, ClassVar

from gaincurate.schedule.base import Options, Pool
from gaincurate.schedule.strategies.posterior import Posterior, PosteriorOptions


class ByOutcomes(Posterior):
    """Preset `variance` of `posterior`."""

    Options: ClassVar[Any] = Options

    def __init__(self, pool: Pool, options: Options) -> None:
        super().__init__(pool, PosteriorOptions(preset="variance"))
