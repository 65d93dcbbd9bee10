"""Training of DOTS' adapter on observed failure rates, and the way there from files.

Prompts are held out for all policies alike, so that no policy shows the adapter what another is tested on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import gaincurate
from gaincurate.core.artifact import Json
from gaincurate.core.rng import Floats, Ints, permutation
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.config import Recipe
from gaincurate.difficulty.embeddings import maker, of_ids
from gaincurate.difficulty.metrics import quality
from gaincurate.difficulty.pass_rates import PassRates
from gaincurate.difficulty.predictor import (
    DifficultyPredictor,
    Shape,
    by_references,
    refuse_other_folder,
    save_adapter,
)
from gaincurate.errors import InputError

_FEWEST = 16  # prompts of a policy to train on
_WARM_UP, _WARM_UP_SHARE = 100, 0.1
_SPLIT, _DRAWS = 11, 12  # streams of random numbers


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy's observations: `rows` of the embeddings, distinct, and their failure rates, `[prompts]`."""

    name: str
    rows: Ints
    failure: Floats


@dataclass(frozen=True, slots=True)
class Fitted:
    """The module in evaluation mode, the rows that it never saw, and the mean loss of each epoch."""

    predictor: DifficultyPredictor
    held_out: Ints
    losses: list[float]


def fit(
    embeddings: Tensor,
    policies: Sequence[Policy],
    shape: Shape,
    recipe: Recipe,
    watch: Callable[[int, int, float], None] = lambda epoch, epochs, loss: None,
) -> Fitted:
    """Train with the mean binary cross-entropy between predicted and observed failure rates.

    Args:
        embeddings: `[rows, width]`, float32.
        policies: at least one.
        shape: of the module.
        recipe: of the training.
        watch: hears of every epoch: its number, how many there are, its mean loss.

    Raises:
        InputError: a policy with too few prompts to train on.
    """
    held_out = split(policies, recipe)
    training = []
    for policy in policies:
        keep = ~np.isin(policy.rows, held_out)
        if keep.sum() < _FEWEST:
            raise InputError(
                f"{policy.name} has {keep.sum()} prompts to train on and {_FEWEST} are needed: observe "
                "more prompts, or predict without training (`gaincurate difficulty predict`)."
            )
        training.append(Policy(policy.name, policy.rows[keep], policy.failure[keep]))
    targets = [torch.from_numpy(policy.failure).to(embeddings.dtype) for policy in training]
    steps = recipe.epochs * sum(1 for _ in batches(training, recipe, 0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed % 2**63)  # of the first weights and of dropout
        predictor = DifficultyPredictor(shape).to(embeddings).train()
        optimiser = torch.optim.Adam(predictor.parameters(), recipe.rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate_at(step, steps))
        losses = []
        for epoch in range(recipe.epochs):
            total = count = 0.0
            for parts in batches(training, recipe, epoch):
                logits, wanted = [], []
                for number, queries, references in parts:
                    rows, target = training[number].rows, targets[number]
                    asked, given = (
                        embeddings[torch.from_numpy(rows[part])] for part in (queries, references)
                    )
                    logits.append(predictor(asked, given, target[torch.from_numpy(references)]))
                    wanted.append(target[torch.from_numpy(queries)])
                loss = functional.binary_cross_entropy_with_logits(torch.cat(logits), torch.cat(wanted))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                size = sum(map(len, wanted))
                total, count = total + loss.item() * size, count + size
            losses.append(total / count)
            watch(epoch + 1, recipe.epochs, losses[-1])
    return Fitted(predictor.eval(), held_out, losses)


def split(policies: Sequence[Policy], recipe: Recipe) -> Ints:
    """The rows that are held out, for all policies alike, sorted."""
    rows = np.unique(np.concatenate([policy.rows for policy in policies]))
    order = permutation(recipe.seed, 0, _SPLIT, len(rows))
    return np.sort(rows[order[: round(recipe.held_out * len(rows))]])


def batches(policies: Sequence[Policy], recipe: Recipe, epoch: int) -> Iterator[list[tuple[int, Ints, Ints]]]:
    """An epoch's batches: every policy's every prompt is a query once, in random order.

    A policy's references are the first K of a new random order of all prompts that it has observed and is not
    asked about in this batch; where there are fewer, all of those.

    Returns:
        For each policy in a batch its number, and places of queries and of references among its prompts.
    """
    owner = np.concatenate([np.full(len(policy.rows), i) for i, policy in enumerate(policies)])
    place = np.concatenate([np.arange(len(policy.rows)) for policy in policies])
    # References are what a batch does not ask about, so it asks about a quarter of a small set at most.
    size = min(recipe.batch, max(1, len(owner) // 4))
    highest = max(int(policy.rows.max()) for policy in policies)
    order = permutation(recipe.seed, epoch, _DRAWS, len(owner))
    for index, start in enumerate(range(0, len(order), size)):
        chosen = order[start : start + size]
        rank = permutation(recipe.seed, epoch, _DRAWS + 1 + index, highest + 1)
        parts = []
        for number in np.unique(owner[chosen]).tolist():
            queries = place[chosen[owner[chosen] == number]]
            others = np.setdiff1d(np.arange(len(policies[number].rows)), queries)
            by_rank = np.argsort(rank[policies[number].rows[others]], kind="stable")
            if len(others):
                parts.append((number, queries, others[by_rank[: recipe.references]]))
        if parts:
            yield parts


def rate_at(step: int, steps: int) -> float:
    """The learning rate's factor at a step from 0."""
    warm = min(_WARM_UP, max(1, int(_WARM_UP_SHARE * steps)))
    return (step + 1) / warm if step < warm else max(0.0, (steps - step) / max(1, steps - warm))


def fit_on(
    folders: Sequence[Path],
    rates: Sequence[PassRates],
    out: Path,
    recipe: Recipe,
    watch: Callable[[int, int, float], None] = lambda epoch, epochs, loss: None,
) -> Json:
    """Fit and save. A policy's held-out prompts are predicted from K random ones of its others.

    Args:
        folders: scored sets with embeddings of one model.
        rates: one for each policy.
        out: the adapter's folder.
        recipe: of the training.
        watch: hears of every epoch.

    Returns:
        `instances`, rates that were trained on, of `prompts` distinct prompts; `losses`, the epochs' means;
        for each of `policies` its `name`, how many prompts were `trained` on, and the `Quality` on its
        `held_out` ones (None where there are too few).

    Raises:
        InputError: sets or outcomes that do not fit together, or too few prompts.
        OutputError: `out` holds something else, or a set is damaged.
        StorageError: the file system refused.
    """
    refuse_other_folder(out)
    sets = [ScoredSet(folder) for folder in folders]
    ids = sorted({gc_id for observed in rates for gc_id in observed.ids})
    matrix, place = of_ids(sets, ids), {gc_id: row for row, gc_id in enumerate(ids)}
    policies = [
        Policy(observed.name, np.array([place[gc_id] for gc_id in observed.ids], np.int64), observed.failure)
        for observed in rates
    ]
    embeddings = torch.from_numpy(matrix)
    fitted = fit(embeddings, policies, Shape(matrix.shape[1]), recipe, watch)
    how = {
        "made_by": f"gaincurate {gaincurate.__version__} difficulty fit",
        "recipe": recipe.model_dump(),
        "sets": [scored.manifest_hash for scored in sets],
        "policies": [
            {"name": observed.name, "prompts": len(observed.ids), "outcomes": observed.source}
            for observed in rates
        ],
        "held_out": [ids[row] for row in fitted.held_out.tolist()],
        "losses": fitted.losses,
    }
    save_adapter(out, fitted.predictor, maker(sets[0]), how)
    reports: list[Json] = []
    for policy, observed in zip(policies, rates, strict=True):
        hidden, figures = np.isin(policy.rows, fitted.held_out), None
        asked, others = np.flatnonzero(hidden), np.flatnonzero(~hidden)
        if len(asked) >= 3:
            chosen = others[permutation(recipe.seed, 1, _SPLIT, len(others))[: recipe.references]]
            with torch.inference_mode():
                references = fitted.predictor.encode(embeddings[torch.from_numpy(policy.rows[chosen])])
            failures = torch.from_numpy(policy.failure[chosen]).to(embeddings.dtype)
            predicted = by_references(fitted.predictor, matrix[policy.rows[asked]], references, failures)
            wins, losses = observed.wins[asked], observed.losses[asked]
            figures = asdict(quality(predicted, wins, losses, counted=observed.counted, seed=recipe.seed))
        reports.append({"name": policy.name, "trained": len(others), "held_out": figures})
    return {
        "instances": sum(report["trained"] for report in reports),
        "prompts": len(ids) - len(fitted.held_out),
        "losses": fitted.losses,
        "policies": reports,
    }
