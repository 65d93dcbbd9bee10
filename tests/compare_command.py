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
        column_set(folder / name, [3] * 40, {}, tasks | {"same": [1] * 40, "tags": [[1]] * 40}, names=names)
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model/config.json").write_text("{}")
    (folder / "model/model.safetensors").touch()
    places = {name: str(folder / name) for name in ("scored", "heldout", "model")}
    given = {"verifier": "exact", "answer_column": "same", "budget_tokens": 1000, "step_prompts": 4}
    return {**places, **given, "arms": [{"name": "angle", "strategy": "file-order"}]}


def toml(given: dict[str, Any]) -> str:
    """Plain values, with tables and lists of tables inside, as a file."""
    return "\n".join(f"{name} = {_value(value)}" for name, value in given.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {_value(inner)}' for name, inner in value.items())}}}"
    return f"[{', '.join(map(_value, value))}]" if isinstance(value, list) else json.dumps(value)


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
