"""Several processes at one set: the same files, and nothing left behind however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import gaincurate
import tiny
from command import run, tree
from gaincurate.errors import GaincurateError, InputError
from gaincurate.scoring import pipeline
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.plan import resolve_machine
from gaincurate.scoring.worker import one_ahead


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.questions(60))


def command(data: Path, model: Path, out: Path, *more: str) -> list[str]:
    options = ["--shard-rows", "6", "--threads", "1", "--device", "cpu", *more]
    return [str(part) for part in ("score", data, "-m", model, "-o", out, *options)]


def test_two_workers_write_the_same_bytes_as_one(tmp_path: Path, tiny_model: Path, data: Path) -> None:
    assert run(*command(data, tiny_model, tmp_path / "one")).exit_code == 0
    result = run(*command(data, tiny_model, tmp_path / "two", "--workers", "2"))
    assert result.exit_code == 0, result.stderr
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
    assert "scored 60 rows" in result.stdout
    assert result.stderr.count("of 10: ") == 10
    again = run(*command(data, tiny_model, tmp_path / "two", "--workers", "3"))
    assert "already complete, nothing was left to score" in again.stdout


@pytest.mark.slow
def test_a_worker_that_is_done_ends_by_itself(
    tmp_path: Path, tiny_model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what it had registered is left behind, and Python warns of that."""
    lived = []
    monkeypatch.setattr(SpawnProcess, "terminate", lambda worker: lived.append(worker.is_alive()))
    assert run(*command(data, tiny_model, tmp_path / "out", "--workers", "2")).exit_code == 0
    assert lived == [False, False]


@pytest.mark.slow
def test_what_a_worker_refuses_is_said_as_one_process_says_it(tmp_path: Path, tiny_model: Path) -> None:
    rows = tiny.questions(60)
    rows[50]["question"] = " "
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    one, two = (run(*command(data, tiny_model, tmp_path / name, "--workers", name)) for name in "12")
    assert (one.exit_code, two.exit_code) == (2, 2)
    assert one.stderr.splitlines()[-1] == two.stderr.splitlines()[-1]
    assert "row 50 (from 0, id " in one.stderr


@pytest.mark.slow
def test_more_shards_than_a_pipe_holds_are_not_waited_for(tmp_path: Path, tiny_model: Path) -> None:
    rows = [{"prompt": " "}] + [{"prompt": f"{number} plus one"} for number in range(15_000)]
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    arguments = command(data, tiny_model, tmp_path / "out", "--workers", "2", "--shard-rows", "1")
    done = subprocess.run([sys.executable, "-m", "gaincurate", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: row 0 (from 0, id ")


def test_a_killed_parent_takes_its_workers_along(tmp_path: Path, tiny_model: Path, data: Path) -> None:
    assert run(*command(data, tiny_model, tmp_path / "whole")).exit_code == 0
    options = command(data, tiny_model, tmp_path / "out", "--workers", "2")
    again = [sys.executable, "-m", "gaincurate", *options]
    process = subprocess.Popen(again, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("shard "):
            break
    process.send_signal(signal.SIGKILL)
    process.stderr.read()  # ends when the last worker has let go of it
    process.wait()
    process.stderr.close()
    assert not (tmp_path / "out/manifest.json").exists()
    assert run(*command(data, tiny_model, tmp_path / "out")).exit_code == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_dead_worker(tmp_path: Path, tiny_model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "start_workers", lambda workers: None)
    monkeypatch.setattr(SpawnProcess, "exitcode", -9)
    with pytest.raises(GaincurateError, match=r"a worker died with exit code -9 \(out of memory, perhaps\)"):
        gaincurate.score(str(data), str(tiny_model), tmp_path / "out", workers=2, shard_rows=8, device="cpu")


def machine(**options: Any) -> Any:
    return resolve_machine(ScoreConfig(data="", model="", out=Path(), **options))


@pytest.mark.parametrize("device", ["cpu:0", "cuda:", "cuda:x", "gpu", "", "cuda:\u0663"])
def test_a_device_of_no_kind_that_there_is(device: str) -> None:
    with pytest.raises(InputError, match=f"^--device {device}: expected auto, cpu, cuda or cuda:N.$"):
        machine(device=device)


def test_threads_are_shared_among_the_workers_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert machine(device="cpu").devices == ("cpu",)
    assert (machine(device="cpu").threads, machine(device="cpu", workers=3).threads) == (8, 2)
    assert machine(device="cpu", workers=16).threads == 1
    assert machine(device="cpu", workers=3, threads=5).threads == 5


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Four GPUs with so many bytes, of which the second is of another kind."""

    def set_up(memory: int) -> None:
        def name(device: Any) -> str:
            return "small" if str(device)[-1] == "1" else "big"

        properties = SimpleNamespace(total_memory=memory)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        monkeypatch.setattr(torch.cuda, "get_device_name", name)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)

    return set_up


def test_all_gpus_of_the_first_ones_kind_are_used(gpus: Callable[[int], None]) -> None:
    gpus(80 * 2**30)
    found = machine()
    assert (found.devices, found.type, found.threads) == (("cuda:0", "cuda:2", "cuda:3"), "cuda", None)
    assert (found.dtype, found.batch_tokens) == ("bfloat16", 32768)
    assert machine(workers=2).devices == ("cuda:0", "cuda:2")
    assert machine(device="cuda:1").devices == ("cuda:1",)
    with pytest.raises(InputError, match="^--device cuda:4: this machine has 4 CUDA devices"):
        machine(device="cuda:4")
    with pytest.raises(InputError, match="--workers 4: there are 3 devices of this kind to use"):
        machine(workers=4)


def test_batch_tokens_go_by_the_whole_memory(gpus: Callable[[int], None]) -> None:
    for gib, tokens in ((3, 2048), (8, 4096), (24, 8192), (80, 32768), (141, 65536), (900, 65536)):
        gpus(gib * 2**30 + 5)
        assert machine().batch_tokens == tokens
    assert machine(batch_tokens=7).batch_tokens == 7
    assert machine(device="cpu").batch_tokens == 1024


def test_results_come_in_order_and_at_most_one_is_computed_ahead() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return item * item

    with ThreadPoolExecutor(1) as pool:
        for index, found in enumerate(one_ahead(pool, work, range(6))):
            assert found == index * index
            assert len(begun) <= index + 2
        assert begun == list(range(6))
        assert list(one_ahead(pool, work, [])) == []
