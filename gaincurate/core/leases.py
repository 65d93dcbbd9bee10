"""Hands a run's shards out to workers that come, die and are replaced, until each shard was reported once.

It knows neither Ray nor models. A `Crew` starts workers and brings what they report, so that a simulation
with virtual time drives the same loop. Deaths are counted per shard and not per worker, because machines are
lost all the time, while a row that kills its worker kills the next one too. A shard that a worker died at is
handed out alone, so that no neighbour takes the blame.
"""

from __future__ import annotations

import heapq
import queue
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from gaincurate.errors import GaincurateError

_MOST = 8  # shards that a worker is given ahead: read-ahead goes on without a word from here
_LEAST = 3  # one that is computed, one that is read meanwhile, and one while the next is on its way
_DEATHS = 3  # at the same first unfinished shard
_LOOK = 10.0  # seconds between looks at whether there is room for more workers
_ENDING = 10.0  # seconds for workers that are done to say so


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to a worker, or what it reports.

    The kinds that this module reads are `placed` (the machine and the process), `plan` (what it would do),
    `ready` (for shards), `part` (a text, and a mapping with its `shard`), `error` (an exception), `done` and
    `died` (a `Death`). Whoever listens gets all of them.
    """

    worker: int
    kind: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker ended; the machine of a preempted one was taken away, which is nobody's fault."""

    reason: str
    preempted: bool = False


class Crew(Protocol):
    """Starts and ends workers, which are known by a number, and carries messages."""

    def start(self, worker: int) -> None:
        """Ask for a worker; it may come much later, or never."""

    def send(self, worker: int, message: Any) -> None:
        """Give a worker a message: the start of the run, then leases of shards, then None for the end."""

    def wait(self, seconds: float) -> list[Event]:
        """What happened, in the order of each worker; empty after so many seconds in which nothing did."""

    def end(self, worker: int) -> None:
        """Take a worker away."""

    def room(self) -> int:
        """How many workers there is room for."""

    def lacking(self) -> str:
        """What a worker needs and what there is: half a sentence."""

    def clock(self) -> float:
        """Seconds since any moment."""


def shards_of(
    inbox: queue.SimpleQueue[Any],
    report: Callable[[str, Any], None],
    take: Callable[[Any], None] = lambda lease: None,
) -> Iterator[int | None]:
    """The shards that a worker is given, until the end; None where there is no next one yet.

    The first time that one is asked for, the worker is `ready`. `take` gets each lease before its shards.
    """
    report("ready", None)
    while True:
        if inbox.empty():
            yield None
        lease = inbox.get()
        if lease is None:
            return
        take(lease)
        yield from lease


@dataclass(slots=True)
class _Worker:
    where: str | None = None
    planned: bool = False
    ready: bool = False
    done: bool = False
    shards: list[int] = field(default_factory=list)
    """Given and not reported, in the order in which they are done."""


class Leases:
    """One run's workers and shards.

    Args:
        crew: has the workers.
        most: workers that are wanted; None for as many as there is room for.
        wait: seconds without any worker after which the run ends.
        hear: gets every event.
        same: compares a worker's plan with the first one's and raises where they differ.
        rows_of: names the rows of a shard, for the sentence about one that cannot be done.
    """

    def __init__(
        self,
        crew: Crew,
        *,
        most: int | None,
        wait: float,
        hear: Callable[[Event], None],
        same: Callable[[Any, Any], None],
        rows_of: Callable[[int], str],
    ) -> None:
        self._crew, self._most, self._wait = crew, most, wait
        self._hear, self._same, self._rows_of = hear, same, rows_of
        self._workers: dict[int, _Worker] = {}
        self._started = 0
        self._plan: Any = None
        self._run: Any = None
        self._pack: Callable[[list[int]], Any] = list
        self._suspects: list[int] = []
        self._pool: list[int] = []
        self._left: set[int] = set()
        self._deaths: dict[int, int] = {}
        self._failed_starts = 0
        self._next_look = 0.0
        self._had = self._waiting = False
        self._since: float | None = None  # when the last worker was lost

    def first_plan(self, shards: int) -> Any:
        """Start workers for at most so many shards; what the first of them plans.

        Raises:
            GaincurateError: what a worker raised, or none came.
        """
        self._left = set(range(max(shards, 1)))  # a part without shards of its own needs the plan too
        while self._plan is None:
            self._step()
        return self._plan

    def hand_out(self, shards: Iterable[int], run: Any, pack: Callable[[list[int]], Any] = list) -> None:
        """Have these shards done; each is heard of once as a `part`.

        Args:
            shards: their numbers.
            run: the first message to each worker: what it needs to begin.
            pack: makes a lease's message, which iterates over its shards, such as a dictionary by shard.

        Raises:
            GaincurateError: what a worker raised, a shard that three workers died at, or no worker is left.
        """
        self._left, self._pool, self._run, self._pack = set(shards), sorted(shards), (run,), pack
        for number, worker in self._workers.items():
            if worker.planned:
                self._crew.send(number, run)
        self._next_look = 0.0
        while self._left:
            self._step()
        self._finish()

    def _finish(self) -> None:
        """Hear the last words of workers that are done."""
        until = self._crew.clock() + _ENDING
        for number, worker in list(self._workers.items()):
            if worker.ready:
                self._crew.send(number, None)
            else:
                self._drop(number)
        while self._workers and self._crew.clock() < until:
            for event in self._crew.wait(until - self._crew.clock()):
                if event.worker in self._workers:
                    self._hear(event)
                    if event.kind in ("done", "died"):
                        self._drop(event.worker)

    def _drop(self, number: int) -> None:
        del self._workers[number]
        self._crew.end(number)

    def _step(self) -> None:
        if self._crew.clock() >= self._next_look:
            self._start_missing()
            self._next_look = self._crew.clock() + _LOOK
        for event in self._crew.wait(min(_LOOK, self._wait / 4)):
            worker = self._workers.get(event.worker)
            if worker is not None:  # else it was ended meanwhile
                self._take(event, worker)
        self._see_whether_there_is_one()

    def _start_missing(self) -> None:
        room = self._most if self._most is not None else self._crew.room()
        for _ in range(min(room, len(self._left)) - len(self._workers)):
            self._workers[self._started] = _Worker()
            self._crew.start(self._started)
            self._started += 1

    def _take(self, event: Event, worker: _Worker) -> None:
        if event.kind == "placed":
            worker.where = f"{event.value[0]} (process {event.value[1]})"
        elif event.kind == "plan":
            if self._plan is None:
                self._plan = event.value
            self._same(self._plan, event.value)
            worker.planned = True
            if self._run is not None:
                self._crew.send(event.worker, self._run[0])
        elif event.kind == "ready":
            worker.ready, self._failed_starts = True, 0
        elif event.kind == "part":
            shard = event.value[1]["shard"]
            worker.shards.remove(shard)
            self._left.discard(shard)
            self._deaths.pop(shard, None)
        elif event.kind == "error":
            raise event.value
        self._hear(event)
        if event.kind == "died":
            self._lost(event.worker, worker, event.value)
        elif event.kind in ("ready", "part"):
            self._give(event.worker, worker)

    def _give(self, number: int, worker: _Worker) -> None:
        """Give a worker what it lacks, less of it as the end is near."""
        if worker.shards and worker.shards[0] in self._deaths:
            return  # a suspect is done alone
        if not worker.shards and self._suspects:
            lease = [heapq.heappop(self._suspects)]
        else:
            each = len(self._pool) // len(self._workers)
            least = min(_LEAST, 1 + each // 2)  # near the end nobody must have what others wait for
            ahead = max(least, min(_MOST, each // 2))
            if len(worker.shards) >= max(least, ahead // 2):
                return
            wanted = min(ahead - len(worker.shards), len(self._pool))
            lease = [heapq.heappop(self._pool) for _ in range(wanted)]
        if lease:
            worker.shards += lease
            self._crew.send(number, self._pack(lease))

    def _lost(self, number: int, worker: _Worker, death: Death) -> None:
        """Put back what a worker had not reported, and have it replaced."""
        self._drop(number)
        back = worker.shards
        if back and not death.preempted:
            first = back.pop(0)
            self._deaths[first] = self._deaths.get(first, 0) + 1
            if self._deaths[first] == _DEATHS:
                raise GaincurateError(
                    f"{_DEATHS} workers died at shard {first + 1}, {self._rows_of(first)} (the last one: "
                    f"{death.reason}). Finished shards are kept. See whether one of these rows is very long, "
                    "or give workers more memory; then run the same command again.",
                    shard=first,
                )
            heapq.heappush(self._suspects, first)
        for shard in back:
            heapq.heappush(self._suspects if shard in self._deaths else self._pool, shard)
        self._note(number, f"worker {number + 1}{_at(worker)} is lost ({death.reason}); it is replaced")
        if worker.ready or death.preempted:
            self._start_missing()
        else:
            # At the next look: a machine on which no worker can begin must not be tried all the time.
            self._failed_starts += 1
            none_works = not any(each.ready for each in self._workers.values())
            if none_works and self._failed_starts >= max(_DEATHS, len(self._workers)):
                raise GaincurateError(
                    f"{self._failed_starts} workers in a row died before they could begin (the last one"
                    f"{_at(worker)}: {death.reason}). Finished shards are kept. See what is wrong there, "
                    "such as too little memory for the model, and run the same command again."
                )
        for other, each in self._workers.items():  # who had nothing left to do
            if each.ready and not each.shards:
                self._give(other, each)

    def _see_whether_there_is_one(self) -> None:
        if any(worker.where is not None for worker in self._workers.values()):
            self._had, self._since, self._waiting = True, None, False
            return
        now = self._crew.clock()
        if self._since is None:
            self._since = now
        what = "no worker is left" if self._had else "no worker has a place yet"
        if now - self._since >= self._wait:
            raise GaincurateError(
                f"{what} and none came in {self._wait:g} s (--wait): {self._crew.lacking()}. Finished shards "
                "are kept. Run the same command again to go on when there is room."
            )
        if not self._waiting and (self._had or now - self._since >= _LOOK):
            self._waiting = True
            self._note(-1, f"{what}: {self._crew.lacking()}. Waiting up to {self._wait:g} s for one (--wait)")

    def _note(self, number: int, text: str) -> None:
        self._hear(Event(number, "note", text))


def _at(worker: _Worker) -> str:
    return f" on {worker.where}" if worker.where is not None else ""
