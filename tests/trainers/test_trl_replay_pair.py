"""Replay on two processes under gloo that follow a run, killed by SIGKILL and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import arithmetic
import replay_run
import trl_pair

OPTIONS = ["capacity=12", "max_steps=8", 'save_strategy="steps"', "save_steps=2", "save_total_limit=1"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    arithmetic.save_model(folder / "model", 120, largest=replay_run.LARGEST)
    return folder


def launch(base: Path, name: str, *options: str, expected: int = 0) -> None:
    output = base / f"{name}-out"
    done = trl_pair.launch(
        base / "model",
        base / name,
        output,
        *OPTIONS,
        *options,
        program=Path(replay_run.__file__),
    )
    assert done == expected, (output / "log-0.txt").read_text()[-3000:]


def told(base: Path, name: str) -> tuple[list[replay_run.Line], list[float]]:
    """The generations of all processes together, and the losses."""
    found = [json.loads((base / f"{name}-out/told-{rank}.json").read_text()) for rank in range(2)]
    lines = []
    for parts in zip(*(one["lines"] for one in found), strict=True):
        for key in ("step", "before", "replayed", "buffer"):
            assert all(part[key] == parts[0][key] for part in parts)  # one buffer, on every process
        assert len({part["rows"] for part in parts}) == 1
        whole: dict[str, Any] = dict(parts[0])
        for key in ("fresh", "rewards"):
            whole[key] = [value for part in parts for value in part[key]]
        for key in ("rows", "marked", "tokens"):
            whole[key] = sum(part[key] for part in parts)
        lines.append(replay_run.Line(**whole))
    return lines, [entry["loss"] for entry in found[0]["log"] if "loss" in entry]


@pytest.mark.slow
def test_killed_and_resumed_it_has_the_same_buffer_and_the_same_losses(base: Path) -> None:
    runs = [arithmetic.begin(base, name=name, rounds=4) for name in ("whole", "cut")]
    launch(base, "whole")
    launch(base, "cut", "kill=5", expected=-9)
    assert [path.name for path in (base / "cut-out").glob("checkpoint-*")] == ["checkpoint-4"]
    launch(base, "cut")
    lines, losses = told(base, "whole")
    assert replay_run.audit(lines, batch=8, fresh=4, group=4, capacity=12) >= 4
    again, after = told(base, "cut")
    assert again == lines[4:]
    assert after == losses
    assert len(losses) == 8
    for run in runs:
        assert run.state["finished"]
        generated = [gc_id for line in lines for gc_id in line.fresh]
        assert generated == [gc_id for round_ in range(4) for gc_id in run.ids(round_) for _ in range(4)]
