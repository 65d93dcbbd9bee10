"""Kills local rollouts at random instants; a program of its own, because it forks.

Usage: kill_rollouts.py SCORED MODEL FOLDER KILLS. Imports are paid once: each run is a forked child of a
parent that has never computed. Prints one JSON object.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import sys
import time
from pathlib import Path

import pandas  # noqa: F401 (this and the others like it: what a run imports late is paid once)
import torch._dynamo  # noqa: F401
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401

from command import tree
from gaincurate.difficulty import generate_local  # noqa: F401
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.rollout import roll_out


def main(scored: Path, model: str, folder: Path, kills: int) -> dict[str, object]:
    """Compare every killed and finished set with an uninterrupted one."""
    context = multiprocessing.get_context("fork")

    def start(out: Path) -> multiprocessing.process.BaseProcess:
        config = RolloutConfig(
            scored=scored,
            model=model,
            out=out,
            verifier="bad_verifiers:parity",
            samples=6,
            samples_start=2,
            interval=0.55,
            reference=14,
            max_tokens=6,
            shard_prompts=5,
            batch_tokens=250,
            verify_workers=1,
            threads=1,
            on_error="skip",
        )
        process = context.Process(target=roll_out, args=(config,))
        process.start()
        return process

    reference, out = folder / "reference", folder / "out"
    begin = time.perf_counter()
    first = start(reference)
    first.join()
    duration = time.perf_counter() - begin
    expected = tree(reference)
    chance = random.Random(0)
    done = 0
    differing: list[str] = []
    leftovers: list[int] = []
    while done < kills:
        shutil.rmtree(out, ignore_errors=True)
        for _ in range(2):  # a set is killed up to twice before it may finish
            process = start(out)
            process.join(chance.uniform(0.1 * duration, duration))
            process.kill()
            process.join()
            done += process.exitcode == -9
            leftovers.append(sum(path.stat().st_size for path in out.glob(".work/completions-*")))
        last = start(out)
        last.join()
        found = tree(out)
        differing += [
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        ]
    return {
        "finished": first.exitcode == 0,
        "files": sorted(expected),
        "kills": done,
        "differing": differing,
        "journals_at_kill": leftovers,
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
