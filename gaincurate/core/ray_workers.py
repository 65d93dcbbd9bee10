"""Runs the parts of a run in actors on Ray: each loads its model once and takes parts until none is left.

A part (a shard) is atomic and idempotent: a worker writes it whole, and every worker writes the same bytes.
So a lost worker or node costs nothing but time: its parts are given to another worker. Ray is imported on
use, because the base install does not have it.
"""

from __future__ import annotations

import os
import queue
import secrets
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaincurate.core.cluster_options import ClusterConfig
from gaincurate.core.process import Terminated, ctrl_c_noted
from gaincurate.core.progress import Progress
from gaincurate.core.store import CACHE, use_cache
from gaincurate.errors import GaincurateError, InputError

_KNOCK = 5.0  # seconds for an address to answer
_SOON = 60.0  # seconds in which Ray joins or starts
_STORE = 80 * 2**20  # bytes: no data goes through Ray's store, and this is near the least that it takes
_DEATHS = 3  # of workers at the same part
_AHEAD = 2  # parts of a worker: it reads the next one while it scores
_POLL = 0.2  # seconds
_PATIENCE = 15.0  # seconds without a worker before a note says so
_PLACE, _BEGIN, _END = "place", "begin", "end"

Event = tuple[str, Any]


class Worker:
    """A worker's side: its parts, and the events that it sends with each finished part."""

    def __init__(self) -> None:
        self.given: queue.Queue[tuple[int, Any] | None] = queue.Queue()
        self.finished: dict[int, Future[list[Event]]] = {}
        self._events: list[Event] = []
        self._lock = threading.Lock()

    def report(self, kind: str, value: Any = None) -> None:
        """Take an event, of the kinds of `Sent`. The event `part` finishes the part in its `shard`."""
        with self._lock:
            self._events.append((kind, value))
            if kind == "part":
                self.finished.pop(value[1]["shard"]).set_result(self._events)
                self._events = []

    def parts(self) -> Iterator[tuple[int, Any]]:
        """The parts that this worker is to do, and what was sent along with each."""
        return iter(self.given.get, None)


Work = Callable[[Any, Worker], Any]
"""A worker's work, a function that can be pickled: takes the config of a local run on one device."""


class GaincurateWorker:
    """The actor; `folder` is the driver's, so that relative paths mean the same."""

    def __init__(self, config: Any, folder: str, cache: str | None) -> None:
        with suppress(OSError):  # absolute paths need no such folder here
            os.chdir(folder)
        use_cache(Path(cache) if cache else None)
        self._config, self._pool, self._turn = config, ThreadPoolExecutor(1), threading.Condition()

    def place(self) -> str:
        """The id of the node; the call returns when the actor lives."""
        import ray

        node: str = ray.get_runtime_context().get_node_id()
        return node

    def begin(self, work: Work) -> None:
        """Begin some work."""
        self._worker, self._given = Worker(), 0
        self._result = self._pool.submit(work, self._config, self._worker)

    def _give(self, number: int, item: tuple[int, Any] | None) -> None:
        with self._turn:  # calls run in threads, so they may come in another order
            self._turn.wait_for(lambda: self._given == number)
            self._given += 1
            self._worker.given.put(item)
            self._turn.notify_all()

    def do(self, number: int, part: int, payload: Any) -> list[Event]:
        """Do a part, after so many others; the events since the last one."""
        finished = self._worker.finished[part] = Future[list[Event]]()
        self._give(number, (part, payload))
        wait([finished, self._result], return_when=FIRST_COMPLETED)
        if not finished.done():
            self._result.result()  # raises what the work raised
        return finished.result()

    def end(self, number: int) -> Any:
        """Let the work end after so many parts; its result."""
        self._give(number, None)
        return self._result.result()


@dataclass(eq=False, slots=True)
class _Hired:
    """An actor as the driver sees it: the calls that run, each with its part or another kind of call."""

    number: int
    actor: Any
    calls: dict[Any, int | str]
    node: str | None = None
    given: int = 0
    ended: bool = False


class RayWorkers:
    """Starts workers on a Ray that was joined; see `ray_workers`."""

    def __init__(self, config: ClusterConfig) -> None:
        import ray

        self._ray, self._wait = ray, config.wait
        self._idle: list[_Hired] = []  # their imports are done
        device, gpus = getattr(config, "device", "auto"), config.worker_gpus
        if gpus is None:
            gpus = float(device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0)
        self._cpus, self._gpus = config.worker_cpus or getattr(config, "threads", None) or 1, gpus
        self._labels = dict(label.split("=", 1) for label in config.worker_label)
        self._needs = f"{self._cpus:g} CPU, {gpus:g} GPU" + f", labels {self._labels}" * bool(self._labels)
        asked = getattr(config, "workers", None)
        self._most = asked if isinstance(asked, int) else None
        # Without a GPU from Ray a worker must not take one that it sees all the same.
        device = "cpu" if device == "auto" and not gpus else device
        self._config = config.model_copy(
            update={"device": device, "engine": "local", "workers": 1, "overwrite": False}
        )

    def run(
        self,
        work: Work,
        parts: Iterable[int] = (),
        *,
        hear: Callable[[str, Any], None],
        describe: Callable[[int], str] = str,
        payload: Callable[[int], Any] = lambda part: None,
    ) -> list[Any]:
        """Have workers do the parts, or one worker do some work without parts; the results of their work.

        Args:
            work: of each worker.
            parts: their numbers.
            hear: called with the kind and value of each event.
            describe: names the rows of a part, for the error about a part that kills its workers.
            payload: makes what is sent along with a part.

        Raises:
            GaincurateError: an error of a worker, a part at which three workers died, or no worker is left.
        """
        ray, results, hired, deaths = self._ray, list[Any](), list[_Hired](), Counter[int]()
        left = sorted(parts, reverse=True)
        without_parts, started, lived, noted = not left, 0, time.monotonic(), False
        try:
            while left or hired or (without_parts and not results):
                with ctrl_c_noted():  # Ray would raise a plain KeyboardInterrupt for every signal
                    coming = sum(each.node is None or _BEGIN in each.calls.values() for each in hired)
                    while len(hired) < self._room() and max(len(left), without_parts and not hired) > coming:
                        hired.append(self._idle.pop() if self._idle else self._hire(started))
                        started, coming = started + 1, coming + 1
                        hired[-1].given, hired[-1].ended = 0, False
                        if hired[-1].node is not None:
                            hired[-1].calls[hired[-1].actor.begin.remote(work)] = _BEGIN
                    for each in [each for each in hired if each.node is not None]:
                        if each.ended or {_BEGIN, _END}.intersection(each.calls.values()):
                            continue
                        while left and len(each.calls) < _AHEAD:
                            part = left.pop()
                            each.calls[each.actor.do.remote(each.given, part, payload(part))] = part
                            each.given += 1
                        if not left:  # at once, because it asks for the next part before it scores the last
                            each.calls[each.actor.end.remote(each.given)] = _END
                    if not left and not without_parts:
                        for each in [each for each in hired if each.node is None]:
                            ray.kill(each.actor)
                            hired.remove(each)
                    calls = {call: each for each in hired for call in each.calls}
                    done = ray.wait(list(calls), timeout=_POLL)[0] if calls else []
                    for call in done:
                        each = calls[call]
                        if call not in each.calls:
                            continue  # of a worker that was lost
                        try:
                            value = ray.get(call)
                        except ray.exceptions.RayActorError:
                            hired.remove(each)
                            ray.kill(each.actor)  # Ray may have lost sight of a process that lives
                            left = sorted([*left, *self._lost(each, deaths, describe)], reverse=True)
                            hear("note", f"worker {each.number + 1} was lost; another one does its shards")
                            continue
                        match each.calls.pop(call):
                            case "place":
                                each.node = value
                                each.calls[each.actor.begin.remote(work)] = _BEGIN
                            case "end":
                                results.append(value)
                                each.ended = True
                            case int():
                                for kind, of_event in value:
                                    hear(kind, of_event)
                        if each.ended and not each.calls:
                            hired.remove(each)
                            self._idle.append(each)
                    silent = time.monotonic() - lived
                    if not hired or any(each.node is not None for each in hired):
                        lived, noted = time.monotonic(), False
                    elif silent >= self._wait or (silent >= _PATIENCE and not noted):
                        noted = True
                        state = f"no worker has a place: each needs {self._needs}, and the cluster has "
                        state += f"{_resources(ray)}. "
                        hear("note", f"{state}Waiting up to {self._wait:g} s for one (--wait)")
                        if silent >= self._wait:
                            raise GaincurateError(
                                f"{state}None came in {self._wait:g} s (--wait). Finished shards are kept. "
                                "Run the same command again to go on when there is room."
                            )
            return results
        except ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise cause if isinstance(cause, GaincurateError) else error.as_instanceof_cause() from None
        finally:
            with suppress(Exception):  # Ray itself may be gone
                for each in hired:
                    ray.kill(each.actor)

    def close(self) -> None:
        """End the workers that wait for more work."""
        with suppress(Exception):  # Ray itself may be gone
            for each in self._idle:
                self._ray.kill(each.actor)

    def _room(self) -> int:
        """The number of workers that may be started; resources in use by others count as free."""
        totals, needs = self._ray.cluster_resources(), {"CPU": self._cpus, "GPU": self._gpus}
        room = min(int(totals.get(kind, 0) / count + 1e-6) for kind, count in needs.items() if count)
        return self._most or max(room, 1)  # an actor that waits makes an autoscaler start a machine

    def _hire(self, number: int) -> _Hired:
        actor = self._ray.remote(GaincurateWorker).options(
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            max_concurrency=_AHEAD + 2,
            scheduling_strategy="SPREAD",
            **({"label_selector": self._labels} if self._labels else {}),
        )
        made = actor.remote(self._config, os.getcwd(), os.environ.get(CACHE))
        return _Hired(number, made, {made.place.remote(): _PLACE})

    def _lost(self, each: _Hired, deaths: Counter[int], describe: Callable[[int], str]) -> list[int]:
        """The parts of a lost worker.

        Raises:
            GaincurateError: the third worker died at one of them. A lost machine is no part's fault.
        """
        parts = sorted(part for part in each.calls.values() if isinstance(part, int))
        each.calls.clear()
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        if each.node is None or each.node in alive:
            deaths.update(parts or [-1])
        if fatal := sorted(part for part, count in deaths.items() if count >= _DEATHS):
            where = " or ".join(f"at shard {part + 1}, {describe(part)}" for part in fatal if part >= 0)
            raise GaincurateError(
                f"{_DEATHS} workers died {where or 'before they could begin'}. Finished shards are kept. The "
                "usual cause is too little memory: give workers more, and see whether a row is very long. "
                "Then run the same command again."
            )
        return parts


@contextmanager
def ray_workers(config: ClusterConfig, progress: Progress) -> Iterator[RayWorkers]:
    """Join or start the Ray of the options, for a run's workers; `progress` gets a note with its address.

    Raises:
        InputError: no usable Ray is at the address.
        GaincurateError: a Ray on this machine does not start.
    """
    module = sys.modules.get("ray")
    already = module is not None and module.is_initialized()  # by a program that calls us
    address = "auto" if already else _address(config)
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Else Ray writes one into the home folder, which changes how the user's next `ray start` begins.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    if not already:
        _init(ray, address)
    workers = None
    try:
        which = f"joined the Ray at {ray.get_runtime_context().gcs_address}"
        if address == "local":
            which = "started a Ray on this machine alone"
        progress.note(f"{which} ({_resources(ray)})")
        workers = RayWorkers(config)
        yield workers
    finally:
        if workers is not None:
            workers.close()
        if not already:
            ray.shutdown()


def _address(config: ClusterConfig) -> str:
    """The Ray to join: HOST:PORT, `auto`, or `local` for one that is started for the run.

    Raises:
        InputError: no address in a Slurm job, or an address where no Ray can be.
    """
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local" and config.address is None and "SLURM_JOB_ID" in os.environ:
        raise InputError(
            "this is a Slurm job, where a Ray of this machine alone is rarely meant. Name a Ray with "
            "--address HOST:PORT, such as the address of `ray symmetric-run`."
        )
    if address in ("local", "auto"):
        return address
    # Ray itself tries for two minutes and then exits.
    try:
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"--address {address}: nothing answers there ({str(error).lower()}). Expected auto or HOST:PORT "
            "of a Ray head, as `ray start --head` prints it; no Ray Client address (ray://)."
        ) from error
    return address


def _init(ray: Any, address: str) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        options |= {"include_dashboard": False, "object_store_memory": _STORE}
    on_notice, begun = signal.getsignal(signal.SIGTERM), time.monotonic()
    try:
        ray.init(address=address, **options)
    except (Exception, SystemExit) as error:  # each way in which it fails has a class of its own
        # Ray leaves with the same code after two minutes at an address where no Ray answers.
        soon = time.monotonic() - begun < _SOON
        if isinstance(error, SystemExit) and error.code == signal.SIGTERM and soon:
            raise Terminated(signal.SIGTERM) from error
        reason = " ".join(str(error).split())[:400].rstrip(".") or "it does not answer"
        if address == "local":
            raise GaincurateError(
                f"Ray did not start on this machine ({reason}), which may be busy or short of memory. Run "
                "the same command again, or leave out --engine ray."
            ) from error
        raise InputError(
            f"--address {address}: this machine cannot join a Ray there ({reason}). It needs the cluster's "
            "versions of Ray and Python, and RAY_AUTH_MODE=token where the cluster has tokens."
        ) from error
    finally:
        # Ray takes SIGTERM for itself and would exit with 15, which says nothing to a scheduler.
        if callable(on_notice) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_notice)
    # Ray prints dead workers to stdout, which has the JSON of --json, and no option prevents it.
    with suppress(ImportError):
        from ray._private import worker

        worker.print_to_stdstream = lambda *arguments, **options: None


def _resources(ray: Any) -> str:
    """The CPUs and GPUs of the nodes that are alive, in words."""
    totals = ray.cluster_resources()
    return ", ".join(f"{totals[kind]:g} {kind}" for kind in ("CPU", "GPU") if kind in totals) or "no CPU"
