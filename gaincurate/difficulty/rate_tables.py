"""Tables of rollouts or rates: takes Arrow tables, yields wins and losses by id, policy by policy.

Whole columns at a time. Knows nothing of runs or of outcome lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from gaincurate.core.arrow import Refuse, read_parquet, refusing, validate
from gaincurate.core.artifact import open_table
from gaincurate.core.outcomes import Rules
from gaincurate.errors import InputError, OutcomeError
from gaincurate.schedule.noise import Floats
from gaincurate.schema import ID

_LONGEST_LINE = 1 << 26
_WANTED = (
    "gc_id and one of: reward (a row for each rollout), wins and losses, pass_rate (and samples, of how many "
    "rollouts)"
)


class Summed(NamedTuple):
    """One policy's wins and losses by id, ids sorted; see `PassRates`."""

    name: str
    ids: list[str]
    wins: Floats
    losses: Floats
    counted: bool


def read_table(path: Path) -> pa.Table:
    """A file as a table.

    Raises:
        InputError: another kind of file, or a damaged one.
        StorageError: it cannot be read.
    """
    readers: dict[str, Callable[[Path, Refuse], pa.Table]] = {
        ".parquet": read_parquet,
        ".arrow": open_table,
        ".jsonl": _json_table,
    }
    if path.suffix not in readers:
        raise InputError(
            f"--outcomes {path}: expected .jsonl, .parquet or .arrow, a folder of them, or a run.",
            path=str(path),
        )

    def refuse(why: str) -> InputError:
        return InputError(f"--outcomes {path} cannot be read: {why}.", path=str(path))

    return readers[path.suffix](path, refuse)


def _json_table(path: Path, refuse: Refuse) -> pa.Table:
    with refusing(path, refuse):
        # A line must fit into a block; completions can be long.
        table = pj.read_json(path, pj.ReadOptions(block_size=_LONGEST_LINE))
    return validate(table, path, refuse)


def of_table(table: pa.Table, path: Path, rules: Rules) -> list[Summed]:
    """Every policy in a table that has a rollout which could be judged, by name.

    Args:
        table: its columns as in `pass_rates`.
        path: where it was read, for the sentences of errors.
        rules: the range of rewards.

    Raises:
        InputError: other columns, no id, or a prompt that stands there twice without numbers of rollouts.
        OutcomeError: a value out of its range.
    """
    names = set(table.column_names)
    if ID not in names or not (names >= {"wins", "losses"} or names & {"pass_rate", "reward"}):
        raise InputError(
            f"--outcomes {path} has the columns {', '.join(table.column_names)}; needed are {_WANTED}.",
            path=str(path),
        )
    if "model" not in names:
        return [found] if (found := _one(table, path.name, path, rules)).ids else []
    made = []
    for model in sorted(set(table.column("model").cast(pa.string()).drop_null().to_pylist())):
        rows = table.filter(pc.equal(table.column("model").cast(pa.string()), model))
        made.append(_one(rows, model, path, rules))
    return [found for found in made if found.ids]


def _one(table: pa.Table, name: str, path: Path, rules: Rules) -> Summed:
    """One policy's rows."""
    names = set(table.column_names)
    ids = pa.concat_arrays([pa.array([], pa.string()), *table.column(ID).cast(pa.string()).chunks])
    if names >= {"wins", "losses"}:
        wins, losses = _numbers(table, "wins"), _numbers(table, "losses")
        _check_rows(ids, {"wins": (wins, 0.0, math.inf), "losses": (losses, 0.0, math.inf)}, path)
        weights = wins + losses
        rows = np.flatnonzero(weights > 0)
        return _summed(name, ids.take(rows), wins[rows] / weights[rows], weights[rows])
    column = "reward" if "reward" in names else "pass_rate"
    low, high = (rules.low, rules.high) if column == "reward" else (0.0, 1.0)
    counted = column == "reward" or "samples" in names
    values = _numbers(table, column)
    weights = _numbers(table, "samples") if column != "reward" and counted else np.ones(len(values))
    rows = np.flatnonzero(~np.isnan(values) & (weights != 0))  # the others could not be judged
    ids, values, weights = ids.take(rows), values[rows], weights[rows]
    asked = {column: (values, low, high), "samples": (weights, 0.0, math.inf)}
    _check_rows(ids, asked, path, once=not counted)
    return _summed(name, ids, (values - low) / (high - low), weights, counted)


def _summed(name: str, ids: pa.Array, success: Floats, weights: Floats, counted: bool = True) -> Summed:
    """Rows added up by id, in their order."""
    coded = ids.dictionary_encode()
    codes, count = coded.indices.to_numpy(), len(coded.dictionary)
    wins = np.bincount(codes, success * weights, count)
    losses = np.bincount(codes, (1 - success) * weights, count)
    order = pc.array_sort_indices(coded.dictionary).to_numpy()
    order = order[(wins + losses)[order] > 0]
    return Summed(name, coded.dictionary.take(order).to_pylist(), wins[order], losses[order], counted)


def _numbers(table: pa.Table, name: str) -> Floats:
    """A column as numbers, `[rows]`; null becomes NaN."""
    column, kind = table.column(name), table.column(name).type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise InputError(f"--outcomes: the column {name} has type {kind}, not numbers.")
    # Halves have no cast of their own in older versions; numpy has.
    plain = column if pa.types.is_floating(kind) else column.cast(pa.float64(), safe=False)
    found: Floats = plain.to_numpy().astype(np.float64)
    return found


def _check_rows(
    ids: pa.Array, columns: dict[str, tuple[Floats, float, float]], path: Path, *, once: bool = False
) -> None:
    """Refuse the first row that has no id, a value out of its range, or (`once`) an earlier row's id."""
    codes = ids.dictionary_encode().indices.fill_null(-1).to_numpy()
    bad = codes < 0
    for values, low, high in columns.values():
        bad |= ~((values >= low) & (values <= high) & np.isfinite(values))
    if once:  # codes rise in order of first appearance
        bad[1:] |= codes[1:] <= np.maximum.accumulate(codes)[:-1]
    if not bad.any():
        return
    row = int(bad.argmax())
    gc_id = ids[row].as_py()
    for name, (values, low, high) in columns.items():
        _check(gc_id, name, float(values[row]), path, low, high)
    raise InputError(f"--outcomes {path}: {gc_id!r} stands there twice, and it has no column samples.")


def _check(
    gc_id: str | None, name: str, value: float, path: Path, low: float = 0.0, high: float = 1.0
) -> None:
    if gc_id is None:
        raise InputError(f"--outcomes {path}: a row has no gc_id.")
    if not (low <= value <= high and math.isfinite(value)):
        raise OutcomeError(
            f"--outcomes {path}: {name} of {gc_id!r} is {value:g}, outside {low:g} to {high:g}.", gc_id=gc_id
        )
