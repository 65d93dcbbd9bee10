"""Fitting from files: takes scored sets and observed pass rates, yields an adapter's folder and a report.

Prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gaincurate
from gaincurate.difficulty.config import Recipe
from gaincurate.difficulty.embeddings import maker, of_ids
from gaincurate.difficulty.fit import Fitted, Policy, fit, held_out_predictions
from gaincurate.difficulty.pass_rates import PassRates
from gaincurate.difficulty.predictor import Shape
from gaincurate.difficulty.quality import Quality, quality
from gaincurate.difficulty.store import refuse_other_folder, save_adapter
from gaincurate.scored_set import ScoredSet


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """One policy: prompts trained on, and the quality on its held-out ones (None where there are too few)."""

    name: str
    trained: int
    held_out: Quality | None


@dataclass(frozen=True, slots=True)
class FitReport:
    """`instances` rates were trained on, of `prompts` distinct prompts; `losses` are the epochs' means."""

    instances: int
    prompts: int
    losses: list[float]
    policies: list[PolicyReport]


def fit_on(
    folders: Sequence[Path],
    rates: Sequence[PassRates],
    out: Path,
    recipe: Recipe,
    options: Mapping[str, Any],
    watch: Callable[[int, int, float], None] = lambda epoch, epochs, loss: None,
) -> FitReport:
    """Fit and save.

    Args:
        folders: scored sets with embeddings of one model.
        rates: one for each policy.
        out: the adapter's folder.
        recipe: of the training.
        options: of `Shape`, beside the width.
        watch: hears of every epoch.

    Raises:
        InputError: sets or outcomes that do not fit together, or too few prompts.
        OutputError: `out` holds something else, or a set is damaged.
        StorageError: the file system refused.
    """
    refuse_other_folder(out)
    sets = [ScoredSet(folder) for folder in folders]
    ids = sorted({gc_id for one in rates for gc_id in one.ids})
    embeddings = torch.from_numpy(of_ids(sets, ids))
    place = {gc_id: row for row, gc_id in enumerate(ids)}
    policies = [
        Policy(one.name, np.array([place[gc_id] for gc_id in one.ids], np.int64), one.failure)
        for one in rates
    ]
    fitted = fit(embeddings, policies, Shape(embeddings.shape[1], **options), recipe, watch)
    how = {
        "made_by": f"gaincurate {gaincurate.__version__} difficulty fit",
        "recipe": recipe.model_dump(),
        "sets": [one.manifest_hash for one in sets],
        "policies": [{"name": one.name, "prompts": len(one.ids), "outcomes": one.source} for one in rates],
        "held_out": [ids[row] for row in fitted.held_out.tolist()],
        "losses": fitted.losses,
    }
    save_adapter(out, fitted.predictor, maker(sets[0]), how)
    reports = [
        _report(fitted, embeddings, policy, one, recipe) for policy, one in zip(policies, rates, strict=True)
    ]
    held = len(fitted.held_out)
    return FitReport(sum(report.trained for report in reports), len(ids) - held, fitted.losses, reports)


def _report(
    fitted: Fitted, embeddings: torch.Tensor, policy: Policy, rates: PassRates, recipe: Recipe
) -> PolicyReport:
    hidden = np.isin(policy.rows, fitted.held_out)
    if hidden.sum() < 3:
        return PolicyReport(policy.name, int((~hidden).sum()), None)
    rows, predicted = held_out_predictions(fitted, embeddings, policy, recipe)
    found = quality(predicted, rates.wins[rows], rates.losses[rows], counted=rates.counted, seed=recipe.seed)
    return PolicyReport(policy.name, int((~hidden).sum()), found)
