"""Failure rates for a whole set: takes a scored set and one policy's observations, yields `gc_difficulty`.

Or p (1 - p), which is `gc_variance`. What was observed overrides what is predicted. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import gaincurate
from gaincurate.core.artifact import Json
from gaincurate.difficulty.methods import Method, Predictor, make
from gaincurate.difficulty.pass_rates import PassRates
from gaincurate.difficulty.quality import Quality, Target, quality
from gaincurate.errors import InputError
from gaincurate.schedule.noise import Floats, Ints, permutation
from gaincurate.schema import ID
from gaincurate.scored_set import ScoredSet

if TYPE_CHECKING:
    from gaincurate.difficulty.store import Adapter

COLUMNS: dict[Target, str] = {"difficulty": "gc_difficulty", "variance": "gc_variance"}
_MEANING: dict[Target, str] = {
    "difficulty": "failure rate in [0, 1]: observed where it was, else predicted",
    "variance": "p (1 - p) of the pass rate p: k (G - k) / (G (G - 1)) where it was observed, else predicted",
}
_DRAW = 13  # stream of random numbers


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
        method: see `methods`.
        adapter: for `adapter`.
        group_column: for `group-mean`.
        references: K; all that were observed where those are fewer.
        seed: of the draw.
        target: what to predict. Of p (1 - p), prompts with one rollout tell nothing and are left out.

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


def write(scored: ScoredSet, found: Prediction, folder: Path | None = None) -> None:
    """Put the values beside the set's shards as a computed column (contract 1b), in place of older ones.

    Args:
        scored: the set.
        found: what was predicted.
        folder: write the column's files there instead, with the quality, for one who reads them alone.

    Raises:
        InputError: the set's shards have a column of that name.
        StorageError: the file system refused.
    """
    how = found.how
    if folder is not None:
        others = None if found.on_others is None else asdict(found.on_others)
        how = {**how, "on_references": asdict(found.on_references), "on_others": others}
    scored.add_column(
        COLUMNS[found.target], found.ids, pa.array(found.values, pa.float32()), how, folder=folder
    )


def _quality(predicted: Floats, rates: PassRates, rows: Ints, seed: int, target: Target) -> Quality:
    wins, losses = rates.wins[rows], rates.losses[rows]
    return quality(predicted, wins, losses, counted=rates.counted, seed=seed, target=target)


def _check_ids(scored: ScoredSet, rates: PassRates) -> None:
    known = pc.is_in(pa.array(rates.ids, pa.string()), value_set=scored.column(ID).combine_chunks())
    absent: Sequence[str] = [
        gc_id for gc_id, here in zip(rates.ids, known.to_pylist(), strict=True) if not here
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
