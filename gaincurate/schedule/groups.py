"""The groups whose shares a run keeps (`--stratify`), labelled once when it is started.

Each group has its quota of a round, and the strategy chooses within the group. Quotas depend only on the
round, so a restored run has the same ones. Summed over the rounds, each group is less than one prompt away
from its share: plain rounding would leave small groups out for good. Rows that `--where` leaves out are a
group too, with a quota of 0.

Labels are by row, in a file of the run's folder. So a computed column that is written again changes no run
that is under way, and clusters are not computed a second time on another machine.

Clusters are for sets that name no source or task: k-means by cosine on half-whitened embeddings, each of the
strongest directions divided by the root of its spread. Without whitening, a few directions have nearly all of
the variance; with full whitening, directions of noise count as much, and clusters agreed less with known
tasks. Directions and centres are fitted on a sample in float64; then every row goes to the nearest centre.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gaincurate.core.arrow import write_ipc
from gaincurate.core.columns import NO_GROUP, can_group, coded, fields, read_column
from gaincurate.core.files import digest_bytes, digest_json
from gaincurate.core.foreign import json_value
from gaincurate.core.options import near
from gaincurate.core.rng import Floats, Ints, Labels, permutation, uniforms
from gaincurate.core.schema import EMBEDDING, ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.where import Mask
from gaincurate.difficulty.embeddings import BLOCK, SAMPLE, matrix, whitening
from gaincurate.errors import InputError
from gaincurate.schedule.config import BY_EMBEDDING, CLUSTERS, ScheduleConfig

LEFT_OUT = "(left out by --where)"
"""The group of rows that are never drawn."""
_WHOLE = 1 << 31  # given weights are whole parts of this, so that quotas are exact sums on every machine
_ABOUT = b"gaincurate.groups"
_MOST = 10_000

_SAMPLE = 4096  # rows that centres are fitted on; the first 1,024 give the directions
_DIRECTIONS, _EXPONENT = 32, 0.5
_STARTS, _STEPS = 4, 100
_ROWS, _SEEDS = 1 << 34, 1 << 35  # streams of random numbers that are no draws


@dataclass(frozen=True, slots=True)
class PromptGroups:
    """The group of each prompt, and the share of each group in a round.

    `labels` `[rows]` is the group of each rank, `sizes` `[groups]` the number of prompts of each group, and
    `parts` `[groups]` an integer each; a group's share of a round is `parts / parts.sum()`.
    """

    labels: Labels
    names: tuple[str, ...]
    sizes: Ints
    parts: Ints

    @classmethod
    def coded(
        cls, labels: Labels, names: Sequence[str], weights: Mapping[str, float] | None = None
    ) -> PromptGroups:
        """Groups from labels, `[rows]` by rank, each the index of a name.

        `weights` are the groups' shares of a round in any unit: `{"code": 3, "math": 7}` is 30 % code. By
        default a group has its share of the prompts. Raises InputError for a name of no group, a group
        without a weight, or weights that are no shares.
        """
        sizes = np.bincount(labels, minlength=len(names)).astype(np.int64)
        parts = sizes if weights is None else _parts(weights, [name for name in names if name != LEFT_OUT])
        if LEFT_OUT in names:  # the last of them
            parts = np.append(parts[: len(names) - 1], 0)
        return cls(labels, tuple(names), sizes, parts)

    @property
    def is_one(self) -> bool:
        """Whether all rows that may be drawn are one group."""
        return len(self.names) - (LEFT_OUT in self.names) == 1

    @property
    def drawn(self) -> npt.NDArray[np.bool_]:
        """Whether each rank may be drawn, `[rows]`: `--where` does not leave it out."""
        drawn: npt.NDArray[np.bool_] = (np.array(self.names) != LEFT_OUT)[self.labels]
        return drawn

    def by_rank(self, rows: Ints) -> PromptGroups:
        """The same groups over another order, by the place in `labels` of each rank, `[rows]`."""
        return replace(self, labels=self.labels[rows])

    def members(self) -> list[Ints]:
        """The ranks of each group, ascending."""
        # A stable sort of 16 bits is a radix sort: a tenth of the time over ten million ranks.
        labels = self.labels.astype(np.int16) if len(self.names) < 1 << 15 else self.labels
        return np.split(np.argsort(labels, kind="stable"), np.cumsum(self.sizes)[:-1])

    def by_turns(self, ranks: Ints) -> Ints:
        """Distinct ranks reordered so that any part of them has about the shares of the whole.

        The ranks of a group stay in their order.
        """
        labels = self.labels[ranks]
        by_group = np.argsort(labels, kind="stable")
        counts = np.bincount(labels, minlength=len(self.names))
        place = np.arange(len(ranks)) - np.repeat(np.cumsum(counts) - counts, counts)
        turn = (place + 0.5) / np.repeat(counts, counts)
        return ranks[by_group[np.argsort(turn, kind="stable")]]

    def quotas(self, budget: int, round_: int, room: Ints | None = None) -> Ints:
        """The number of prompts of each group in a round, `[groups]`, which add up to `budget`.

        Summed over the rounds, a group has its share of all prompts, rounded up or down. A proportionate fair
        schedule of the remainders decides which shares a round rounds up (Anderson and Srinivasan, Mixed
        Pfair/ERfair scheduling, J. Computer and System Sciences 68, 2004). A group whose share exceeds its
        size gives all its prompts, and the others share the rest.

        `room` `[groups]` is the number of prompts that can be taken this time, by default all. What a group
        lacks comes from the others in proportion. Raises InputError if the groups with a share have fewer
        prompts in all.
        """
        whole = np.zeros(len(self.parts), bool)  # groups of which all is taken
        while True:
            parts = np.where(whole, 0, self.parts)
            budget_left = budget - int(self.sizes[whole].sum())
            too_small = (parts > 0) & (parts * budget_left >= self.sizes * parts.sum())
            if not too_small.any():
                break
            whole |= too_small
        if budget_left > 0 and not parts.any():
            raise self._too_few(budget, int(self.sizes[self.parts > 0].sum()))
        quotas = np.where(whole, self.sizes, 0)
        if budget_left > 0:
            total = int(parts.sum())
            share, rest = np.divmod(parts * budget_left, total)  # whole prompts, and rest / total
            quotas += share
            if extra := int(rest.sum() // total):  # prompts that the rests make together
                (groups,) = np.nonzero(rest)
                quotas[groups[_fair_turns(rest[groups].tobytes(), total, extra)(round_)]] += 1
        if room is None:
            return quotas
        quotas = np.minimum(quotas, room)
        more = np.zeros_like(quotas)
        for _ in range(budget - int(quotas.sum())):
            may = (quotas < room) & (self.parts > 0)
            if not may.any():
                raise self._too_few(budget, int(room[self.parts > 0].sum()))
            group = np.argmax(np.where(may, self.parts / (2 * more + 1), 0))
            quotas[group] += 1
            more[group] += 1
        return quotas

    def _too_few(self, budget: int, count: int) -> InputError:
        return InputError(
            f"a round has {budget:,} prompts, and the groups with a weight over 0 have {count:,} to draw "
            "from; take a smaller budget, or give more groups a weight."
        )


@lru_cache(maxsize=16)
def _fair_turns(rest_bytes: bytes, total: int, extra: int) -> Callable[[int], Ints]:
    """The groups that get one more prompt in a round, by a proportionate fair schedule of the remainders.

    A process that plans several rounds resumes the schedule from the last round.
    """
    # Each group's next prompt has a window of rounds: it falls due when the rests add up to it. Taking
    # the earliest end alone can fail for rests over a half, so ties go as in algorithm PD2.
    rest = np.frombuffer(rest_bytes, np.int64)
    heavy = 2 * rest >= total
    left_out = np.where(heavy, total - rest, total)
    taken, begun, now = np.zeros_like(rest), 0, np.zeros(0, np.int64)

    def groups_of(round_: int) -> Ints:
        nonlocal taken, begun, now
        if round_ < begun - 1:
            taken, begun = np.zeros_like(rest), 0
        for turn in range(begun, round_ + 1):
            may = rest * (turn + 1) > taken * total
            end, over = np.divmod((taken + 1) * total, rest)
            end += over > 0
            cascade = np.where(heavy, -(-end * left_out // total), 0) * total
            now = np.lexsort((-cascade // left_out, over == 0, end, ~may))[:extra]
            taken[now] += 1
        begun = round_ + 1
        return now

    return groups_of


def _parts(weights: Mapping[str, float], names: Sequence[str]) -> Ints:
    """Each group's share of a round in whole parts of their sum, `[groups]`."""
    if other := weights.keys() - set(names):
        raise InputError(
            f"--group-weights: there is no group {min(other)!r}{near(min(other), names)}; there are "
            f"{', '.join(names[:5])}."
        )
    if missing := [name for name in names if name not in weights]:
        raise InputError(f"--group-weights has no weight for {', '.join(missing[:3])}; 0 leaves a group out.")
    largest = max(weights.values())
    if not (min(weights.values()) >= 0 and 0 < largest < math.inf):
        raise InputError("--group-weights: weights are numbers from 0, and one of them is over 0.")
    unit = largest if largest > _WHOLE else 1.0  # so that their sum is a number
    total = math.fsum(weight / unit for weight in weights.values())
    return np.array([math.ceil(weights[name] / unit / total * _WHOLE) for name in names], np.int64)


def build(
    path: Path, scored: ScoredSet, config: ScheduleConfig, matches: Mask | None, note: Callable[[str], None]
) -> None:
    """Write the group of each row of a set, by `stratify` and `where`, and note the groups' shares.

    Rows for which `matches`, `[rows]`, is false are a group that is never drawn. Raises InputError if there
    is no such column, it makes no groups, or the weights or the budget do not fit them.
    """
    by = config.stratify
    if by == "none":
        labels, names = np.zeros(len(scored), np.int32), ["drawn"]
    elif by == BY_EMBEDDING:
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
    groups = len(names)
    if groups < 2 and by != "none":
        raise InputError(f"--stratify {by}: it has one group only; leave --stratify out.")
    if matches is not None:
        labels, names = np.where(matches, labels, np.int32(groups)), [*names, LEFT_OUT]
    strata = PromptGroups.coded(labels, names, config.group_weights)
    strata.quotas(config.budget, 0)
    labels = np.ascontiguousarray(labels, np.int32)
    about = json.dumps({"format": 1, "names": names, "digest": _digest(labels, names)})
    schema = pa.schema([("group", pa.int32())], {_ABOUT: about})
    write_ipc(path, pa.table({"group": labels}, schema=schema))
    if by != "none":
        shares = strata.parts[:groups] / strata.parts.sum()
        largest = np.argsort(-shares, kind="stable")[:5]
        shown = ", ".join(f"{names[group]} {shares[group]:.1%}" for group in largest)
        more = f" and {groups - 5:,} more" if groups > 5 else ""
        note(f"each round keeps the shares of {groups:,} groups by {by}: {shown}{more}")


def _digest(labels: Labels, names: Sequence[str]) -> str:
    return digest_json([digest_bytes(labels.data), names])


def strata_in(table: pa.Table, weights: Mapping[str, float] | None) -> PromptGroups | None:
    """The groups that `build` wrote, by row, mapped; None if the table is damaged."""
    try:
        about = json_value(table.schema.metadata[_ABOUT])
        labels = table.column("group").chunk(0).to_numpy()
        if about["digest"] == _digest(labels, about["names"]):
            return PromptGroups.coded(labels, about["names"], weights)
    except (LookupError, TypeError, ValueError):
        pass
    return None


def check_groups(scored: ScoredSet, name: str, setting: str) -> None:
    """Raise InputError if there is no such column of group names in a set; `setting` is the user's option."""
    kinds = dict(fields(scored.schema))
    if name not in kinds:
        hint = near(name, [column for column, kind in kinds.items() if can_group(kind)])
        raise InputError(f"{setting}: {scored.folder} has no such column{hint}.", column=name)
    if not can_group(kinds[name]):
        raise InputError(f"{setting}: it holds {kinds[name]}, not names of groups.", column=name)


def cluster(scored: ScoredSet, count: int, seed: int) -> Labels:
    """The cluster of each row, `[rows]`, from 0, the largest first, of `count` clusters at most.

    A cluster with less than an eighth of an even share is dissolved into the others. Raises InputError if a
    row has no embedding.
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
    by_size = np.argsort(-np.bincount(labels, minlength=len(centres)), kind="stable")
    return np.argsort(by_size).astype(np.int32)[labels]


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
    """Centres that are the means of their points; a centre that loses all its points is removed."""
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
    """Centres with at least `least` points each. The smallest goes first, and the others take its points."""
    while len(centres) > 1:
        sizes = np.bincount(_nearest(points, centres), minlength=len(centres))
        if sizes.min() >= least:
            break
        centres = _settled(points, np.delete(centres, sizes.argmin(), axis=0))
    return centres
