"""Runs the whole study in docs/head-to-head.md: prompts, model, scores, trainings, verdicts.

Usage: python docs/studies/head_to_head/study.py FOLDER [--short] [--world] [--workers N]. Needs
`pip install 'gaincurate[score,difficulty,report,demo,trl]'`. Killed and begun again it goes on where it was.
`--short` is the version of ten minutes: a model that was trained for less time, four arms and half of the
tokens. `--world` ends before the trainings, with the prompts, the model and the scores. N trainings, 2 if not
given, run at a time with one thread each.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SHORT_STEPS = "450"  # of the model's training
SETS = {"scored": "train.jsonl", "heldout": "heldout.jsonl"}


def say(text: str) -> None:
    """A line of what goes on."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def call(*command: str | Path) -> None:
    """Run a Python program to its end."""
    # One thread: the same numbers with any count of cores, and as many trainings at a time as there are.
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, *map(str, command)], check=True, env={**os.environ, **threads})


def main(folder: Path, *, short: bool, world: bool, workers: int) -> None:
    """Do what is left to do."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts, model = folder / "prompts", folder / "model"
    if not (prompts / "supervised.jsonl").exists():
        say("prompts")
        call(HERE / "prompts.py", prompts)
    if not (model / "facts.json").exists():
        say("the model, from scratch")
        call(HERE / "model.py", prompts, model, *([SHORT_STEPS] if short else []))
    for name, data in SETS.items():
        say(f"scores of {data}")
        score = ["score", prompts / data, "--model", model, "--out", folder / name]
        call("-m", "gaincurate", *score, "--signals", "angle,nll,embedding", "--threads", "1")
    if world:
        return
    config = folder / "study.toml"
    shutil.copyfile(HERE / ("study-short.toml" if short else "study.toml"), config)
    say("trainings")
    call("-m", "gaincurate", "compare", config, "-o", folder / "compared", "--workers", str(workers))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--world", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    main(given.folder, short=given.short, world=given.world, workers=given.workers)
