"""The predictors of docs/difficulty.md: each takes what K references showed, yields a value for every prompt.

What is predicted is any number from 0 to 1 that was observed on the references: the failure rate, or
4 p (1 - p) with p the pass rate seen. Signals that need no rollouts (length, angle, NLL) stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from gaincurate.difficulty.config import Recipe
from gaincurate.difficulty.predictor import AdapterShape, Policy, by_references, fit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float32]
PENALTIES = np.logspace(-4, 3, 29)


@dataclass(frozen=True)
class World:
    """All prompts, `[n]`: task, embedding `[n, width]`, signals, and successes of two sets of rollouts."""

    task: npt.NDArray[np.str_]
    embeddings: Matrix
    signals: dict[str, Floats]
    first: Ints
    fresh: Ints
    rollouts: int


Predict = Callable[[World, Ints, Floats], Floats]
"""World, references `[K]`, what was observed on them `[K]`: values of all prompts, `[n]`."""


def task_mean(world: World, references: Ints, observed: Floats) -> Floats:
    """The references' mean in each task."""
    found = np.full(len(world.task), observed.mean())
    for task in np.unique(world.task[references]):
        found[world.task == task] = observed[world.task[references] == task].mean()
    return found


def ridge(world: World, references: Ints, observed: Floats) -> Floats:
    """Linear in the centred embedding; the penalty with the smallest leave-one-out error."""
    mean = world.embeddings[references].mean(0, dtype=np.float64)
    x, whole = world.embeddings[references] - mean, world.embeddings - mean
    y = observed - observed.mean()
    # Dual form: the kernel's eigenvectors give the fit and the leave-one-out errors for every penalty.
    values, vectors = np.linalg.eigh(x @ x.T)
    values, projected = np.maximum(values, 0), vectors.T @ y
    best: tuple[float, Floats] | None = None
    for penalty in PENALTIES * values.mean():
        shrunk = values / (values + penalty)
        # The mean that was taken off is a parameter too: 1 / K of each row's leverage.
        leverage = (vectors**2 * shrunk).sum(1) + 1 / len(y)
        error = float(np.mean(((y - vectors @ (shrunk * projected)) / np.maximum(1 - leverage, 1e-6)) ** 2))
        if best is None or error < best[0]:
            best = error, vectors @ (projected / (values + penalty))
    assert best is not None
    return np.clip(whole @ (x.T @ best[1]) + observed.mean(), 0, 1)


def adapter(world: World, references: Ints, observed: Floats, epochs: int = Recipe().epochs) -> Floats:
    """`difficulty fit` on the references alone, none held out, and `--method adapter` from the same ones."""
    known = world.embeddings[references]
    policy = Policy("the policy", np.arange(len(references)), observed)
    recipe = Recipe(epochs=epochs, held_out=0.0)
    made = fit(torch.from_numpy(known), [policy], AdapterShape(known.shape[1]), recipe)[0]
    return by_references(made, known, observed)(world.embeddings)


CHEAP: dict[str, Predict] = {
    "task mean": task_mean,
    "ridge": ridge,
}
