"""The options of Ray, and the workers of a run as Ray tasks: each loads its model once, then takes parts.

A part (a shard) is atomic and idempotent: a worker writes it whole, and every worker writes the same bytes.
So a lost worker or node costs nothing but time: its parts are given to another worker. Parts and events go
through two queues of Ray. Ray is imported on use, because the base install does not have it.
"""

from __future__ import annotations

import importlib.util
import os
import queue
import secrets
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gaincurate.core.options import RAY, Option
from gaincurate.core.process import Terminated, ctrl_c_noted
from gaincurate.core.progress import Progress
from gaincurate.core.store import CACHE, use_cache
from gaincurate.errors import GaincurateError, InputError

_SOON = 60.0  # seconds in which Ray joins or starts
_STORE = 80 * 2**20  # bytes: no data goes through Ray's store, and this is near the least that it takes
_DEATHS = 3  # of workers at the same part
_POLL = 0.2  # seconds
_PATIENCE = 15.0  # seconds without a worker before a note says so
_LONGEST = 600.0  # seconds without a worker before the run ends


def read_workers(value: str) -> int | Literal["all"]:
    """The value of `--workers`; an InputError if it is neither a number from 1 nor `all`."""
    if value == "all":
        return "all"
    if not (value.isdecimal() and len(value) <= 9 and int(value)):
        raise InputError(f"--workers {value}: expected a number from 1, or all.")
    return int(value)


class ClusterConfig(BaseModel):
    """Where the workers of a run are: on this machine, or on the nodes of a Ray cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    engine: Annotated[
        Literal["local", "ray"],
        Option("local: on this machine. ray: on all machines of a Ray cluster.", RAY),
    ] = "local"
    address: Annotated[
        str | None,
        Option(
            "HOST:PORT of a Ray head, or auto for the one of this machine. Default: RAY_ADDRESS, else a Ray "
            "of its own on this machine.",
            RAY,
            metavar="ADDRESS",
        ),
    ] = None
    worker_gpus: Annotated[
        float | None,
        Field(ge=0, le=1),
        Option("GPUs of a worker; a part of one too. Default: 1 where the cluster has GPUs.", RAY),
    ] = None
    worker_label: Annotated[
        list[str],
        Option(
            "Only on nodes with this label, such as ray.io/accelerator-type=H200; may be repeated.",
            RAY,
            metavar="KEY=VALUE",
        ),
    ] = Field(default_factory=list)

    @field_validator("worker_label")
    @classmethod
    def _labels(cls, value: list[str]) -> list[str]:
        for label in value:
            if not all(label.partition("=")):
                raise InputError(f"--worker-label {label}: expected KEY=VALUE.")
        return value

    def check_engine(self) -> None:
        """Raise an InputError for a Ray option without `--engine ray`, or if Ray is not installed."""
        if self.engine == "local":
            # By value, because a config that was written out names all options.
            for name, field in ClusterConfig.model_fields.items():
                default = field.get_default(call_default_factory=True)
                if name != "engine" and getattr(self, name) != default:
                    raise InputError(f"--{name.replace('_', '-')} goes with --engine ray.")
            if getattr(self, "workers", None) == "all":
                raise InputError("--workers all goes with --engine ray; without it every GPU is used anyway.")
            return
        if importlib.util.find_spec("ray") is None:
            raise InputError("--engine ray needs ray: `pip install 'gaincurate[ray]'`.")


class Worker:
    """A worker's side: its parts, and the events that it sends with each finished part."""

    def __init__(self, number: int, tasks: Any, reports: Any) -> None:
        self._number, self._tasks, self._reports = number, tasks, reports
        self._events: list[tuple[str, Any]] = []
        self._lock = threading.Lock()

    def report(self, kind: str, value: Any = None) -> None:
        """Queue an event of a kind of `Sent`. An event `part` finishes the part that its `shard` names."""
        with self._lock:
            self._events.append((kind, value))
            if kind == "part":
                self._reports.put((self._number, "done", (value[1]["shard"], self._events)))
                self._events = []

    def parts(self) -> Iterator[tuple[int, Any]]:
        """The parts of this worker, each with its payload."""
        for part, payload in iter(self._tasks.get, None):
            self._reports.put((self._number, "took", part))
            yield part, payload


def gaincurate_worker(
    work: Any, config: Any, folder: str, cache: str | None, number: int, tasks: Any, reports: Any
) -> Any:
    """The Ray task; `folder` is the working folder of the driver, to which relative paths refer."""
    import ray

    with suppress(OSError):  # absolute paths need no such folder here
        os.chdir(folder)
    use_cache(Path(cache) if cache else None)
    reports.put((number, "began", ray.get_runtime_context().get_node_id()))
    return work(config, Worker(number, tasks, reports))


@dataclass(slots=True)
class _Hired:
    """The driver's record of a worker: its node once it runs, and the parts that it took."""

    node: str | None = None
    parts: set[int] = field(default_factory=set)


class RayWorkers:
    """Starts workers on a Ray that was joined; see `ray_workers`."""

    def __init__(self, config: ClusterConfig) -> None:
        import ray

        self._ray = ray
        device, gpus = getattr(config, "device", "auto"), config.worker_gpus
        if gpus is None:
            gpus = float(device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0)
        self._cpus, self._gpus = getattr(config, "threads", None) or 1, gpus
        labels = dict(label.split("=", 1) for label in config.worker_label)
        self._needs = f"{self._cpus:g} CPU, {gpus:g} GPU" + f", labels {labels}" * bool(labels)
        asked = getattr(config, "workers", None)
        self._most = asked if isinstance(asked, int) else None
        # Without a GPU from Ray a worker must not take one that it sees all the same.
        device = "cpu" if device == "auto" and not gpus else device
        self._config = config.model_copy(
            update={"device": device, "engine": "local", "workers": 1, "overwrite": False}
        )
        options = {
            "num_cpus": self._cpus,
            "num_gpus": gpus,
            "max_retries": 0,
            "scheduling_strategy": "SPREAD",
        }
        options |= {"label_selector": labels} if labels else {}
        self._task = ray.remote(gaincurate_worker).options(**options)

    def run(
        self,
        work: Callable[[Any, Worker], Any],
        parts: Iterable[int] = (),
        *,
        hear: Callable[[str, Any], None],
        describe: Callable[[int], str] = str,
        payload: Callable[[int], Any] = lambda part: None,
    ) -> list[Any]:
        """Have workers do the parts, or one worker do some work without parts; the results of their work.

        Args:
            work: runs in each worker; can be pickled, and takes the config of a local run on one device.
            parts: their numbers.
            hear: called with the kind and value of each event.
            describe: names the rows of a part, for the error about a part that kills its workers.
            payload: makes the data that is sent along with a part.

        Raises:
            GaincurateError: an error of a worker, a part at which three workers died, or no worker is left.
        """
        ray, results, deaths = self._ray, list[Any](), Counter[int]()
        hired, workers, unfinished = dict[Any, int](), list[_Hired](), set(parts)
        alone, left = not unfinished, sorted(unfinished, reverse=True)
        tasks, reports, closed = self._queue(), self._queue(), False
        place = (os.getcwd(), os.environ.get(CACHE))
        lived, noted = time.monotonic(), False
        try:
            while unfinished or hired or (alone and not results):
                with ctrl_c_noted():  # Ray would raise a plain KeyboardInterrupt for every signal
                    if not hired and not left:  # a worker died between taking a part and saying so
                        left = sorted(unfinished, reverse=True)
                    if closed and left:
                        tasks, closed = self._queue(), False
                    coming = sum(workers[number].node is None for number in hired.values())
                    while len(hired) < self._room() and max(len(left), alone and not hired) > coming:
                        number, coming = len(workers), coming + 1
                        workers.append(_Hired())
                        hired[self._task.remote(work, self._config, *place, number, tasks, reports)] = number
                    wanted = len(hired) - coming - tasks.qsize() if left else 0
                    for part in [left.pop() for _ in range(min(wanted, len(left)))]:
                        tasks.put((part, payload(part)))
                    if not left and not closed:  # one each: a dead worker takes one that it waited for
                        tasks.put_nowait_batch([None] * len(workers))
                        closed = True
                        for call in [] if alone else [c for c, n in hired.items() if workers[n].node is None]:
                            self._end(call)
                            del hired[call]
                    done = ray.wait(list(hired), num_returns=len(hired), timeout=0)[0] if hired else []
                    for number, kind, value in self._received(reports):
                        if kind == "began":
                            workers[number].node = value
                        elif kind == "took":
                            workers[number].parts.add(value)
                        elif value[0] in unfinished:
                            unfinished.remove(value[0])
                            for event in value[1]:
                                hear(*event)
                    for call in done:
                        number = hired.pop(call)
                        try:
                            results.append(ray.get(call))
                        except ray.exceptions.RayError as error:
                            if isinstance(error, ray.exceptions.RayTaskError):
                                raise
                            lost = self._lost(workers[number], unfinished, deaths, describe)
                            left = sorted([*left, *lost], reverse=True)
                            hear("note", f"worker {number + 1} was lost; another one does its shards")
                    silent = time.monotonic() - lived
                    if not hired or any(workers[number].node is not None for number in hired.values()):
                        lived, noted = time.monotonic(), False
                    elif silent >= _LONGEST or (silent >= _PATIENCE and not noted):
                        noted = True
                        state = f"no worker has a place: each needs {self._needs}, and the cluster has "
                        state += f"{_resources(ray)}. "
                        hear("note", f"{state}Waiting up to {_LONGEST:g} s for one")
                        if silent >= _LONGEST:
                            raise GaincurateError(
                                f"{state}None came in {_LONGEST:g} s. Finished shards are kept. "
                                "Run the same command again to go on when there is room."
                            )
            return results
        except ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise cause if isinstance(cause, GaincurateError) else error.as_instanceof_cause() from None
        finally:
            for call in hired:
                self._end(call)

    def _end(self, call: Any) -> None:
        with suppress(Exception):  # Ray itself may be gone
            self._ray.cancel(call, force=True)

    def _queue(self) -> Any:
        """A queue on this machine, so that it does not end before this process."""
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self._ray.get_runtime_context().get_node_id(), soft=False)
        return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def _received(self, reports: Any) -> list[tuple[int, str, Any]]:
        """The reports of workers; empty after `_POLL` seconds without one."""
        try:
            first = reports.get(timeout=_POLL)
        except queue.Empty:
            return []
        return [first, *reports.get_nowait_batch(reports.qsize())]

    def _room(self) -> int:
        """The number of workers that may be started; resources in use by others count as free."""
        totals, needs = self._ray.cluster_resources(), {"CPU": self._cpus, "GPU": self._gpus}
        room = min(int(totals.get(kind, 0) / count + 1e-6) for kind, count in needs.items() if count)
        return self._most or max(room, 1)  # a task that waits makes an autoscaler start a machine

    def _lost(
        self, each: _Hired, unfinished: set[int], deaths: Counter[int], describe: Callable[[int], str]
    ) -> list[int]:
        """The parts of a lost worker; an error if three workers died at one of them."""
        parts = sorted(each.parts & unfinished)
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        if each.node is None or each.node in alive:  # a lost machine is no part's fault
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
    try:
        which = f"joined the Ray at {ray.get_runtime_context().gcs_address}"
        if address == "local":
            which = "started a Ray on this machine alone"
        progress.note(f"{which} ({_resources(ray)})")
        yield RayWorkers(config)
    finally:
        if not already:
            ray.shutdown()


def _address(config: ClusterConfig) -> str:
    """The Ray to join: HOST:PORT, `auto`, or `local` for one that is started for the run."""
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    if "://" in address:  # a Ray Client, which has no place for the queues
        raise InputError(
            f"--address {address}: expected auto or HOST:PORT of a Ray head, no Ray Client address."
        )
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
