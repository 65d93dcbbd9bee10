"""The verdicts on arms whose worth is known, after real trainings: see `compare_planted.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("trl")

TESTS = Path(__file__).parent.parent


@pytest.mark.slow
def test_who_is_told_what_teaches_wins_and_who_sees_only_what_does_not_loses(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, TESTS / "compare_planted.py", tmp_path / "world", "0", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])["planted"]
    assert found["told"]["difference"]["answer"] == "better"
    assert found["hopeless"]["difference"]["answer"] == "worse"
    assert found["hopeless"]["training"]["effective"] == 0
