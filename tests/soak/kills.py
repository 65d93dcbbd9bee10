"""Kills at random instants over every command that writes, one process or several at a time, and then to the end."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from soak import child
from soak.world import TESTS

CLASSES = ("kill", "storm", "kill-compare")
_ASIDE = ("lock", "execution.jsonl", "trainer.log", "trained.json", "attempt.json", "outcomes.jsonl")
"""Times, attempts, logs and locks. What attempts reported is in states and plans."""


@dataclass(frozen=True, slots=True)
class Job:
    """A command that writes, and where."""

    work: Sequence[str] | Callable[[], object]
    out: str
    again: tuple[int, ...] = (0,)
    """Exit codes of the same command after it was killed: with 2 it says that its work is there already."""
    tidy: bool = True
    """Whether it holds a lock and deletes what a killed process left. Others leave a hidden `.tmp` file beside theirs."""


JOBS: dict[str, Job] = {
    "score": Job(
        ["score", "data.jsonl", "-m", "model", "-o", "new", "--threads", "1", "--shard-rows", "3"], "new"
    ),
    "derive": Job(
        ["derive", "set", "--signal", "gc_angle", "--length-free", "rank-in-bin", "--name", "gc_new"], "set", tidy=False
    ),
    "start": Job(
        ["schedule", "start", "set", "--run", "new", "--strategy", "posterior", "--budget", "3", "--rounds", "2", "--model", "model"],
        "new", (0, 2),
    ),
    "next": Job(["schedule", "next", "run"], "run", (0, 2)),
    "drive": Job(
        ["schedule", "run", "driven", "--", sys.executable, "-I", "-S", str(TESTS / "mini_trainer.py"), "{data}", "{round}", "{outcomes}"],
        "driven", (0, 2),
    ),
    "rollout": Job(
        ["difficulty", "rollout", "set", "-o", "new", "-m", "model", "--threads", "1", "--verifier", "bad_verifiers:parity",
         "--samples", "3", "--max-tokens", "4", "--on-error", "skip", "--shard-prompts", "5", "--verify-workers", "1"],
        "new",
    ),
    "fit": Job(
        ["difficulty", "fit", "set", "--outcomes", "rollouts", "--out", "new", "--references", "3", "--epochs", "1",
         "--held-out", "0"],
        "new", (0, 2), tidy=False,
    ),
    "predict": Job(
        ["difficulty", "predict", "set", "--outcomes", "rollouts", "--references", "3", "--out", "new"], "new", (0, 2), tidy=False
    ),
    "export": Job(["export", "set", "--trainer", "trl", "--out", "new.parquet"], "new.parquet", (0, 2), tidy=False),
    "hygiene": Job(["hygiene", "set", "--max-prompt-tokens", "20", "--list", "new.jsonl"], "new.jsonl", (0, 2), tidy=False),
    "example": Job(["example", "new"], "new", (0, 2), tidy=False),
}  # fmt: skip


def files(name: str, box: Path) -> dict[str, object]:
    """What a command wrote, but for logs, times and locks."""
    top = box / JOBS[name].out
    paths = [top] if top.is_file() else sorted(path for path in top.rglob("*") if path.is_file())
    if not JOBS[name].tidy:
        paths = [path for path in paths if not (path.name.startswith(".") and path.suffix == ".tmp")]
    paths = [path for path in paths if path.name not in _ASIDE]
    return {str(path.relative_to(box)): _content(path, box) for path in paths}


def _content(path: Path, box: Path) -> object:
    data = path.read_bytes().replace(bytes(box), b"BOX")
    if path.suffix != ".json" or b'"digest": "' not in data:
        return data
    # A digest is of the box's name too, and `taken` says how far a killed attempt's outcomes were read.
    return {**json.loads(data), "digest": None, "taken": None}


@cache
def _reference(name: str, world: Path) -> tuple[dict[str, object], float]:
    folder = world.parent / "work" / f"reference-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world, folder / "box")
    seen = child.start(JOBS[name].work, folder / "box").wait()
    if seen.code != 0:
        raise RuntimeError(f"{name}: {seen.stderr}")
    found = files(name, folder / "box")
    shutil.rmtree(folder)
    return found, seen.seconds


def reference(name: str, world: Path) -> dict[str, object]:
    """The files of an uninterrupted command."""
    return _reference(name, world)[0]


def differences(name: str, expected: dict[str, object], box: Path) -> list[str]:
    """The files that are not as those of an uninterrupted command."""
    found = files(name, box)
    return [
        f"{file} {'is missing' if file not in found else 'is left over' if file not in expected else 'differs'}"
        for file in sorted(expected.keys() | found.keys())
        if expected.get(file) != found.get(file)
    ]


def finish(name: str, expected: dict[str, object], box: Path) -> list[str]:
    """Run a command to its end: what is wrong with what it says and leaves."""
    job = JOBS[name]
    seen = child.start(job.work, box).wait()
    found = child.faults(seen)
    if seen.code not in job.again:
        found.append(f"the same command again: exit code {seen.code}, {seen.error[:500]}")
    return found + differences(name, expected, box)


def case(kind: str, seed: int, world: Path, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Kill, again and again, and then let it end."""
    if kind == "kill-compare":
        return _compare(seed, world, folder)
    chance = random.Random(f"{kind}:{seed}")
    name = chance.choice(list(JOBS))
    expected, duration = _reference(name, world)
    box = folder / "box"
    shutil.copytree(world, box)
    found, done, codes = list[str](), 0, list[int]()
    for _ in range(chance.choice((1, 2, 3))):
        count = chance.choice((2, 3, 4)) if kind == "storm" else 1
        running = [child.start(JOBS[name].work, box) for _ in range(count)]
        victims = running if kind == "kill" else running[: chance.randint(1, count)]
        sent = {}
        for victim in victims:
            time.sleep(chance.uniform(0.03, max(0.05, 1.05 * duration / len(victims))))
            number = chance.choice((signal.SIGKILL,) * 6 + (signal.SIGINT, signal.SIGTERM))
            if victim.alive():
                victim.kill(number)
                sent[victim.pid] = number
                done += 1
        for process in running:
            seen = process.wait()
            codes.append(seen.code)
            if seen.code != -sent.get(process.pid, 0) or process.pid not in sent:
                found += child.faults(seen, signalled=sent.get(process.pid) == signal.SIGTERM)
                if found:
                    found.append(seen.stderr[-2000:])
            elif seen.code == -signal.SIGINT:
                found.append("SIGINT ended it without exit code 130")
    found += finish(name, expected, box)
    return found, {"work": name, "kills": done, "codes": codes}


def _compare(seed: int, world: Path, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """A comparison that is killed, and goes on to its end."""
    chance = random.Random(f"kill-compare:{seed}")
    box = folder / "box"
    shutil.copytree(world, box)
    command = ["compare", "compare.toml", "-o", "new"]
    found, done = list[str](), 0
    for _ in range(2):
        running = child.start(command, box)
        time.sleep(chance.uniform(1, 60))
        if running.alive():
            running.kill(number := chance.choice((signal.SIGKILL, signal.SIGINT)))
            done += 1
            seen = running.wait()
            if number == signal.SIGINT or seen.code != -number:
                found += child.faults(seen)
        else:
            found += child.faults(running.wait())
    seen = child.start(command, box).wait(1200)
    found += child.faults(seen)
    if seen.code != 0:
        found.append(f"the same command again: exit code {seen.code}, {seen.stderr[-2000:]}")
    return found, {"work": "compare", "kills": done, "code": seen.code}
