"""The inputs of a strategy before it draws a round: the scored set by row, the newest policy, and evidence.

Nothing is read before it is asked for. The set is the one that the run was opened with, also after a
re-scoring: embeddings of two models do not compare. Outcomes of earlier training (`--history`), other models'
rates (`--rates`) and the rows for which a condition holds (`--where`) are copied into the run's folder when
it is opened, so that a file that changes afterwards changes no plan. A strategy weighs the sum of the earlier
runs, because the likelihood of a few hundred outcomes says little about the weight of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.arrow import write_ipc
from gaincurate.core.artifact import RUN
from gaincurate.core.columns import fields, read_column
from gaincurate.core.outcomes import Rules
from gaincurate.core.rng import Floats, Ints
from gaincurate.core.schema import EMBEDDING, ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.where import Condition, Mask
from gaincurate.difficulty.embeddings import matrix
from gaincurate.difficulty.pass_rates import pooled
from gaincurate.errors import InputError
from gaincurate.schedule.checkpoints import AS_IT_IS, Held
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.observations import Note, pass_rates_of, silent
from gaincurate.schedule.run import Run, read_table

HISTORY, RATES = "history.arrow", "rates.arrow"
OF_ROLLOUTS = ("pass_rate", "samples")
"""The columns that `--rollouts` adds: the share of right rollouts, and how many were judged."""
_OF_A_RATE = 8.0  # rollouts that a pass rate counts for where their number is not known


@dataclass(frozen=True, slots=True)
class Context:
    """The argument of `Selector.prepare`.

    A row is a place in the scored set, from 0. A rank is a place in the order that the strategy draws from.
    """

    run: Run
    """The run, for its folder and options."""
    round: int
    """The round that is drawn next, from 0."""
    order: str
    """The digest of the order that it is drawn from."""
    checkpoint: str | None = None
    """The newest policy: the run's model before round 0, then what the last round left, None for nothing."""
    note: Note = silent
    """Takes a sentence for the person at the terminal."""
    held: Held = AS_IT_IS
    """Takes the run and a checkpoint, yields a folder of it that stays as it is."""
    reference_outcomes: Path | None = None
    """The path of `--reference-outcomes`."""
    opening: bool = False
    """The run is being opened. What takes long has to wait: raise `NotReadyError`, and `schedule next` or
    `run` asks again."""

    @property
    def scored(self) -> ScoredSet:
        """The scored set; its shards are mapped, not loaded."""
        return self.run.scored

    @property
    def rows(self) -> Ints:
        """`[N]`: the row at each rank."""
        return self.run.order(self.order).rows

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of the scored set by row, `[N]`, mapped; `.to_numpy()` makes an array of it.

        Args:
            name: of a column, or with dots of a field inside a struct.

        Raises:
            InputError: no such column; lists those there are.
        """
        if name in dict(fields(self.scored.schema)):
            return read_column(self.scored, name)
        return self.scored.column(name)

    @property
    def history(self) -> Floats | None:
        """Wins and losses in earlier training by row, `[2, N]` (`--history`); None without one."""
        if not self.run.config.history:
            return None
        table, counts = read_table(self.run.folder / HISTORY), np.zeros((2, self.run.facts["rows"]))
        counts[:, table.column("row").to_numpy()] = [table.column(n).to_numpy() for n in ("wins", "losses")]
        return counts

    @property
    def rates(self) -> Floats | None:
        """Pass rates of other models by row, `[N, models]`, NaN for none (`--rates`); None without any."""
        if not self.run.config.rates:
            return None
        return np.stack([column.to_numpy() for column in read_table(self.run.folder / RATES).columns], 1)

    def embeddings(self, rows: npt.ArrayLike | None = None) -> npt.NDArray[np.float32]:
        """The embeddings of these rows, `[rows, width]`, in this order.

        Args:
            rows: default: all, which is `4 * N * width` bytes at once.

        Raises:
            InputError: the set has none, or a row has none.
        """
        if rows is not None:
            return matrix(self.scored.take(rows), self.scored.folder)
        columns = [name for name in (ID, EMBEDDING) if name in self.scored.schema.names]
        blocks = [matrix(table, self.scored.folder) for table in self.scored.tables(columns)]
        return np.concatenate(blocks)


def build_history(path: Path, scored: ScoredSet, config: ScheduleConfig, note: Note) -> None:
    """Write the wins and losses of each prompt in earlier training."""
    counts = count_history(config.history, scored, Rules(config.reward_low, config.reward_high))
    rows = np.flatnonzero(counts.sum(0))
    write_ipc(path, pa.table({"row": rows, "wins": counts[0, rows], "losses": counts[1, rows]}))
    alike = int((counts[:, rows].min(0) == 0).sum())
    note(f"{len(rows):,} of {len(scored):,} prompts have a history; in {alike:,} of them no outcomes differ")


def count_history(paths: Sequence[Path], scored: ScoredSet, rewards: Rules) -> Floats:
    """Wins and losses of each prompt in runs, rollout sets and other outcomes, `[2, N]`.

    Runs have a range of rewards, `rewards` is that of the others. Raises InputError for a file that is no
    outcomes, or that has no prompt of the set.
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


def matching(
    scored: ScoredSet, where: str, rollouts: Path | None = None, note: Note = silent
) -> tuple[Mask, Mask]:
    """For which rows a condition (see `core.where`) is true, and for which a value is missing, `[rows]` each.

    A condition sees source, score and computed columns, and with `rollouts`, a rollout set or another file of
    pass rates, `OF_ROLLOUTS`. Raises InputError where it cannot be read or does not go with the columns.
    """
    condition = Condition(where)
    there = {*scored.schema.names, *dict(fields(scored.schema))}
    observed = {} if rollouts is None else _of_rollouts(scored, rollouts)
    absent = set(condition.names) & set(OF_ROLLOUTS) - there - observed.keys()
    if absent and rollouts is None:
        raise InputError(
            f"--where {where!r}: {scored.folder} has no column {min(absent)!r}; --rollouts PATH adds it."
        )
    if both := there & observed.keys() & set(condition.names):
        raise InputError(
            f"--where {where!r}: {min(both)} is a column of {scored.folder} and of --rollouts {rollouts}; "
            "leave --rollouts out, or rename the column in the data."
        )
    condition.check(there | observed.keys())
    columns = {
        name: observed[name] if name in observed else read_column(scored, name) for name in condition.names
    }
    missing = columns["pass_rate"].null_count if "pass_rate" in columns else 0
    if 2 * missing > len(scored):
        note(
            f"warning: {missing:,} of {len(scored):,} rows have no pass_rate. `gaincurate difficulty "
            "predict` writes gc_difficulty, the failure rate of every row, which --where takes too."
        )
    return condition.holds(columns)


def _of_rollouts(scored: ScoredSet, path: Path) -> dict[str, pa.ChunkedArray]:
    """The columns that a file of pass rates adds, in the order of the set's rows."""
    policies = pass_rates_of(path, scored=scored)
    if len(policies) > 1 and any(rates.round is None for rates in policies):
        has = f"{len(policies)} policies ({', '.join(rates.name for rates in policies)})"
        raise InputError(f"--rollouts {path} has {has}, and a pass rate is of one; give a file of one.")
    rates = pooled(policies) if len(policies) > 1 else policies[0]
    places = pc.index_in(scored.column(ID), value_set=pa.array(rates.ids, pa.string()))
    samples = rates.wins + rates.losses
    columns = {"pass_rate": rates.wins / samples, **({"samples": samples} if rates.counted else {})}
    return {name: pa.chunked_array([pa.array(values)]).take(places) for name, values in columns.items()}
