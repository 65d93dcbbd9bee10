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
from gaincurate.difficulty.embeddings import BLOCK, Matrix, matrix, see_same_maker
from gaincurate.difficulty.methods import Fitted, Inputs, Seen
from gaincurate.difficulty.predictor import Adapter, DifficultyPredictor, probability


class ByAdapter:
    """`adapter`: the trained attention and calibration, which are for failure rates.

    Args:
        adapter: fitted.
        scored: the set; its embeddings must be of the model that the adapter was fitted on.

    Raises:
        InputError: embeddings of another model.
    """

    def __init__(self, adapter: Adapter, scored: ScoredSet) -> None:
        if EMBEDDING in scored.schema.names:
            see_same_maker(scored, adapter.embedding)
        self.columns = [ID, EMBEDDING]
        self._folder, self._adapter = scored.folder, adapter

    def read(self, table: pa.Table) -> Matrix:
        """The embeddings."""
        return matrix(table, self._folder)

    def fit(self, inputs: Inputs, seen: Seen) -> Fitted:
        """See `methods.Method`."""
        return _OnReferences(self._adapter, inputs, seen.values)


class _OnReferences:
    def __init__(self, adapter: Adapter, embeddings: Matrix, values: Floats) -> None:
        self._predictor = adapter.predictor
        self._values = torch.from_numpy(values).float()
        with torch.inference_mode():
            self._references = self._predictor.encode(torch.from_numpy(embeddings))
        self.facts: dict[str, Any] = {"adapter": adapter.digest, "shape": asdict(adapter.predictor.shape)}

    def __call__(self, inputs: Inputs) -> Floats:
        return by_references(self._predictor, inputs, self._references, self._values)

    @torch.inference_mode()
    def leave_one_out(self) -> Floats:
        others = ~torch.eye(len(self._values), dtype=torch.bool)
        logits = self._predictor.mix(self._references, self._references, self._values, others)
        return probability(logits).double().numpy()


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
