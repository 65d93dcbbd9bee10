"""Options and addresses that are refused, and the sentences for a Ray that cannot be joined; no Ray runs here."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gaincurate.core import ray_cluster
from gaincurate.core.cluster_options import ClusterConfig
from gaincurate.core.options import checked
from gaincurate.errors import GaincurateError, InputError
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
@pytest.mark.parametrize("given", ["head", "head:port", "ray://head:10001"])
def test_what_is_no_address(given: str) -> None:
    with pytest.raises(InputError, match=f"^--address {given}: expected HOST:PORT or auto. A Ray Client's"):
        address(given)


CANNOT_JOIN = "--address h:1: this machine cannot join a Ray there ("


@pytest.mark.parametrize(
    ("at", "error", "sentence", "code"),
    [
        (
            "h:1",
            RuntimeError("Version mismatch:\n    Ray: 2.40.0"),
            f"{CANNOT_JOIN}Version mismatch: Ray: 2.40.0). ",
            2,
        ),
        ("h:1", SystemExit(1), f"{CANNOT_JOIN}it does not answer). ", 2),
        ("h:1", PermissionError(13, "no", "/tmp/ray"), "the Ray at h:1 belongs to another user: ", 2),
        ("local", Exception("timed out."), "Ray did not start on this machine (timed out), ", 1),
        ("local", SystemExit(1), "Ray did not start on this machine (it does not answer), ", 1),
    ],
)
def test_why_there_is_no_ray(at: str, error: BaseException, sentence: str, code: int) -> None:
    with pytest.raises(GaincurateError) as caught:
        ray_cluster._init(FakeRay(error), at)
    assert str(caught.value).startswith(sentence)
    assert caught.value.exit_code == code
    assert ("run the same command again" in str(caught.value)) == (code == 1)


class FakeRay:
    """As much of Ray as fails to be joined, or belongs to the owner of a file."""

    def __init__(self, error: BaseException | None = None, socket: str = "") -> None:
        self._error, self._socket = error, socket

    def init(self, **options: Any) -> None:
        assert self._error is not None
        raise self._error

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": True, "RayletSocketName": "/of/another/machine"},
            {"Alive": True, "RayletSocketName": self._socket},
        ]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0, "GPU": 2.0}

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(gcs_address="h:1")

    def shutdown(self) -> None:
        pass


def test_a_ray_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, ray = ClusterConfig(engine="ray", address="h:1"), FakeRay(socket=str(tmp_path))
    assert ray_cluster._about(ray, config, "h:1") == "joined the Ray at h:1: 2 nodes, 4 CPU, 2 GPU"
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(InputError, match="^the Ray at h:1 belongs to the user "):
        ray_cluster._about(ray, config, "h:1")
