"""What compilers make of the kernels, ahead of time and without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def compiled(*options: str) -> list[dict[str, Any]]:
    """The tool's facts; a process of its own, because this one has Triton's interpreter switched on."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT / "kernels")
    command = [sys.executable, "-W", "ignore", str(ROOT / "kernels/bench/compiled.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


CORNERS = ["64", "896", "3584", "8192"]
CASES = [
    ("sm_80", ["896", "8192"], ["bfloat16", "float32"]),
    ("sm_90", CORNERS, ["bfloat16", "float32"]),
    ("sm_100", ["896", "8192"], ["bfloat16", "float32"]),
    ("gfx942", ["896", "8192"], ["bfloat16"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("target", "hidden", "dtypes"), CASES, ids=[case[0] for case in CASES])
def test_reads_are_wide_and_two_programs_fit(target: str, hidden: list[str], dtypes: list[str]) -> None:
    rows = compiled("--target", target, "--hidden", *hidden, "--dtype", *dtypes)
    assert len(rows) == len(hidden) * len(dtypes) * 2 + 2
    for row in rows:
        assert row["spilled"] == 0, row
        assert row["wide"] > 0, row
        most = 2 if row["kernel"] == "join_chunks_kernel" else 1  # numbers of the plan
        assert row["narrow"] <= most, row
        if target.startswith("sm_"):
            assert row["resident"] >= 2, row
            if row["kernel"] == "unit_sums_kernel" and row["hidden"] <= 1024:
                assert row["row_warps"] == 1, row  # so it is reduced without a barrier


@pytest.mark.slow
def test_rows_that_are_no_multiple_of_16_bytes_compile_too() -> None:
    for row in compiled("--hidden", "100", "--dtype", "bfloat16"):
        assert row["spilled"] == 0, row
