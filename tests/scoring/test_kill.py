from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gaincurate
import tiny

TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("kills", "reuse"),
    [
        (3, True),
        pytest.param(20, False, marks=pytest.mark.slow),
        pytest.param(20, True, marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_instants_and_rerun_the_bytes_are_those_of_an_uninterrupted_run(
    tmp_path: Path, tiny_model: Path, kills: int, reuse: bool
) -> None:
    rows = tiny.questions(160)
    reused = []
    if reuse:
        old = tiny.write_jsonl(tmp_path / "old.jsonl", rows[50:])
        reused = [str(tmp_path / "old")]
        gaincurate.score(str(old), str(tiny_model), *reused, threads=1)
    rows[33]["question"] = "  "  # one row is rejected, so rejected.jsonl is compared too
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    command = [sys.executable, str(TESTS / "kill_loop.py"), str(data), str(tiny_model), str(tmp_path)]
    command += [str(kills), *reused]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=TESTS)
    found = json.loads(done.stdout)
    assert found["finished"]
    assert {"manifest.json", "identity.json", "rejected.jsonl", "shard-00015.arrow"} <= set(found["files"])
    assert not any(name.startswith(".work") for name in found["files"])
    assert found["kills"] >= kills
    assert max(found["left"]) > 0, "no kill came after the first shard"
    assert found["differing"] == []


def test_ctrl_c_exits_with_130_and_says_how_to_go_on(tmp_path: Path, tiny_model: Path) -> None:
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.questions(20_000))
    command = [
        "score",
        str(data),
        "--model",
        str(tiny_model),
        "--out",
        str(tmp_path / "out"),
        "--shard-rows",
        "50",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "gaincurate", *command], stderr=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:  # wait for the first shard, however slow the machine is
        said.append(line)
        if line.startswith("shard 1 of"):
            process.send_signal(signal.SIGINT)
            break
    said += process.stderr.readlines()
    process.stderr.close()
    assert process.wait() == 130
    assert said[-1].startswith("interrupted. Run the same command again to go on: gaincurate score ")
    assert str(data) in said[-1]
    assert "Traceback" not in "".join(said)
    assert not (tmp_path / "out/manifest.json").exists()
