"""Every prompt's failure rate from those of a few, by one of several methods.

The adapter alone needs torch and is imported when it is asked for. Group means stand beside the methods,
because no prediction is worth its cost that does not beat them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import gaincurate
from gaincurate.core.artifact import Json
from gaincurate.core.rng import Floats, Ints, permutation
from gaincurate.core.schema import EMBEDDING, ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.embeddings import BLOCK, matrix, of_ids
from gaincurate.difficulty.metrics import Quality, Target, quality
from gaincurate.difficulty.pass_rates import PassRates
from gaincurate.difficulty.training_free import SAMPLE, Space, fit_training_free, whitening
from gaincurate.errors import InputError

if TYPE_CHECKING:
    from gaincurate.difficulty.predictor import Adapter

Method = Literal["adapter", "whitened", "attention", "group-mean"]
FEWEST = 3
"""References that a method needs at least."""
COLUMNS: dict[Target, str] = {"difficulty": "gc_difficulty", "variance": "gc_variance"}
_MEANING: dict[Target, str] = {
    "difficulty": "failure rate in [0, 1]: observed where it was, else predicted",
    "variance": "p (1 - p) of the pass rate p: k (G - k) / (G (G - 1)) where it was observed, else predicted",
}
_DRAW = 13  # stream of random numbers


class Predictor(Protocol):
    """Fitted on references."""

    columns: list[str]
    """What it reads of a row."""
    facts: dict[str, Any]
    """How it was made, for the record."""

    def rows(self, table: pa.Table) -> Floats:
        """Failure rates of a table's rows, in [0, 1]."""

    def leave_one_out(self) -> Floats:
        """Those of the references, each from the others."""


class WithoutTraining:
    """Attention on whitened embeddings, or on embeddings as they are.

    Args:
        scored: the set; the whitening is of up to 1,024 of its rows, evenly spaced.
        ids: the references.
        failure: their observed failure rates.
        whitened: or as they are.
    """

    def __init__(self, scored: ScoredSet, ids: Sequence[str], failure: Floats, *, whitened: bool) -> None:
        self.columns = [ID, EMBEDDING]
        self._folder = scored.folder
        references = of_ids([scored], ids)
        space = Space()
        if whitened:
            rows = np.unique(np.linspace(0, len(scored) - 1, min(len(scored), SAMPLE)).astype(np.int64))
            space = whitening(matrix(scored.take(rows), scored.folder))
        self._fitted = fit_training_free(space, references, failure)
        width = None if space.directions is None else space.directions.shape[1]
        self.facts = {
            "directions": width,
            "temperature": self._fitted.temperature,
            "w": self._fitted.w,
            "b": self._fitted.b,
        }

    def rows(self, table: pa.Table) -> Floats:
        """See `Predictor`."""
        whole = matrix(table, self._folder)
        parts = [self._fitted(whole[start : start + BLOCK]) for start in range(0, len(whole), BLOCK)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def leave_one_out(self) -> Floats:
        """See `Predictor`."""
        return self._fitted.leave_one_out()


class ByGroup:
    """The mean of the references in a row's group; of all of them where the group has none.

    Args:
        scored: the set.
        ids: the references.
        failure: their observed failure rates.
        column: names the group.

    Raises:
        InputError: no such column.
    """

    def __init__(self, scored: ScoredSet, ids: Sequence[str], failure: Floats, column: str) -> None:
        scored.column(column)
        self.columns, self._column = [ID, column], column
        self._groups, self._failure = _groups(scored.rows(ids), column), failure
        self._sums: dict[Any, tuple[float, int]] = {}
        for group, rate in zip(self._groups, failure.tolist(), strict=True):
            before = self._sums.get(group, (0.0, 0))
            self._sums[group] = (before[0] + rate, before[1] + 1)
        self.facts = {"group_column": column, "groups": len(self._sums)}

    def rows(self, table: pa.Table) -> Floats:
        """See `Predictor`."""
        overall = float(self._failure.mean())
        means = {group: total / count for group, (total, count) in self._sums.items()}
        return np.array([means.get(group, overall) for group in _groups(table, self._column)], float)

    def leave_one_out(self) -> Floats:
        """See `Predictor`."""
        means, count = [], len(self._failure)
        for group, rate in zip(self._groups, self._failure.tolist(), strict=True):
            total, size = self._sums[group]
            others = (self._failure.sum() - rate) / (count - 1)
            means.append((total - rate) / (size - 1) if size > 1 else others)
        rates: Floats = np.clip(np.array(means, float), 0.0, 1.0)  # rounding may leave [0, 1]
        return rates


def _groups(table: pa.Table, column: str) -> list[str]:
    return [str(value) for value in table.column(column).to_pylist()]


def make(
    method: Method,
    scored: ScoredSet,
    ids: Sequence[str],
    failure: Floats,
    *,
    adapter: Adapter | None = None,
    group_column: str | None = None,
    target: Target = "difficulty",
) -> Predictor:
    """The predictor of that name, fitted on these references.

    With `target` `variance`, `failure` is the references' p (1 - p), and so is what the rows get.

    Raises:
        InputError: fewer than three references, or what the method needs is not there.
    """
    if len(ids) < FEWEST:
        raise InputError(
            f"{len(ids)} observed prompts are too few to predict from; {FEWEST} at least, and 128 to 256 to "
            "mean something."
        )
    if method == "group-mean":
        if group_column is None:
            raise InputError("--method group-mean needs --group-column, the column that names a row's group.")
        return ByGroup(scored, ids, failure, group_column)
    if method == "adapter":
        if adapter is None:
            raise InputError(
                "--method adapter needs --adapter, a folder that `gaincurate difficulty fit` wrote."
            )
        from gaincurate.difficulty.by_adapter import ByAdapter  # needs torch, which the others do not

        return ByAdapter(adapter, scored, ids, failure, target)
    return WithoutTraining(scored, ids, failure, whitened=method == "whitened")


@dataclass(frozen=True, slots=True)
class Prediction:
    """Failure rates of every row (or its p (1 - p)), `ids[i]`'s at `values[i]`, in the set's order.

    `on_references` is of predictions of each reference from the others, `on_others` of observed prompts that
    are no references (None where there are none). `observed` counts the rows that keep their observed rate.
    """

    ids: list[str]
    values: Floats
    observed: int
    references: list[str]
    on_references: Quality
    on_others: Quality | None
    how: Json
    target: Target = "difficulty"


def predict(
    scored: ScoredSet,
    rates: PassRates,
    method: Method,
    *,
    adapter: Adapter | None = None,
    group_column: str | None = None,
    references: int = 256,
    seed: int = 0,
    target: Target = "difficulty",
) -> Prediction:
    """Predict every row's failure rate, or p (1 - p), from `references` observed prompts, drawn at random.

    Args:
        scored: the set.
        rates: what the policy did; every id must be in the set.
        method: see `Method`.
        adapter: for `adapter`.
        group_column: for `group-mean`.
        references: K; all that were observed where those are fewer.
        seed: of the draw.
        target: what to predict. Of p (1 - p), prompts with one rollout say nothing and are left out.

    Raises:
        InputError: an id that is not in the set, too few observed, or what the method needs is not there.
    """
    _check_ids(scored, rates)
    rates = rates.with_rollouts(2) if target == "variance" else rates
    observed = rates.observed(target)
    order = permutation(seed, 0, _DRAW, len(rates.ids))
    drawn, rest = np.sort(order[:references]), np.sort(order[references:])
    names = [rates.ids[i] for i in drawn]
    fitted = make(
        method, scored, names, observed[drawn], adapter=adapter, group_column=group_column, target=target
    )
    ids, predicted = _all_rows(scored, fitted)
    places = pc.index_in(pa.array(rates.ids), value_set=pa.array(ids)).to_numpy(zero_copy_only=False)
    places = places.astype(np.int64)
    values = predicted.copy()
    values[places] = observed
    how: Json = {
        "made_by": f"gaincurate {gaincurate.__version__} difficulty predict",
        "meaning": _MEANING[target],
        "method": method,
        **fitted.facts,
        "policy": rates.name,
        "outcomes": rates.source,
        "observed": len(rates.ids),
        "references": len(names),
        "seed": seed,
    }
    return Prediction(
        ids,
        values,
        len(rates.ids),
        names,
        _quality(fitted.leave_one_out(), rates, drawn, seed, target),
        _quality(predicted[places[rest]], rates, rest, seed, target) if len(rest) else None,
        how,
        target,
    )


def write(scored: ScoredSet, prediction: Prediction, folder: Path | None = None) -> None:
    """Put the values beside the set's shards as a computed column (contract 1b), in place of older ones.

    Args:
        scored: the set.
        prediction: what was predicted.
        folder: write the column's files there instead, with the quality, for one who reads them alone.

    Raises:
        InputError: the set's shards have a column of that name.
        StorageError: the file system refused.
    """
    how = prediction.how
    if folder is not None:
        others = None if prediction.on_others is None else asdict(prediction.on_others)
        how = {**how, "on_references": asdict(prediction.on_references), "on_others": others}
    scored.add_column(
        COLUMNS[prediction.target],
        prediction.ids,
        pa.array(prediction.values, pa.float32()),
        how,
        folder=folder,
    )


def _quality(predicted: Floats, rates: PassRates, rows: Ints, seed: int, target: Target) -> Quality:
    wins, losses = rates.wins[rows], rates.losses[rows]
    return quality(predicted, wins, losses, counted=rates.counted, seed=seed, target=target)


def _check_ids(scored: ScoredSet, rates: PassRates) -> None:
    present = pc.is_in(pa.array(rates.ids, pa.string()), value_set=scored.column(ID).combine_chunks())
    absent: Sequence[str] = [
        gc_id for gc_id, here in zip(rates.ids, present.to_pylist(), strict=True) if not here
    ]
    if absent:
        raise InputError(
            f"{len(absent):,} of {len(rates.ids):,} prompts with outcomes are not in {scored.folder}, "
            f"{absent[0]!r} among them: are the outcomes of another set?",
            ids=list(absent),
        )


def _all_rows(scored: ScoredSet, fitted: Predictor) -> tuple[list[str], Floats]:
    """Shard by shard: no more than one shard's embeddings are in memory."""
    ids: list[str] = []
    parts: list[Floats] = []
    for table in scored.tables(fitted.columns):
        ids += table.column(ID).to_pylist()
        parts.append(fitted.rows(table))
    return ids, np.concatenate(parts) if parts else np.zeros(0)
