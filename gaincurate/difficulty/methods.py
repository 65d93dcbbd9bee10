"""The methods that predict every prompt from a few, with one interface: read rows, and fit to references.

Reading and fitting are separate, so that a predictor can be fitted again on half of its references at little
cost; its printed quality comes from such fits. The adapter is in `predictor`, because only it needs torch.

The Gaussian process is not the paper's predictor. It needs only the references: it reads embeddings, whitened
along their 64 strongest directions, and signals, and it knows the noise of each rate. Its sizes come from a
fixed grid, not from an optimiser, so every machine tries the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Protocol

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
from gaincurate.errors import InputError

Inputs = npt.NDArray[Any]  # of a method, rows first
SIGNALS = (*LIKELIHOODS, "gc_question_tokens", "gc_angle")
"""Columns that `gp` reads where the set has them; of lengths it takes the logarithm."""
_FARTHEST = 4.0  # standard deviations: a signal further out counts as this
HIGHEST: dict[Target, float] = {"difficulty": 1.0, "variance": 0.25}  # the lower bound is 0
VARIANCES = (0.0, 1e-3, 3e-3, 0.01, 0.02, 0.04, 0.08, 0.16, 0.3)
"""Sizes that are tried, where what is predicted lies between 0 and 1. Rates spread by 1/4 at most."""
LENGTHS = (0.5, 1.0, 1.5, 2.2, 3.2, 4.5, 7.0)
_LEAST = 1e-4  # of the part of its own: keeps the matrix regular where rates are known exactly
_GAIN = 1e-6  # of the log likelihood: less is rounding, and might send two machines two ways
_MOST_FOR_SIZES = 512  # references that the sizes are chosen on; their cost grows with the third power


class Seen(NamedTuple):
    """The target of references, its variance around the truth, and the number of rollouts, `[K]` each."""

    values: Floats
    noise: Floats
    rollouts: Floats


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fit to references: `predict` gives predictions for rows, `[rows]`, in [0, 1]; `leave_one_out` those
    of the references, each from the others, `[K]`. `facts` go into the record of the prediction.
    """

    predict: Callable[[Inputs], Floats]
    leave_one_out: Callable[[], Floats]
    facts: dict[str, Any]


class Method(Protocol):
    """A method of prediction: it reads the `columns` of rows, and is fitted on `K` references."""

    columns: list[str]

    def read(self, table: pa.Table) -> Inputs:
        """The inputs of a table's rows."""

    def fit(self, inputs: Inputs, seen: Seen) -> Fitted:
        """Fit it on references, `[K]`."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Prior variances of a rate's parts, and the length scale of the signals.

    `both` is that of the product of the embedding's and the signals' parts, `own` that of the independent
    part. `length` is in standard deviations of a signal. All variances are of a rate between 0 and 1, for
    every target.
    """

    embedding: float = 0.02
    signals: float = 0.02
    both: float = 0.02
    own: float = 0.01
    length: float = 2.2


TRIED: dict[str, tuple[float, ...]] = {
    "embedding": VARIANCES,
    "signals": VARIANCES,
    "both": VARIANCES,
    "own": (_LEAST, *VARIANCES[1:]),
    "length": LENGTHS,
}


class Evidence(NamedTuple):
    """Whitened directions `units` `[K, directions]` and standardised `signals` `[K, signals]` of references.

    `values` `[K]` are between 0 and 1, `noise` `[K]` are the variances of `values` around the true ones.
    """

    units: Floats
    signals: Floats
    values: Floats
    noise: Floats

    def covariance(self, sizes: Sizes) -> Floats:
        """Of what was observed, `[K, K]`."""
        shared = covariance(self.units, self.signals, self.units, self.signals, sizes)
        return shared + np.diag(sizes.own + self.noise)


def covariance(
    units: Floats, signals: Floats, other_units: Floats, other_signals: Floats, sizes: Sizes
) -> Floats:
    """Covariance of the rates of two lists of prompts without the independent part, `[rows, others]`.

    The common level has mean 1/2 and standard deviation 1/2, so it may take any value.
    """
    cosines = units @ other_units.T
    squares = (signals**2).sum(1)[:, None] + (other_signals**2).sum(1) - 2 * signals @ other_signals.T
    near = np.exp(-np.maximum(squares, 0.0) / (2 * sizes.length**2))
    shared: Floats = 0.25 + sizes.embedding * cosines + near * (sizes.signals + sizes.both * cosines)
    return shared


def log_likelihood(evidence: Evidence, sizes: Sizes) -> float:
    """The log density of `values` under the prior with these sizes, observation noise included."""
    factor, centred = np.linalg.cholesky(evidence.covariance(sizes)), evidence.values - 0.5
    whitened = np.linalg.solve(factor, centred)
    constant = 0.5 * len(centred) * math.log(2 * math.pi)
    return float(-0.5 * whitened @ whitened - np.log(np.diag(factor)).sum() - constant)


def choose_sizes(evidence: Evidence) -> Sizes:
    """Sizes with a high marginal likelihood: each in turn takes its best tried value until no change helps.

    This coordinate ascent can end in a local maximum. Of over 512 references it uses evenly spaced ones.
    """
    rows = evenly_spaced(len(evidence.values), _MOST_FOR_SIZES)
    some, sizes = Evidence(*(part[rows] for part in evidence)), Sizes()
    best, better = log_likelihood(some, sizes), True
    while better:  # the likelihood grows with every change, so no sizes come twice
        better = False
        for name, values in TRIED.items():
            for value in values:
                other = replace(sizes, **{name: value})
                likelihood = log_likelihood(some, other)
                if likelihood > best + _GAIN:
                    sizes, best, better = other, likelihood, True
    return sizes


def posterior(evidence: Evidence, sizes: Sizes) -> tuple[Callable[[Floats, Floats], Floats], Floats]:
    """Posterior means of the rates of other prompts, by units and signals, and of the references, `[K]`.

    A prompt's rate is the sum of a level common to all, a part linear in the direction of its whitened
    embedding, a part smooth in its signals (NLL, entropies, length, angle), an interaction of the two, and an
    independent part. The marginal likelihood of the references determines the size of each part, so a part
    without information vanishes. The noise of the observations is known, not fitted: it is binomial, so a
    rate of few rollouts counts for less.

    The mean of a reference is given the others. With C the covariance of the observations, and m the prior
    mean, it is y - (C^-1 (y - m)) / diag(C^-1) (Rasmussen and Williams, Gaussian Processes, equation 5.12).
    The sizes were chosen with all references. Means may leave [0, 1].
    """
    inverse = np.linalg.inv(evidence.covariance(sizes))
    weights = inverse @ (evidence.values - 0.5)

    def mean(units: Floats, signals: Floats) -> Floats:
        means: Floats = 0.5 + covariance(units, signals, evidence.units, evidence.signals, sizes) @ weights
        return means

    return mean, evidence.values - weights / np.diag(inverse)


class ByGaussianProcess:
    """`gp`: see `posterior`. Whitening and standardising are of up to 1,024 evenly spaced rows."""

    def __init__(self, scored: ScoredSet, target: Target) -> None:
        names = [name for name in SIGNALS if name in scored.schema.names]
        self.columns, self._folder, self._names = [ID, EMBEDDING, *names], scored.folder, names
        self._highest = HIGHEST[target]
        sample = scored.take(evenly_spaced(len(scored)))
        self._space = whitening(matrix(sample, scored.folder))
        signals = np.ma.masked_invalid(self._signals(sample))  # a column without any value says nothing
        self._mean, self._spread = (np.ma.filled(part, 0.0) for part in (signals.mean(0), signals.std(0)))

    def read(self, table: pa.Table) -> Inputs:
        """Units of the whitened embeddings, and signals in standard deviations; 0 where a row has none."""
        units = self._space(matrix(table, self._folder))
        varies = self._spread > 0
        signals = (self._signals(table) - self._mean)[:, varies] / self._spread[varies]
        signals = np.clip(np.nan_to_num(signals, nan=0.0), -_FARTHEST, _FARTHEST)
        return np.concatenate([units, signals.astype(np.float32)], 1)

    def fit(self, inputs: Inputs, seen: Seen) -> Fitted:
        """See `Method`."""
        values, noise = seen.values / self._highest, seen.noise / self._highest**2
        directions = self._space.directions.shape[1]

        def parts(inputs: Inputs) -> tuple[Floats, Floats]:
            return inputs[:, :directions].astype(np.float64), inputs[:, directions:].astype(np.float64)

        def clipped(means: Floats) -> Floats:
            return self._highest * np.clip(means, 0.0, 1.0)

        evidence = Evidence(*parts(inputs), values, noise)
        sizes = choose_sizes(evidence)
        mean, alone = posterior(evidence, sizes)
        varying = [name for name, spread in zip(self._names, self._spread, strict=True) if spread > 0]
        facts = {"directions": directions, "signals": varying, "sizes": asdict(sizes)}
        return Fitted(lambda inputs: clipped(mean(*parts(inputs))), lambda: clipped(alone), facts)

    def _signals(self, table: pa.Table) -> Floats:
        """`[rows, signals]`, NaN where a row has none."""
        columns = [table.column(name).to_numpy().astype(np.float64) for name in self._names]
        if "gc_question_tokens" in self._names:
            place = self._names.index("gc_question_tokens")
            columns[place] = np.log1p(columns[place])
        return np.stack(columns, 1) if columns else np.zeros((len(table), 0))


class ByGroup:
    """`group-mean`: the mean of the references in a row's group; of all references if the group has none.

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
        values = seen.values
        groups, codes = np.unique(inputs, return_inverse=True)
        sums, counts = np.bincount(codes, values), np.bincount(codes)
        means = dict(zip(groups.tolist(), (sums / counts).tolist(), strict=True))

        def predict(inputs: Inputs) -> Floats:
            return np.array([means.get(group, float(values.mean())) for group in inputs.tolist()], float)

        def leave_one_out() -> Floats:
            rest, others = counts[codes] - 1, (values.sum() - values) / (len(values) - 1)
            rates = np.where(rest > 0, (sums[codes] - values) / np.maximum(rest, 1), others)
            return np.clip(rates, 0.0, 1.0)  # rounding may leave [0, 1]

        return Fitted(predict, leave_one_out, {"group_column": self.column, "groups": len(groups)})


class ByRates:
    """`rates`: other models' pass rates, see `rates` and `read_rates`.

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
        wins, losses = (1 - seen.values) * seen.rollouts, seen.values * seen.rollouts

        def calibrated(places: Ints) -> Calibrated:
            fitted = calibrate(self._rates, inputs[places], wins[places], losses[places])
            mean = wins[places].sum() / seen.rollouts[places].sum()
            return replace(fitted, expected=np.where(np.isnan(fitted.expected), mean, fitted.expected))

        def leave_one_out() -> Floats:
            """Each from four fifths of the references that it is not among."""
            folds, failure = np.arange(len(inputs)) % 5, np.empty(len(inputs))
            for fold in range(5):
                expected = calibrated(np.flatnonzero(folds != fold)).expected
                failure[folds == fold] = 1 - expected[inputs[folds == fold]]
            return failure

        whole = calibrated(np.arange(len(inputs)))
        weights = dict(zip(self._names, whole.weights.tolist(), strict=True))
        facts = {"weights": weights, "strength": whole.strength}
        return Fitted(lambda rows: 1 - whole.expected[rows], leave_one_out, facts)


def read_rates(scored: ScoredSet, columns: Sequence[str]) -> Floats:
    """Columns of pass rates, `[N, columns]`; NaN where a row has none.

    Raises `InputError` if there is no such column, or a value is not a number from 0 to 1.
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
