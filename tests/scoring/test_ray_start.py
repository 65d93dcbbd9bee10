"""Scoring on a Ray that was started by hand, with a process of its own that is ended in every way."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny
from command import run, tree
from gaincurate.core import ray_cluster
from ray_nodes import gone, started_by_hand

ray = pytest.importorskip("ray", reason="needs ray: pip install 'gaincurate[ray]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
]


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[str, set[int]]]:
    with started_by_hand() as started:
        yield started


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.questions(60))


def command(data: Path, model: Path, out: Path, *more: object) -> list[str]:
    options = ["--shard-rows", 1, "--threads", 1, "--device", "cpu", *more]
    return [str(word) for word in ("score", data, "-m", model, "-o", out, *options)]


def until_a_shard_is_done(arguments: list[str]) -> Any:
    """A process of the command, in the middle of its work."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gaincurate", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("shard "):
            break
    return process


def ended(process: Any) -> str:
    """What it still says."""
    last: str = process.stderr.read()
    process.wait()
    process.stderr.close()
    return last


def test_killed_and_interrupted_and_run_again(
    tmp_path: Path, tiny_model: Path, data: Path, head: tuple[str, set[int]]
) -> None:
    address, raylets = head
    assert run(*command(data, tiny_model, tmp_path / "whole")).exit_code == 0
    out = tmp_path / "set"
    arguments = command(data, tiny_model, out, "--engine", "ray", "--address", address)

    process = until_a_shard_is_done(arguments)
    process.send_signal(signal.SIGKILL)
    ended(process)
    assert gone(raylets)
    assert not (out / "manifest.json").exists()

    process = until_a_shard_is_done(arguments)
    process.send_signal(signal.SIGINT)
    last = ended(process)
    assert process.returncode == 130
    assert last.splitlines()[-1].startswith(
        "interrupted. Run the same command again to go on: gaincurate score"
    )
    assert "Traceback" not in last
    assert gone(raylets)
    assert not (out / "manifest.json").exists()

    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    assert f"joined the Ray at {address}: 2 nodes, 1 CPU, of the user " in result.stderr
    assert tree(out) == tree(tmp_path / "whole")
    assert gone(raylets)


@pytest.mark.usefixtures("head")
def test_a_ray_of_another_user_is_left_alone(
    tmp_path: Path, tiny_model: Path, data: Path, head: tuple[str, set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "_user_of", lambda nodes: 4242)
    result = run(*command(data, tiny_model, tmp_path / "set", "--engine", "ray", "--address", head[0]))
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        f"error: the Ray at {head[0]} belongs to the user 4242: workers would read and write as that user. Start "
        "one of your own with `ray start --head --port N` and give its --address."
    )
    assert not (tmp_path / "set").exists()
    assert not ray.is_initialized()


def test_a_head_of_another_version_is_refused(
    tmp_path: Path, tiny_model: Path, data: Path, head: tuple[str, set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "__version__", "2.40.0")
    result = run(*command(data, tiny_model, tmp_path / "set", "--engine", "ray", "--address", head[0]))
    assert result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"error: the Ray at {head[0]} has other versions: Version mismatch: ")
    assert "Ray: 2.40.0" in last
    assert "Install the cluster's versions of ray and Python here" in last
