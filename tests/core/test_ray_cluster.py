"""What is refused before a Ray is joined, and how Ray is asked and understood; no Ray runs here."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gaincurate.core import ray_cluster
from gaincurate.core.cluster_options import ClusterConfig
from gaincurate.core.options import checked
from gaincurate.core.ray_cluster import Needs, RayCrew, need_shared
from gaincurate.difficulty.config import make_config
from gaincurate.errors import InputError
from gaincurate.scoring.config import ScoreConfig


def score(**options: Any) -> ScoreConfig:
    return checked(ScoreConfig, {"data": "d", "model": "m", "out": Path("o"), **options})


def test_a_config_that_was_written_out_with_all_options_asks_for_no_ray() -> None:
    written = ScoreConfig(data="rows.jsonl", model="demo", out=Path("out")).model_dump()
    ScoreConfig(**written).check_engine()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"address": "auto"}, "--address goes with --engine ray."),
        ({"worker_gpus": 1}, "--worker-gpus goes with --engine ray."),
        ({"worker_cpus": 2}, "--worker-cpus goes with --engine ray."),
        ({"worker_label": ["a=b"]}, "--worker-label goes with --engine ray."),
        ({"wait": 60}, "--wait goes with --engine ray."),
        ({"workers": "all"}, "--workers all goes with --engine ray; without it every GPU is used anyway."),
        (
            {"engine": "ray", "worker_gpus": 0.5},
            "--worker-gpus 0.5: workers that share a GPU need --batch-tokens, because the default is made for the "
            "whole memory of one.",
        ),
        (
            {"engine": "ray", "device": "cuda:1"},
            "--device cuda:1: with --engine ray each worker sees the GPU that Ray gives it and no other. Leave "
            "the number out.",
        ),
    ],
)
def test_what_does_not_go_together(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        score(**options).check_engine()
    assert str(caught.value) == sentence


@pytest.mark.parametrize("label", ["a", "=b", "a=", ""])
def test_a_label_is_a_key_and_a_value(label: str) -> None:
    with pytest.raises(InputError, match=f"--worker-label {label}: expected KEY=VALUE"):
        score(engine="ray", worker_label=[label])


def test_rollouts_by_a_server_need_no_cluster() -> None:
    options = {"scored": Path("s"), "out": Path("o"), "verifier": "exact"}
    with pytest.raises(InputError, match=r"--engine ray goes with --model: a --server generates on machines"):
        make_config(**options, server="http://localhost:1", engine="ray")
    with pytest.raises(InputError, match=r"^--workers 2 goes with --engine ray\.$"):
        make_config(**options, model="m", workers=2)


@pytest.fixture
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


def address(given: str | None) -> str:
    return ray_cluster._address(ClusterConfig(engine="ray", address=given))


@pytest.mark.usefixtures("no_job")
def test_no_cluster_is_joined_that_nobody_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert address(None) == "local"
    assert address("auto") == "auto"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(InputError) as caught:
        address(None)
    assert str(caught.value) == (
        "this is a Slurm job, where a Ray of this machine alone is rarely meant and one that runs here may be "
        "another user's: say which with --address HOST:PORT, such as the one that was given to `ray "
        "symmetric-run`."
    )
    assert address("auto") == "auto"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert address(None) == "auto"


@pytest.mark.usefixtures("no_job")
def test_an_address_where_nothing_answers_is_refused_at_once() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        with pytest.raises(InputError) as caught:
            address(f"127.0.0.1:{port}")
        assert str(caught.value) == (
            f"--address 127.0.0.1:{port}: nothing answers there (connection refused). `ray status --address "
            f"127.0.0.1:{port}` must work first; `ray start --head` prints the address of a new cluster."
        )
        listener.listen()
        assert address(f"127.0.0.1:{port}") == f"127.0.0.1:{port}"
    for name in ("a..b", "x" * 64):
        with pytest.raises(InputError, match=f"--address {name}:6379: nothing answers there"):
            address(f"{name}:6379")
    with pytest.raises(InputError, match="--address localhost:99999: nothing answers there"):
        address("localhost:99999")


@pytest.mark.usefixtures("no_job")
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("head", "--address head: expected HOST:PORT or auto."),
        ("head:port", "--address head:port: expected HOST:PORT or auto."),
        (
            "ray://head:10001",
            "--address ray://head:10001: this is a Ray Client's address, which cannot be used here. Run the command "
            "on a machine of the cluster, by `ray job submit` perhaps, with --address auto.",
        ),
    ],
)
def test_what_is_no_address(given: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        address(given)
    assert str(caught.value) == sentence


class FakeRay:
    """As much of Ray as says what there is, or fails to be joined."""

    def __init__(self, nodes: list[dict[str, Any]] | None = None, error: BaseException | None = None) -> None:
        self._nodes, self._error = nodes or [], error

    def init(self, **options: Any) -> None:
        if self._error is not None:
            raise self._error

    def nodes(self) -> list[dict[str, Any]]:
        return self._nodes

    def remote(self, cls: type) -> type:
        return cls


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            RuntimeError(
                "Version mismatch: The cluster was started with:\n    Ray: 2.40.0\n    Python: 3.11.2\nThis "
                "process on node 10.0.0.1 was started with:\n    Ray: 2.60.0\n    Python: 3.11.2\n"
            ),
            "the Ray at h:1 has other versions: Version mismatch: The cluster was started with: Ray: 2.40.0 Python: "
            "3.11.2 this process has: Ray: 2.60.0 Python: 3.11.2. Install the cluster's versions of ray and Python "
            "here, or run the command in the cluster's own environment.",
        ),
        (
            PermissionError(13, "Permission denied", "/tmp/ray"),
            "the Ray at h:1 belongs to another user: workers would read and write as that user. Start one of your "
            "own with `ray start --head --port N` and give its --address.",
        ),
        (
            SystemExit(1),
            "--address h:1: this machine cannot join a Ray there (it does not answer). Run the command on a machine where `ray "
            "start` was run for that cluster, with RAY_AUTH_MODE=token where that wants tokens.",
        ),
        (
            ConnectionError("Could not find any running Ray instance."),
            "--address h:1: this machine cannot join a Ray there (Could not find any running Ray instance). Run the "
            "command on a machine where `ray start` was run for that cluster, with RAY_AUTH_MODE=token where that wants tokens.",
        ),
    ],
)
def test_why_a_ray_cannot_be_joined(error: BaseException, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        ray_cluster._init(FakeRay(error=error), "h:1")
    assert str(caught.value) == sentence


def test_workers_whose_results_would_differ_are_refused_by_what_differs() -> None:
    with pytest.raises(InputError) as caught:
        ray_cluster._refuse_other(
            {"device": "H200", "dtype": "bfloat16"}, {"device": "A100", "dtype": "bfloat16"}
        )
    assert str(caught.value) == (
        "two workers would not give the same results: device is 'H200' and 'A100'. Have all on machines of one "
        "kind with --worker-label KEY=VALUE (such as ray.io/accelerator-type=H200), the same packages and files."
    )
    assert caught.value.data == {"keys": ["device"]}


def node(labels: dict[str, str] | None = None, *, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Labels": labels or {}, "Resources": resources}


@pytest.mark.parametrize(
    ("needs", "room"),
    [
        (Needs(1, 0, {}), 24),
        (Needs(4, 0, {}), 6),
        (Needs(1, 1, {}), 5),
        (Needs(1, 0.5, {}), 10),
        (Needs(1, 0.3, {}), 15),
        (Needs(1, 1, {"kind": "big"}), 4),
        (Needs(9, 1, {"kind": "none"}), 1),  # one that waits is what a cluster grows for
    ],
)
def test_room_is_what_the_nodes_have_that_are_alive_and_have_the_label(needs: Needs, room: int) -> None:
    crew = RayCrew.__new__(RayCrew)
    big, small = node({"kind": "big"}, CPU=16, GPU=4), node({"kind": "small"}, CPU=8, GPU=1)
    crew._ray = FakeRay([big, small, node(alive=False, CPU=99, GPU=9), node()])
    crew._needs = needs
    assert crew.room() == room


@pytest.mark.parametrize("never_started", [True, False])
def test_a_worker_that_never_ran_is_no_failed_start(never_started: bool) -> None:
    ray = pytest.importorskip("ray")
    from ray.core.generated.common_pb2 import ActorDiedErrorContext

    cause = ActorDiedErrorContext(
        actor_id=b"\1" * 16, error_message="The node died.", never_started=never_started
    )
    crew = RayCrew.__new__(RayCrew)
    crew._ray = SimpleNamespace(exceptions=ray.exceptions, get=raising(ray.exceptions.ActorDiedError(cause)))
    [event] = crew._events_of(3, "call")
    assert (event.worker, event.kind, event.value.preempted) == (3, "died", never_started)


def raising(error: Exception) -> Callable[[Any], None]:
    def get(call: Any) -> None:
        raise error

    return get


def test_a_folder_that_is_not_shared(tmp_path: Path) -> None:
    need_shared(tmp_path)
    with pytest.raises(InputError) as caught:
        need_shared(tmp_path / "set")
    assert str(caught.value) == (
        f"{tmp_path / 'set'} is not on {socket.gethostname()}, where a worker runs: --out and the data must be on "
        "a file system that all machines share, under the same path."
    )
