"""Evidence from outside a run: outcomes of earlier training (`--history`), other models' rates (`--rates`).

Outcomes are added up by row of the scored set. They and the rates are copied into the run's folder when it
is opened, so that a file or a column that changes afterwards changes no plan. Runs are not kept apart: a
strategy weighs their sum, because the likelihood of a few hundred outcomes says little about the weight of
each run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.arrow import read_ipc
from gaincurate.core.artifact import RUN, Json
from gaincurate.core.outcomes import Rules
from gaincurate.core.rng import Floats
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.methods import read_rates
from gaincurate.errors import InputError, OutputError
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.observations import Note, pass_rates_of
from gaincurate.schedule.ordering import write_table

if TYPE_CHECKING:
    from gaincurate.schedule.run import Run

HISTORY, RATES = "history.arrow", "rates.arrow"
_OF_A_RATE = 8.0
"""Rollouts that a pass rate counts for where their number is not known."""


def build(path: Path, scored: ScoredSet, config: ScheduleConfig, note: Note) -> Json:
    """Write the wins and losses of each prompt in earlier training.

    Returns:
        How many prompts have a history, and of how many no group differed, for `run.json`.

    Raises:
        InputError: as `count`.
    """
    counts = count(config.history, scored, Rules(config.reward_low, config.reward_high))
    rows = np.flatnonzero(counts.sum(0))
    write_table(path, pa.table({"row": rows, "wins": counts[0, rows], "losses": counts[1, rows]}))
    silent = int((counts[:, rows].min(0) == 0).sum())
    note(f"{len(rows):,} of {len(scored):,} prompts have a history; in {silent:,} of them no outcomes differ")
    return {"prompts": len(rows), "never_differed": silent}


def count(paths: Sequence[Path], scored: ScoredSet, rewards: Rules) -> Floats:
    """Wins and losses of each prompt in earlier training, `[2, N]`.

    Args:
        paths: runs, rollout sets and other outcomes.
        scored: the set.
        rewards: the range of rewards, but of runs, which have one.

    Raises:
        InputError: a file that is no outcomes, or that has no prompt of the set.
    """
    counts, ids = np.zeros((2, len(scored))), scored.column(ID)
    for source in paths:
        rules, matched = None if (source / RUN).exists() else rewards, 0
        for rates in pass_rates_of(source, rules, scored=scored):
            rows = pc.index_in(pa.array(rates.ids, pa.string()), value_set=ids.combine_chunks())
            there = np.flatnonzero(rows.is_valid().to_numpy(zero_copy_only=False))
            weight = 1.0 if rates.counted else _OF_A_RATE
            for row, added in zip(counts, (rates.wins, rates.losses), strict=True):
                row += np.bincount(rows.drop_null().to_numpy(), weight * added[there], len(scored))
            matched += len(there)
        if not matched:
            raise InputError(
                f"--history {source}: none of its prompts is in {scored.folder}, by gc_id or by text.",
                path=str(source),
            )
    return counts


def read(run: Run) -> Floats | None:
    """Wins and losses that `build` wrote, by row, `[2, N]`; None in a run without a history.

    Raises:
        OutputError: the file is missing or damaged.
    """
    if not run.config.history:
        return None
    table = _read(run.folder / HISTORY)
    counts = np.zeros((2, run.facts["rows"]))
    counts[:, table.column("row").to_numpy()] = [table.column(name).to_numpy() for name in ("wins", "losses")]
    return counts


def build_rates(path: Path, scored: ScoredSet, names: Sequence[str]) -> None:
    """Write the rates of `--rates`; raises InputError where a column is missing or holds no rates."""
    write_table(path, pa.table(dict(zip(names, read_rates(scored, names).T, strict=True))))


def rates(run: Run) -> Floats | None:
    """What `build_rates` wrote, `[N, models]`, NaN for none; None in a run without rates."""
    if not run.config.rates:
        return None
    return np.stack([column.to_numpy() for column in _read(run.folder / RATES).columns], 1)


def _read(path: Path) -> pa.Table:
    return read_ipc(
        path, lambda why: OutputError(f"{path} is damaged: {why}; restore it, or start a new run.")
    )
