"""Prompts by a Beta posterior of each one's pass rate: what it has done, and what prompts like it have done.

The posterior of prompt i is Beta(a, b) with a = prior + wins + sum of w_k m_k and b = prior + losses + sum of
w_k (1 - m_k). Wins and losses fade, because the model changes. m_k is a pass rate that another source gives
for the prompt (its neighbours' by embedding, its group's, a prediction), and w_k says how many rollouts that
counts for. Where no weight is given it is the one under which the outcomes so far were likeliest, 0 among
them, so that a worthless source counts for nothing. A source never counts for more rollouts than it saw.

What a prompt is worth (`aim`) are the papers' own equations, in `beta`. Their settings are presets.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from gaincurate.core.rng import Floats, Ints, largest, permutation, uniforms
from gaincurate.difficulty.embeddings import Nearest, evenly_spaced, nearest, whitening
from gaincurate.errors import InputError
from gaincurate.schedule import base
from gaincurate.schedule.base import Json, Mask, Observed, Pool
from gaincurate.schedule.context import Context
from gaincurate.schedule.strategies import beta
from gaincurate.schedule.strategies.posterior_options import PosteriorOptions

_CANDIDATES, _TIES, _SAMPLES, _MIXED = (k << 32 for k in (2, 3, 6, 7))
"""Streams of uniforms. That of weighted draws is 0."""
_WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_FIRST_WEIGHT = 4.0  # until there are outcomes enough to choose one, as ThinkPrior has it
_ENOUGH = 32
_JUDGES = 4096  # the newest observed prompts, by which weights are chosen and of which neighbours are
_NEAR_CANDIDATES = 8_192  # with neighbours a round is chosen among so many, or 8 times its prompts
_TEMPERATURES = (0.03, 0.1, 0.3)  # of the neighbours' kernel exp(cosine / temperature)
_TINY = 1e-300


class Posterior(base.Selector):
    """What a prompt is worth under a posterior of its pass rate.

    Args:
        pool: what is drawn from.
        options: see `PosteriorOptions`.
    """

    Options: ClassVar[type[base.Options]] = PosteriorOptions
    options: PosteriorOptions

    def __init__(self, pool: Pool, options: PosteriorOptions) -> None:
        super().__init__(pool, options)
        self._rows = np.zeros(0, np.int64)
        """Rows with outcomes, sorted. Beside them, `[rows]` each:"""
        self._sums = {"wins": np.zeros(0), "losses": np.zeros(0)}
        """Faded to the last round."""
        self._marks: dict[str, Ints] = {}
        """The last round with outcomes (`last`)."""
        if options.neighbours or options.columns:
            self._marks["last"] = np.zeros(0, np.int64)
        self._groups: Ints | None = None
        """By row: the number of its group, 0 for none."""
        self._predicted: Floats | None = None
        """By row: the predicted pass rate, NaN for none."""
        self._near: tuple[Floats, Floats] | None = None
        """By row: neighbours' pass rate, and the rollouts that it stands on."""
        self._weights: dict[str, float] = {}
        self._expected_groups: float | None = None
        self._group_size = options.group_size
        """Rollouts per prompt, as they came in the last round."""

    @classmethod
    def goes_by_scores(cls, options: Mapping[str, Any]) -> bool:
        """Embeddings are what the model gave, and so is a column of its own."""
        checked = PosteriorOptions(**options)
        return checked.neighbours > 0 or any(name.startswith("gc_") for name in checked.columns)

    # What is known.

    def observe(self, observed: Observed) -> None:
        """Fade what is known, then add what came back."""
        options, judged = self.options, observed.wins + observed.losses > 0
        rows, wins, losses = observed.rows[judged], observed.wins[judged], observed.losses[judged]
        fresh = {"wins": wins, "losses": losses}
        sizes = (wins + losses)[(wins + losses > 1) | (wins == 0) | (losses == 0)]  # 1: may be a group's mean
        if len(sizes):
            self._group_size = int(np.median(sizes))
        places, seen = self._places(rows)
        fading: slice | Ints = slice(None) if options.fade == "rounds" else places[seen]
        for sums in self._sums.values():
            sums[fading] *= options.memory
        marks = {}
        if "last" in self._marks:
            marks["last"] = np.full(len(rows), observed.round)
        self._add(rows, fresh, marks)
        late, late_wins, late_losses = observed.late
        judged = late_wins + late_losses > 0
        self._add(late[judged], {"wins": late_wins[judged], "losses": late_losses[judged]}, {})

    def _places(self, rows: Ints) -> tuple[Ints, Mask]:
        """Where rows are among those with outcomes, and which of them are there."""
        places = np.searchsorted(self._rows, rows)
        there = places < len(self._rows)
        there[there] = self._rows[places[there]] == rows[there]
        return places, there

    def _add(self, rows: Ints, sums: Mapping[str, Floats], marks: Mapping[str, Ints]) -> None:
        every, places = np.unique(np.concatenate([self._rows, rows]), return_inverse=True)
        old, new = places[: len(self._rows)], places[len(self._rows) :]
        for name, values in self._sums.items():
            added = sums.get(name)
            total = np.zeros(len(every))
            total[old] = values
            if added is not None:
                total += np.bincount(new, added, len(every))
            self._sums[name] = total
        for name, numbers in self._marks.items():
            marked = np.zeros(len(every), np.int64)
            marked[old] = numbers
            if name in marks:
                marked[new] = marks[name]
            self._marks[name] = marked
        self._rows = every

    def _dense(self, name: str, rows: Ints) -> Floats:
        """One of the sums for each of these rows, 0 where nothing is known."""
        values = np.zeros(len(rows))
        places, there = self._places(rows)
        values[there] = self._sums[name][places[there]]
        return values

    def _newest(self, count: int) -> Ints:
        """Places of the rows with outcomes that were seen last, at most so many, in order."""
        size = min(count, len(self._rows))
        last = self._marks.get("last", np.zeros(len(self._rows), np.int64)).astype(np.float64)
        return np.sort(largest(last, size))

    # What others say of a prompt.

    def prepare(self, context: Context) -> None:
        """Read columns, find neighbours, and weigh what they say by the outcomes so far."""
        options = self.options
        if options.group_column is not None:
            column = context.column(options.group_column).combine_chunks()
            codes = pc.fill_null(column.dictionary_encode().indices.cast("int64"), -1)
            self._groups = codes.to_numpy(zero_copy_only=False) + 1
        if options.prior_column is not None:
            values = context.column(options.prior_column).to_numpy()
            self._predicted = _pass_rates(values, options.prior_column)
        if options.neighbours and len(self._rows) > 1:
            self._near = self._neighbours(context)
        self._weights = self._weigh()

    def _neighbours(self, context: Context) -> tuple[Floats, Floats]:
        """Neighbours' pass rates by row, NaN where they are not needed, and their rollouts."""
        pool, options = self.pool, self.options
        space = whitening(context.embeddings(evenly_spaced(pool.rows)))
        of_observed = self._newest(_JUDGES)
        observed_rows = self._rows[of_observed]

        def points(rows: Ints) -> Floats:
            return space(context.embeddings(rows).astype(np.float64))

        observed = points(observed_rows)
        wins, losses = self._sums["wins"][of_observed], self._sums["losses"][of_observed]

        def near(units: Floats, rows: Ints) -> Nearest:
            return nearest(units, rows, observed, observed_rows, options.neighbours)

        among = near(observed, observed_rows)

        def likelihood(temperature: float) -> float:
            means, rollouts = among.rates(wins, losses, temperature)
            weight = np.minimum(_FIRST_WEIGHT, rollouts)
            a, b = options.prior + weight * means, options.prior + weight * (1 - means)
            return beta.log_evidence(a, b, wins, losses)

        temperature = max(_TEMPERATURES, key=likelihood)
        rates, rollouts = np.full(pool.rows, np.nan), np.zeros(pool.rows)
        rates[observed_rows], rollouts[observed_rows] = among.rates(wins, losses, temperature)
        others = np.setdiff1d(self._candidates(context.round), observed_rows, assume_unique=True)
        if len(others):
            of_others = near(points(others), others)
            rates[others], rollouts[others] = of_others.rates(wins, losses, temperature)
        return rates, rollouts

    def _sources(self, rows: Ints, wins: Floats, losses: Floats) -> dict[str, tuple[Floats, Floats]]:
        """What others say of these rows: a pass rate each, and the most rollouts that it can count for."""
        sources = {}
        if self._predicted is not None:
            rates = self._predicted[rows]
            sources["prior"] = np.nan_to_num(rates), np.where(np.isnan(rates), 0.0, np.inf)
        if self._groups is not None:
            codes, of_seen = self._groups[rows], self._groups[self._rows]
            size = int(self._groups.max(initial=0)) + 1
            sums = [np.bincount(of_seen, self._sums[name], size)[codes] for name in ("wins", "losses")]
            # A prompt's own outcomes count once, for itself. What subtraction leaves of rounding is nothing.
            others = [np.where(part > 1e-9, part, 0.0) for part in (sums[0] - wins, sums[1] - losses)]
            rollouts = np.where(codes > 0, others[0] + others[1], 0.0)
            rates = np.divide(others[0], rollouts, out=np.zeros_like(rollouts), where=rollouts > 0)
            sources["group"] = rates, rollouts
        if self._near is not None:
            rates, rollouts = self._near[0][rows], self._near[1][rows]
            sources["neighbour"] = np.nan_to_num(rates), np.where(np.isnan(rates), 0.0, rollouts)
        return sources

    def _weigh(self) -> dict[str, float]:
        """How many rollouts each source counts for: as given, or under which outcomes were likeliest."""
        options = self.options
        given = {
            "prior": options.prior_weight, "group": options.group_weight,
            "neighbour": options.neighbour_weight,
        }  # fmt: skip
        judges = self._newest(_JUDGES)
        wins, losses = self._sums["wins"][judges], self._sums["losses"][judges]
        sources = self._sources(self._rows[judges], wins, losses)
        weights: dict[str, float] = {}
        for name in sources:
            weight = given[name]
            weights[name] = _FIRST_WEIGHT if weight is None else weight
        if len(judges) < _ENOUGH:
            return weights

        def likelihood(name: str, weight: float) -> float:
            prior = np.full(len(judges), options.prior)
            a, b = _with(sources, weights | {name: weight}, prior, prior)
            return beta.log_evidence(a, b, wins, losses)

        for name in 2 * [name for name in sources if given[name] is None]:  # twice, now beside others
            weights[name] = max(_WEIGHTS, key=partial(likelihood, name))
        return weights

    def _posterior(self, rows: Ints) -> tuple[Floats, Floats]:
        """Parameters of these rows: a and b, `[rows]`."""
        wins, losses = self._dense("wins", rows), self._dense("losses", rows)
        sources = self._sources(rows, wins, losses)
        return _with(sources, self._weights, self.options.prior + wins, self.options.prior + losses)

    # The draw.

    def draw(self, round_: int) -> Ints:
        """`[budget]` distinct rows."""
        pool, options = self.pool, self.options
        rows = self._candidates(round_)
        a, b = self._posterior(rows)
        keys = np.full(pool.rows, -np.inf)
        if options.top:
            ties = uniforms(pool.seed, round_, _TIES, 0, pool.rows)[rows]
            # Equal posteriors are equally good, whatever an instruction makes of their last bits.
            by_worth = np.lexsort((ties, np.round(self._worth(rows, a, b, round_), 12)))
            keys[rows[by_worth]] = np.arange(len(rows))
        else:
            keys[rows] = options.power * np.log(np.maximum(self._worth(rows, a, b, round_), _TINY))
            keys = pool.noisy(keys, round_)
        if len(rows) < pool.rows:
            keys = np.where(keys == -np.inf, self._spare(round_), keys)
        drawn = pool.pick(keys, round_, self._floors(rows, a, b))
        a, b = self._posterior(drawn)
        self._expected_groups = float(beta.groups_that_differ(a, b, self._group_size).mean())
        return self._mixed(drawn, round_)

    def _mixed(self, drawn: Ints, round_: int) -> Ints:
        """Drawn rows in a random order: best first, a round's first step would have the prompts of few tasks.

        With strata the groups take turns already.
        """
        strata = self.pool.strata
        if not (strata is None or strata.is_one):
            return drawn
        return drawn[permutation(self.pool.seed, round_, _MIXED, len(drawn))]

    def _candidates(self, round_: int) -> Ints:
        """The rows that a round is chosen among, sorted."""
        pool, options = self.pool, self.options
        able = np.ones(pool.rows, bool) if pool.strata is None else pool.strata.drawn
        size = pool.rows
        if options.candidates is not None:
            size = options.candidates * pool.budget
        elif options.neighbours:
            size = max(_NEAR_CANDIDATES, 8 * pool.budget)
        if size >= able.sum():
            return np.flatnonzero(able)
        numbers = uniforms(pool.seed, round_, _CANDIDATES, 0, pool.rows)
        numbers[~able] = -1
        return np.sort(largest(numbers, size))

    def _spare(self, round_: int) -> Floats:
        """Keys below all others, `[rows]`: a group that has too few candidates takes others at random."""
        keys: Floats = -1e300 * (1 + uniforms(self.pool.seed, round_, _TIES, 0, self.pool.rows))
        return keys

    def _worth(self, rows: Ints, a: Floats, b: Floats, round_: int) -> Floats:
        """What these rows are worth, `[rows]`; 0 or more unless the best are taken."""
        pool, options = self.pool, self.options
        if options.aim == "thompson":

            def numbers(stream: int) -> Floats:
                return uniforms(pool.seed, round_, _SAMPLES + stream, 0, pool.rows)[rows]

            nearness: Floats = -((beta.sample(a, b, numbers) - options.target_pass_rate) ** 2)
            return nearness
        if options.aim == "expected":
            worth = beta.expected_variance(a, b)
        elif options.aim == "mean":
            worth = beta.variance_of_mean(a, b)
        else:
            worth = beta.groups_that_differ(a, b, options.group_size)
        return worth

    def _floors(self, rows: Ints, a: Floats, b: Floats) -> list[tuple[Mask, float]]:
        """The ranks that have a share of the round, and the share."""
        options, mean = self.options, a / (a + b)
        _, seen = self._places(rows)
        floors = []
        for which, share in (
            (~seen, options.unseen),
            (seen & (mean >= 0.9), options.easy),
            (seen & (mean <= 0.1), options.hard),
        ):
            mask = np.zeros(self.pool.rows, bool)
            mask[rows[which]] = True
            floors.append((mask, share))
        return floors

    # The run.

    def state_dict(self) -> Json:
        """See `Selector`. Only what the options need is in it."""
        state: Json = {"rows": self._rows.tolist()}
        state |= {name: values.tolist() for name, values in {**self._sums, **self._marks}.items()}
        return state

    def load_state_dict(self, state: Json) -> None:
        """See `Selector`."""
        self._rows = np.asarray(state["rows"], np.int64)
        self._sums = {name: np.asarray(state[name], float) for name in self._sums}
        self._marks = {name: np.asarray(state[name], np.int64) for name in self._marks}

    def metrics(self) -> dict[str, float]:
        """Prompts seen, those all right (`easy`) and all wrong (`hard`) so far, weights of sources, and the
        share of groups expected to differ.
        """
        wrong, right = self._sums["wins"] == 0, self._sums["losses"] == 0
        counts = {
            "seen": len(self._rows),
            "easy": int((right & ~wrong).sum()),
            "hard": int((wrong & ~right).sum()),
        }
        more = {f"{name}_weight": weight for name, weight in self._weights.items()}
        if self._expected_groups is not None:
            more["expected_effective"] = self._expected_groups
        return counts | more

    def plan_facts(self, rows: Ints) -> Json:
        """The failure rates that the posterior expects, and the rollouts that each rests on, prior included.

        The next plan compares both with what came.
        """
        a, b = self._posterior(rows)
        return {"predicted": (b / (a + b)).tolist(), "predicted_rollouts": (a + b).tolist()}


def _with(
    sources: Mapping[str, tuple[Floats, Floats]], weights: Mapping[str, float], a: Floats, b: Floats
) -> tuple[Floats, Floats]:
    """Posteriors with what sources say, each for its weight and for no more rollouts than it stands on."""
    for name, (rates, rollouts) in sources.items():
        weight = np.minimum(weights[name], rollouts)
        a, b = a + weight * rates, b + weight * (1 - rates)
    return a, b


def _pass_rates(failure: npt.NDArray[Any], column: str) -> Floats:
    """Pass rates of a column of failure rates, `[rows]`, NaN for none.

    Raises:
        InputError: it has other values.
    """
    try:
        rates: Floats = 1 - np.asarray(failure, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"prior_column = {column}: it holds no numbers.", column=column) from error
    outside = np.flatnonzero((rates < 0) | (rates > 1))
    if len(outside):
        raise InputError(
            f"prior_column = {column}: row {outside[0]} has {failure[outside[0]]:g}, and failure rates are "
            "from 0 to 1.",
            column=column,
        )
    return rates
