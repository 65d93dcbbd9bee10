"""A length-free variant of a column, beside a finished set: takes a scored set, yields a computed column.

Writes `columns/<name>.arrow` and `.json` (contract 1b). The same call again changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

import gaincurate
from gaincurate.core.artifact import Json
from gaincurate.derive.length_free import KNOTS, rank_in_bin, residual
from gaincurate.errors import InputError, OutputError
from gaincurate.schema import ID
from gaincurate.scored_set import ScoredSet
from gaincurate.stats import Floats, spearman

Way = Literal["residual", "rank-in-bin"]
LENGTH = "gc_question_tokens"
BINS = 20
_SUFFIX = {"residual": "residual", "rank-in-bin": "rank_in_bin"}


@dataclass(frozen=True, slots=True)
class Derived:
    """What there is now: the column's name, rows with a value, and whether it was there before.

    `before` and `after` are Spearman's rank correlations with length, of the signal and of the column.
    """

    name: str
    rows: int
    values: int
    kept: bool
    before: float | None
    after: float | None
    how: Json


def derive(
    scored: ScoredSet,
    signal: str,
    way: Way,
    *,
    length: str = LENGTH,
    bins: int | None = None,
    name: str | None = None,
    overwrite: bool = False,
) -> Derived:
    """Write a length-free variant of a column beside the set.

    Args:
        scored: the set.
        signal: a number column.
        way: see `length_free`.
        length: the column with lengths.
        bins: for `rank-in-bin`; default 20.
        name: of the new column; default `<signal>_residual` or `<signal>_rank_in_bin`.
        overwrite: replace a column of that name that was made otherwise.

    Raises:
        InputError: no such column, one without numbers, no values, a name that cannot be taken, or bins for
            the other way.
        OutputError: a column of that name is there, made otherwise.
    """
    if bins is not None and way != "rank-in-bin":
        raise InputError(f"--bins {bins} goes with --length-free rank-in-bin.")
    bins = BINS if bins is None else bins
    name = name or f"{signal if signal.startswith('gc_') else 'gc_' + signal}_{_SUFFIX[way]}"
    if name in (signal, length):
        raise InputError(f"--name {name} is the column that it would be made from; give another.")
    how = _how(scored, signal, way, length, bins)
    kept = _is_there(scored, name, how, overwrite=overwrite)
    values, lengths = _numbers(scored, signal, "--signal"), _numbers(scored, length, "--length")
    if not (np.isfinite(values) & np.isfinite(lengths)).any():
        raise InputError(f"--signal {signal}: no row of {scored.folder} has a value there.", column=signal)
    found = residual(values, lengths) if way == "residual" else rank_in_bin(values, lengths, bins)
    there = np.isfinite(found)
    if not kept:
        ids = scored.column(ID).filter(pa.array(there)).to_pylist()
        scored.add_column(name, ids, pa.array(found[there], pa.float32()), how)
    before, after = (spearman(column[there], lengths[there]) for column in (values, found))
    return Derived(name, len(found), int(there.sum()), kept, before, after, how)


def _how(scored: ScoredSet, signal: str, way: Way, length: str, bins: int) -> Json:
    rule: Json = {"bins": bins} if way == "rank-in-bin" else {"fit": f"cubic spline, {KNOTS} inner knots"}
    meaning = {
        "residual": f"{signal} less its usual value at that {length}",
        "rank-in-bin": f"rank of {signal} in (0, 1) among rows of about the same {length}",
    }
    how: Json = {
        "made_by": f"gaincurate {gaincurate.__version__} derive",
        "meaning": meaning[way],
        "signal": signal,
        "length_free": way,
        "length": length,
        **rule,
    }
    # A column that is itself computed can be replaced: the hash says of which values this one was made.
    parents = {
        one: known["hash"] for one, known in scored.computed_columns().items() if one in (signal, length)
    }
    return {**how, "of": parents} if parents else how


def _is_there(scored: ScoredSet, name: str, how: Json, *, overwrite: bool) -> bool:
    """Whether the column is there already, made in the same way (by whichever version)."""
    known = scored.computed_columns().get(name)
    if known is None:
        return False
    same = {k: v for k, v in (known.get("how") or {}).items() if k != "made_by"}
    if same == {k: v for k, v in how.items() if k != "made_by"}:
        return True
    if not overwrite:
        made = (known.get("how") or {}).get("meaning", "something else")
        raise OutputError(
            f"{scored.folder} has a column {name} already, made otherwise ({made}); give another --name, or "
            "--overwrite to replace it.",
            column=name,
        )
    return False


def _numbers(scored: ScoredSet, name: str, option: str) -> Floats:
    """A column as float64, NaN for null.

    Raises:
        InputError: no such column, or no numbers in it.
    """
    column = scored.column(name)
    kind = column.type
    if not (pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind)):
        raise InputError(f"{option} {name}: that column holds {kind}, and this needs numbers.", column=name)
    numbers: Floats = pc.cast(column, pa.float64(), safe=False).to_numpy()
    return numbers
