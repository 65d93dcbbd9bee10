"""The campaign: hostile input, kills and full disks, case after case, until it is stopped.

Usage: python -m soak [--hours H] [--classes A,B] [--only CLASS:SEED] [--out FOLDER] [--cases N] [--first SEED]. A class and a seed
are a case, which `--only` runs again and keeps. Each result is a line of OUT/CLASS.jsonl, so the same command goes on
where it was. It prints a table by class at the end and exits with 1 if a case did not hold.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from soak import borders, child, disks, kills, world

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "ARROW_IO_THREADS": "1",
}
WARM = (
    "pandas", "torch._dynamo", "transformers.models.llama.modeling_llama", "transformers.modeling_gguf_pytorch_utils",
    "gaincurate.difficulty.local_engine", "gaincurate.difficulty.predictor", "gaincurate.report.build",
    "gaincurate.schedule.rounds", "gaincurate.scoring.pipeline", "gaincurate.compare.runner",
)  # fmt: skip
Case = Callable[[int, Path, Path], tuple[list[str], dict[str, Any]]]
CLASSES: dict[str, Case] = {
    **{name: partial(borders.case, name) for name in borders.BORDERS},
    **{name: partial(kills.case, name) for name in kills.CLASSES},
    **{name: partial(disks.case, name) for name in disks.CLASSES},
}


AT_A_TIME = {"kill": 10, "storm": 5, "kill-compare": 1}
"""Cases of a class before the next class has its turn. Default: 5."""
SELDOM = 10
"""Turns from one comparison to the next, which takes minutes."""


def warm() -> None:
    """Import what commands import late, once for all cases."""
    os.environ.update(ENVIRONMENT)
    for name in WARM:
        importlib.import_module(name)


def good_world(out: Path) -> Path:
    """The folder of good files, made by a process of its own, because a parent that forks must not compute."""
    folder = out / "world"
    if not (out / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        made = child.start(partial(world.make, folder), scratch(out, "world")).wait(1200)
        if made.code != 0:
            raise SystemExit(f"the good files could not be made: {made.stderr}")
        (out / "made").touch()
    return folder


def scratch(out: Path, name: str) -> Path:
    """An empty folder."""
    folder = out / "work" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def run(name: str, seed: int, out: Path, *, keep: bool = False) -> dict[str, Any]:
    """Do a case. What did not hold is kept under OUT/work."""
    folder = scratch(out, f"{name}-{seed}")
    begun = time.monotonic()
    found, facts = CLASSES[name](seed, good_world(out), folder)
    if not found and not keep:
        shutil.rmtree(folder)
    return {"case": f"{name}:{seed}", "faults": found, "took": round(time.monotonic() - begun, 2), **facts}


def results(out: Path, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """What there is so far."""
    lines = {name: out / f"{name}.jsonl" for name in names}
    return {
        name: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        for name, path in lines.items()
    }


def summary(done: dict[str, list[dict[str, Any]]]) -> str:
    """A table by class."""
    lines = [f"{'class':<14}{'cases':>7}{'kills':>7}{'exit 0':>8}{'refused':>9}{'failed':>8}{'hours':>8}"]
    for name, cases in done.items():
        codes = Counter(case.get("code") for case in cases)
        numbers = [len(cases), sum(case.get("kills", 0) for case in cases), codes[0], codes[1] + codes[2]]
        hours = sum(case["took"] for case in cases) / 3600
        failed = sum(bool(case["faults"]) for case in cases)
        lines.append("{:<14}{:>7}{:>7}{:>8}{:>9}{:>8}{:>8.2f}".format(name, *numbers, failed, hours))
    return "\n".join(lines)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="soak")
    parser.add_argument("--hours", type=float, default=1e9)
    parser.add_argument("--cases", type=int, help="so many of each class, those there are counted")
    parser.add_argument("--classes", default=",".join(CLASSES))
    parser.add_argument(
        "--first", type=int, default=0, help="seed of each class's first case, for other cases than before"
    )
    parser.add_argument("--only", metavar="CLASS:SEED")
    parser.add_argument("--out", type=Path, default=Path("build/soak"))
    given = parser.parse_args()
    out, end = given.out.resolve(), time.monotonic() + 3600 * given.hours
    disks.preload(out)
    warm()
    if given.only:
        name, _, seed = given.only.partition(":")
        result = run(name, int(seed), out, keep=True)
        print(json.dumps(result, indent=1))
        return int(bool(result["faults"]))
    names, turn = given.classes.split(","), 1
    try:
        while time.monotonic() < end:
            counts = {name: len(cases) for name, cases in results(out, names).items()}
            left = [name for name in names if given.cases is None or counts[name] < given.cases]
            if not left:
                break
            for name in left if turn % SELDOM == 0 else [name for name in left if name != "kill-compare"]:
                most = AT_A_TIME.get(name, 5)
                for _ in range(most if given.cases is None else min(most, given.cases - counts[name])):
                    result = run(name, given.first + counts[name], out)
                    counts[name] += 1
                    with (out / f"{name}.jsonl").open("a") as file:
                        file.write(json.dumps(result) + "\n")
                    if result["faults"]:
                        print(result["case"], result["faults"], flush=True)
                    if time.monotonic() > end:
                        break
            turn += 1
    except KeyboardInterrupt:
        pass
    done = results(out, names)
    print(summary(done))
    return int(any(case["faults"] for cases in done.values() for case in cases))


if __name__ == "__main__":
    sys.exit(main())
