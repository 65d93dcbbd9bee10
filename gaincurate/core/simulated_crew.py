"""The loop that hands shards out, run at any size against workers that only wait.

The clock jumps from event to event. So a simulated run shows what the loop costs and how idle workers are. It
does not show what Ray costs, or any network. Tests decide the workers' fates by a child of `SimulatedCrew`.
"""

from __future__ import annotations

import heapq
import random
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

from gaincurate.core.leases import Death, Event, Leases

PER_NODE = 8
"""Simulated workers that are lost together."""
_START = 60.0  # seconds until a simulated worker is ready
_BACK = 120.0  # seconds until a lost node has a successor
_SPREAD = 0.2  # of a shard's seconds: standard deviation over mean


class SimulatedCrew:
    """Workers that only wait. Each comes after `start` seconds and does its shards one after the other.

    Children say how long a shard takes, how many workers there is room for, and who dies when.
    """

    start_seconds = 2.0

    def __init__(self) -> None:
        self.now = self.busy_seconds = self.ready_seconds = self.lost_seconds = 0.0
        self.done: list[int] = []
        """Shards in the order in which they were done."""
        self.placed: set[int] = set()
        self._order = 0
        self._due: list[tuple[float, int, int, str, Any]] = []
        self._lists: dict[int, list[int]] = {}
        self._waiting: list[int] = []
        self._at_work: dict[int, float] = {}
        self._ready: dict[int, float] = {}

    def seconds_of(self, shard: int) -> float:
        """How long a shard takes."""
        return 1.0

    def room(self) -> int:
        """See `Crew`."""
        return 2

    def fate(self, worker: int, shard: int | None) -> Death | None:
        """Whether a worker dies while it starts (None) or does a shard."""
        return None

    def later(self, seconds: float, worker: int, kind: str, value: Any = None) -> None:
        """Have something happen."""
        self._order += 1
        heapq.heappush(self._due, (self.now + seconds, self._order, worker, kind, value))

    def start(self, worker: int) -> None:
        """See `Crew`."""
        self._lists[worker] = []
        self._waiting.append(worker)

    def send(self, worker: int, message: Any) -> None:
        """See `Crew`."""
        if message == "run":
            self.later(0.0, worker, "ready")
        elif message is None:
            self.later(0.0, worker, "done")
        else:
            self._lists[worker] += message
            self.go_on(worker)

    def go_on(self, worker: int) -> None:
        """Begin a worker's next shard, where it has one and is at none."""
        if worker in self._at_work or not self._lists.get(worker):
            return
        self._at_work[worker] = self.now
        shard = self._lists[worker].pop(0)
        death, seconds = self.fate(worker, shard), self.seconds_of(shard)
        if death is not None:
            self.later(seconds / 2, worker, "died", death)
        else:
            self.later(seconds, worker, "part", ("", {"shard": shard}))

    def end(self, worker: int) -> None:
        """See `Crew`."""
        self.gone(worker)
        self._lists.pop(worker, None)
        if worker in self._waiting:
            self._waiting.remove(worker)

    def gone(self, worker: int) -> None:
        """A worker is no more; what it was at was in vain."""
        self.placed.discard(worker)
        self.lost_seconds += self.now - self._at_work.pop(worker, self.now)
        self.ready_seconds += self.now - self._ready.pop(worker, self.now)

    def wait(self, seconds: float) -> list[Event]:
        """See `Crew`: the next event, and the clock is where it happens."""
        until = self.now + seconds
        while True:
            self._place()
            if not self._due or self._due[0][0] > until:
                self.now = until
                return []
            self.now, _, worker, kind, value = heapq.heappop(self._due)
            if worker < 0:
                return self.happen(value)
            if worker not in self.placed:
                continue
            if kind == "ready":
                self._ready[worker] = self.now
            elif kind == "part":
                self.busy_seconds += self.now - self._at_work.pop(worker)
                self.done.append(value[1]["shard"])
                self.go_on(worker)
            elif kind == "died":
                self.gone(worker)
            return [Event(worker, kind, value)]

    def happen(self, what: Any) -> list[Event]:
        """Something that is no worker's, put there by `later` for the worker -1."""
        return []

    def _place(self) -> None:
        while self._waiting and len(self.placed) < self.room():
            worker = self._waiting.pop(0)
            self.placed.add(worker)
            self.later(0.0, worker, "placed", (f"node {worker}", worker))
            death = self.fate(worker, None)
            kind, value = ("plan", "the plan") if death is None else ("died", death)
            self.later(self.start_seconds, worker, kind, value)

    def lacking(self) -> str:
        """See `Crew`."""
        return "a worker needs 1 CPU, and the cluster has none"

    def clock(self) -> float:
        """See `Crew`."""
        return self.now


class LosingNodes(SimulatedCrew):
    """Workers on nodes of `PER_NODE`, which are lost at random instants and come back after a while."""

    start_seconds = _START

    def __init__(self, workers: int, seconds: float, hours: float, seed: int) -> None:
        super().__init__()
        self.losses = 0
        self._workers, self._seconds, self._chance = workers, seconds, random.Random(seed)
        nodes = max(1, workers // PER_NODE)
        self._rate = nodes / (3600 * hours)  # of all nodes together
        self._away = 0
        self.later(self._chance.expovariate(self._rate), -1, "", "loss")

    def seconds_of(self, shard: int) -> float:
        """About `seconds`: a gamma distribution, seeded."""
        return self._chance.gammavariate(_SPREAD**-2, self._seconds * _SPREAD**2)

    def room(self) -> int:
        """See `Crew`."""
        return self._workers - self._away

    def happen(self, what: Any) -> list[Event]:
        """A node is lost, half of the time with a notice; or one comes back."""
        if what == "back":
            self._away -= min(PER_NODE, self._workers)
            return []
        self.later(self._chance.expovariate(self._rate), -1, "", "loss")
        of_node = self._chance.sample(sorted(self.placed), min(PER_NODE, len(self.placed)))
        if not of_node:
            return []
        self.losses += 1
        self._away += min(PER_NODE, self._workers)
        self.later(_BACK, -1, "", "back")
        death = Death("its node was lost", preempted=self._chance.random() < 0.5)
        for worker in of_node:
            self.gone(worker)
        return [Event(worker, "died", death) for worker in of_node]


@dataclass(frozen=True, slots=True)
class Simulated:
    """What came of one simulated run. Shares are of the time that workers were ready."""

    workers: int
    shards: int
    hours: float
    node_losses: int
    busy_share: float
    """Spent on shards that were then written."""
    redone_share: float
    """Spent on shards that were lost."""
    driver_cpu_seconds: float
    driver_cores: float
    """The loop's processor seconds for each second of the run, the simulation's own included."""
    peak_mib: float
    """The most memory of this process so far."""


def simulate(workers: int, shards: int, *, seconds: float, hours: float, seed: int) -> Simulated:
    """One run.

    Args:
        workers: how many there are.
        shards: how many they do.
        seconds: that one takes on average.
        hours: until a node is lost, on average.
        seed: of all that is random.
    """
    crew = LosingNodes(workers, seconds, hours, seed)
    reported = [0]

    def hear(event: Event) -> None:
        reported[0] += event.kind == "part"

    leases = Leases(
        crew,
        most=workers,
        wait=3600.0,
        hear=hear,
        same=lambda first, other: None,
        rows_of=lambda shard: f"shard {shard}",
    )
    begin = time.process_time()
    leases.first_plan(shards)
    leases.hand_out(range(shards), "run")
    spent = time.process_time() - begin
    assert reported[0] == len(set(crew.done)) == shards
    unit = 2**10 if sys.platform == "linux" else 2**20  # of ru_maxrss in a MiB
    return Simulated(
        workers,
        shards,
        crew.now / 3600,
        crew.losses,
        crew.busy_seconds / crew.ready_seconds,
        crew.lost_seconds / crew.ready_seconds,
        spent,
        spent / crew.now,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
    )
