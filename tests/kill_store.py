"""Kills scoring runs into an object store at random instants. Prints one JSON object.

Usage: kill_store.py DATA MODEL FOLDER URL ENDPOINT KILLS. Every second run is on another machine: with an empty
cache.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import pandas  # noqa: F401 (this and the others like it: what a run imports late is paid once)
import torch._dynamo  # noqa: F401
from transformers import AutoModel, LlamaModel, PreTrainedTokenizerFast  # noqa: F401

import buckets
from command import tree
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.pipeline import score_dataset
from kills import forked, kill_at_random


def files(endpoint: str, url: str) -> dict[str, bytes]:
    """A set's files, but for the logs of its runs."""
    bucket, _, folder = url.removeprefix("s3://").partition("/")
    there = buckets.files(endpoint, bucket, f"{folder}/")
    return {name: data for name, data in there.items() if not name.startswith("execution/")}


def main(data: str, model: str, folder: Path, url: str, endpoint: str, kills: int) -> dict[str, object]:
    """Compare every killed and finished set with an uninterrupted local one."""
    numbers, machines = itertools.count(), itertools.count(1)

    def start(out: str) -> BaseProcess:
        os.environ["GAINCURATE_CACHE"] = str(folder / f"cache-{next(machines) // 2}")
        options = {"shard_rows": 10, "on_error": "skip", "threads": 1}
        return forked(score_dataset, ScoreConfig(data=data, model=model, out=Path(out), **options))  # type: ignore[arg-type]

    def there(out: str) -> dict[str, bytes]:
        return tree(Path(out)) if "://" not in out else files(endpoint, out)

    return kill_at_random(
        start,
        str(folder / "reference"),
        lambda: f"{url}/{next(numbers)}",
        kills,
        left=lambda out: sum(name.startswith("shard-") for name in there(out)),
        files=there,
    )


if __name__ == "__main__":
    print(
        json.dumps(
            main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4], sys.argv[5], int(sys.argv[6]))
        )
    )
