"""A report with every part, of a set with markup in its texts: what a page or a terminal is shown."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

import prompt_pages
import runs
from column_sets import ids
from gaincurate.core.scored_set import ScoredSet
from gaincurate.report.build import report
from gaincurate.report.document import Document
from gaincurate.schedule.rounds import advance


@cache
def example() -> Document:
    """Of 120 rows with copies among them, three rounds of a run and predicted failure rates."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scored = prompt_pages.make(folder / "scored <set>", 120, copies=2)
        ScoredSet(scored).add_column(
            "gc_difficulty", ids(120), pa.array(np.linspace(0, 1, 120), pa.float32()), {"made_by": "<b>"}
        )
        rates = prompt_pages.rates(folder / "rates.jsonl", 120)
        run = runs.begin(folder, scored=scored, strategy="uniform")
        for _ in range(2):
            runs.report(run, lambda gc_id, sample: int(gc_id[-1]) % 3 > sample)
            advance(run)
        made = report(scored, rollouts=[rates], run=run.folder)
    first, *others = made.verdicts
    verdicts = [replace(first, banner="gc_angle is close to question length."), *others]
    return replace(made, about=replace(made.about, folder="scored <set>"), verdicts=verdicts)
