"""Clusters of prompts by what the model makes of them, for sets that name no source or task.

K-means by cosine on half-whitened embeddings: each of the strongest directions is divided by the root of its
spread. As they are, a few directions have nearly all of the variance. Wholly whitened, directions that are
mostly noise count as much as those that tell tasks apart, and clusters agreed less with known tasks.
Directions and centres are fitted on a sample in float64, and every row then goes to the nearest centre.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gaincurate.core.rng import Floats, Labels, permutation, uniforms
from gaincurate.core.schema import EMBEDDING, ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.embeddings import matrix

SAMPLE, OF_DIRECTIONS = 4096, 1024  # rows that centres are fitted on, and directions
_DIRECTIONS = 32
_STARTS, _STEPS = 4, 100
_BLOCK = 1 << 14  # rows that are assigned at once
_ROWS, _SEEDS = 1 << 34, 1 << 35  # streams of random numbers that are no draws

_Points = Callable[[npt.NDArray[np.float32]], Floats]


def cluster(scored: ScoredSet, count: int, seed: int) -> Labels:
    """The cluster of each row, `[rows]`, from 0, the largest first.

    Clusters with less than an eighth of an even share are dissolved into the others.

    Args:
        scored: a set with embeddings.
        count: clusters at most.
        seed: of the sample and of the first centres.

    Raises:
        InputError: a row has no embedding.
    """
    rows = permutation(seed, 0, _ROWS, len(scored))[:SAMPLE]
    sample = matrix(scored.take(rows), scored.folder)
    to_points = _whitening(sample[:OF_DIRECTIONS])
    points = to_points(sample)
    centres = _dissolve_small(points, _centres(points, count, seed), len(points) / (8 * count))
    blocks = []
    for table in scored.tables([ID, EMBEDDING]):
        for start in range(0, len(table), _BLOCK):
            block = matrix(table.slice(start, _BLOCK), scored.folder)
            blocks.append(_nearest(to_points(block), centres).astype(np.int32))
    labels: Labels = np.concatenate(blocks)
    sizes = np.bincount(labels, minlength=len(centres))
    by_size = np.argsort(-sizes, kind="stable")
    places = np.empty(len(sizes), np.int32)
    places[by_size] = np.arange(len(sizes))
    return places[labels]


def _whitening(sample: npt.NDArray[np.float32]) -> _Points:
    """What makes half-whitened unit vectors of embeddings, `[rows, width]` to `[rows, directions]`."""
    mean = sample.mean(0, dtype=np.float64)
    _, spread, axes = np.linalg.svd(sample - mean, full_matrices=False)
    keep = spread[:_DIRECTIONS] > 1e-6 * max(spread[0], 1e-30)
    directions = (
        axes[:_DIRECTIONS][keep] / np.sqrt(spread[:_DIRECTIONS][keep, None])
    ).T  # [width, directions]

    def to_points(embeddings: npt.NDArray[np.float32]) -> Floats:
        points = (embeddings - mean) @ directions
        units: Floats = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-30)
        return units

    return to_points


def _nearest(points: Floats, centres: Floats) -> npt.NDArray[np.intp]:
    """The nearest centre of each point, `[points]`."""
    nearest: npt.NDArray[np.intp] = np.argmin((centres * centres).sum(1) - 2 * points @ centres.T, axis=1)
    return nearest


def _centres(points: Floats, count: int, seed: int) -> Floats:
    """Centres of k-means, `[count or fewer, directions]`: the best of some starts, spread as by k-means++."""
    best, least = points[:1], np.inf
    for start in range(_STARTS):
        draws = uniforms(seed, start, _SEEDS, 0, count)
        centres = points[[int(draws[0] * len(points))]]
        distance = ((points - centres[0]) ** 2).sum(1)
        for draw in draws[1:]:
            if distance.sum() <= 1e-12 * len(points):  # no further point is apart from a centre
                break
            further = np.searchsorted(np.cumsum(distance), draw * distance.sum())
            centres = np.vstack([centres, points[min(further, len(points) - 1)]])
            distance = np.minimum(distance, ((points - centres[-1]) ** 2).sum(1))
        centres = _settled(points, centres)
        cost = float(((points - centres[_nearest(points, centres)]) ** 2).sum())
        if cost < least:
            best, least = centres, cost
    return best


def _settled(points: Floats, centres: Floats) -> Floats:
    """Centres that are the means of their points; those that lose all of theirs are gone."""
    labels = np.full(len(points), -1)
    for _ in range(_STEPS):
        nearest = _nearest(points, centres)
        if np.array_equal(nearest, labels):
            break
        _, labels = np.unique(nearest, return_inverse=True)
        sums = np.zeros((labels.max() + 1, points.shape[1]))
        np.add.at(sums, labels, points)
        centres = sums / np.bincount(labels)[:, None]
    return centres


def _dissolve_small(points: Floats, centres: Floats, least: float) -> Floats:
    """Centres that all have so many points at least. The smallest goes first, its points to the others."""
    while len(centres) > 1:
        sizes = np.bincount(_nearest(points, centres), minlength=len(centres))
        if sizes.min() >= least:
            break
        centres = _settled(points, np.delete(centres, sizes.argmin(), axis=0))
    return centres
