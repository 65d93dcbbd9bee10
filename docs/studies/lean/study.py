"""Runs trainings of the lean study, arms by seeds by worlds, and prints what they came to.

Usage: python docs/studies/lean/study.py STUDY.toml RESULTS.jsonl [--only ARM,...] [--world NAME]
[--workers N] [--table].
Folders in STUDY.toml are relative to where you stand. Each finished training is a line of RESULTS.jsonl and
is not run again while its settings stay the same. `--table` prints what is there and trains nothing.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, variance
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from loop import Arm, Training
from pydantic import BaseModel, ConfigDict, Field
from world import World

from gaincurate.core.files import append_lines, digest_json, json_lines

Row = dict[str, Any]


class Place(BaseModel):
    """Where a world is; see `World`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    every: int = Field(default=1, ge=1)


Job = tuple[str, Place, Arm, int]
"""World, its place, arm and seed."""


class Study(BaseModel):
    """What a TOML file asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seeds: list[int]
    control: str = "uniform"
    """The arm that others are less."""
    worlds: dict[str, Place]
    arms: list[Arm]

    def jobs(self) -> list[Job]:
        """Each training: a seed of all arms before the next seed."""
        return [
            (name, place, arm, seed)
            for seed in self.seeds
            for name, place in self.worlds.items()
            for arm in self.arms
        ]


@lru_cache(maxsize=2)
def world_of(folder: Path, every: int) -> World:
    """A world, read once in a process."""
    torch.set_num_threads(1)
    return World(folder, every)


def key_of(name: str, place: Place, arm: Arm, seed: int) -> str:
    """The same for the same training."""
    return digest_json([name, place.model_dump(mode="json"), arm.model_dump(exclude_defaults=True), seed])[
        :16
    ]


def train(name: str, place: Place, arm: Arm, seed: int) -> Row:
    """One training, as a line of the results."""
    trained = Training(world_of(place.folder, place.every), arm, seed).run()
    return {"key": key_of(name, place, arm, seed), "world": name, "arm": arm.name, "seed": seed, **trained}


def trained(jobs: list[Job], workers: int) -> Iterator[Row]:
    """The results of trainings as they come, here or in so many processes."""
    if workers == 1:
        yield from (train(*job) for job in jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for future in as_completed([pool.submit(train, *job) for job in jobs]):
            yield future.result()


COLUMNS = {
    "steps": "{:.0f}",
    "tokens": "{:.0f}",
    "differ": "{:.2f}",
    "variance": "{:.3f}",
    "distinct": "{:.0f}",
    "grad_norm": "{:.2f}",
    "clipped": "{:.2f}",
    "replayed": "{:.1f}",
    "seconds": "{:.0f}",
}
"""Of the table, after what the arms came to: means over seeds."""


def table(study: Study, rows: list[Row]) -> str:
    """Of each world and arm: means over seeds, less the control, the standard error of that."""
    wanted = {key_of(*job) for job in study.jobs()}
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["key"] in wanted:
            groups[row["world"], row["arm"]].append(row)
    lines = []
    for world in study.worlds:
        if not any(groups[world, arm.name] for arm in study.arms):
            continue
        heads = ["seeds", "start", "end", "less", "error", *COLUMNS]
        lines.append(f"{world:24}" + "".join(f"{head:>10}" for head in heads) + "  ends")
        control = ends_of(groups[world, study.control])
        for arm in study.arms:
            if each := groups[world, arm.name]:
                ends, start = ends_of(each), 100 * each[0]["accuracy"][0]
                less, error = difference(ends, control)
                cells = [f"{len(each)}", f"{start:.2f}", f"{fmean(ends):.2f}", f"{less:+.2f}", f"{error:.2f}"]
                cells += [form.format(fmean(row[name] for row in each)) for name, form in COLUMNS.items()]
                listed = " ".join(f"{end:.1f}" for end in ends)
                lines.append(f"{arm.name:24}" + "".join(f"{cell:>10}" for cell in cells) + f"  {listed}")
        lines.append("")
    return "\n".join(lines)


def ends_of(rows: list[Row]) -> list[float]:
    """Accuracies at the end in percent, by seed."""
    return [100 * row["accuracy"][-1] for row in sorted(rows, key=lambda row: int(row["seed"]))]


def difference(ends: list[float], control: list[float]) -> tuple[float, float]:
    """Of two means, with its standard error over seeds; NaN where there are too few."""
    less = fmean(ends) - fmean(control) if control else math.nan
    if min(len(ends), len(control)) < 2:
        return less, math.nan
    return less, math.sqrt(variance(ends) / len(ends) + variance(control) / len(control))


def main(
    config: Path,
    results: Path,
    *,
    workers: int = 1,
    only: set[str] | None = None,
    world: str = "",
    show: bool = False,
) -> None:
    """Train what is left, then print the table."""
    study = Study.model_validate(tomllib.loads(config.read_text()))
    rows = [row for _, row in json_lines(results) if row] if results.exists() else []
    done = {row["key"] for row in rows}
    left = [job for job in study.jobs() if key_of(*job) not in done]
    left = [job for job in left if (not only or job[2].name in only) and (not world or job[0] == world)]
    for row in trained(left, workers) if left and not show else ():
        append_lines(results, [row])
        rows.append(row)
        marks = " ".join(f"{100 * p:.2f}" for p in row["accuracy"])
        line = f"{row['world']} {row['arm']} {row['seed']}: {marks}, {row['seconds']} s {row['parts']}"
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    print(table(study, rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", type=lambda text: set(text.split(",")), default=set())
    parser.add_argument("--world", default="")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    main(
        given.config,
        given.results,
        workers=given.workers,
        only=given.only,
        world=given.world,
        show=given.table,
    )
