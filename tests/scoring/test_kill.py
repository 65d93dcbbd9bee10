from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import gaincurate
import tiny

TESTS = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "reuse"), [(20, False), (20, True)])
def test_killed_runs_give_the_same_bytes(tmp_path: Path, tiny_model: Path, kills: int, reuse: bool) -> None:
    rows = tiny.questions(160)
    reused = []
    if reuse:
        old = tiny.write_jsonl(tmp_path / "old.jsonl", rows[50:])
        reused = [str(tmp_path / "old")]
        gaincurate.score(str(old), str(tiny_model), *reused, threads=1)
    rows[33]["question"] = "  "  # one row is rejected, so rejected.jsonl is compared too
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    command = [sys.executable, str(TESTS / "kills.py"), "scoring", str(data), str(tiny_model), str(tmp_path)]
    command += [str(kills), *reused]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=TESTS)
    found = json.loads(done.stdout)
    assert found["finished"]
    assert {"manifest.json", "identity.json", "rejected.jsonl", "shard-00015.arrow"} <= set(found["files"])
    assert not any(name.startswith(".work") for name in found["files"])
    assert found["kills"] >= kills
    assert max(found["left"]) > 0, "no kill came after the first shard"
    assert found["differing"] == []
