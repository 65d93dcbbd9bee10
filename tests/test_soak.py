"""The campaign of tests/soak: it sees what it is for, and a small slice of it holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from soak.child import Seen, faults

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (Seen(0, "fine", "", 1.0), []),
        (Seen(2, "", "error: a.json is no file: it is gone. Put it back. Then go on.\n", 1.0), []),
        (Seen(130, "", "", 1.0), []),
        (Seen(3, "", "error: x.\n", 1.0), ["exit code 3"]),
        (Seen(-11, "", "", 1.0), ["exit code -11"]),
        (Seen(-9, "", "", 1.0, late=True), ["it ran for more than 300 s"]),
        (Seen(1, "", "Traceback (most recent call last):\nKeyError: 'a'\n", 1.0), ["traceback"]),
        (Seen(0, "", "", 1.0, memory=3000), ["3,000 MiB of memory"]),
    ],
)
def test_what_a_stranger_may_not_see_is_found(seen: Seen, expected: list[str]) -> None:
    assert faults(seen) == expected


@pytest.mark.slow
def test_a_small_slice_of_the_campaign_holds(tmp_path: Path) -> None:
    borders = "arrow,parquet,json-rows,run,outcomes,safetensors,gguf"
    path = os.pathsep.join(str(folder) for folder in (ROOT, ROOT / "kernels", ROOT / "tests"))
    result = subprocess.run(
        [sys.executable, "-m", "soak", "--classes", borders, "--cases", "4", "--out", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("\n") == 8  # a line of each class, and the head
