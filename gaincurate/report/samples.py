"""Columns ranked over the rows that they share: takes a table, yields correlations, each column sorted once.

Two columns are compared over the rows that have both, so pairs are put together by which rows those are.
Knows nothing of what the columns mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from gaincurate.report.ranked import Correlation, Ints, Ranked, Strata, by_value, correlate, partial
from gaincurate.report.table import Table
from gaincurate.stats import Floats, even_bins

Rows = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.integer]
Pair = tuple[str, str]

_MOST_BINS, _BIN_ROWS = 20, 50


class Sample:
    """Some rows of a table in strata, with their columns' ranks.

    Args:
        table: the columns.
        rows: which rows, `[rows]`; None for all.
        codes: each row's stratum, over all rows of the table; None for a single one.
        control: pairs with this column are kept, for partial correlations.
        orders: the columns' orders by value, kept from one sample of the same rows to the next.
    """

    def __init__(
        self,
        table: Table,
        rows: Rows | None,
        codes: Codes | None,
        control: str,
        orders: dict[str, Ints] | None = None,
    ) -> None:
        self._table, self._rows, self._control = table, rows, control
        self._orders = {} if orders is None else orders
        self.count = table.rows if rows is None else int(rows.sum())
        self.names, dense = _dense(codes if codes is None or rows is None else codes[rows])
        self.strata = Strata.one(self.count) if dense is None else Strata(dense)
        self._ranked: dict[str, Ranked] = {}
        self._pairs: dict[Pair, Correlation | None] = {}

    def values(self, name: str) -> Floats:
        """A column over these rows."""
        whole = self._table.values[name]
        return whole if self._rows is None else whole[self._rows]

    def ranked(self, name: str) -> Ranked:
        """A column's ranks inside the strata."""
        if name not in self._ranked:
            values = self.values(name)
            if name not in self._orders:
                self._orders[name] = by_value(values)
            self._ranked[name] = Ranked(values, self.strata, self._orders[name])
        return self._ranked[name]

    def pair(self, first: str, second: str) -> Correlation | None:
        """Their correlation, pooled over the strata."""
        key = (first, second)
        if key in self._pairs:
            return self._pairs[key]
        found = correlate(self.ranked(first), self.ranked(second))
        if self._control in key:
            self._pairs[key] = found
        return found

    def partial(self, first: str, second: str) -> Correlation | None:
        """Their correlation given the control."""
        control = self._control
        return partial(self.pair(first, second), self.pair(first, control), self.pair(second, control))


def _dense(codes: Codes | None) -> tuple[Codes | None, Codes | None]:
    """The strata that have rows, and each row's place among them."""
    if codes is None or not len(codes):
        return None, None
    present = np.bincount(codes) > 0
    return np.flatnonzero(present), (np.cumsum(present) - 1)[codes]


def by_rows(table: Table, pairs: Iterable[Pair]) -> list[tuple[Rows | None, list[Pair]]]:
    """Pairs of columns by the rows that have both, None for all rows; in order of the first pair of each."""
    masks: dict[str, tuple[Rows | None, bytes]] = {}
    found: dict[bytes, tuple[Rows | None, list[Pair]]] = {}
    joint: dict[tuple[bytes, bytes], tuple[Rows | None, bytes]] = {}
    for first, second in pairs:
        for name in (first, second):
            if name not in masks:
                masks[name] = _keyed(~np.isnan(table.values[name]))
        (a, a_key), (b, b_key) = masks[first], masks[second]
        if (a_key, b_key) not in joint:
            one = a if b is None or a_key == b_key else b if a is None else a & b
            joint[a_key, b_key] = (None, b"") if one is None else _keyed(one)
        rows, key = joint[a_key, b_key]
        found.setdefault(key, (rows, []))[1].append((first, second))
    return list(found.values())


def _keyed(rows: Rows) -> tuple[Rows | None, bytes]:
    if rows.all():
        return None, b""
    return rows, hashlib.blake2b(np.packbits(rows).tobytes(), digest_size=16).digest()


def length_bins(lengths: Floats, most: int = _MOST_BINS) -> Codes:
    """Each row's bin of like length, shortest first, `[rows]`: about equal counts of 50 rows at least.

    Rows of one length stay together.
    """
    count = max(1, min(most, len(lengths) // _BIN_ROWS))
    if not len(lengths) or count == 1:
        return np.zeros(len(lengths), np.int64)
    codes = even_bins(lengths, count)
    _, dense = _dense(codes)
    return codes if dense is None else dense


def length_bins_inside(lengths: Floats, groups: Strata) -> Codes:
    """Each row's bin of like length among the rows of its group, no two groups in one, `[rows]`."""
    order = np.argsort(groups.codes, kind="stable")
    ends = np.cumsum(groups.sizes)
    found, before = np.empty(len(lengths), np.int64), 0
    for size, end in zip(groups.sizes.tolist(), ends.tolist(), strict=True):
        here = order[end - size : end]
        found[here] = before + length_bins(lengths[here])
        before = int(found[here].max()) + 1
    return found
