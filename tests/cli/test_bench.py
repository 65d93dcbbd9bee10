from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from command import run
from gaincurate.scoring import bench as score_bench
from gaincurate_kernels import bench, segment_unit_sums

SMALL = ("--tokens", "512", "--hidden", "64", "--sample", "128", "--device", "cpu")


def test_bench_kernel_times_every_way_and_writes_them_down(tmp_path: Path) -> None:
    path = tmp_path / "kernel.csv"
    found = json.loads(run("bench", "kernel", *SMALL, "--json", "--csv", path).stdout)
    methods = [row["method"] for row in found["measurements"]]
    assert methods == [
        "gaincurate",
        "torch, linear time",
        "T x T matrix, float32",
        "T x T matrix, bfloat16",
    ]
    for row in found["measurements"]:
        rate = 512 * 64 * 4 / (row["milliseconds"] / 1e3) / 1e9
        assert row["gigabytes_per_second"] == pytest.approx(rate)
        assert row["percent_of_copy"] == pytest.approx(100 * rate / found["copy_gigabytes_per_second"])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == methods
    assert {row["torch"] for row in rows} == {torch.__version__}
    assert {row["device"] for row in rows} == {found["device"]}


def test_bench_kernel_prints_ratios_to_ours() -> None:
    lines = run("bench", "kernel", *SMALL, "--dtype", "bfloat16").stdout.splitlines()
    assert lines[3] == "512 tokens x 64, prompts of 128, bfloat16"
    assert lines[5].split()[-1] == "1.00"


def test_no_speed_is_given_for_a_wrong_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def skewed(hidden: torch.Tensor, *rest: Any, **options: Any) -> Any:
        return segment_unit_sums(hidden + 0.01, *rest, **options)

    monkeypatch.setattr(bench, "segment_unit_sums", skewed)
    result = run("bench", "kernel", *SMALL)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: the angle code is wrong here: off by ")
    assert result.stderr.endswith(" at 512 x 64, more than 2e-06. `gaincurate doctor` says more.\n")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--tokens", "512"),
            "--tokens and --hidden go together: both, or neither for this device's default.",
        ),
        (
            ("--tokens", "500", "--hidden", "64", "--sample", "128"),
            "--tokens 500 is no multiple of --sample 128.",
        ),
        (("--device", "tpu"), "--device tpu: expected auto, cpu, cuda or cuda:N."),
        (
            (*SMALL, "--dtype", "float16"),
            "--dtype float16 is for GPUs; on a CPU use float32 or bfloat16.",
        ),
    ],
)
def test_what_cannot_be_timed_is_refused(options: tuple[str, ...], sentence: str) -> None:
    result = run("bench", "kernel", *options)
    assert result.exit_code == 2
    assert result.stderr == f"error: {sentence}\n"


def test_bench_score_refuses_threads_that_no_machine_has() -> None:
    result = run("bench", "score", "--device", "cpu", "--threads", 999_999)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --threads 999999: this machine has ")


def test_where_the_figures_go_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "kernel.csv"
    assert run("bench", "kernel", *SMALL, "--csv", path).exit_code == 0
    assert path.read_text().startswith("date,gaincurate,")


@pytest.mark.parametrize("what", [("kernel", *SMALL), ("score", "--device", "cpu")], ids=lambda what: what[0])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file/x.csv", "file exists"),
        ("file/deep/x.csv", "a part of the path is a file, not a folder"),
        ("folder", "is a directory"),
    ],
)
def test_figures_that_could_not_be_written_are_not_measured(
    name: str, reason: str, what: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: Any, **__: Any) -> Any:
        raise AssertionError("measured")

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "copy_bandwidth", measure)
    monkeypatch.setattr(score_bench, "measure", measure)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    result = run("bench", *what, "--csv", tmp_path / name)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"error: cannot write --csv {tmp_path / name}: {reason}. Put that right or give another file.\n"
    )
    assert (tmp_path / "file").read_text() == "mine"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    result = run("bench", "kernel", *SMALL, "--csv", tmp_path / "pipe")
    assert result.exit_code == 2
    assert f"--csv {tmp_path / 'pipe'} is a pipe. Give a file" in result.stderr


def test_nothing_is_left_or_lost_where_a_benchmark_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: Any, **__: Any) -> Any:
        raise bench.WrongResult("off")

    monkeypatch.setattr(bench, "measure", measure)
    (tmp_path / "old.csv").write_text("earlier figures")
    for name in ("old.csv", "new.csv"):
        assert run("bench", "kernel", *SMALL, "--csv", tmp_path / name).exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["old.csv"]
    assert (tmp_path / "old.csv").read_text() == "earlier figures"


@pytest.mark.parametrize(("options", "first"), [((), "date "), (("--json",), "{")])
def test_figures_are_printed_before_a_file_that_fails_after_all(
    options: tuple[str, ...], first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bench.measure

    def measure(*given: Any, **more: Any) -> Any:
        (tmp_path / "x.csv").mkdir()
        return real(*given, **more)

    monkeypatch.setattr(bench, "measure", measure)
    result = run("bench", "kernel", *SMALL, *options, "--csv", tmp_path / "x.csv")
    assert result.exit_code == 1
    assert result.stdout.startswith(first)
    assert "gaincurate" in result.stdout
    assert result.stderr.startswith(f"error: cannot write --csv {tmp_path / 'x.csv'}: is a directory. ")
