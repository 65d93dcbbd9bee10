"""A Ray cluster of this machine for tests: nodes that come and go, and their workers' processes."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
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

    def raylets(self) -> set[int]:
        return {node.all_processes["raylet"][0].process.pid for node in self.nodes}

    def workers(self) -> list[int]:
        """The processes of our workers, the oldest first."""
        return workers_of(self.raylets())


def workers_of(raylets: set[int]) -> list[int]:
    """Our workers' processes among the children of these, the oldest first."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(stat[1]) in raylets and b"ray::gaincurate_worker" in (folder / "cmdline").read_bytes():
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
def cluster() -> Iterator[Nodes]:
    """A head that runs nothing."""
    from ray._private.utils import get_ray_address_file
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # A head with a folder of its own still writes its address here, and does not make the folder.
    Path(get_ray_address_file(None)).parent.mkdir(parents=True, exist_ok=True)
    head = {
        "num_cpus": 0,
        "include_dashboard": False,
        "object_store_memory": STORE,
        "_system_config": _HEALTH,
    }
    # The paths of Ray's sockets may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        made = Cluster(initialize_head=True, head_node_args={**head, "temp_dir": folder})
        try:
            yield Nodes(made)
        finally:
            made.shutdown()
