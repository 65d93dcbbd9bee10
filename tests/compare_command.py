"""Comparisons as a person begins them: a file of settings, and a command that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from column_sets import column_set

ROOT = Path(__file__).parent


def small_sets(folder: Path) -> dict[str, Any]:
    """Settings of a comparison of two sets without a model, which are written here: 40 prompts of 8 tasks each."""
    tasks = {"source": [f"task {k % 8}" for k in range(40)], "level": [k % 2 for k in range(40)]}
    for name in ("scored", "heldout"):
        names = [f"{name}{k}" for k in range(40)]
        column_set(folder / name, [3] * 40, {}, tasks | {"same": [1] * 40}, names=names)
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model/config.json").write_text("{}")
    (folder / "model/model.safetensors").touch()
    return {
        "scored": str(folder / "scored"),
        "heldout": str(folder / "heldout"),
        "model": str(folder / "model"),
        "verifier": "exact",
        "answer_column": "same",
        "budget_tokens": 1000,
        "step_prompts": 4,
        "arms": [{"name": "angle", "strategy": "file-order"}],
    }


def toml(given: dict[str, Any]) -> str:
    """Plain values, tables inside and a list of tables."""
    arms = given["arms"]
    lines = [f"{name} = {json.dumps(value)}" for name, value in given.items() if not isinstance(value, dict)]
    lines = [line for line in lines if not line.startswith("arms")]
    for name, value in given.items():
        if isinstance(value, dict):
            lines += [f"[{name}]", *(f"{key} = {json.dumps(inner)}" for key, inner in value.items())]
    for arm in arms:
        lines += ["[[arms]]", *(f"{k} = {json.dumps(v)}" for k, v in arm.items() if not isinstance(v, dict))]
        for name, value in arm.items():
            if isinstance(value, dict):
                lines += [f"[arms.{name}]", *(f"{key} = {json.dumps(inner)}" for key, inner in value.items())]
    return "\n".join(lines)


def kill_when_there(place: Path, command: list[str]) -> None:
    """Run a command until something is there; again, where what was killed before still ends."""
    while not place.exists():
        process = subprocess.Popen(
            [sys.executable, "-m", "gaincurate", *command],
            cwd=ROOT,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while process.poll() is None and not place.exists():
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        _, said = process.communicate()
        assert place.exists() or "still at work" in said, said
