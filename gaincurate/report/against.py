"""Another scored set of the same prompts: takes two sets, yields how far the orders agree.

Rows are joined by id. Knows nothing of why the sets differ, but says in which settings.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from gaincurate.core.artifact import differing_keys
from gaincurate.errors import InputError
from gaincurate.report import fields
from gaincurate.report.figures import Estimate
from gaincurate.report.ranked import Ranked, Strata, correlate
from gaincurate.report.sections import Against, Difference, Stability
from gaincurate.report.table import Table
from gaincurate.report.worth import SHARE
from gaincurate.schema import ID
from gaincurate.scored_set import ScoredSet
from gaincurate.stats import Floats

_MOST = 20
_LONGEST = 60


def compare(scored: ScoredSet, table: Table, folder: Path) -> Against:
    """The signals of `table` in the set at `folder`.

    Raises:
        InputError: the sets share no row, or no signal.
        OutputError: `folder` is no finished set.
    """
    other = ScoredSet(folder)
    places = pc.index_in(scored.column(ID), value_set=other.column(ID).combine_chunks())
    here = places.is_valid().to_numpy()
    there = places.drop_null().to_numpy()
    if not len(there):
        raise InputError(f"--against {folder}: it shares no gc_id with {scored.folder}.", path=str(folder))
    known = [name for name, kind in fields.fields(other.schema) if fields.is_number(kind)]
    signals = [name for name in table.names("signal") if name in known]
    if not signals:
        raise InputError(f"--against {folder}: it has none of {', '.join(table.names('signal'))}.")
    differences = [
        Difference(key, _text(was), _text(now))
        for key, was, now in differing_keys(scored.identity, other.identity)
    ]
    return Against(
        str(folder),
        other.manifest_hash,
        len(there),
        len(scored) - len(there),
        len(other) - len(there),
        differences[:_MOST],
        [_stability(name, table.values[name][here], _values(other, name)[there]) for name in signals],
    )


def _values(scored: ScoredSet, name: str) -> Floats:
    return fields.numbers(fields.read(scored, name))[0]


def _text(value: object) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _stability(name: str, first: Floats, second: Floats) -> Stability:
    known = ~(np.isnan(first) | np.isnan(second))
    a, b = first[known], second[known]
    one = Strata.one(len(a))
    found = correlate(Ranked(a, one), Ranked(b, one)) if len(a) else None
    size = round(len(a) * SHARE)
    shared = None
    if size and found is not None:
        shared = len(np.intersect1d(_top(a, size), _top(b, size))) / size
    correlation = Estimate(None, None, None, len(a)) if found is None else found.estimate()
    return Stability(name, correlation, shared, SHARE)


def _top(values: Floats, size: int) -> npt.NDArray[np.int64]:
    """Rows with the highest values; of equal ones the first."""
    return np.argsort(-values, kind="stable")[:size]
