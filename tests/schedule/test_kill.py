from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent.parent / "kills.py"


@pytest.mark.parametrize(
    ("strategy", "kills"),
    [
        ("gain-rl", 3),
        pytest.param("gain-rl", 30, marks=pytest.mark.slow),
        pytest.param("posterior", 30, marks=pytest.mark.slow),
    ],
)
def test_runs_killed_at_random_instants_come_to_the_same_plans(
    tmp_path: Path, strategy: str, kills: int
) -> None:
    paths = json.dumps(sys.path)
    code = f"import sys, json, runpy; sys.path[:] = json.loads({paths!r}); sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(PROGRAM), "runs", str(tmp_path), strategy, str(kills)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["finished"]
    assert found["kills"] >= kills
    assert len(found["files"]) == 1 + 3 * 5
    assert found["differing"] == []
    if kills > 3:
        assert len(set(found["left"])) > 2  # early and late in the run
