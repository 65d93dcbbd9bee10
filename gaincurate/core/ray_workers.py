"""Has Ray tasks do the parts of a run: each loads its model once and takes parts until none is left.

A part (a shard) is atomic and idempotent: a worker writes it whole, and every worker writes the same bytes.
Ray runs the task of a lost worker or node again, wherever there is room. The `Board`, an actor on the
driver's machine, gives out the parts, and those of a lost worker once more. It counts deaths per part:
machines are often lost, while a row that kills its worker kills the next one too.
"""

from __future__ import annotations

import heapq
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gaincurate.core.cluster_options import ClusterConfig
from gaincurate.core.process import ctrl_c_noted
from gaincurate.core.progress import Progress
from gaincurate.core.ray_cluster import Needs, joined, resources
from gaincurate.core.store import CACHE, use_cache
from gaincurate.errors import GaincurateError, InputError

_DEATHS = 3  # of workers at the same part
_FAILED_STARTS = 5  # in a row, while no worker takes a part
_POLL = 0.2  # seconds between looks at the board
_ALIVE = 5.0  # seconds between a worker's signs of life


class Board:
    """The parts that are left, which worker has which, and the events that the driver has not read yet.

    Args:
        parts: their numbers.
        payload: makes what is sent along with a part, on the driver's machine.
        describe: names the rows of a part, for the error about a part that kills its workers.
        alive: returns the ids of Ray's nodes that are alive.
    """

    def __init__(
        self,
        parts: Iterable[int],
        payload: Callable[[int], Any],
        describe: Callable[[int], str],
        alive: Callable[[], set[str]],
    ) -> None:
        self._payload, self._describe, self._alive = payload, describe, alive
        self._queue = sorted(parts)  # a heap: parts that no worker has
        self._has_parts = bool(self._queue)
        self._suspects: list[int] = []  # parts at which a worker died
        self._deaths: Counter[int] = Counter()
        self._failed_starts = 0
        self._taken: dict[int, list[int]] = {}
        """By worker: its unfinished parts, in the order in which it does them."""
        self._places: dict[int, tuple[str, str]] = {}
        self._attempts: Counter[int] = Counter()
        self._ending: set[int] = set()
        self._working: set[int] = set()  # workers that took a part and did not report `done`
        self._events: list[tuple[str, Any, int]] = []

    def start(self, worker: int, place: str, node: str) -> int | None:
        """A worker starts; the number of the attempt, None if nothing is left to do.

        The number is above 1 if Ray lost the worker and runs it again.
        """
        if worker in self._places:
            self._lost(worker, *self._places[worker])
        self._taken[worker], self._places[worker] = [], (place, node)
        self._ending.discard(worker)
        self._working.discard(worker)
        self._attempts[worker] += 1
        if self._has_parts and not self._queue and not self._suspects:
            return None
        return self._attempts[worker]

    def _lost(self, worker: int, place: str, node: str) -> None:
        """Count the death and put the worker's parts back; the third death at a part ends the run."""
        parts, sentence = self._taken[worker], None
        if node not in self._alive():
            pass  # a lost machine is no part's fault
        elif parts:
            self._deaths[parts[0]] += 1
            if self._deaths[parts[0]] == _DEATHS:
                sentence = f"{_DEATHS} workers died at shard {parts[0] + 1}, {self._describe(parts[0])}"
        else:
            self._failed_starts += 1
            if self._failed_starts == _FAILED_STARTS:
                sentence = f"{_FAILED_STARTS} workers in a row died before they could begin"
        if sentence is not None:
            error = GaincurateError(
                f"{sentence} (the last one on {place}). Finished shards are kept. The usual cause is too "
                "little memory: give workers more, and see whether a row is very long. Then run the same "
                "command again."
            )
            self._events.append(("error", error, worker))
            return
        for part in parts:
            heapq.heappush(self._suspects if part in self._deaths else self._queue, part)
        self._events.append(("died", None, worker))
        self._events.append(("note", f"worker {worker + 1} on {place} was lost; it is started again", worker))

    def take(self, worker: int, attempt: int) -> tuple[int, Any] | None:
        """The next part of a worker and what is sent along; None where it is to end."""
        # Ray may have lost sight of a process that lives. A suspect is done by a worker that does nothing
        # else, or the part before it, which is still being written, would take the blame.
        if attempt != self._attempts[worker] or worker in self._ending:
            return None
        source = self._queue
        if self._suspects and not self._taken[worker]:
            source = self._suspects
            self._ending.add(worker)
        if not source:
            return None
        self._failed_starts = 0
        part = heapq.heappop(source)
        self._taken[worker].append(part)
        self._working.add(worker)
        return part, self._payload(part)

    def report(self, worker: int, attempt: int, kind: str, value: Any) -> None:
        """Take an event of a worker: the kinds of `Sent`, `alive`, and `done` with the result of its work."""
        if attempt == self._attempts[worker]:
            self._events.append((kind, value, worker))
            if kind == "part":
                self._taken[worker].remove(value[1]["shard"])
            elif kind == "done":
                self._working.discard(worker)

    def poll(self) -> tuple[list[tuple[str, Any, int]], int, int]:
        """The events since the last call, how many parts no worker has, and what is under way besides."""
        events, self._events = self._events, []
        waiting = len(self._queue) + len(self._suspects)
        return events, waiting, sum(map(len, self._taken.values())) + len(self._working)


class Worker:
    """A worker's connection to the board; `attempt` is the number that the board gave."""

    def __init__(self, board: Any, number: int, attempt: int) -> None:
        import ray

        self._ray, self._board, self._number, self._attempt = ray, board, number, attempt

    def report(self, kind: str, value: Any = None) -> None:
        """Send an event to the driver; returns when all but mere progress has arrived."""
        call = self._board.report.remote(self._number, self._attempt, kind, value)
        if kind != "advance":
            self._ray.get(call)

    def parts(self) -> Iterator[tuple[int, Any]]:
        """The parts that this worker is to do, and what was sent along with each."""
        while (part := self._ray.get(self._board.take.remote(self._number, self._attempt))) is not None:
            yield part


Work = Callable[[Any, Worker], Any]
"""A worker's work, a function that can be pickled: takes the config of a local run on one device."""


def _task(board: Any, number: int, work: Work, config: Any, folder: str, cache: str | None) -> None:
    """A worker's life; `folder` is the driver's, so that relative paths mean the same."""
    import ray

    with suppress(OSError):  # absolute paths need no such folder here
        os.chdir(folder)
    use_cache(Path(cache) if cache else None)
    place, node = f"{socket.gethostname()} (process {os.getpid()})", ray.get_runtime_context().get_node_id()
    attempt = ray.get(board.start.remote(number, place, node))
    if attempt is None:
        return
    worker, ended = Worker(board, number, attempt), threading.Event()

    def live() -> None:
        while not ended.wait(min(config.wait / 4, _ALIVE)):
            worker.report("alive")

    threading.Thread(target=live, daemon=True).start()
    try:
        worker.report("done", work(config, worker))
    finally:
        ended.set()


class RayWorkers:
    """Starts tasks on a Ray that was joined; see `ray_workers`."""

    def __init__(self, config: ClusterConfig, needs: Needs) -> None:
        import ray

        self._ray, self._needs, self._wait = ray, needs, config.wait
        asked = getattr(config, "workers", None)
        self._most = asked if isinstance(asked, int) else None
        # Without a GPU from Ray a worker must not take one that it sees all the same.
        device = getattr(config, "device", "auto")
        device = "cpu" if device == "auto" and not needs.gpus else device
        self._config = config.model_copy(
            update={"device": device, "engine": "local", "workers": 1, "overwrite": False}
        )

    def run(
        self,
        work: Work,
        parts: Iterable[int] = (),
        *,
        hear: Callable[[str, Any, int], None],
        describe: Callable[[int], str] = str,
        payload: Callable[[int], Any] = lambda part: None,
    ) -> list[Any]:
        """Have tasks do the parts, or one task do some work without parts; the results of their work.

        Args:
            work: of each task.
            parts: their numbers.
            hear: called with the kind and value of each event and the worker's number.
            describe: see `Board`.
            payload: see `Board`.

        Raises:
            GaincurateError: an error of a worker, a part at which three workers died, or no worker is left.
        """
        ray = self._ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here)
        todo = list(parts)
        board = actor.remote(todo, payload, describe, _alive)
        pending: list[Any] = []
        results: list[Any] = []
        started, heard, noted = 0, time.monotonic(), False
        try:
            while True:
                with ctrl_c_noted():  # Ray would raise a plain KeyboardInterrupt for every signal
                    events, waiting, busy = ray.get(board.poll.remote())
                    for kind, value, worker in events:
                        if kind == "error":
                            raise value
                        if kind == "done":
                            results.append(value)
                        hear(kind, value, worker)
                    if not waiting and not busy and (results or todo):
                        return results
                    if events:
                        heard, noted = time.monotonic(), False
                    count = min(self._room(), len(pending) + waiting)
                    for _ in range(max(count, not started) - len(pending)):
                        pending.append(self._start(board, started, work))
                        started += 1
                    done, pending = ray.wait(pending, num_returns=max(len(pending), 1), timeout=_POLL)
                    ray.get(done)  # raises the error of a worker
                    noted = self._see_that_one_lives(time.monotonic() - heard, noted, hear)
        except ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise cause if isinstance(cause, GaincurateError) else error.as_instanceof_cause() from None
        finally:
            with suppress(Exception):  # Ray itself may be gone
                for task in pending:
                    ray.cancel(task, force=True)
                ray.kill(board)

    def _room(self) -> int:
        """How many workers may be started; what others use counts as room."""
        totals, needs = self._ray.cluster_resources(), {"CPU": self._needs.cpus, "GPU": self._needs.gpus}
        room = min(int(totals.get(kind, 0) / count + 1e-6) for kind, count in needs.items() if count)
        return self._most or max(room, 1)  # a task that waits makes an autoscaler start a machine

    def _start(self, board: Any, number: int, work: Work) -> Any:
        options = {"label_selector": self._needs.labels} if self._needs.labels else {}
        task = self._ray.remote(_task).options(
            name="gaincurate",
            num_cpus=self._needs.cpus,
            num_gpus=self._needs.gpus,
            max_retries=-1,
            scheduling_strategy="SPREAD",
            **options,
        )
        return task.remote(board, number, work, self._config, os.getcwd(), os.environ.get(CACHE))

    def _see_that_one_lives(self, silent: float, noted: bool, hear: Callable[[str, Any, int], None]) -> bool:
        """Note that no worker lives; whether it was noted.

        Raises:
            GaincurateError: none came in `--wait` seconds.
        """
        if silent < min(3 * _ALIVE, self._wait) or (noted and silent < self._wait):
            return noted
        state = (
            f"no worker has a place: each needs {self._needs}, and the cluster has {resources(self._ray)}."
        )
        if silent >= self._wait:
            raise GaincurateError(
                f"{state} None came in {self._wait:g} s (--wait). Finished shards are kept. Run the same "
                "command again to go on when there is room."
            )
        hear("note", f"{state} Waiting up to {self._wait:g} s for one (--wait)", -1)
        return True


def _alive() -> set[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


@contextmanager
def ray_workers(config: ClusterConfig, progress: Progress) -> Iterator[RayWorkers]:
    """Join or start the Ray that the options name, for a run's workers; `progress` hears which it is.

    Raises:
        InputError: there is no Ray that can be used.
        GaincurateError: a Ray on this machine does not start.
    """
    with joined(config, progress.note) as needs:
        yield RayWorkers(config, needs)


def refuse_other(first: dict[str, Any], other: dict[str, Any]) -> None:
    """Refuse a worker whose results would not be those of the identity that the run began with.

    Raises:
        InputError: names the differences.
    """
    from gaincurate.core.files import differing_keys

    changes = list(differing_keys(first, other))
    if changes:
        listed = ", ".join(f"{key} is {old!r} and {new!r}" for key, old, new in changes[:3])
        raise InputError(
            f"two workers would not give the same results: {listed}. Have all on machines of one kind with "
            "--worker-label KEY=VALUE (such as ray.io/accelerator-type=H200), the same packages and files.",
            keys=[key for key, _, _ in changes],
        )


def need_shared(folder: Path) -> None:
    """Refuse an output folder that this machine does not see as the driver's machine does.

    Raises:
        InputError: the run was begun, and its folder is not here.
    """
    if not folder.exists():
        raise InputError(
            f"{folder} is not on {socket.gethostname()}, where a worker runs: --out and the data must be on "
            "a file system that all machines share, under the same path.",
            path=str(folder),
        )
