"""Groups of prompts that keep their shares of every round, whatever a strategy prefers.

Each group has its quota of a round, and the strategy chooses within. Quotas go by the round alone and not by
what was drawn before, so a run that is restored has the same ones. Over the rounds each group
is less than one prompt away from its share: rounding by itself would leave small groups out for good.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from gaincurate.core.options import near
from gaincurate.core.rng import Floats, Ints, Labels
from gaincurate.errors import InputError

LEFT_OUT = "(left out by --where)"
"""The group of rows that are never drawn."""
_WHOLE = 1 << 31
"""Given weights as whole parts of this, so that quotas are exact sums on every machine."""


@dataclass(frozen=True, slots=True)
class Strata:
    """The group of each prompt, and the share of each group in a round.

    `labels` `[rows]` is the group of each rank, `sizes` `[groups]` how many prompts each group has, `parts`
    `[groups]` its share of a round in whole parts of their sum.
    """

    labels: Labels
    names: tuple[str, ...]
    sizes: Ints
    parts: Ints

    @classmethod
    def coded(
        cls, labels: Labels, names: Sequence[str], weights: Mapping[str, float] | None = None
    ) -> Strata:
        """Groups of prompts by their places in the names, `[rows]`, by rank.

        Without weights (see `parts_of`) each group has the share of a round that it has of the prompts.
        """
        sizes = np.bincount(labels, minlength=len(names)).astype(np.int64)
        if weights is not None and LEFT_OUT in names:
            weights = {**weights, LEFT_OUT: 0}
        parts = sizes if weights is None else parts_of(weights, names)
        parts = np.where(np.array(names) == LEFT_OUT, 0, parts)
        return cls(labels, tuple(names), sizes, parts)

    @property
    def is_one(self) -> bool:
        """Whether there are no groups but of rows that are drawn and rows that never are."""
        return len(self.names) - (LEFT_OUT in self.names) == 1

    @property
    def drawn(self) -> npt.NDArray[np.bool_]:
        """The ranks that are not left out for good, `[rows]`."""
        drawn: npt.NDArray[np.bool_] = (np.array(self.names) != LEFT_OUT)[self.labels]
        return drawn

    @property
    def shares(self) -> Floats:
        """Each group's share of a round, `[groups]`, as far as it has so many prompts."""
        shares: Floats = self.parts / self.parts.sum()
        return shares

    def by_rank(self, rows: Ints) -> Strata:
        """The same groups over another order, by the place in `labels` of each rank, `[rows]`."""
        return replace(self, labels=self.labels[rows])

    def members(self) -> list[Ints]:
        """The ranks of each group, ascending."""
        # A stable sort of 16 bits is a radix sort: a tenth of the time over ten million ranks.
        labels = self.labels.astype(np.int16) if len(self.names) < 1 << 15 else self.labels
        return np.split(np.argsort(labels, kind="stable"), np.cumsum(self.sizes)[:-1])

    def by_turns(self, ranks: Ints) -> Ints:
        """Distinct ranks in an order in which any stretch has about the shares that all have.

        Those of one group stay in their order.
        """
        labels = self.labels[ranks]
        by_group = np.argsort(labels, kind="stable")
        counts = np.bincount(labels, minlength=len(self.names))
        place = np.arange(len(ranks)) - np.repeat(np.cumsum(counts) - counts, counts)
        turn = (place + 0.5) / np.repeat(counts, counts)
        return ranks[by_group[np.argsort(turn, kind="stable")]]

    def quotas(self, budget: int, round_: int, room: Ints | None = None) -> Ints:
        """The number of prompts of each group in a round, `[groups]`, `budget` in all.

        Added up over the rounds, a group has its share of all prompts, rounded up or down. Which shares are
        rounded up in a round is a proportionate fair schedule of the rests (Anderson and Srinivasan, Mixed
        Pfair/ERfair scheduling, J. Computer and System Sciences 68, 2004). A group whose share is over its
        size gives all that it has, and the others share the rest.

        Args:
            budget: prompts in a round.
            round_: from 0.
            room: `[groups]`, how many prompts can be taken this time. What a group cannot give goes to the
                others in proportion. Default: all.

        Raises:
            InputError: the groups with a share have fewer prompts.
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
                quotas[groups[_FairTurns.over(rest[groups].tobytes(), total, extra).of(round_)]] += 1
        return quotas if room is None else self._within(quotas, room, budget)

    def _within(self, quotas: Ints, room: Ints, budget: int) -> Ints:
        """Quotas of which none is over its room."""
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


class _FairTurns:
    """The groups that get one more prompt in a round, by a proportionate fair schedule, round by round."""

    def __init__(self, rest: Ints, total: int, extra: int) -> None:
        # Each group's next prompt has a window of rounds: it falls due when the rests add up to it. Taking
        # the earliest end alone can fail for rests over a half, so ties go as in algorithm PD2.
        self._rest, self._total, self._extra = rest, total, extra
        self._heavy = 2 * rest >= total
        self._left_out = np.where(self._heavy, total - rest, total)
        self._taken, self._next = np.zeros_like(rest), 0
        self._now: Ints = np.zeros(0, np.int64)

    @staticmethod
    @lru_cache(maxsize=16)
    def over(rest: bytes, total: int, extra: int) -> _FairTurns:
        """The schedule of these rests, which goes on where it was in a process that plans several rounds."""
        return _FairTurns(np.frombuffer(rest, np.int64), total, extra)

    def of(self, round_: int) -> Ints:
        """The groups of a round, `[extra]`."""
        if round_ < self._next - 1:
            self._taken, self._next = np.zeros_like(self._rest), 0
        rest, total, left_out = self._rest, self._total, self._left_out
        for turn in range(self._next, round_ + 1):
            may = rest * (turn + 1) > self._taken * total
            end, over = np.divmod((self._taken + 1) * total, rest)
            end += over > 0
            cascade = np.where(self._heavy, -(-end * left_out // total), 0) * total
            cascade = -(-cascade // left_out)
            self._now = np.lexsort((-cascade, over == 0, end, ~may))[: self._extra]
            self._taken[self._now] += 1
        self._next = round_ + 1
        return self._now


def parts_of(weights: Mapping[str, float], names: Sequence[str]) -> Ints:
    """Each group's share of a round in whole parts of their sum, `[groups]`.

    Args:
        weights: of each group by its name, 0 or more, in any unit: `{"code": 3, "math": 7}` is 30 % code.
        names: of all groups.

    Raises:
        InputError: a name that is no group's, a group without a weight, or weights that are no shares.
    """
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
