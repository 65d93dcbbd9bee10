"""A signal without the effect of length, as a column beside a finished set.

`residual` is the signal less its usual value at that length. `rank_in_bin` is its rank among prompts of about
the same length. Missing values (NaN) stay missing. The same call again changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

import gaincurate
from gaincurate.core.artifact import Json
from gaincurate.core.rng import Floats, Ints
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.stats import Ranked, Strata, even_bins, spearman
from gaincurate.errors import InputError, OutputError
from gaincurate.report.table import LENGTH, is_number, numbers

BINS = 20
Way = Literal["residual", "rank-in-bin"]
KNOTS, _DEGREE = 5, 3
_FIT: Json = {"fit": f"cubic spline, {KNOTS} inner knots"}


@dataclass(frozen=True, slots=True)
class Derived:
    """The column that was written, or existed already."""

    name: str
    rows: int
    values: int  # rows with a value
    kept: bool  # it existed already
    before: float | None  # Spearman's rank correlation with length, of the signal
    after: float | None  # the same of the column
    how: Json


def derive(
    scored: ScoredSet,
    signal: str,
    way: Way,
    *,
    bins: int | None = None,
    name: str | None = None,
    overwrite: bool = False,
) -> Derived:
    """Write a length-free variant of a column beside the set.

    Args:
        scored: the set.
        signal: a number column.
        way: see the functions `residual` and `rank_in_bin`.
        bins: for `rank-in-bin`; default 20.
        name: of the new column; default `<signal>_residual` or `<signal>_rank_in_bin`.
        overwrite: replace a column of that name that was made in another way.

    Raises:
        InputError: no such column, one without numbers, no values, a name that cannot be used, or bins for
            the other way.
        OutputError: a column of that name exists and was made in another way.
    """
    if bins is not None and way != "rank-in-bin":
        raise InputError(f"--bins {bins} goes with --length-free rank-in-bin.")
    bins = BINS if bins is None else bins
    name = name or f"gc_{signal.removeprefix('gc_')}_{way.replace('-', '_')}"
    if name in (signal, LENGTH):
        raise InputError(f"--name {name} is the column that it would be made from; give another.")
    meaning, rule = f"{signal} less its usual value at that {LENGTH}", _FIT
    if way == "rank-in-bin":
        meaning, rule = f"rank of {signal} in (0, 1) among rows of about the same {LENGTH}", {"bins": bins}
    how: Json = {"made_by": f"gaincurate {gaincurate.__version__} derive", "meaning": meaning}
    how |= {"signal": signal, "length_free": way, "length": LENGTH, **rule}
    existing = scored.computed_columns()
    if signal in existing:  # it can be replaced; the hash identifies the values that were used
        how["of"] = {signal: existing[signal]["hash"]}
    before = existing[name].get("how") or {} if name in existing else None
    # In the same way, by whichever version.
    is_there = before is not None and {**before, "made_by": None} == {**how, "made_by": None}
    if before is not None and not is_there and not overwrite:
        raise OutputError(
            f"{scored.folder} already has a column {name} that was made in another way "
            f"({before.get('meaning', 'something else')}); give another --name, or --overwrite to replace "
            "it.",
            column=name,
        )
    column = scored.column(signal)
    if not is_number(column.type) or pt.is_boolean(column.type):
        raise InputError(
            f"--signal {signal}: that column holds {column.type}, and this needs numbers.", column=signal
        )
    values, lengths = numbers(column), numbers(scored.column(LENGTH))
    if not (np.isfinite(values) & np.isfinite(lengths)).any():
        raise InputError(f"--signal {signal}: no row of {scored.folder} has a value there.", column=signal)
    computed = residual(values, lengths) if way == "residual" else rank_in_bin(values, lengths, bins)
    with np.errstate(over="ignore"):  # numbers beyond float32 count as missing
        single = computed.astype(np.float32)
    present = np.isfinite(single)
    if not present.any():
        raise InputError(
            f"--signal {signal}: its {way} values are beyond 32-bit numbers (3.4e38).", column=signal
        )
    if not is_there:
        ids = scored.column(ID).filter(pa.array(present)).to_pylist()
        scored.add_column(name, ids, pa.array(single[present], pa.float32()), how)
    before_rho, after_rho = (spearman(column[present], lengths[present]) for column in (values, computed))
    return Derived(name, len(computed), int(present.sum()), is_there, before_rho, after_rho, how)


def residual(signal: Floats, length: Floats) -> Floats:
    """Subtract from a signal its usual value at that length.

    The usual value is a cubic spline on log length, fitted by least squares, with five inner knots at
    quantiles of the distinct lengths (fewer where there are few). An isotonic fit is not used, because a
    signal may rise with length and fall again.

    Args:
        signal: `[rows]`, NaN where there is none.
        length: `[rows]`, in tokens; NaN where there is none.

    Returns:
        `[rows]`, in the signal's unit; NaN where one of the two is missing.

    Raises:
        InputError: a length of zero or less, or scipy is not installed.
    """
    present = np.isfinite(signal) & np.isfinite(length)
    if (length[present] <= 0).any():
        raise InputError(
            f"a length of {length[present].min():g} has no logarithm; take --length-free rank-in-bin."
        )
    distinct, inverse, counts = np.unique(length[present], return_inverse=True, return_counts=True)
    means = np.bincount(inverse, signal[present]) / counts
    remainder = np.full(len(signal), np.nan)
    remainder[present] = signal[present] - _spline(np.log(distinct), means, counts)[inverse]
    return remainder


def _spline(x: Floats, means: Floats, counts: Ints) -> Floats:
    """The fit at each distinct length. Means weighted by their rows give the fit over all rows."""
    try:
        from scipy.interpolate import make_lsq_spline
    except ImportError as error:
        raise InputError(
            "a residual needs scipy: `pip install 'gaincurate[derive]'`. rank-in-bin does not."
        ) from error
    degree = min(_DEGREE, len(x) - 1)
    if degree < 1:
        return means
    inner = max(min(KNOTS, (len(x) - degree - 1) // 2), 0)
    knots = np.quantile(x, np.arange(1, inner + 1) / (inner + 1))
    t = np.pad(np.concatenate([x[:1], knots, x[-1:]]), degree, "edge")
    fitted: Floats = make_lsq_spline(x, means, t, k=degree, w=np.sqrt(counts))(x)
    return fitted


def rank_in_bin(signal: Floats, length: Floats, bins: int) -> Floats:
    """Rank a signal among the rows of its length bin: in (0, 1), evenly spread within each bin.

    Args:
        signal: `[rows]`, NaN where there is none.
        length: `[rows]`; NaN where there is none.
        bins: how many, of about equally many rows.

    Returns:
        `[rows]`: (rank + 1/2) / rows of the bin, rank from 0, ties at their mean; NaN where one is missing.

    Raises:
        InputError: fewer than one bin.
    """
    if bins < 1:
        raise InputError(f"--bins {bins}: at least one.")
    present = np.isfinite(signal) & np.isfinite(length)
    _, bin_of = np.unique(even_bins(length[present], bins), return_inverse=True)
    whole = np.full(len(signal), np.nan)
    whole[present] = Ranked(signal[present], Strata(bin_of)).scores + 0.5
    return whole
