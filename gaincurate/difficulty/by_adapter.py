"""Prediction with a trained adapter.

Apart from `predict` because it is the one method that needs torch: the others, and all that reads their
names, work on a base install.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gaincurate.core.rng import Floats
from gaincurate.core.schema import EMBEDDING, ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.embeddings import BLOCK, Matrix, maker, matrix
from gaincurate.difficulty.methods import Fitted, Inputs, Seen
from gaincurate.difficulty.predictor import Adapter, DifficultyPredictor, attend, probability
from gaincurate.difficulty.training_free import calibrated, fit_calibration
from gaincurate.errors import InputError


class ByAdapter:
    """`adapter`: the trained attention, and a calibration.

    The trained calibration takes w and b from the references' mean and spread. It was trained for failure
    rates of other policies, so p (1 - p) has no use for it. With `calibrate` w and b are instead those with
    which each reference is best predicted from the others, for either target. That is the same fit as
    `training_free`'s, and no reference calibrates its own prediction as in the authors' released code.

    Args:
        adapter: fitted.
        scored: the set; its embeddings must be of the model that the adapter was fitted on.
        calibrate: whether w and b are fitted to the references.

    Raises:
        InputError: embeddings of another model.
    """

    def __init__(self, adapter: Adapter, scored: ScoredSet, *, calibrate: bool = False) -> None:
        embedding = maker(scored)
        if embedding["width"] is not None and embedding != adapter.embedding:
            raise InputError(
                f"the adapter was fitted on embeddings of {_named(adapter.embedding)}, and {scored.folder} "
                f"has those of {_named(embedding)}; score with that model, or fit again."
            )
        self.columns = [ID, EMBEDDING]
        self._folder, self._adapter, self._calibrate = scored.folder, adapter, calibrate

    def read(self, table: pa.Table) -> Matrix:
        """The embeddings."""
        return matrix(table, self._folder)

    def fit(self, inputs: Inputs, seen: Seen) -> Fitted:
        """See `methods.Method`."""
        return _OnReferences(self._adapter, inputs, seen.values, self._calibrate)


class _OnReferences:
    def __init__(self, adapter: Adapter, embeddings: Matrix, values: Floats, calibrate: bool) -> None:
        self._predictor = adapter.predictor
        self._embeddings = torch.from_numpy(embeddings)
        self._values = torch.from_numpy(values).float()
        with torch.inference_mode():
            self._references = self._predictor.encode(self._embeddings)
        self.facts: dict[str, Any] = {"adapter": adapter.digest, "shape": asdict(adapter.predictor.shape)}
        self._calibration: tuple[float, float] | None = None
        if calibrate:
            w, b = self._calibration = fit_calibration(self._attended_alone(), values)
            self.facts |= {"w": w, "b": b}

    def __call__(self, inputs: Inputs) -> Floats:
        if self._calibration is None:
            return by_references(self._predictor, inputs, self._references, self._values)
        return calibrated(self._attended(torch.from_numpy(inputs)), *self._calibration)

    @torch.inference_mode()
    def leave_one_out(self) -> Floats:
        if self._calibration is not None:
            return calibrated(self._attended_alone(), *self._calibration)
        queries = self._predictor.encode(self._embeddings)
        logits = self._predictor.mix(queries, self._references, self._values, self._others())
        return probability(logits).double().numpy()

    def _others(self) -> torch.Tensor:
        return ~torch.eye(len(self._values), dtype=torch.bool)

    def _attended_alone(self) -> Floats:
        """Of each reference the mean over the others."""
        return self._attended(self._embeddings, self._others())

    @torch.inference_mode()
    def _attended(self, embeddings: torch.Tensor, seen: torch.Tensor | None = None) -> Floats:
        """The references' mean under the trained attention, before any calibration."""
        queries = self._predictor.encode(embeddings)
        return attend(queries, self._references, self._values, seen).double().numpy()


@torch.inference_mode()
def by_references(
    predictor: DifficultyPredictor, queries: Matrix, references: torch.Tensor, failure: torch.Tensor
) -> Floats:
    """Failure rates of `queries` `[rows, width]` from adapted `references` `[K, hidden]`, in blocks."""
    parts = [
        probability(predictor.mix(predictor.encode(block), references, failure)).double().numpy()
        for block in torch.from_numpy(queries).split(BLOCK)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def _named(embedding: dict[str, Any]) -> str:
    return f"{embedding['model']} ({embedding['width']} wide, weights {str(embedding['weights'])[:8]})"
