"""Joins the Ray that the options name, or starts one on this machine.

Ray is imported on use, because the base install does not have it.
"""

from __future__ import annotations

import os
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
from typing import Any

from gaincurate.core.cluster_options import ClusterConfig
from gaincurate.core.process import Terminated
from gaincurate.errors import GaincurateError, InputError

_PLACE = re.compile(r"\[?([^\[\]/\s]+)\]?:(\d+)")
_KNOCK = 5.0  # seconds for an address to answer
_SOON = 60.0  # seconds in which Ray joins or starts
_STORE = 80 * 2**20  # bytes: no data goes through Ray's store, and this is near the least that it takes


@dataclass(frozen=True, slots=True)
class Needs:
    """The resources of each worker."""

    cpus: float
    gpus: float
    labels: dict[str, str]

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        labels = "".join(f", label {key}={value}" for key, value in self.labels.items())
        return f"{self.cpus:g} CPU{gpus}{labels}"


@contextmanager
def joined(config: ClusterConfig, note: Callable[[str], None]) -> Iterator[Needs]:
    """Join or start a Ray, and leave it at the end of the block; the resources that a worker needs there.

    Raises:
        InputError: there is none at the address, or it belongs to another user.
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
        note(_about(ray, config, address))
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
    """The Ray to join: HOST:PORT, `auto`, or `local` for one that is started for the run.

    Raises:
        InputError: no address in a Slurm job, or an address where no Ray can be.
    """
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local" and config.address is None and "SLURM_JOB_ID" in os.environ:
        raise InputError(
            "this is a Slurm job, where a Ray of this machine alone is rarely meant and one that runs here "
            "may be another user's: say which with --address HOST:PORT, such as the one that was given to "
            "`ray symmetric-run`."
        )
    if address in ("local", "auto"):
        return address
    place = _PLACE.fullmatch(address)
    if place is None:
        raise InputError(
            f"--address {address}: expected HOST:PORT or auto. A Ray Client's address (ray://) cannot be "
            "used: run the command on a machine of the cluster, perhaps by `ray job submit`."
        )
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
        if isinstance(error, PermissionError):
            raise _not_ours(address, "another user") from error
        reason = " ".join(str(error).split())[:400].rstrip(".")
        reason = reason if isinstance(error, Exception) else "it does not answer"
        if address == "local":
            first = reason.partition(". ")[0]
            raise GaincurateError(
                f"Ray did not start on this machine ({first}), which may be busy or short of memory. Please "
                "run the same command again, or leave out --engine ray."
            ) from error
        raise InputError(
            f"--address {address}: this machine cannot join a Ray there ({reason}). It needs the versions of "
            "Ray and Python of the cluster, a `ray start` for that cluster on this machine and, where the "
            "cluster wants tokens, RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or ~/.ray/auth_token."
        ) from error
    finally:
        # Ray takes SIGTERM for itself and would exit with 15, which says nothing to a scheduler.
        if callable(on_notice) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_notice)
    # Ray's words about dead workers go to stdout, where the figures of --json are, and no option stops it.
    with suppress(ImportError):
        from ray._private import worker

        worker.print_to_stdstream = lambda *arguments, **options: None


def _about(ray: Any, config: ClusterConfig, address: str) -> str:
    """One sentence about the Ray that was joined.

    Raises:
        InputError: it is another user's.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if address == "local":
        return f"started a Ray on this machine alone ({resources(ray)})"
    at, user = ray.get_runtime_context().gcs_address, os.geteuid()
    for node in nodes:
        with suppress(OSError):  # the socket of another machine
            user = os.stat(node["RayletSocketName"]).st_uid
    if user != os.geteuid():
        ray.shutdown()
        raise _not_ours(at, f"the user {user}")
    came = "" if config.address else " (RAY_ADDRESS)"
    count = f"{len(nodes)} node{'s' * (len(nodes) != 1)}"
    return f"joined the Ray at {at}{came}: {count}, {resources(ray)}"


def resources(ray: Any) -> str:
    """The CPUs and GPUs of the nodes that are alive, in words."""
    totals = ray.cluster_resources()
    return ", ".join(f"{totals[kind]:g} {kind}" for kind in ("CPU", "GPU") if kind in totals) or "no CPU"


def _not_ours(address: str, whose: str) -> InputError:
    return InputError(
        f"the Ray at {address} belongs to {whose}: workers would read and write as that user. Start one of "
        "your own with `ray start --head --port N` and give its --address."
    )
