"""Workers as Ray actors: joins or starts a Ray, and is the `Crew` of a run that is spread over machines.

One call to a worker is under way at a time. It brings messages there, and back what happened. Workers write
their shards themselves, so no results pass through Ray, and a worker has its next shards before it is done
with those that it has. Ray restarts nothing by itself: `Leases` knows which shards are missing, Ray does not.

Ray is imported when it is used, so that a base install needs none.
"""

from __future__ import annotations

import os
import pwd
import queue
import re
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaincurate.core.cluster_options import ClusterConfig
from gaincurate.core.leases import Death, Event, Leases
from gaincurate.core.process import Terminated
from gaincurate.core.progress import Progress
from gaincurate.core.store import CACHE, use_cache
from gaincurate.errors import GaincurateError, InputError

Report = Callable[[str, Any], None]
Work = Callable[["queue.SimpleQueue[Any]", Report], None]
"""What a worker does: takes messages until None, and reports events by kind and value."""
_PLACE = re.compile(r"\[?([^\[\]/\s]+)\]?:(\d+)")
_KNOCK = 5.0  # seconds for an address to answer
_SOON = 60.0  # seconds in which Ray joins or starts
_STORE = 80 * 2**20  # bytes: no data goes through Ray's store, and this is near the least that it takes
_NEVER_RAN = "The actor never ran"
_NEVER_ENDS = "Worker unexpectedly exits with a connection error"


@dataclass(frozen=True, slots=True)
class Needs:
    """What Ray is asked for, for each worker."""

    cpus: float
    gpus: float
    labels: dict[str, str]

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        labels = "".join(f", label {key}={value}" for key, value in self.labels.items())
        return f"{self.cpus:g} CPU{gpus}{labels}"


@contextmanager
def joined(config: ClusterConfig, note: Callable[[str], None]) -> Iterator[Needs]:
    """Join the Ray that the options name, or start one here; what a worker needs there.

    Raises:
        InputError: there is none, it is somebody else's, or of another version.
    """
    ours = sys.modules.get("ray")
    already = ours is not None and ours.is_initialized()  # by a program that calls us
    address = "auto" if already else _address(config)
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Else Ray writes one into the home folder, which changes how the user's next `ray start` begins.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    if not already:
        _init(ray, address)
    try:
        note(_whose(ray, config, address))
        gpus = config.worker_gpus
        if gpus is None:
            on_cpu = getattr(config, "device", "auto") == "cpu"
            gpus = float(not on_cpu and ray.cluster_resources().get("GPU", 0) > 0)
        labels = dict(label.split("=", 1) for label in config.worker_label)
        yield Needs(config.worker_cpus or getattr(config, "threads", None) or 1, gpus, labels)
    finally:
        if not already:
            ray.shutdown()


def _address(config: ClusterConfig) -> str:
    """What Ray is to be joined; `local` for one of our own.

    Raises:
        InputError: no address where a cluster's machine is shared, or one where no Ray can be.
    """
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local" and config.address is None and "SLURM_JOB_ID" in os.environ:
        raise InputError(
            "this is a Slurm job, where a Ray of this machine alone is rarely meant and one that runs here "
            "may be another user's: say which with --address HOST:PORT, such as the one that was given to "
            "`ray symmetric-run`."
        )
    if address.startswith("ray://"):
        raise InputError(
            f"--address {address}: this is a Ray Client's address, which cannot be used here. Run the "
            "command on a machine of the cluster, by `ray job submit` perhaps, with --address auto."
        )
    if address in ("local", "auto"):
        return address
    place = _PLACE.fullmatch(address)
    if place is None:
        raise InputError(f"--address {address}: expected HOST:PORT or auto.")
    # Ray itself tries for two minutes and then exits.
    try:
        socket.create_connection((place[1], int(place[2])), _KNOCK).close()
    except (OSError, OverflowError, UnicodeError) as error:  # the last for names that no host has
        why = str(getattr(error, "strerror", None) or error).lower()
        raise InputError(
            f"--address {address}: nothing answers there ({why}). `ray status --address {address}` must work "
            "first; `ray start --head` prints the address of a new cluster."
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
        first = " ".join(str(error).split()) if isinstance(error, Exception) else "it does not answer"
        if "ersion mismatch" in first:
            first = re.sub(r"This process.*?was started with", "this process has", first)
            raise InputError(
                f"the Ray at {address} has other versions: {first[:300]}. Install the cluster's versions of "
                "ray and Python here, or run the command in the cluster's own environment."
            ) from error
        if type(error).__name__ == "AuthenticationError" or "InvalidAuthToken" in first:
            raise InputError(
                f"the Ray at {address} wants a token: set RAY_AUTH_MODE=token here, and RAY_AUTH_TOKEN to "
                "what `ray get-auth-token` prints on its head (or have it in ~/.ray/auth_token)."
            ) from error
        if isinstance(error, PermissionError):
            raise _not_ours(address, "another user") from error
        raise InputError(
            f"--address {address}: this machine cannot join a Ray there ({first[:300].rstrip('.')}). Run "
            "the command on a machine where `ray start` was run for that cluster, with RAY_AUTH_MODE=token "
            "where that wants tokens."
        ) from error
    finally:
        # Ray takes SIGTERM for itself and would exit with 15, which says nothing to a scheduler.
        if callable(on_notice) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_notice)
    # What Ray says of dead workers goes to stdout, where the figures of --json are, and no option stops it.
    with suppress(ImportError):
        from ray._private import worker

        worker.print_to_stdstream = lambda *arguments, **options: None


def _whose(ray: Any, config: ClusterConfig, address: str) -> str:
    """One sentence about what was joined.

    Raises:
        InputError: it is another user's.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    totals = ray.cluster_resources()
    has = ", ".join(f"{totals[kind]:g} {kind}" for kind in ("CPU", "GPU") if kind in totals)
    if address == "local":
        return f"started a Ray on this machine alone ({has or 'no CPU'})"
    at = ray.get_runtime_context().gcs_address
    user = _user_of(nodes)
    if user is not None and user != os.geteuid():
        ray.shutdown()
        raise _not_ours(at, f"the user {_name(user)}")
    came = "" if config.address else " (RAY_ADDRESS)"
    count = f"{len(nodes)} node{'s' * (len(nodes) != 1)}"
    return f"joined the Ray at {at}{came}: {count}, {has or 'no CPU'}, of the user {_name(os.geteuid())}"


def _user_of(nodes: list[dict[str, Any]]) -> int | None:
    """Who started the Ray of this machine: the owner of its socket; None where it is not seen."""
    for node in nodes:
        with suppress(OSError):
            return os.stat(node["RayletSocketName"]).st_uid
    return None


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:  # a container's
        return str(user)


def _not_ours(address: str, whose: str) -> InputError:
    return InputError(
        f"the Ray at {address} belongs to {whose}: workers would read and write as that user. Start one of "
        "your own with `ray start --head --port N` and give its --address."
    )


@contextmanager
def spread(
    config: ClusterConfig,
    work: Callable[[Needs], Work],
    *,
    name: str,
    progress: Progress,
    hear: Callable[[Event], None],
    rows_of: Callable[[int], str],
) -> Iterator[Leases]:
    """A run's workers on Ray; their plan is a pair, whose second part, the identity, must be the same of all.

    Args:
        config: of the run.
        work: makes what a worker does, a function that can be pickled, of what Ray gives it.
        name: of the run, for Ray's dashboard.
        progress: hears what was joined.
        hear: see `Leases`.
        rows_of: see `Leases`.

    Raises:
        InputError: no Ray that can be used, or workers whose results would differ.
    """
    asked = getattr(config, "workers", None)
    most = asked if isinstance(asked, int) else None

    def same(first: Any, other: Any) -> None:
        _refuse_other(first[1], other[1])

    with joined(config, progress.note) as needs, RayCrew(needs, work(needs), name) as crew:
        yield Leases(crew, most=most, wait=config.wait, hear=hear, same=same, rows_of=rows_of)


def _refuse_other(first: dict[str, Any], other: dict[str, Any]) -> None:
    """Refuse a worker whose results would not be the first one's.

    Raises:
        InputError: names what differs.
    """
    from gaincurate.core.manifest import differing_keys  # loads pydantic, which the help must not

    changes = list(differing_keys(first, other))
    if changes:
        listed = ", ".join(f"{key} is {old!r} and {new!r}" for key, old, new in changes[:3])
        raise InputError(
            f"two workers would not give the same results: {listed}. Have all on machines of one kind with "
            "--worker-label KEY=VALUE (such as ray.io/accelerator-type=H200), the same packages and files.",
            keys=[key for key, _, _ in changes],
        )


class RayCrew:
    """The workers of one run; use it in a `with` statement, which leaves none of them.

    Args:
        needs: of each worker.
        work: what each does.
        name: of the run, for Ray's dashboard.
    """

    def __init__(self, needs: Needs, work: Work, name: str) -> None:
        import ray

        self._ray, self._needs, self._work, self._name = ray, needs, work, name
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, int] = {}
        self._messages: dict[int, list[Any]] = {}
        """Of those workers to which no call is under way, or that wait for the next one."""
        self._idle: set[int] = set()
        self._remote = ray.remote(_Actor)

    def __enter__(self) -> RayCrew:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in list(self._actors):
            self.end(worker)

    def start(self, worker: int) -> None:
        """See `Crew`."""
        options: dict[str, Any] = {"num_cpus": self._needs.cpus, "num_gpus": self._needs.gpus}
        if self._needs.labels:
            options["label_selector"] = self._needs.labels
        actor = self._remote.options(
            **options,
            name=f"gaincurate-{self._name}-{worker + 1}",
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        ).remote(self._work, os.getcwd(), os.environ.get(CACHE))
        self._actors[worker], self._messages[worker] = actor, []
        self._idle.add(worker)

    def send(self, worker: int, message: Any) -> None:
        """See `Crew`."""
        self._messages[worker].append(message)

    def end(self, worker: int) -> None:
        """See `Crew`."""
        self._messages.pop(worker, None)
        self._idle.discard(worker)
        actor = self._actors.pop(worker, None)
        if actor is not None:
            with suppress(Exception):  # it may be dead, or Ray itself gone
                self._ray.kill(actor, no_restart=True)

    def wait(self, seconds: float) -> list[Event]:
        """See `Crew`."""
        patience = min(max(len(self._actors) / 100, 0.5), 5.0)  # of many workers each speaks more rarely
        for worker in self._idle:
            call = self._actors[worker].exchange.remote(self._messages[worker], patience)
            self._calls[call], self._messages[worker] = worker, []
        self._idle.clear()
        if not self._calls:
            time.sleep(min(seconds, 0.2))
            return []
        calls = list(self._calls)
        if not self._ray.wait(calls, num_returns=1, timeout=seconds)[0]:
            return []
        events = []
        for call in self._ray.wait(calls, num_returns=len(calls), timeout=0)[0]:
            worker = self._calls.pop(call)
            if worker in self._actors:
                events += self._events_of(worker, call)
        return events

    def _events_of(self, worker: int, call: Any) -> list[Event]:
        errors = self._ray.exceptions
        try:
            happened = self._ray.get(call)
        except errors.RayActorError as error:
            return [Event(worker, "died", _death(error))]
        except errors.RayTaskError as error:
            raise error.as_instanceof_cause() from None  # a bug looks like one
        except errors.RayError as error:
            return [Event(worker, "died", _death(error))]
        self._idle.add(worker)
        return [Event(worker, kind, value) for kind, value in happened]

    def room(self) -> int:
        """See `Crew`; what others use at the moment counts as room."""
        labels = self._needs.labels.items()
        total = 0
        for node in self._ray.nodes():
            if node["Alive"] and labels <= node.get("Labels", {}).items():
                has = node["Resources"]
                rooms = [int(has.get("CPU", 0) / self._needs.cpus + 1e-6)]
                if self._needs.gpus:
                    each = int(1 / self._needs.gpus + 1e-6)  # a worker has a part of one GPU, not of two
                    rooms.append(int(has.get("GPU", 0)) * each)
                total += min(rooms)
        return max(total, 1)  # one that waits is what makes an autoscaler start a machine

    def lacking(self) -> str:
        """See `Crew`."""
        totals = self._ray.cluster_resources()
        has = ", ".join(f"{totals[kind]:g} {kind}" for kind in ("CPU", "GPU") if kind in totals)
        return f"a worker needs {self._needs}, and the cluster has {has or 'no CPU'}"

    def clock(self) -> float:
        """See `Crew`."""
        return time.monotonic()


def _death(error: BaseException) -> Death:
    """How a worker is gone. One that never ran was given a place on a machine that was lost meanwhile."""
    taken = bool(getattr(error, "preempted", False)) or _NEVER_RAN in str(error)
    return Death(_reason(error), taken)


def _reason(error: BaseException) -> str:
    """Why a worker is gone, of Ray's many lines about it."""
    text = str(error)
    if _NEVER_ENDS in text:
        return "its process was killed or crashed, for too little memory perhaps"
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("\t")]
    reason = lines[-1] if lines else type(error).__name__
    return reason.partition(". ")[0][:200].rstrip(".")


class _Actor:
    """A worker's process: the work in one thread, and one call at a time that asks after it.

    Args:
        work: what to do.
        folder: where the run was started, so that relative paths mean the same here.
        cache: its folder for copies from object stores, where one was given.
    """

    def __init__(self, work: Work, folder: str, cache: str | None) -> None:
        with suppress(OSError):  # absolute paths need none
            os.chdir(folder)
        use_cache(Path(cache) if cache else None)
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._happened: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._bug: BaseException | None = None
        self._happened.put(("placed", (socket.gethostname(), os.getpid())))
        threading.Thread(target=self._run, args=(work,), daemon=True).start()

    def _run(self, work: Work) -> None:
        try:
            work(self._inbox, lambda kind, value: self._happened.put((kind, value)))
        except GaincurateError as error:
            self._happened.put(("error", error))
        except BaseException as error:
            self._bug = error
            self._happened.put(("bug", None))

    def exchange(self, messages: list[Any], patience: float) -> list[tuple[str, Any]]:
        """Take messages; what happened since the last call, or nothing after so many seconds.

        Batches are many: what `advance` counts is summed up until something else happens.
        """
        for message in messages:
            self._inbox.put(message)
        happened: list[tuple[str, Any]] = []
        until = time.monotonic() + patience
        while True:
            try:
                kind, value = self._happened.get(timeout=max(until - time.monotonic(), 0.0))
            except queue.Empty:
                return happened
            if kind != "advance":
                until = 0.0  # this cannot wait
            if kind == "bug" and self._bug is not None:
                raise self._bug
            if kind == "advance" and happened and happened[-1][0] == "advance":
                n, also = happened.pop()[1]
                value = n + value[0], {name: also.get(name, 0) + count for name, count in value[1].items()}
            happened.append((kind, value))


def need_shared(folder: Path) -> None:
    """Refuse an output folder that this machine does not see as the one where the run was started does.

    Raises:
        InputError: the run was begun, and its folder is not here.
    """
    if not folder.exists():
        raise InputError(
            f"{folder} is not on {socket.gethostname()}, where a worker runs: --out and the data must be on "
            "a file system that all machines share, under the same path.",
            path=str(folder),
        )
