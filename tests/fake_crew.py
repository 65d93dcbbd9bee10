"""Simulated workers whose fate a test decides, and what came of handing shards out to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gaincurate.core.leases import Death, Event, Leases
from gaincurate.core.simulated_crew import SimulatedCrew


class FakeCrew(SimulatedCrew):
    """Simulated workers.

    Args:
        shard_seconds: how long each shard takes.
        capacity: how many workers there is room for, by the time.
        dies: called with a worker and its first unfinished shard (None while it starts); a `Death` ends it there.
    """

    def __init__(
        self,
        *,
        shard_seconds: Callable[[int], float] = lambda shard: 1.0,
        capacity: Callable[[float], int] = lambda now: 2,
        dies: Callable[[int, int | None], Death | None] = lambda worker, shard: None,
    ) -> None:
        super().__init__()
        self._shard_seconds, self._capacity, self.dies = shard_seconds, capacity, dies

    def seconds_of(self, shard: int) -> float:
        return self._shard_seconds(shard)

    def room(self) -> int:
        return self._capacity(self.now)

    def fate(self, worker: int, shard: int | None) -> Death | None:
        return self.dies(worker, shard)


@dataclass
class Run:
    """What came of handing shards out."""

    heard: list[Event]
    crew: FakeCrew

    @property
    def parts(self) -> list[int]:
        return [event.value[1]["shard"] for event in self.heard if event.kind == "part"]

    @property
    def notes(self) -> list[str]:
        return [event.value for event in self.heard if event.kind == "note"]


def hand_out(crew: FakeCrew, shards: int, run: Run, *, most: int | None = None, wait: float = 60.0) -> None:
    """Have a crew do so many shards of ten rows; what is heard goes into `run`, also before an error."""

    def same(first: object, other: object) -> None:
        assert first == other

    leases = Leases(
        crew,
        most=most,
        wait=wait,
        hear=run.heard.append,
        same=same,
        rows_of=lambda shard: f"rows {10 * shard} to {10 * shard + 9}",
    )
    assert leases.first_plan(shards) == "the plan"
    leases.hand_out(range(shards), "run")
