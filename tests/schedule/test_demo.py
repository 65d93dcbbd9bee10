"""The worked example of docs/watching.md: a real TRL GRPO run of a tiny model, driven through three rounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import tiny
from gaincurate.schedule.checkpoints import Finder
from gaincurate.schedule.run import Run

SCRIPT = Path(__file__).parent.parent.parent / "docs/examples/demo_schedule.sh"


@pytest.mark.slow
def test_three_rounds_of_grpo_with_one_rescoring(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    tiny.write_jsonl(tmp_path / "prompts.jsonl", tiny.questions(64))
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", SCRIPT, tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": programs, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run(tmp_path / "run")
    program = [sys.executable, "-m", "gaincurate", "schedule", "status", str(run.folder), "--json"]
    told = json.loads(subprocess.run(program, capture_output=True, check=True).stdout)
    assert told["finished"]
    first, second, third = told["rounds"]
    for row in (first, second, third):
        assert row["rollouts"] == 16 * 4
        assert 0 < row["accuracy"] < 1
        assert row["training_seconds"] > 0
    assert 0 == first["mu"] < second["mu"] < third["mu"]
    # The one re-scoring: after the second round, with its own checkpoint.
    assert [row["rescored"] for row in told["rounds"]] == [None, "scores/00001", None]
    assert -1 <= second["drift"] < 0.999
    assert run.plan(2)["order"]["ordered_by"] == "scores/00001"
    execution = json.loads((run.folder / "scores/00001/execution.jsonl").read_text())
    assert execution["model"] == str(run.round_folder(1).resolve() / "output/checkpoint-16")
    # The trainer saw each round's rows in the plan's order, and went on from the last checkpoint.
    for round_ in range(3):
        lines = [json.loads(line) for line in run.outcomes(round_).read_text().splitlines()]
        seen = list(dict.fromkeys(line["gc_id"] for line in lines))
        assert seen == run.ids(round_) == pq.read_table(run.data(round_)).column("gc_id").to_pylist()
        steps = {line["step"] for line in lines}
        assert steps == set(range(8 * round_, 8 * round_ + 8))
        found = Finder().newest(run.round_folder(round_) / "output", 0)
        assert found is not None
        assert found.name == f"checkpoint-{8 * (round_ + 1)}"
