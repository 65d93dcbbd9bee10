"""The groups that a run keeps the shares of (`--stratify`), labelled once when it is started.

Rows that `--where` leaves out are a group too, of which a round has none.

Labels are by row and stay in a file of the run's folder. So a computed column that is written again changes
no run that is under way, and clusters are not made a second time on another machine.

Clusters are for sets that name no source or task: k-means by cosine on half-whitened embeddings, each of the
strongest directions divided by the root of its spread. As they are, a few directions have nearly all of the
variance. Wholly whitened, directions that are mostly noise count as much as those that tell tasks apart, and
clusters agreed less with known tasks. Directions and centres are fitted on a sample in float64, and every row
then goes to the nearest centre.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gaincurate.core.arrow import write_ipc
from gaincurate.core.columns import NO_GROUP, can_group, coded, fields, read_column
from gaincurate.core.files import digest_bytes, digest_json
from gaincurate.core.foreign import json_value
from gaincurate.core.options import near
from gaincurate.core.rng import Floats, Labels, permutation, uniforms
from gaincurate.core.schema import EMBEDDING, ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.where import Mask
from gaincurate.difficulty.embeddings import BLOCK, SAMPLE, matrix, whitening
from gaincurate.errors import InputError
from gaincurate.schedule.config import BY_EMBEDDING, CLUSTERS, ScheduleConfig
from gaincurate.schedule.strata import LEFT_OUT, Strata

_FORMAT = 1
_ABOUT = b"gaincurate.groups"
_SCHEMA = pa.schema([("group", pa.int32())])
_MOST = 10_000

_SAMPLE = 4096  # rows that centres are fitted on; the first 1,024 give the directions
_DIRECTIONS, _EXPONENT = 32, 0.5
_STARTS, _STEPS = 4, 100
_ROWS, _SEEDS = 1 << 34, 1 << 35  # streams of random numbers that are no draws


def build(
    path: Path,
    scored: ScoredSet,
    config: ScheduleConfig,
    matches: Mask | None = None,
    note: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Write the group of each row of a set, by `stratify` and `where`, and note what they are.

    Rows for which `matches`, `[rows]`, does not hold are a group that is never drawn.

    Raises:
        InputError: no such column, one that makes no groups, or weights or a budget that do not go with them.
    """
    by = config.stratify
    labels, names = np.zeros(len(scored), np.int32), ["drawn"]
    if by != "none":
        if by == BY_EMBEDDING:
            labels = cluster(scored, config.clusters or CLUSTERS, config.seed)
            names = [f"cluster {number}" for number in range(int(labels.max()) + 1)]
        else:
            check_groups(scored, by, f"--stratify {by}")
            values, codes = coded(read_column(scored, by), _MOST)
            if values is None or codes is None:
                raise InputError(f"--stratify {by}: it has more than {_MOST:,} groups.", column=by)
            labels, names = codes.astype(np.int32), values
            if (labels < 0).any():
                labels, names = np.where(labels < 0, np.int32(len(names)), labels), [*names, NO_GROUP]
        if len(names) < 2:
            raise InputError(f"--stratify {by}: it has one group only; leave --stratify out.")
    groups = len(names)
    if matches is not None:
        labels, names = np.where(matches, labels, np.int32(groups)), [*names, LEFT_OUT]
    strata = Strata.coded(labels, names, config.group_weights)
    strata.quotas(config.budget, 0)
    labels = np.ascontiguousarray(labels, np.int32)
    about = json.dumps({"format": _FORMAT, "names": names, "digest": _digest(labels, names)})
    table = pa.table({"group": labels}, schema=_SCHEMA.with_metadata({_ABOUT: about}))
    write_ipc(path, table)
    if by == "none":
        return
    largest = np.argsort(-strata.shares[:groups], kind="stable")[:5]
    shown = ", ".join(f"{names[group]} {strata.shares[group]:.1%}" for group in largest)
    more = f" and {groups - 5:,} more" if groups > 5 else ""
    note(f"each round keeps the shares of {groups:,} groups by {by}: {shown}{more}")


def _digest(labels: Labels, names: Sequence[str]) -> str:
    return digest_json([digest_bytes(labels.data), names])


def strata_in(table: pa.Table, weights: Mapping[str, float] | None) -> Strata | None:
    """The groups that `build` wrote, by row, mapped; None where the table is damaged."""
    try:
        about = json_value(table.schema.metadata[_ABOUT])
        labels = table.column("group").chunk(0).to_numpy()
        if about["digest"] == _digest(labels, about["names"]):
            return Strata.coded(labels, about["names"], weights)
    except (LookupError, TypeError, ValueError):
        pass
    return None


def check_groups(scored: ScoredSet, name: str, setting: str) -> None:
    """See that a column of a set holds names of groups, where `setting` is what a person gave.

    Raises:
        InputError: there is no such column, or it holds something else.
    """
    kinds = dict(fields(scored.schema))
    if name not in kinds:
        hint = near(name, [column for column, kind in kinds.items() if can_group(kind)])
        raise InputError(f"{setting}: {scored.folder} has no such column{hint}.", column=name)
    if not can_group(kinds[name]):
        raise InputError(f"{setting}: it holds {kinds[name]}, not names of groups.", column=name)


def cluster(scored: ScoredSet, count: int, seed: int) -> Labels:
    """The cluster of each row, `[rows]`, from 0, the largest first, of `count` clusters at most.

    Clusters with less than an eighth of an even share are dissolved into the others.

    Raises:
        InputError: a row has no embedding.
    """
    rows = permutation(seed, 0, _ROWS, len(scored))[:_SAMPLE]
    sample = matrix(scored.take(rows), scored.folder)
    space = whitening(sample[:SAMPLE], _DIRECTIONS, _EXPONENT)
    points = space(sample.astype(np.float64))
    centres = _dissolve_small(points, _centres(points, count, seed), len(points) / (8 * count))
    blocks = []
    for table in scored.tables([ID, EMBEDDING]):
        for start in range(0, len(table), BLOCK):
            block = matrix(table.slice(start, BLOCK), scored.folder)
            blocks.append(_nearest(space(block.astype(np.float64)), centres).astype(np.int32))
    labels: Labels = np.concatenate(blocks)
    sizes = np.bincount(labels, minlength=len(centres))
    by_size = np.argsort(-sizes, kind="stable")
    places = np.empty(len(sizes), np.int32)
    places[by_size] = np.arange(len(sizes))
    return places[labels]


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
