"""The measurements of a comparison: Arrow files on disk, and the same as arrays.

`evaluations.arrow` has a row per arm, seed, mark and held-out prompt. `marks.arrow` has one per arm, seed
and mark, with its costs. `steps.arrow` has one per step of each training. `tasks.arrow` has the task of
each held-out prompt. Every figure of a comparison is computed from these files and `comparison.json` alone,
so the comparison can be shown again without training.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.artifact import Json, open_table
from gaincurate.core.files import make_folder, reading, write_stream
from gaincurate.core.sealed import read_sealed
from gaincurate.core.stats import Floats
from gaincurate.errors import OutputError

FACTS, RESULTS = "comparison.json", "results"  # the settings, and the folder of the tables
EVALUATIONS, MARKS, STEPS, TASKS = "evaluations", "marks", "steps", "tasks"
_KEY = [("arm", pa.string()), ("seed", pa.int64())]
Tables = Mapping[str, pa.Table]
_COLUMNS: dict[str, list[tuple[str, pa.DataType]]] = {
    EVALUATIONS: [
        *_KEY,
        ("mark", pa.int32()),  # 0 is the model at the start
        ("gc_id", pa.string()),
        ("right", pa.int32()),  # completions that are right, of
        ("samples", pa.int32()),  # those that could be judged
        ("tokens", pa.int64()),  # of all of them together
    ],
    MARKS: [
        *_KEY,
        ("mark", pa.int32()),  # from 1
        ("asked", pa.int64()),  # tokens at which it was to be
        ("tokens", pa.int64()),  # spent when it was: the four below together
        ("scoring", pa.int64()),
        ("rescoring", pa.int64()),
        ("references", pa.int64()),
        ("training", pa.int64()),  # completion tokens of the trainer's own rollouts
        ("step", pa.int64()),  # optimizer steps
        ("seconds", pa.float64()),  # of the trainer and what it waited for; evaluation is left out
    ],
    STEPS: [
        *_KEY,
        ("step", pa.int64()),  # from 1
        ("tokens", pa.int64()),  # spent when it ended, as in marks
        ("seconds", pa.float64()),
        ("rollouts", pa.int64()),  # generated
        ("completion_tokens", pa.int64()),  # of them
        ("trainer_tokens", pa.int64()),  # the trainer's own counter since its start, prompts too
        ("prompt_tokens", pa.int64()),  # of these rollouts' prompts
        ("prompts", pa.int64()),
        ("effective", pa.float64()),  # share of prompts whose rollouts differ in reward
        ("reward", pa.float64()),  # mean
        ("angle", pa.float64()),  # mean gc_angle of the prompts, as first scored
        ("grad_norm", pa.float64()),  # before clipping
        ("replayed", pa.int64()),  # rollouts that were trained on and not generated
    ],
    TASKS: [("gc_id", pa.string()), ("task", pa.string())],
}
SCHEMAS = {name: pa.schema(columns) for name, columns in _COLUMNS.items()}
COSTS, PER_STEP = SCHEMAS[MARKS].names[3:], SCHEMAS[STEPS].names[2:]


@dataclass(frozen=True, slots=True)
class Results:
    """All measurements, in the order of the names; the first mark is the model at the start."""

    facts: Json  # as in `comparison.json`
    arms: list[str]
    seeds: list[int]
    prompts: list[str]
    left_out: int  # held-out prompts for which some model has no judged completion
    right: Floats  # [arms, 1 + marks, seeds, prompts], as the next two
    samples: Floats
    written: Floats  # tokens of all completions
    costs: Mapping[str, Floats]  # by name of `COSTS`, [arms, 1 + marks, seeds]; at the start scoring alone
    steps: Mapping[tuple[str, int], Mapping[str, Floats]]
    """By (arm, seed), for each name in `PER_STEP`, `[steps]`, NaN where there is no value."""
    tasks: list[str] | None  # of the prompts; None if no column has them

    @property
    def comparison(self) -> Json:
        """The settings."""
        settings: Json = self.facts["comparison"]
        return settings

    @property
    def accuracy(self) -> Floats:
        """The share of right answers, `[arms, 1 + marks, seeds, prompts]`."""
        return np.asarray(self.right / self.samples)


def read_results(out: Path) -> Results:
    """Read a finished comparison.

    Raises:
        OutputError: it is not finished, or its tables are not those of its settings.
        StorageError: it cannot be read.
    """
    if not (out / FACTS).exists():
        raise OutputError(f"{out} has no {FACTS}: it is no comparison.", path=str(out))
    return results_of(read_sealed(out / FACTS), read_tables(out / RESULTS), out)


def results_of(facts: Json, tables: Tables, where: Path) -> Results:
    """The measurements from facts and tables; errors begin with `where`.

    Raises:
        OutputError: the tables are not those of the settings, or no prompt was judged for every model.
    """
    comparison, evaluations = facts["comparison"], tables[EVALUATIONS]
    arms, seeds = [str(arm["name"]) for arm in comparison["arms"]], [int(s) for s in comparison["seeds"]]
    trained, marks = (len(arms), len(seeds)), int(comparison["marks"])
    prompts = np.array(sorted(pc.unique(evaluations.column("gc_id")).to_pylist()), object)

    def filled(table: pa.Table, name: str, *shape: int) -> Floats:
        """A column by arm, mark, seed and what follows; rows are written arm by arm and seed by seed."""
        if len(table) != math.prod(shape):
            raise OutputError(f"{where}: its results are not those of {FACTS}. Run the same command again.")
        return np.moveaxis(table.column(name).to_numpy().astype(np.float64).reshape(shape), 1, 2)

    shape = (*trained, marks + 1, len(prompts))
    right, samples, written = (filled(evaluations, name, *shape) for name in ("right", "samples", "tokens"))
    judged = np.asarray((samples > 0).all(axis=(0, 1, 2)))
    if not judged.any():
        raise OutputError(f"{where}: no held-out prompt has a judged completion from every model.")
    costs = {name: filled(tables[MARKS], name, *trained, marks) for name in COSTS}
    start = costs["scoring"][:, :1]  # what an arm has spent on its order before the first step
    for name, values in costs.items():
        first = start if name in ("tokens", "scoring") else np.zeros_like(start)
        costs[name] = np.concatenate([first, values], axis=1)
    steps = {}
    for key in itertools.product(arms, seeds):
        rows = tables[STEPS].filter((pc.field("arm") == key[0]) & (pc.field("seed") == key[1]))
        columns = {name: rows.column(name).cast(pa.float64()) for name in PER_STEP}
        steps[key] = {name: column.to_numpy(zero_copy_only=False) for name, column in columns.items()}
    task_of = dict(zip(*(tables[TASKS].column(name).to_pylist() for name in ("gc_id", "task")), strict=True))
    return Results(
        facts,
        arms,
        seeds,
        prompts[judged].tolist(),
        int((~judged).sum()),
        right[..., judged],
        samples[..., judged],
        written[..., judged],
        costs,
        steps,
        [task_of[prompt] for prompt in prompts[judged]] if task_of else None,
    )


def write_tables(folder: Path, rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Write all tables.

    Raises:
        StorageError: the file system refused.
    """
    make_folder(folder)
    for name, schema in SCHEMAS.items():
        table = pa.Table.from_pylist(list(rows.get(name, ())), schema)
        with write_stream(folder / f"{name}.arrow") as file, pa.ipc.new_file(file, schema) as writer:
            writer.write_table(table)


def read_tables(folder: Path) -> Tables:
    """Read all tables, in the order of arms, seeds, marks or steps, and prompts.

    Raises:
        OutputError: one is not there.
    """
    tables = {}
    for name in SCHEMAS:
        path = folder / f"{name}.arrow"
        if not path.exists():
            raise OutputError(f"{folder} has no {path.name}: the comparison is not finished.", path=str(path))
        with reading(path):
            tables[name] = open_table(path)
    return tables
