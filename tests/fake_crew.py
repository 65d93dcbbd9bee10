"""Workers that do nothing, with a clock that goes as fast as it is read: for the loop that hands shards out."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gaincurate.core.leases import Death, Event, Leases


@dataclass
class FakeCrew:
    """Each worker comes after `start_seconds` and takes `shard_seconds(shard)` for one after the other.

    Args:
        shard_seconds: how long each shard takes.
        capacity: how many workers there is room for, by the time.
        dies: called with a worker and its first unfinished shard (None while it starts), before each step of a
            worker; a `Death` ends it there.
    """

    shard_seconds: Callable[[int], float] = lambda shard: 1.0
    start_seconds: float = 2.0
    capacity: Callable[[float], int] = lambda now: 2
    dies: Callable[[int, int | None], Death | None] = lambda worker, shard: None
    now: float = 0.0
    order: int = 0
    due: list[tuple[float, int, int, str, Any]] = field(default_factory=list)
    messages: dict[int, list[int]] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)
    placed: set[int] = field(default_factory=set)
    busy: set[int] = field(default_factory=set)
    done: list[int] = field(default_factory=list)
    """Shards in the order in which workers did them, also those that nobody heard of."""

    def _in(self, seconds: float, worker: int, kind: str, value: Any = None) -> None:
        self.order += 1
        heapq.heappush(self.due, (self.now + seconds, self.order, worker, kind, value))

    def _place(self) -> None:
        while self.waiting and len(self.placed) < self.capacity(self.now):
            worker = self.waiting.pop(0)
            self.placed.add(worker)
            self._in(0.0, worker, "placed", f"node {worker}")
            death = self.dies(worker, None)
            if death is not None:
                self._in(self.start_seconds, worker, "died", death)
            else:
                self._in(self.start_seconds, worker, "plan", "the plan")

    def start(self, worker: int) -> None:
        self.messages[worker] = []
        self.waiting.append(worker)

    def send(self, worker: int, message: Any) -> None:
        if message == "run":
            self._in(0.0, worker, "ready")
        elif message is None:
            self._in(0.0, worker, "done")
        else:
            self.messages[worker] += message
            self._go_on(worker)

    def _go_on(self, worker: int) -> None:
        if worker in self.busy or not self.messages.get(worker):
            return
        self.busy.add(worker)
        shard = self.messages[worker].pop(0)
        death = self.dies(worker, shard)
        if death is not None:
            self._in(self.shard_seconds(shard) / 2, worker, "died", death)
        else:
            self._in(self.shard_seconds(shard), worker, "part", ("", {"shard": shard}))

    def end(self, worker: int) -> None:
        self.placed.discard(worker)
        self.busy.discard(worker)
        self.messages.pop(worker, None)
        if worker in self.waiting:
            self.waiting.remove(worker)

    def wait(self, seconds: float) -> list[Event]:
        until = self.now + seconds
        while True:
            self._place()
            if not self.due or self.due[0][0] > until:
                self.now = until
                return []
            self.now, _, worker, kind, value = heapq.heappop(self.due)
            if worker not in self.placed:
                continue  # it was ended
            if kind == "part":
                self.done.append(value[1]["shard"])
                self.busy.discard(worker)
                self._go_on(worker)
            elif kind == "died":
                self.placed.discard(worker)
            return [Event(worker, kind, value)]

    def room(self) -> int:
        return self.capacity(self.now)

    def lacking(self) -> str:
        return "a worker needs 1 CPU, and the cluster has none"

    def clock(self) -> float:
        return self.now


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
