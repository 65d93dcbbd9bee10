"""The ways to predict, behind one face: takes references, yields a function of a set's rows.

What is predicted is the failure rate, or p (1 - p): the same attention and groups over what was observed.

`adapter` is the paper's, trained; `whitened` and `attention` (on embeddings as they are) train nothing;
`group-mean` is the baseline that they must beat. Knows nothing of what is done with a prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pyarrow as pa

from gaincurate.difficulty.embeddings import BLOCK, matrix, of_ids
from gaincurate.difficulty.quality import Target
from gaincurate.difficulty.whitened import SAMPLE, Space, fit_training_free, whitening
from gaincurate.errors import InputError
from gaincurate.schedule.noise import Floats
from gaincurate.schema import EMBEDDING, ID
from gaincurate.scored_set import ScoredSet

if TYPE_CHECKING:
    from gaincurate.difficulty.store import Adapter

Method = Literal["adapter", "whitened", "attention", "group-mean"]
FEWEST = 3
"""References."""


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
        found, count = [], len(self._failure)
        for group, rate in zip(self._groups, self._failure.tolist(), strict=True):
            total, size = self._sums[group]
            others = (self._failure.sum() - rate) / (count - 1)
            found.append((total - rate) / (size - 1) if size > 1 else others)
        rates: Floats = np.clip(np.array(found, float), 0.0, 1.0)  # rounding may leave [0, 1]
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
