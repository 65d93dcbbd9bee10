"""A machine that is wanted back: the run ends at once, and the same command ends in an uninterrupted run's bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from command import run, tree

ROWS = 600


def command(data: Path, model: Path, out: Path, *more: object) -> list[str]:
    options = ["--shard-rows", 10, "--threads", 1, "--device", "cpu", *more]
    return [str(part) for part in ("score", data, "--model", model, "--out", out, *options)]


def preempted(arguments: list[str], number: signal.Signals, *, whole_step: bool) -> tuple[int, list[str]]:
    """Send the signal after the first shard: to the process, or as Slurm does to all of its step."""
    command = [sys.executable, "-m", "gaincurate", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("shard "):
            (os.killpg if whole_step else os.kill)(process.pid, number)
            break
    lines += process.stderr.readlines()  # until the last process of the run has ended: workers hold it too
    process.stderr.close()
    return process.wait(), lines


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_driver_on_ray_ends_so_too(
    tmp_path: Path, tiny_model: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray takes SIGTERM for itself, and exits with 15."""
    pytest.importorskip("ray", reason="needs ray: pip install 'gaincurate[ray]'")
    for name in ("RAY_ADDRESS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.questions(ROWS))
    again = command(data, tiny_model, tmp_path / "out", "--engine", "ray", "--workers", 1)
    code, lines = preempted(again, number, whole_step=False)
    assert code == 143, lines
    assert lines[-1].startswith(f"ended by {number.name}. Run the same command again to go on: ")
    assert run(*command(data, tiny_model, tmp_path / "out")).exit_code == 0
    assert run(*command(data, tiny_model, tmp_path / "whole")).exit_code == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


FAST = [(signal.SIGTERM, 1, False)]
SLOW = [
    (signal.SIGINT, 1, False),
    (signal.SIGUSR1, 1, False),
    (signal.SIGUSR1, 2, True),
    (signal.SIGTERM, 2, True),
    (signal.SIGTERM, 2, False),
]


@pytest.mark.parametrize(
    ("number", "workers", "whole_step"),
    [*FAST, *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)],
)
def test_it_ends_in_order_and_goes_on_to_the_same_bytes(
    tmp_path: Path, tiny_model: Path, number: signal.Signals, workers: int, whole_step: bool
) -> None:
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.questions(ROWS))
    again = command(data, tiny_model, tmp_path / "out", "--workers", workers)
    code, lines = preempted(again, number, whole_step=whole_step)
    expected, said = (130, "interrupted") if number == signal.SIGINT else (143, f"ended by {number.name}")
    assert code == expected, lines
    assert lines[-1].startswith(f"{said}. Run the same command again to go on: gaincurate score ")
    assert not [line for line in lines if "Traceback" in line or "warning" in line.lower()]
    assert not (tmp_path / "out/manifest.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("shard-*.arrow")}
    assert finished
    assert run(*again).exit_code == 0
    assert all(path.stat().st_mtime_ns == changed for path, changed in finished.items())
    assert run(*command(data, tiny_model, tmp_path / "whole")).exit_code == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
