"""Kills scoring runs into an object store at random instants. Prints one JSON object.

Usage: kill_store.py DATA MODEL FOLDER URL ENDPOINT KILLS. Every second run is on another machine: with an empty
cache.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
import time
from pathlib import Path

import pandas  # noqa: F401 (this and the others like it: what a run imports late is paid once)
import torch._dynamo  # noqa: F401
from transformers import AutoModel, LlamaModel, PreTrainedTokenizerFast  # noqa: F401

import buckets
from command import tree
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.pipeline import score_dataset
from kills import until_more


def files(endpoint: str, url: str) -> dict[str, bytes]:
    """A set's files, but for the logs of its runs."""
    bucket, _, folder = url.removeprefix("s3://").partition("/")
    there = buckets.files(endpoint, bucket, f"{folder}/")
    return {name: data for name, data in there.items() if not name.startswith("execution/")}


def main(data: str, model: str, folder: Path, url: str, endpoint: str, kills: int) -> dict[str, object]:
    """Compare every killed and finished set with an uninterrupted local one."""
    context = multiprocessing.get_context("fork")
    machines = 0

    def start(out: str) -> multiprocessing.process.BaseProcess:
        nonlocal machines
        machines += 1
        os.environ["GAINCURATE_CACHE"] = str(folder / f"cache-{machines // 2}")
        config = ScoreConfig(data=data, model=model, out=Path(out), shard_rows=10, on_error="skip", threads=1)
        process = context.Process(target=score_dataset, args=(config,))
        process.start()
        return process

    def shards(out: str) -> int:
        return sum(name.startswith("shard-") for name in files(endpoint, out))

    begin = time.perf_counter()
    start(str(folder / "reference")).join()
    duration = time.perf_counter() - begin
    expected = tree(folder / "reference")
    chance = random.Random(0)
    done, differing, left, sets = 0, list[str](), list[int](), 0
    while done < kills:
        out, sets = f"{url}/{sets}", sets + 1
        for at_random in (True, False):  # a set is killed up to twice before it may finish
            process = start(out)
            if at_random:
                process.join(chance.uniform(0, duration))
            else:
                until_more(process, lambda: shards(out))  # noqa: B023
            process.kill()
            process.join()
            done += process.exitcode == -9
            left.append(shards(out))
        last = start(out)
        last.join()
        found = files(endpoint, out)
        names = expected.keys() | found.keys()
        differing += [name for name in names if expected.get(name) != found.get(name)]
    return {"files": sorted(expected), "kills": done, "differing": differing, "left": left}


if __name__ == "__main__":
    print(
        json.dumps(
            main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4], sys.argv[5], int(sys.argv[6]))
        )
    )
