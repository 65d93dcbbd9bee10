"""The borders: which good file is made hostile, in which way, and what reads it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gaincurate.core.files import digest_file
from gaincurate.core.sealed import read_sealed, write_sealed
from soak import child, mutate

Change = Callable[[Path, random.Random], None]
Work = Sequence[str] | Callable[[], object]


def _scoring(data: str = "data.jsonl", model: str = "model", *more: str) -> list[list[str]]:
    return [["score", data, "-m", model, "-o", "new", "--threads", "1", "--shard-rows", "5", *more]]


SET = [
    ["show", "set"],
    ["show", "set", "--json"],
    ["report", "set", "--rollouts", "rollouts"],
    ["hygiene", "set", "--max-prompt-tokens", "20"],
    ["derive", "set", "--signal", "gc_angle", "--length-free", "rank-in-bin", "--name", "gc_new"],
    ["export", "set", "--trainer", "trl", "--out", "new.parquet"],
    ["schedule", "start", "set", "--run", "new", "--strategy", "uniform", "--budget", "3", "--rounds", "2"],
    ["ls", "."],
    *_scoring("data.jsonl", "model", "--out", "set", "--signals", "angle,embedding"),
    ["difficulty", "predict", "set", "--outcomes", "rollouts", "--references", "3", "--out", "new"],
]
ROLLOUTS = [
    ["show", "rollouts"],
    ["report", "set", "--rollouts", "rollouts"],
    ["difficulty", "forecast", "set", "--outcomes", "rollouts", "--group", "2"],
    ["difficulty", "predict", "set", "--outcomes", "rollouts", "--references", "3", "--out", "new"],
    ["schedule", "next", "run", "--outcomes", "rollouts"],
]


def _run(folder: str) -> list[list[str]]:
    return [
        ["schedule", "status", folder],
        ["schedule", "status", folder, "--json"],
        ["schedule", "next", folder],
        ["report", "set", "--run", folder],
        ["export", folder, "--trainer", "trl", "--out", "new.parquet"],
        ["ls", "."],
    ]


OUTCOMES = [
    ["schedule", "next", "run", "--outcomes", "run/rounds/00001/outcomes.jsonl"],
    ["schedule", "next", "run"],
    ["schedule", "status", "run"],
    ["difficulty", "predict", "set", "--outcomes", "run/rounds/00001/outcomes.jsonl", "--out", "new"],
]
EVALUATION = [["hygiene", "set", "--eval", "data.parquet"]]


@dataclass(frozen=True, slots=True)
class Border:
    """Files, how they are changed, and the commands that read them; `{}` is the file."""

    files: Sequence[str]
    changes: Sequence[Change]
    works: Sequence[Work]


def rehashed(path: Path, chance: random.Random) -> None:
    """Damage a part of a set, and let the manifest have its new hash and size, as an author could."""
    mutate.anything(path, chance)
    if chance.random() < 0.8:
        folder = path.parent
        if path.parent.name == "columns":
            note = path.with_suffix(".json")
            write_sealed(note, {**read_sealed(note), "hash": digest_file(path)})
            return
        manifest = json.loads((folder / "manifest.json").read_text())
        for entry in manifest["shards"]:
            if entry["file"] == path.name:
                entry |= {"hash": digest_file(path), "bytes": path.stat().st_size}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        shutil.rmtree(folder / "columns", ignore_errors=True)  # they name the manifest's hash


_BYTES, _FIELDS, _BOTH = (mutate.anything,), (mutate.fields,), (mutate.anything, mutate.fields, mutate.fields)
_SHARDS = [f"set/shard-{k:05}.arrow" for k in range(3)]

BORDERS: dict[str, list[Border]] = {
    "arrow": [
        Border(["data.arrow"], _BYTES, _scoring("data.arrow")),
        Border([*_SHARDS, "set/columns/gc_x.arrow"], (rehashed,), SET),
        Border(["rollouts/shard-00000.arrow", "rollouts/shard-00002.arrow"], (rehashed,), ROLLOUTS),
        Border(["run/order.arrow"], _BYTES, _run("run")),
    ],
    "parquet": [
        Border(["data.parquet"], _BYTES, [*_scoring("data.parquet"), *EVALUATION]),
        Border(["run/rounds/00001/data.parquet", "run/rounds/00000/data.parquet"], _BYTES, _run("run")),
    ],
    "json-rows": [
        Border(["data.jsonl"], _BOTH, _scoring()),
        Border(["data.json"], _BOTH, _scoring("data.json")),
        Border(["data.jsonl"], _BOTH, [["hygiene", "set", "--eval", "data.jsonl"]]),
    ],
    "run": [
        Border(
            [
                "run/run.json",
                "run/execution.jsonl",
                "run/rounds/00001/plan.json",
                "run/rounds/00001/state.json",
            ],
            _BYTES,
            _run("run"),
        ),
        Border(["referred/run.json", "referred/difficulty/00001/references.json"], _BYTES, _run("referred")),
        Border(["referred/difficulty/00001/references.jsonl"], _BOTH, _run("referred")),
    ],
    "outcomes": [Border(["run/rounds/00001/outcomes.jsonl"], _BOTH, OUTCOMES)],
    "safetensors": [Border(["model/model.safetensors"], (mutate.anything, mutate.header), _scoring())],
    "gguf": [Border(["tiny.gguf"], _BYTES, _scoring("data.jsonl", "tiny.gguf"))],
}


def case(name: str, seed: int, world: Path, folder: Path) -> tuple[list[str], dict[str, object]]:
    """One hostile file and one command that reads it.

    Returns:
        What is wrong, and facts: the file, the command, the exit code and the error.
    """
    chance = random.Random(f"{name}:{seed}")
    border = chance.choice(BORDERS[name])
    file, change, work = (
        chance.choice(border.files),
        chance.choice(border.changes),
        chance.choice(border.works),
    )
    shown = work.__name__ if callable(work) else " ".join(work := [part.format(file) for part in work])
    box = folder / "box"
    shutil.copytree(world, box)
    change(box / file, chance)
    outside = beside(folder)
    seen = child.start(work, box).wait()
    found = child.faults(seen)
    if beside(folder) != outside:
        found.append("a file outside its folder")
    facts: dict[str, object] = {"file": file, "change": change.__name__, "work": shown, "code": seen.code}
    facts |= {"error": seen.error[:300], "seconds": round(seen.seconds, 2), "mib": seen.memory}
    if any("traceback" in fault or "exit code" in fault for fault in found):
        facts["stderr"] = seen.stderr[-3000:]
    return found, facts


def beside(folder: Path) -> set[str]:
    """What lies around a box."""
    return {path.name for path in folder.iterdir() if not path.name.startswith("std-")}
