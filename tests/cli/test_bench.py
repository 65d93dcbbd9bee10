from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from command import run
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


def test_figures_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    result = run("bench", "kernel", *SMALL, "--csv", tmp_path / "no" / "kernel.csv")
    assert result.exit_code == 1
    assert "no such file or directory" in result.stderr
