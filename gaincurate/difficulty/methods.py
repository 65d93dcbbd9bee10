"""The ways to predict every prompt from a few, as one shape: what is read of rows, and a fit to references.

Reading and fitting are apart so that a predictor can be fitted again on half of its references at no cost:
that is how its printed quality comes about. The adapter is in `by_adapter`, because it alone needs torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gaincurate.core.columns import fields, read_column
from gaincurate.core.rng import Floats, Ints
from gaincurate.core.schema import EMBEDDING, ID, LIKELIHOODS
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.embeddings import evenly_spaced, matrix, whitening
from gaincurate.difficulty.metrics import Target
from gaincurate.difficulty.rates import Calibrated, calibrate
from gaincurate.difficulty.training_free import HIGHEST, Evidence, GaussianProcess
from gaincurate.errors import InputError

Inputs = npt.NDArray[Any]
"""What a method reads of rows, rows first."""
SIGNALS = (*LIKELIHOODS, "gc_question_tokens", "gc_angle")
"""Columns that `gp` reads where the set has them; of lengths it takes the logarithm."""
_FARTHEST = 4.0  # standard deviations: a signal further out counts as this


@dataclass(frozen=True, slots=True)
class Seen:
    """What was observed of references, `[K]` each: what is predicted, its variance around the truth, and of
    how many rollouts it is.
    """

    values: Floats
    noise: Floats
    rollouts: Floats

    def take(self, rows: Ints) -> Seen:
        """Of some of them."""
        return Seen(self.values[rows], self.noise[rows], self.rollouts[rows])


class Fitted(Protocol):
    """A method fitted on references."""

    @property
    def facts(self) -> dict[str, Any]:
        """How it was fitted, for the record."""

    def __call__(self, inputs: Inputs, /) -> Floats:
        """Predictions for rows, `[rows]`, in [0, 1]."""

    def leave_one_out(self) -> Floats:
        """Those of the references, each from the others, `[K]`."""


class Method(Protocol):
    """A way to predict."""

    columns: list[str]
    """What it reads of a row."""

    def read(self, table: pa.Table) -> Inputs:
        """Of a table's rows."""

    def fit(self, inputs: Inputs, seen: Seen) -> Fitted:
        """Fit it on references, `[K]`."""


class ByGaussianProcess:
    """`gp`: see `GaussianProcess`.

    Whitening and standardising are of up to 1,024 of the set's rows, evenly spaced.

    Args:
        scored: the set.
        target: what is predicted.
    """

    def __init__(self, scored: ScoredSet, target: Target) -> None:
        names = [name for name in SIGNALS if name in scored.schema.names]
        self.columns, self._folder, self._names = [ID, EMBEDDING, *names], scored.folder, names
        self._highest = HIGHEST[target]
        sample = scored.take(evenly_spaced(len(scored)))
        self._space = whitening(matrix(sample, scored.folder))
        signals = self._signals(sample)
        present = np.isfinite(signals)
        count = np.maximum(present.sum(0), 1)
        # Not nanmean: a column without any value is no reason for a warning, it says nothing.
        self._mean = np.where(present, signals, 0.0).sum(0) / count
        squares = np.where(present, signals - self._mean, 0.0) ** 2
        self._spread = np.sqrt(squares.sum(0) / count)

    def read(self, table: pa.Table) -> Inputs:
        """Units of the whitened embeddings, and signals in standard deviations; 0 where a row has none."""
        units = self._space(matrix(table, self._folder))
        varies = self._spread > 0
        signals = (self._signals(table) - self._mean)[:, varies] / self._spread[varies]
        signals = np.clip(np.nan_to_num(signals, nan=0.0), -_FARTHEST, _FARTHEST)
        return np.concatenate([units, signals.astype(np.float32)], 1)

    def fit(self, inputs: Inputs, seen: Seen) -> Fitted:
        """See `Method`."""
        units, signals = self._parts(inputs)
        values, noise = seen.values / self._highest, seen.noise / self._highest**2
        return _Process(self, GaussianProcess(Evidence(units, signals, values, noise)))

    def predict(self, process: GaussianProcess, inputs: Inputs) -> Floats:
        """The posterior means, in what is predicted."""
        return self.clipped(process.mean(*self._parts(inputs)))

    def clipped(self, means: Floats) -> Floats:
        """From means on the scale of `GaussianProcess` to what is predicted."""
        values: Floats = self._highest * np.clip(means, 0.0, 1.0)
        return values

    @property
    def facts(self) -> dict[str, Any]:
        """What it reads."""
        varying = [name for name, spread in zip(self._names, self._spread, strict=True) if spread > 0]
        return {"directions": self._space.directions.shape[1], "signals": varying}

    def _parts(self, inputs: Inputs) -> tuple[Floats, Floats]:
        wide = inputs.astype(np.float64)
        return np.split(wide, [self._space.directions.shape[1]], axis=1)  # type: ignore[return-value]

    def _signals(self, table: pa.Table) -> Floats:
        """`[rows, signals]`, NaN where a row has none."""
        columns = [table.column(name).to_numpy().astype(np.float64) for name in self._names]
        values = [
            np.log1p(column) if name == "gc_question_tokens" else column
            for name, column in zip(self._names, columns, strict=True)
        ]
        return np.stack(values, 1) if values else np.zeros((len(table), 0))


@dataclass(frozen=True, slots=True)
class _Process:
    method: ByGaussianProcess
    process: GaussianProcess

    @property
    def facts(self) -> dict[str, Any]:
        return {**self.method.facts, "sizes": asdict(self.process.sizes)}

    def __call__(self, inputs: Inputs) -> Floats:
        return self.method.predict(self.process, inputs)

    def leave_one_out(self) -> Floats:
        return self.method.clipped(self.process.leave_one_out())


class ByGroup:
    """`group-mean`: the mean of the references in a row's group; of all of them where the group has none.

    Args:
        scored: the set.
        column: names the group.

    Raises:
        InputError: no such column.
    """

    def __init__(self, scored: ScoredSet, column: str) -> None:
        scored.column(column)
        self.columns, self.column = [ID, column], column

    def read(self, table: pa.Table) -> Inputs:
        """The groups' names."""
        return np.array([str(value) for value in table.column(self.column).to_pylist()], object)

    def fit(self, inputs: Inputs, seen: Seen) -> Fitted:
        """See `Method`."""
        return _GroupMeans(self.column, inputs.tolist(), seen.values)


class _GroupMeans:
    def __init__(self, column: str, groups: Sequence[str], values: Floats) -> None:
        self._groups, self._values = groups, values
        self._sums: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
        for group, value in zip(groups, values.tolist(), strict=True):
            total, count = self._sums[group]
            self._sums[group] = (total + value, count + 1)
        self.facts = {"group_column": column, "groups": len(self._sums)}

    def __call__(self, inputs: Inputs) -> Floats:
        overall = float(self._values.mean())
        means = {group: total / count for group, (total, count) in self._sums.items()}
        return np.array([means.get(group, overall) for group in inputs.tolist()], float)

    def leave_one_out(self) -> Floats:
        means, count, whole = [], len(self._values), self._values.sum()
        for group, value in zip(self._groups, self._values.tolist(), strict=True):
            total, size = self._sums[group]
            others = (whole - value) / (count - 1)
            means.append((total - value) / (size - 1) if size > 1 else others)
        rates: Floats = np.clip(np.array(means, float), 0.0, 1.0)  # rounding may leave [0, 1]
        return rates


class ByRates:
    """`rates`: other models' pass rates, see `rates`.

    Args:
        scored: the set.
        columns: pass rates in [0, 1], each of one model.

    Raises:
        InputError: no such column, or a value that is no pass rate.
    """

    def __init__(self, scored: ScoredSet, columns: Sequence[str]) -> None:
        self.columns = [ID]
        self._names, self._rates = columns, read_rates(scored, columns)
        self._places = {gc_id: row for row, gc_id in enumerate(scored.column(ID).to_pylist())}

    def read(self, table: pa.Table) -> Inputs:
        """The rows' places in the set, because a calibration is of the whole set."""
        return np.array([self._places[gc_id] for gc_id in table.column(ID).to_pylist()], np.int64)

    def fit(self, inputs: Inputs, seen: Seen) -> Fitted:
        """See `Method`."""
        return _Rates(self._names, self._rates, inputs, seen)


class _Rates:
    def __init__(self, names: Sequence[str], rates: Floats, rows: Ints, seen: Seen) -> None:
        self._all = rates, rows, seen
        calibrated = self._calibrate(np.arange(len(rows)))
        self._expected = calibrated.expected
        weights = dict(zip(names, calibrated.weights.tolist(), strict=True))
        self.facts = {"weights": weights, "strength": calibrated.strength}

    def _calibrate(self, places: Ints) -> Calibrated:
        rates, rows, seen = self._all
        wins, losses = (1 - seen.values) * seen.rollouts, seen.values * seen.rollouts
        calibrated = calibrate(rates, rows[places], wins[places], losses[places])
        mean = wins[places].sum() / seen.rollouts[places].sum()
        return replace(
            calibrated, expected=np.where(np.isnan(calibrated.expected), mean, calibrated.expected)
        )

    def __call__(self, inputs: Inputs) -> Floats:
        failure: Floats = 1 - self._expected[inputs]
        return failure

    def leave_one_out(self) -> Floats:
        """Each from four fifths of the references that it is not among."""
        rows = self._all[1]
        folds, failure = np.arange(len(rows)) % 5, np.empty(len(rows))
        for fold in range(5):
            expected = self._calibrate(np.flatnonzero(folds != fold)).expected
            failure[folds == fold] = 1 - expected[rows[folds == fold]]
        return failure


def read_rates(scored: ScoredSet, columns: Sequence[str]) -> Floats:
    """Columns of pass rates, `[N, columns]`; NaN where a row has none.

    Raises:
        InputError: no such column, or a value that is no number from 0 to 1.
    """
    rates = []
    for name in columns:
        there = name in dict(fields(scored.schema))
        column = read_column(scored, name) if there else scored.column(name)  # which names the columns
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise InputError(f"--rates {name}: the column has type {column.type}, not numbers.", column=name)
        values = column.cast(pa.float64()).to_numpy()
        outside = np.flatnonzero((values < 0) | (values > 1))
        if len(outside):
            row = int(outside[0])
            raise InputError(
                f"--rates {name}: {scored.column(ID)[row]} has {values[row]:g}, and a pass rate is "
                "from 0 to 1. If the column counts successes, divide by the number of rollouts.",
                column=name,
            )
        rates.append(values)
    return np.stack(rates, 1)
