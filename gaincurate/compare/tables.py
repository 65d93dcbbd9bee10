"""What a comparison measured, as three Arrow files: takes rows, yields them again, checked.

`evaluations.arrow` has a row for each arm, seed, mark and held-out prompt; `marks.arrow` one for each arm,
seed and mark, with what it cost; `steps.arrow` one for each step of each training. Every figure that a
comparison shows is made of these and `comparison.json` alone. Knows nothing of statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from gaincurate.core.artifact import open_table
from gaincurate.errors import OutputError
from gaincurate.files import reading, write_stream

FACTS, RESULTS = "comparison.json", "results"
"""Beside each other in a comparison's folder: what was asked for, and the folder of the tables."""
EVALUATIONS, MARKS, STEPS = "evaluations", "marks", "steps"
_KEY = [("arm", pa.string()), ("seed", pa.int64())]
SCHEMAS: Mapping[str, pa.Schema] = {
    EVALUATIONS: pa.schema(
        [
            *_KEY,
            ("mark", pa.int32()),  # 0 is the model at the start
            ("gc_id", pa.string()),
            ("right", pa.int32()),  # completions that are right, of
            ("samples", pa.int32()),  # those that could be judged
            ("tokens", pa.int64()),  # of all of them together
        ]
    ),
    MARKS: pa.schema(
        [
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
        ]
    ),
    STEPS: pa.schema(
        [
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
        ]
    ),
}


@dataclass(frozen=True, slots=True)
class Tables:
    """The three tables, in the order of arms, seeds, marks or steps, and prompts."""

    evaluations: pa.Table
    marks: pa.Table
    steps: pa.Table


def write_tables(folder: Path, rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> Tables:
    """Write all three.

    Raises:
        StorageError: the file system refused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in SCHEMAS.items():
        table = pa.Table.from_pylist(list(rows[name]), schema)
        with write_stream(folder / f"{name}.arrow") as file, pa.ipc.new_file(file, schema) as writer:
            writer.write_table(table)
    return read_tables(folder)


def read_tables(folder: Path) -> Tables:
    """Read all three.

    Raises:
        OutputError: one is not there or has other columns.
    """
    found = {}
    for name, schema in SCHEMAS.items():
        path = folder / f"{name}.arrow"
        if not path.exists():
            raise OutputError(f"{folder} has no {path.name}: the comparison is not finished.", path=str(path))
        with reading(path):
            found[name] = open_table(path)
        if found[name].schema != schema:
            raise OutputError(f"{path} has other columns than a comparison's.", path=str(path))
    return Tables(**found)
