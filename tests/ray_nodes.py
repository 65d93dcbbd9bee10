"""A Ray cluster of this machine for tests: nodes that come and go, and their workers' processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 10,
}
STORE = 80 * 2**20


class Nodes:
    """A head without a CPU, and nodes of one CPU each."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.address: str = cluster.address
        self.nodes: list[Any] = []

    def add(self, **options: Any) -> Any:
        node = self._cluster.add_node(**{"num_cpus": 1, "object_store_memory": STORE, **options})
        self.nodes.append(node)
        return node

    def remove(self, node: Any) -> None:
        """Lose a node at once."""
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def settle(self) -> None:
        """Wait until Ray counts the nodes that are there and no lost one."""
        self._cluster.wait_for_nodes()

    def raylets(self) -> set[int]:
        return {node.all_processes["raylet"][0].process.pid for node in self.nodes}

    def workers(self) -> list[int]:
        """The processes of our workers, the oldest first."""
        return workers_of(self.raylets())


def workers_of(raylets: set[int]) -> list[int]:
    """Our workers' processes among the children of these, the oldest first."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(stat[1]) in raylets and b"ray::_Actor" in (folder / "cmdline").read_bytes():
                found.append((int(stat[19]), int(folder.name)))
    return [pid for _, pid in sorted(found)]


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def gone(raylets: set[int], seconds: float = 30.0) -> bool:
    """Whether no worker of ours lives soon: Ray ends them, and says nothing when it has."""
    until = time.monotonic() + seconds
    while workers_of(raylets):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def short_folder() -> Iterator[Path]:
    """For Ray's sockets, whose paths may have 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def cluster() -> Iterator[Nodes]:
    """A head that runs nothing."""
    from ray._private.utils import get_ray_address_file
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # A head with a folder of its own still writes its address here, and does not make the folder.
    Path(get_ray_address_file(None)).parent.mkdir(parents=True, exist_ok=True)
    with short_folder() as folder:
        made = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "object_store_memory": STORE,
                "temp_dir": str(folder),
                "_system_config": _HEALTH,
            },
        )
        try:
            yield Nodes(made)
        finally:
            made.shutdown()


@contextmanager
def started_by_hand(variables: dict[str, str] | None = None) -> Iterator[tuple[str, set[int]]]:
    """A head and a worker as `ray start` makes them; the address, and the processes that have workers.

    Only what is started here is ended: `ray stop` would end everybody's.
    """
    ray = str(Path(sys.executable).with_name("ray"))
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **(variables or {})}
    with short_folder() as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = ["--node-ip-address", "127.0.0.1", "--object-store-memory", str(STORE), "--block"]
        head = ["--head", "--port", str(port), "--num-cpus", "0", "--include-dashboard", "false"]
        started: list[subprocess.Popen[bytes]] = []
        with (folder / "log").open("wb") as log:
            try:
                address = f"127.0.0.1:{port}"
                for options in (
                    [*head, "--temp-dir", str(folder)],
                    ["--address", address, "--num-cpus", "1"],
                ):
                    begun = subprocess.Popen(
                        [ray, "start", *options, *common], stdout=log, stderr=log, env=environment
                    )
                    started.append(begun)
                    _until(lambda: _answers(port), folder / "log")
                _until(lambda: len(_children(started, b"raylet")) == 2, folder / "log")
                yield address, _children(started, b"raylet")
            finally:
                for process in reversed(started):
                    process.terminate()
                for process in started:
                    process.wait()


def _until(done: Callable[[], bool], log: Path) -> None:
    until = time.monotonic() + 120
    while not done():
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _children(of: list[subprocess.Popen[bytes]], name: bytes) -> set[int]:
    parents, found = {process.pid for process in of}, set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                first = (folder / "cmdline").read_bytes().partition(b"\0")[0]
                if parent in parents and first.endswith(b"/" + name):
                    found.add(int(folder.name))
    return found
