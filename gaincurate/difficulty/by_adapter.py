"""Prediction with a trained adapter.

Apart from `predict` because it is the one method that needs torch: the others, and all that reads their
names, work on a base install.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gaincurate.core.rng import Floats
from gaincurate.core.schema import EMBEDDING, ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.embeddings import BLOCK, Matrix, maker, matrix, of_ids
from gaincurate.difficulty.metrics import Target
from gaincurate.difficulty.predictor import Adapter, DifficultyPredictor, attend, probability
from gaincurate.difficulty.training_free import calibrated, fit_calibration
from gaincurate.errors import InputError


class ByAdapter:
    """The trained predictor.

    Args:
        adapter: fitted.
        scored: the set; its embeddings must be of the model that the adapter was fitted on.
        ids: the references.
        failure: their observed failure rates.
        target: with `variance`, `failure` is their p (1 - p). The attention is the trained one; its
            calibration is for failure rates, so another is fitted on references predicted from the others.

    Raises:
        InputError: embeddings of another model.
    """

    def __init__(
        self,
        adapter: Adapter,
        scored: ScoredSet,
        ids: Sequence[str],
        failure: Floats,
        target: Target = "difficulty",
    ) -> None:
        embedding = maker(scored)
        if embedding["width"] is not None and embedding != adapter.embedding:
            raise InputError(
                f"the adapter was fitted on embeddings of {_named(adapter.embedding)}, and {scored.folder} "
                f"has those of {_named(embedding)}; score with that model, or fit again."
            )
        self.columns = [ID, EMBEDDING]
        self.facts: dict[str, Any] = {"adapter": adapter.digest, "shape": asdict(adapter.predictor.shape)}
        self._folder, self._predictor = scored.folder, adapter.predictor
        self._failure = torch.from_numpy(failure).float()
        self._embeddings = torch.from_numpy(of_ids([scored], ids))
        with torch.inference_mode():
            self._references = self._predictor.encode_references(self._embeddings)
        self._calibration: tuple[float, float] | None = None
        if target == "variance":
            w, b = self._calibration = fit_calibration(self._attended_alone(), failure)
            self.facts |= {"w": w, "b": b}

    def rows(self, table: pa.Table) -> Floats:
        """See `predict.Predictor`."""
        queries = matrix(table, self._folder)
        if self._calibration is None:
            return by_references(self._predictor, queries, self._references, self._failure)
        parts = [self._attended(block) for block in torch.from_numpy(queries).split(BLOCK)]
        return calibrated(np.concatenate(parts) if parts else np.zeros(0), *self._calibration)

    @torch.inference_mode()
    def leave_one_out(self) -> Floats:
        """See `predict.Predictor`."""
        if self._calibration is not None:
            return calibrated(self._attended_alone(), *self._calibration)
        queries = self._predictor.encode(self._embeddings)
        logits = self._predictor.mix(queries, self._references, self._failure, self._others())
        return probability(logits).double().numpy()

    def _others(self) -> torch.Tensor:
        return ~torch.eye(len(self._failure), dtype=torch.bool)

    def _attended_alone(self) -> Floats:
        """Of each reference the mean over the others."""
        return self._attended(self._embeddings, self._others())

    @torch.inference_mode()
    def _attended(self, embeddings: torch.Tensor, seen: torch.Tensor | None = None) -> Floats:
        """The references' mean under the trained attention, before any calibration."""
        queries = self._predictor.encode(embeddings)
        return attend(queries, self._references, self._failure, seen).double().numpy()


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
