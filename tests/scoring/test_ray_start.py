"""Scoring on a Ray that was started by hand, with a process of its own that is ended in every way."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny
from command import run, tree
from ray_nodes import gone, started_by_hand

ray = pytest.importorskip("ray", reason="needs ray: pip install 'gaincurate[ray]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
]

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[str, set[int]]]:
    with started_by_hand(TOKEN) as started:
        yield started


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.questions(60))


def command(data: Path, model: Path, out: Path, *more: object) -> list[str]:
    options = ["--shard-rows", 1, "--threads", 1, "--device", "cpu", *more]
    return [str(word) for word in ("score", data, "-m", model, "-o", out, *options)]


def begun(arguments: list[str], variables: dict[str, str]) -> Any:
    """A process of the command."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-m", "gaincurate", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**others, **variables},
    )


def until_a_shard_is_done(arguments: list[str]) -> Any:
    """A process of the command, in the middle of its work."""
    process = begun(arguments, TOKEN)
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

    process = begun(arguments, TOKEN)
    said = ended(process)
    assert process.returncode == 0, said
    port = address.partition(":")[2]  # the head may have another name for itself
    assert re.search(rf"^joined the Ray at [\w.]+:{port}: 2 nodes, 1 CPU, of the user ", said, re.MULTILINE)
    assert tree(out) == tree(tmp_path / "whole")
    assert gone(raylets)


PROGRAMS = {
    "another user": "from gaincurate.core import ray_cluster\nray_cluster._user_of = lambda nodes: 4242\n",
    "another version": "import ray\nray.__version__ = '2.40.0'\n",
    "no token": "",
}
RUN = "import sys\nfrom gaincurate.cli.app import app\napp(sys.argv[1:])\n"


@pytest.mark.parametrize("what", PROGRAMS)
def test_a_ray_that_cannot_be_used_is_left_alone(
    what: str, tmp_path: Path, tiny_model: Path, data: Path, head: tuple[str, set[int]]
) -> None:
    at = head[0]
    sentence = {
        "another user": f"error: the Ray at {at} belongs to the user 4242: workers would read and write as that "
        "user. Start one of your own with `ray start --head --port N` and give its --address.",
        "another version": f"error: the Ray at {at} has other versions: Version mismatch: The cluster was started "
        f"with: Ray: {ray.__version__} Python: {platform.python_version()} this process has: Ray: 2.40.0 Python: "
        f"{platform.python_version()}. Install the cluster's versions of ray and Python here, or run the command "
        "in the cluster's own environment.",
        "no token": f"error: --address {at}: this machine cannot join a Ray there (Failed to connect to Ray cluster "
        f"at {at}). Run the command on a machine where `ray start` was run for that cluster, with "
        "RAY_AUTH_MODE=token where that wants tokens.",
    }[what]
    arguments = command(data, tiny_model, tmp_path / "set", "--engine", "ray", "--address", at)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAMS[what] + RUN, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(TOKEN if what != "no token" else {"RAY_AUTH_MODE": "disabled"})},
    )
    assert done.returncode == 2, done.stderr
    named = re.sub(rf"[\d.]+:{at.partition(':')[2]}", at, done.stderr.splitlines()[-1])
    assert named == sentence
    assert not (tmp_path / "set").exists()
