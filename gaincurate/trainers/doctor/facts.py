"""Numbers of a run that the rules compare settings with: takes a run's folder, yields `About`.

Reads `run.json`, two columns of the scored set and the names of the newest round's columns. Knows no trainer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gaincurate.schedule.run import Run
from gaincurate.trainers.doctor.findings import About, Mode


def facts_of(folder: Path, mode: Mode) -> About:
    """What is known of a run.

    Without prompt lengths where `--without-system` makes the trainer's prompts shorter than the scored ones.

    Raises:
        InputError: it is no run.
        OutputError: its scored set is not what it was.
    """
    run = Run(folder)
    config = run.config
    name = str(run.folder.resolve())
    columns = _columns(run.data(int(run.state["round"])))
    if config.bare:
        return About(mode, config.budget, config.rounds, columns=columns, folder=name)
    lengths = run.scored.column("gc_prompt_tokens").combine_chunks().to_numpy(zero_copy_only=False)

    def longer_than(limit: float) -> list[str]:
        rows = np.flatnonzero(lengths > limit)
        return [str(one) for one in run.scored.column("gc_id").take(rows).to_pylist()]

    return About(mode, config.budget, config.rounds, int(lengths.max()), longer_than, columns, name)


def _columns(data: Path) -> frozenset[str] | None:
    """What a round's file has; None where there is none that can be read."""
    try:
        return frozenset(pq.read_schema(data).names)
    except (OSError, pa.ArrowInvalid):
        return None
