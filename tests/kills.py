"""Kills what writes a folder and compares the finished folder with an uninterrupted one's.

Usage: kills.py KIND ARGUMENTS ..., with the kinds and arguments of `KINDS`. Prints one JSON object. It is a program of
its own, because it forks: imports are paid once, in a parent that has never computed. Half of the kills come at random
instants, half when there is more to go on with, however slow the machine is.
"""

from __future__ import annotations

import importlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import buckets
import runs
from command import tree
from gaincurate.core import process as child
from gaincurate.schedule.driver import drive
from gaincurate.schedule.run import Run

LATE = (
    "pandas", "torch._dynamo", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama",
    "transformers.tokenization_utils_fast", "gaincurate.difficulty.local_engine",
)  # fmt: skip
"""What runs import late."""


def forked(work: Callable[..., object], *arguments: Any) -> BaseProcess:
    """A process of this program that does some work."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def kill_at_random(
    start: Callable[[Any], BaseProcess],
    reference: Any,
    fresh: Callable[[], Any],
    kills: int,
    *,
    left: Callable[[Any], int],
    files: Callable[[Any], dict[str, Any]] = tree,
    instants: Sequence[bool] = (True, False),
    tries: int = 1,
    earliest: float = 0.0,
) -> dict[str, Any]:
    """Begin and kill some work until it was killed often enough, each time to its end at last.

    `start` begins the work that writes a place: `reference` without a kill, then `fresh` ones, which have to hold the
    same `files` in the end. The kills of one place come at the `instants`: at random, or when what `left` counts of it
    grows. `tries` is how often the last process may be begun, where another one's lock outlives it. Before the share
    `earliest` of an uninterrupted run's duration there is no kill at random.
    """
    begin = time.perf_counter()
    first = start(reference)
    first.join()
    duration = time.perf_counter() - begin
    expected, chance = files(reference), random.Random(0)
    done, differing, counts = 0, list[str](), list[int]()
    while done < kills:
        place = fresh()
        for at_random in instants:
            process, least = start(place), left(place)
            if at_random:
                process.join(chance.uniform(earliest * duration, duration))
            else:
                while process.is_alive() and (now := left(place)) <= least:
                    least = now
                    process.join(0.001)
            process.kill()
            process.join()
            done += process.exitcode == -9
            counts.append(left(place))
        for _ in range(tries):
            last = start(place)
            last.join()
            if last.exitcode == 0:
                break
        there = files(place)
        differing += [f"exit code {last.exitcode}"] if last.exitcode else []
        names = expected.keys() | there.keys()
        differing += [name for name in names if expected.get(name) != there.get(name)]
    result = {"finished": first.exitcode == 0, "files": sorted(expected), "kills": done}
    return {**result, "differing": differing, "left": counts}


def kill_folders(
    work: Callable[[Any], object], config: Callable[[Path], object], folder: Path, kills: int, **more: Any
) -> dict[str, Any]:
    """The same of `work(config(out))`, which writes the folder that its configuration names."""

    def fresh() -> Path:
        shutil.rmtree(folder / "out", ignore_errors=True)
        return folder / "out"

    return kill_at_random(lambda out: forked(work, config(out)), folder / "reference", fresh, kills, **more)


def kill_scoring(data: str, model: str, folder: str, kills: str, *reuse: str) -> dict[str, Any]:
    """Kill scoring runs; `reuse` as the option."""
    from gaincurate.scoring.config import ScoreConfig
    from gaincurate.scoring.pipeline import score_dataset

    def config(out: Path) -> ScoreConfig:
        options = {"shard_rows": 10, "on_error": "skip", "threads": 1, "reuse": list(reuse)}
        return ScoreConfig(**{"data": data, "model": model, "out": out, **options})  # type: ignore[arg-type]

    def shards(out: Path) -> int:
        return len(list(out.glob("shard-*")))

    return kill_folders(score_dataset, config, Path(folder), int(kills), left=shards)


def kill_store(data: str, model: str, folder: str, url: str, endpoint: str, kills: str) -> dict[str, Any]:
    """Kill scoring runs into an object store. Every second run is on another machine: with an empty cache."""
    from gaincurate.scoring.config import ScoreConfig
    from gaincurate.scoring.pipeline import score_dataset

    numbers, machines = itertools.count(), itertools.count(1)

    def start(out: str) -> BaseProcess:
        os.environ["GAINCURATE_CACHE"] = f"{folder}/cache-{next(machines) // 2}"
        options = {"shard_rows": 10, "on_error": "skip", "threads": 1}
        return forked(score_dataset, ScoreConfig(data=data, model=model, out=Path(out), **options))  # type: ignore[arg-type]

    def there(out: str) -> dict[str, bytes]:
        if "://" not in out:
            return tree(Path(out))
        bucket, _, place = out.removeprefix("s3://").partition("/")
        files = buckets.files(endpoint, bucket, f"{place}/")
        return {name: content for name, content in files.items() if not name.startswith("execution/")}

    def shards(out: str) -> int:
        return sum(name.startswith("shard-") for name in there(out))

    def fresh() -> str:
        return f"{url}/{next(numbers)}"

    return kill_at_random(start, f"{folder}/reference", fresh, int(kills), left=shards, files=there)


def kill_rollouts(scored: str, model: str, folder: str, kills: str) -> dict[str, Any]:
    """Kill local rollouts."""
    from gaincurate.difficulty.config import RolloutConfig
    from gaincurate.difficulty.rollout import roll_out

    options: dict[str, Any] = {
        "verifier": "bad_verifiers:parity", "samples": 4, "reference": 14, "max_tokens": 6, "shard_prompts": 5,
        "batch_tokens": 250, "verify_workers": 1, "threads": 1, "on_error": "skip",
    }  # fmt: skip

    def config(out: Path) -> RolloutConfig:
        return RolloutConfig(scored=Path(scored), model=model, out=out, **options)

    def journals(out: Path) -> int:
        return sum(path.stat().st_size for path in out.glob(".work/completions-*"))

    return kill_folders(roll_out, config, Path(folder), int(kills), left=journals, earliest=0.1)


def kill_runs(place: str, strategy: str, kills: str) -> dict[str, Any]:
    """Kill driven runs."""
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("mini_trainer.py"))]
    command += ["{data}", "{round}", "{outcomes}"]
    folder, child._FREED = Path(place), 300.0  # however long a killed driver's trainer takes to end
    runs.begin(folder, run=folder / "reference", strategy=strategy, rounds=5, budget=8)
    shutil.copytree(folder / "reference", folder / "fresh")

    def fresh() -> Path:
        shutil.rmtree(folder / "out", ignore_errors=True)
        return Path(shutil.copytree(folder / "fresh", folder / "out"))

    def files(run: Path) -> dict[str, object]:
        """What must be the same: plans, rows, states; not times, attempts, logs and how far outcomes were read."""
        same: dict[str, object] = {}
        for path in (run / "state.json", *run.glob("rounds/*/*")):
            if path.name in ("plan.json", "data.parquet", "state.json"):
                content: object = path.read_bytes()
                if path.name == "state.json":
                    content = {**json.loads(path.read_bytes()), "taken": None, "digest": None}
                same[str(path.relative_to(run))] = content
        return same

    return kill_at_random(
        lambda run: forked(lambda: drive(Run(run), command)),
        folder / "reference",
        fresh,
        int(kills),
        left=lambda run: Run(run).round,
        files=files,
        instants=(True, False, True),
        tries=3,  # a trainer between fork and exec holds the lock of the driver that was killed
    )


KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    "scoring": kill_scoring, "store": kill_store, "rollouts": kill_rollouts, "runs": kill_runs,
}  # fmt: skip

if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    for name in LATE if kind != "runs" else ():
        importlib.import_module(name)
    print(json.dumps(KINDS[kind](*arguments)))
