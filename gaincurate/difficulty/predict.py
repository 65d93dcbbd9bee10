"""Predicts every prompt's failure rate from those of a few, by one of several methods.

Only the adapter needs torch, so it is imported when it is used. Group means are a method too, because a
prediction that does not beat them is not worth its cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import gaincurate
from gaincurate.core.artifact import Json
from gaincurate.core.rng import Floats, Ints, permutation
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty import metrics
from gaincurate.difficulty.embeddings import BLOCK, strangers
from gaincurate.difficulty.methods import ByGaussianProcess, ByGroup, ByRates, Inputs, Method, Seen
from gaincurate.difficulty.pass_rates import PassRates
from gaincurate.difficulty.rates import UNFITTED, buckets
from gaincurate.errors import InputError

if TYPE_CHECKING:
    from gaincurate.difficulty.predictor import Adapter

MethodName = Literal["adapter", "gp", "group-mean", "rates"]
BUCKET = "gc_bucket"
FEWEST = 3  # references that a method needs at least
_MEANING: dict[metrics.Target, str] = {
    "difficulty": "failure rate in [0, 1]: observed where it was, else predicted",
    "variance": "p (1 - p) of the pass rate p: k (G - k) / (G (G - 1)) where it was observed, else predicted",
}
_DRAW, _HALVES, _TIES = 13, 14, 15  # streams of random numbers
_SPLITS = 5


class Predictor:
    """A method fitted on references with `inputs` `[K, ...]`, with attributes of `Method` and `Fitted`."""

    def __init__(self, method: Method, inputs: Inputs, seen: Seen) -> None:
        self._method, self._inputs, self._seen = method, inputs, seen
        self._fitted, self.columns = method.fit(inputs, seen), method.columns
        self.facts, self.leave_one_out = self._fitted.facts, self._fitted.leave_one_out

    def rows(self, table: pa.Table) -> Floats:
        """Predictions for a table's rows, in [0, 1]."""
        blocks = [table.slice(start, BLOCK) for start in range(0, len(table), BLOCK)]
        parts = [self._fitted.predict(self._method.read(block)) for block in blocks]
        return np.concatenate([np.zeros(0), *parts])

    def halves(self, seed: int) -> list[tuple[Ints, Floats]]:
        """Places of random halves of the references, and their predictions by a fit on the other half.

        A half does not enter its prediction, not even through a choice of sizes or a calibration. There are
        ten halves of five splits, or none if a half would have too few references to predict from.
        """
        count, made = len(self._seen.values), []
        if count < 2 * FEWEST:
            return []
        for split in range(_SPLITS):
            order = permutation(seed, split, _HALVES, count)
            first, second = np.sort(order[: count // 2]), np.sort(order[count // 2 :])
            for half, other in ((first, second), (second, first)):
                fitted = self._method.fit(self._inputs[half], Seen(*(part[half] for part in self._seen)))
                made.append((other, fitted.predict(self._inputs[other])))
        return made


def make(
    name: MethodName,
    scored: ScoredSet,
    rates: PassRates,
    *,
    adapter: Adapter | None = None,
    group_column: str | None = None,
    columns: Sequence[str] = (),
    target: metrics.Target = "difficulty",
) -> Predictor:
    """The predictor of that name, fitted on the references that `rates` are of.

    The method `adapter` needs `adapter`, `group-mean` needs `group_column`, and `rates` needs `columns` of
    other models' pass rates. Raises `InputError` if that is missing, or for fewer than three references.
    """
    values, count = rates.observed(target), len(rates.ids)
    if count < FEWEST:
        raise InputError(
            f"{count} observed prompts are too few to predict from; {FEWEST} at least, and 128 to 256 to "
            "mean something."
        )
    needed = {"group-mean": group_column, "adapter": adapter, "rates": columns or None}
    for its_method, value in needed.items():
        if (value is not None) != (name == its_method):
            option = "group-column" if its_method == "group-mean" else its_method
            raise InputError(f"--{option} and the method {its_method} go together.")
    if target == "variance" and name in ("adapter", "rates"):
        raise InputError(f"--target variance does not go with --{name}, which predicts failure rates.")
    method: Method
    if group_column is not None:
        method = ByGroup(scored, group_column)
    elif adapter is not None:
        from gaincurate.difficulty.predictor import ByAdapter  # needs torch, which the others do not

        method = ByAdapter(adapter, scored)
    else:
        method = ByRates(scored, columns) if columns else ByGaussianProcess(scored, target)
    noise = np.zeros(count)
    if rates.counted:
        noise = metrics.observation_noise(rates.wins, rates.losses, target)
    seen = Seen(values, noise, rates.wins + rates.losses)
    return Predictor(method, method.read(scored.rows(rates.ids)), seen)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Failure rates of every row (or its p (1 - p)), `ids[i]`'s at `values[i]`, in the set's order.

    `on_references` is the quality of the prediction of each reference from the others, although choices of
    the method used them all. `on_halves` is that of one half by a fit on the other half only (None for fewer
    than six references). `on_others` is that for observed prompts that are no references (None if there are
    none). `observed` is the number of rows that keep their observed rate. `buckets` are those of
    `rates.buckets`; None with another method.
    """

    ids: list[str]
    values: Floats
    observed: int
    references: list[str]
    on_references: metrics.Quality
    on_halves: metrics.Quality | None
    on_others: metrics.Quality | None
    how: Json
    target: metrics.Target
    buckets: list[str] | None


def _carried(fitted: Predictor, observed: Floats, target: metrics.Target, seed: int) -> float:
    """The mean observed p (1 - p) of the quarter of each half of the references that this aim would pick.

    It picks d nearest .5, or the highest p (1 - p), by a fit on the other half; ties are broken at random.
    """
    means = []
    for number, (rows, predicted) in enumerate(fitted.halves(seed)):
        worth = predicted if target == "variance" else -np.abs(predicted - 0.5)
        order = permutation(seed, number, _TIES, len(rows))
        best = order[np.argsort(-np.round(worth[order], 9), kind="stable")[: max(1, len(rows) // 4)]]
        means.append(float(observed[rows[best]].mean()))
    return float(np.mean(means))


def predict(
    scored: ScoredSet,
    rates: PassRates,
    method: MethodName,
    *,
    adapter: Adapter | None = None,
    group_column: str | None = None,
    columns: Sequence[str] = (),
    references: int = 256,
    seed: int = 0,
    target: metrics.Target | Literal["auto"] = "difficulty",
) -> Prediction:
    """Predict every row's failure rate, or p (1 - p), from `references` observed prompts, drawn at random.

    With `auto` the references decide: this compares the observed p (1 - p) of the prompts that either aim
    picks from one half of them by a fit on the other half. If they cannot (unknown numbers of rollouts,
    rewards between 0 and 1, too few references), and with an adapter, the target is the failure rate.

    Args:
        scored: the set.
        rates: the policy's outcomes; every id must be in the set.
        method: its name.
        adapter: for `adapter`.
        group_column: for `group-mean`.
        columns: other models' pass rates, for `rates`.
        references: K; all observed prompts if those are fewer.
        seed: of the draw.
        target: what to predict. For p (1 - p), prompts with one rollout are left out.

    Raises:
        InputError: an id is not in the set, too few prompts are observed, or the method lacks its argument.
    """
    rows = rows_of(scored, rates)  # before anything is fitted, so that an unknown id fails early
    fit = partial(make, method, scored, adapter=adapter, group_column=group_column, columns=columns)
    judged_twice = rates.wins + rates.losses >= 2 if rates.counted else np.ones(len(rates.ids), bool)
    several = rates.at(np.flatnonzero(judged_twice))
    how: Json = {}
    if target == "auto":
        target = "difficulty"
        some = np.sort(permutation(seed, 0, _DRAW, len(several.ids))[:references])
        whole = np.array_equal(several.wins, np.round(several.wins))
        if method not in ("adapter", "rates") and rates.counted and whole and len(some) >= 2 * FEWEST:
            judged = several.at(some)
            observed = judged.observed("variance")
            aims = {aim: _carried(fit(judged, target=aim), observed, aim, seed) for aim in metrics.COLUMNS}
            target = "variance" if aims["variance"] > aims["difficulty"] else "difficulty"
            how = {"aims": aims}
    if target == "variance":
        rates, rows = several, rows[judged_twice]
    order = permutation(seed, 0, _DRAW, len(rates.ids))
    drawn, rest = np.sort(order[:references]), np.sort(order[references:])
    chosen = rates.at(drawn)
    predictor = fit(chosen, target=target)
    tables = scored.tables(predictor.columns)  # one at a time, for the sake of memory
    predicted = np.concatenate([np.zeros(0), *(predictor.rows(table) for table in tables)])
    values = predicted.copy()
    values[rows] = rates.observed(target)
    named = None
    if method == "rates":  # by the posterior, which also knows what was observed
        strength = predictor.facts["strength"] or UNFITTED
        a = strength * (1 - predicted)
        b = strength - a
        a[rows] += rates.wins
        b[rows] += rates.losses
        named = buckets(a / (a + b), a + b)
    how_judged: Json = {"counted": rates.counted, "seed": seed, "target": target}

    def quality_of(predicted: Floats, places: Ints) -> metrics.Quality:
        return metrics.quality(predicted, rates.wins[places], rates.losses[places], **how_judged)

    halves = metrics.quality_of_halves(predictor.halves(seed), chosen.wins, chosen.losses, **how_judged)
    return Prediction(
        scored.column(ID).to_pylist(),
        values,
        len(rates.ids),
        chosen.ids,
        quality_of(predictor.leave_one_out(), drawn),
        halves,
        quality_of(predicted[rows[rest]], rest) if len(rest) else None,
        {
            "made_by": f"gaincurate {gaincurate.__version__} difficulty predict",
            "meaning": _MEANING[target],
            "method": method,
            **predictor.facts,
            "policy": rates.name,
            "outcomes": rates.source,
            "observed": len(rates.ids),
            "references": len(drawn),
            "seed": seed,
            **how,
        },
        target,
        named,
    )


def write(scored: ScoredSet, prediction: Prediction, folder: Path | None = None) -> None:
    """Write the values as a computed column of the set, replacing older ones.

    With `folder`, the column's files are written there instead, with the quality beside them. Raises
    `InputError` if the set's shards have a column of that name.
    """
    how = prediction.how if folder is None else {**prediction.how, **qualities(prediction)}
    name, values = metrics.COLUMNS[prediction.target], pa.array(prediction.values, pa.float32())
    scored.add_column(name, prediction.ids, values, how, folder=folder)
    if prediction.buckets is not None:
        scored.add_column(BUCKET, prediction.ids, pa.array(prediction.buckets), how, folder=folder)
    elif folder is None and BUCKET in scored.schema.names:  # of an earlier prediction
        scored.add_column(BUCKET, [], pa.array([], pa.string()), how)


def qualities(prediction: Prediction) -> Json:
    """The three figures of its quality as JSON, by their names."""
    figures = {name: getattr(prediction, name) for name in ("on_references", "on_halves", "on_others")}
    return {name: None if each is None else asdict(each) for name, each in figures.items()}


def rows_of(scored: ScoredSet, rates: PassRates) -> Ints:
    """The set's rows of the prompts with outcomes, `[prompts]`; an `InputError` for one that has no row."""
    places = pc.index_in(pa.array(rates.ids, pa.string()), value_set=scored.column(ID).combine_chunks())
    if places.null_count:
        absent = [rates.ids[place] for place in np.flatnonzero(places.is_null())]
        raise strangers(absent, len(rates.ids), f"not in {scored.folder}")
    rows: Ints = places.to_numpy().astype(np.int64)
    return rows
