"""The order of a run: which row of the scored set stands at which rank, in a memory-mapped file.

A row is a place in the scored set, counted over its shards. A rank is a place in the order, 0 taught first.
The file names its content by a hash, so a state can say which order it goes with.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from gaincurate.core.arrow import read_ipc
from gaincurate.core.files import digest_bytes, write_stream
from gaincurate.core.rng import Floats, Ints
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError, OutputError

_DIGEST = b"gaincurate.order"


class Order:
    """An order in a file.

    Args:
        path: `order.arrow`.

    Raises:
        OutputError: it is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        table = read_ipc(path, lambda why: _damaged(path, f": {why}"))
        try:
            self.rows: Ints = table.column("row").chunk(0).to_numpy()
            """`[N]`: the row at each rank."""
            self.values: Floats = table.column("value").chunk(0).to_numpy()
            """`[N]`: what the order goes by; NaN where the set has none."""
            self.digest = table.schema.metadata[_DIGEST].decode()
        except (LookupError, TypeError, ValueError) as error:
            raise _damaged(path) from error
        if self.digest != _digest(self.rows, self.values):
            raise _damaged(path)

    def __len__(self) -> int:
        return len(self.rows)


def _damaged(path: Path, why: str = "") -> OutputError:
    return OutputError(f"{path} is damaged{why}; restore it, or start a new run.", path=str(path))


def _digest(rows: Ints, values: Floats) -> str:
    """What names an order by its content."""
    return digest_bytes(digest_bytes(rows.data).encode() + digest_bytes(values.data).encode())


def build(path: Path, scored: ScoredSet, by: str | None, *, ascending: bool) -> int:
    """Write the order of a set by a column; ties by id, rows without a value last.

    Args:
        path: the file to write.
        scored: the set.
        by: a number column; None for the set's own order.
        ascending: low values first.

    Returns:
        How many rows have no value there.

    Raises:
        InputError: no such column, or one that does not hold numbers.
    """
    if by is None:
        _write(path, np.arange(len(scored)), np.full(len(scored), np.nan))
        return 0
    column = scored.column(by)
    kind = column.type
    if not (pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind) or pt.is_boolean(kind)):
        raise InputError(f"--by {by}: that column holds {kind}, and an order needs numbers.", column=by)
    values = pc.cast(pc.cast(column, pa.int8()) if pt.is_boolean(kind) else column, pa.float64(), safe=False)
    table = pa.table({"value": values, ID: scored.column(ID)})
    # Nulls, then NaN, go last whatever the direction: a score that is not there must never be taught first.
    keys = [("value", "ascending" if ascending else "descending"), (ID, "ascending")]
    order = pc.sort_indices(table, sort_keys=keys).to_numpy().astype(np.int64)
    numbers = np.concatenate([c.to_numpy(zero_copy_only=False) for c in values.chunks] or [np.zeros(0)])
    _write(path, order, numbers[order])
    return int(np.isnan(numbers).sum())


def permute(
    path: Path, order: Order, ranks: Ints, ids: Iterable[str], values: Floats, *, ascending: bool
) -> None:
    """Write `order` with the rows at some ranks sorted again among these same ranks.

    Args:
        path: the file to write, another than the order's own.
        order: the order so far.
        ranks: `[k]`, ascending.
        ids: of the rows at these ranks.
        values: `[k]`, their new values, all from one checkpoint.
        ascending: low values first.
    """
    table = pa.table({"value": values, ID: pa.array(ids, pa.string())})
    keys = [("value", "ascending" if ascending else "descending"), (ID, "ascending")]
    by_value = pc.sort_indices(table, sort_keys=keys).to_numpy()
    rows, held = order.rows.copy(), order.values.copy()
    rows[ranks], held[ranks] = rows[ranks[by_value]], values[by_value]
    _write(path, rows, held)


def _write(path: Path, rows: Ints, values: Floats) -> None:
    rows, values = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(values, np.float64)
    table = pa.table({"row": rows, "value": values}).replace_schema_metadata({_DIGEST: _digest(rows, values)})
    write_table(path, table)


def write_table(path: Path, table: pa.Table) -> None:
    """Write an Arrow file of a run; raises StorageError where the file system refuses."""
    with write_stream(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
