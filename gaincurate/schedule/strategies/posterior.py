"""Prompts by the chance that their group of rollouts differs, under a Beta posterior of each prompt's pass rate.

A group whose rollouts are all right or all wrong has no gradient. The posterior of prompt i is
Beta(a_i + wins, b_i + losses). Wins and losses fade when the prompt is observed again, because the model changes.
a_i and b_i come from the prompt's labels, from outcomes of earlier runs and from pass rates of other models, as far
as these make the outcomes likely (`evidence`). The value of a prompt is U_G, the chance that G rollouts differ.

By default a round is cut from passes over the set, as with `uniform`: in a pass, a prompt is drawn with chance
min(1, U / U*), or `retest` where that is more. U* is the mean of U over a draw in proportion to U, so that passes
become those of `uniform` where few prompts are silent. A reader may ask why rounds are not drawn by weights, as
in the papers. Independent rounds draw some prompts twice before others were drawn once, which by itself cost 0.7 to
1.4 points of accuracy in the lean study (docs/studies/lean). The papers' own settings are presets.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any, ClassVar

import numpy as np

from gaincurate.core.columns import can_group, coded, fields, read_column
from gaincurate.core.rng import PASSES, Floats, Ints, between, keys_of, largest, permutation, uniforms
from gaincurate.core.schema import ID
from gaincurate.schedule import base
from gaincurate.schedule.base import Json, Observed, Pool
from gaincurate.schedule.context import Context
from gaincurate.schedule.strategies import beta
from gaincurate.schedule.strategies.evidence import JUDGES, Counts, Law, best_labels, crossed, evenly, law_of
from gaincurate.schedule.strategies.posterior_options import AUTO, PosteriorOptions

_CANDIDATES, _TIES, _SAMPLES, _MIXED, _CHANCES = (k << 32 for k in (2, 3, 6, 7, 16))
"""Streams of uniforms. The stream of weighted draws is 0."""
_WEIGHTS = (0.0, 0.25, 0.5, 1.0)
"""Weights that the outcomes of earlier runs and the rates of other models may have."""
_FIRST_WEIGHT = 0.5  # until there are outcomes by which to choose
_ENOUGH = 32
_MOST_LABELS, _MOST_COLUMNS, _SAMPLE = 256, 6, 4096
_AHEAD = 16  # prompts considered at once for one that is drawn
_AT_THE_END = np.uint64(1 << 63)
_TINY = 1e-300


class Posterior(base.Selector):
    """Draws prompts by U_G, the chance that a group differs.

    Args:
        pool: the prompts to draw from.
        options: see `PosteriorOptions`.
    """

    Options: ClassVar[type[base.Options]] = PosteriorOptions
    options: PosteriorOptions
    reads_scores: ClassVar[bool] = False
    takes_evidence: ClassVar[bool] = True

    def __init__(self, pool: Pool, options: PosteriorOptions) -> None:
        super().__init__(pool, options)
        self._counts = np.zeros((2, pool.rows))
        """Faded wins and losses, `[2, rows]`."""
        self._group_size = options.group_size
        """Rollouts per prompt, as observed in the last round."""
        self._law: Law | None = None
        self._labels: tuple[str, ...] = ()
        self._weights: dict[str, float] = {}
        self._source_weights: list[float] = []
        groups = 1 if pool.strata is None else len(pool.strata.names)
        self._places: list[Json] = [{"pass": 0, "cursor": 0, "last": []} for _ in range(groups)]
        """Of each group of `--stratify`: its pass, how many prompts of the pass were considered, and the prompts that
        the round which began it had drawn before, which come last in it."""
        self._expected_groups: float | None = None

    @classmethod
    def goes_by_scores(cls, options: Mapping[str, Any]) -> bool:
        """Only where a score is a label."""
        return any(name.startswith("gc_") for name in PosteriorOptions(**options).columns)

    # Evidence.

    def observe(self, observed: Observed) -> None:
        """Fade the outcomes of the round's prompts, then add the new ones."""
        judged = observed.wins + observed.losses > 0
        rows, wins, losses = observed.rows[judged], observed.wins[judged], observed.losses[judged]
        sizes = (wins + losses)[(wins + losses > 1) | (wins == 0) | (losses == 0)]  # 1: may be a group's mean
        if len(sizes):
            self._group_size = max(2, int(np.median(sizes)))
        self._counts[:, rows] = self.options.memory * self._counts[:, rows] + np.array([wins, losses])
        late, *counts = observed.late
        np.add.at(self._counts, (slice(None), late), np.array(counts))

    def prepare(self, context: Context) -> None:
        """Read labels, earlier outcomes and other models' rates, and fit the law of each prompt to outcomes."""
        options, history = self.options, context.history
        if options.labels == "none" and history is None and context.rates is None:
            return
        outcomes = self._counts if history is None else self._counts + _FIRST_WEIGHT * history
        names = _noticed(context) if options.labels == AUTO else options.columns
        codes = {name: _codes(context, name) for name in names}
        self._labels = tuple(names)
        if options.labels == AUTO:
            self._labels = best_labels(codes, *outcomes, options.prior)
        label = crossed([codes[name] for name in self._labels], self.pool.rows)
        rates = None if context.rates is None else self._rates(context.rates, outcomes)
        judged = (self._counts.sum(0) > 0).sum() >= _ENOUGH
        weights = product(
            *(
                _WEIGHTS if judged else (_FIRST_WEIGHT,) if counts is not None else (0.0,)
                for counts in (history, rates)
            )
        )
        laws = {w: self._fit(label, w, history, rates) for w in weights}
        best = max(laws, key=lambda w: laws[w].fit)
        self._law = laws[best]
        of_sources = zip(("history", "rates"), best, (history, rates), strict=True)
        self._weights = {
            f"{name}_weight": weight for name, weight, counts in of_sources if counts is not None
        }

    def _fit(
        self, label: Ints, weights: tuple[float, ...], history: Counts | None, rates: Counts | None
    ) -> Law:
        """The law where the two sources have these weights."""
        base_counts = np.full((2, 1), self.options.prior)
        if rates is not None:
            base_counts = base_counts + weights[1] * rates
        return law_of(label, *self._counts, base_counts, None if history is None else weights[0] * history)

    def _rates(self, rates: Floats, outcomes: Counts) -> Counts:
        """Other models' pass rates as wins and losses of each prompt, recalibrated on outcomes."""
        from gaincurate.difficulty.rates import calibrate

        rows = evenly(np.flatnonzero(outcomes.sum(0)), JUDGES)
        fitted = calibrate(rates, rows, *outcomes[:, rows])
        self._source_weights = fitted.weights.tolist()
        expected = np.nan_to_num(fitted.expected, nan=0.5)
        strength = np.where(np.isnan(fitted.expected), 0.0, fitted.strength)
        return strength * np.array([expected, 1 - expected])

    def _posterior(self, rows: Ints | slice) -> tuple[Floats, Floats]:
        """Parameters of these rows: a and b, `[rows]`."""
        wins, losses = self._counts[:, rows]
        if self._law is None:
            return self.options.prior + wins, self.options.prior + losses
        return self._law.a[rows] + wins, self._law.b[rows] + losses

    # The draw.

    def draw(self, round_: int) -> Ints:
        """`[budget]` distinct rows."""
        drawn = self._cut(round_) if self.options.draw == "passes" else self._choose(round_)
        a, b = self._posterior(drawn)
        self._expected_groups = float(beta.groups_that_differ(a, b, self._group_size).mean())
        return drawn

    def _worth(self, rows: Ints | slice, round_: int) -> Floats:
        """The value of these rows, `[rows]`; 0 or more unless the best are taken."""
        (a, b), pool, options = self._posterior(rows), self.pool, self.options
        if options.aim == "groups":
            return beta.groups_that_differ(a, b, self._group_size)
        if options.aim == "variance":
            return beta.expected_variance(a, b)

        def numbers(stream: int) -> Floats:
            return uniforms(pool.seed, round_, _SAMPLES + stream, 0, pool.rows)[rows]

        nearness: Floats = -((beta.sample(a, b, numbers) - options.target_pass_rate) ** 2)
        return nearness

    def _cut(self, round_: int) -> Ints:
        """The next prompts of the passes; each group of `--stratify` has passes of its own."""
        pool, worth = self.pool, self._worth(slice(None), round_)
        if pool.strata is None:
            return self._take(self._places[0], pool.budget, worth, 1)
        ranks, quotas = [], pool.strata.quotas(pool.budget, round_).tolist()
        for group, (members, quota) in enumerate(zip(pool.strata.members(), quotas, strict=True)):
            taken = self._take(self._places[group], quota, worth[members], PASSES + group) if quota else []
            ranks.append(members[taken])
        return pool.strata.by_turns(np.concatenate(ranks))

    def _take(self, place: Json, size: int, worth: Floats, stream: int) -> Ints:
        """The next `size` of a group of prompts, as numbers in it, `[size]`."""
        chance = np.clip(
            worth * worth.sum() / np.maximum((worth * worth).sum(), _TINY), self.options.retest, 1
        )
        taken, ends = np.zeros(0, np.int64), 0
        while len(taken) < size:
            keys = keys_of(self.pool.seed, place["pass"], stream, len(worth))
            keys[place["last"]] |= _AT_THE_END
            stop = min(place["cursor"] + _AHEAD * (size - len(taken)), len(worth))
            numbers = between(keys, place["cursor"], stop)
            draws = uniforms(self.pool.seed, place["pass"], _CHANCES + stream, 0, len(worth))
            # After a whole pass within one round, all that were not drawn are.
            able = (draws < chance)[numbers] if ends < 2 else np.ones(len(numbers), bool)
            steps = np.flatnonzero(able & ~np.isin(numbers, taken))[: size - len(taken)]
            taken = np.concatenate([taken, numbers[steps]])
            place["cursor"] = stop if len(taken) < size else place["cursor"] + int(steps[-1]) + 1
            if place["cursor"] == len(worth):
                place |= {"pass": place["pass"] + 1, "cursor": 0, "last": taken.tolist()}
                ends += 1
        return taken

    def _choose(self, round_: int) -> Ints:
        """The best of the candidates, or a draw by weights among them, in a random order."""
        pool, options = self.pool, self.options
        able = np.ones(pool.rows, bool) if pool.strata is None else pool.strata.drawn
        rows = np.flatnonzero(able)
        if options.candidates is not None and options.candidates * pool.budget < len(rows):
            numbers = np.where(able, uniforms(pool.seed, round_, _CANDIDATES, 0, pool.rows), -1)
            rows = np.sort(largest(numbers, options.candidates * pool.budget))
        ties = uniforms(pool.seed, round_, _TIES, 0, pool.rows)
        keys = -1e300 * (1 + ties)  # below all others: a group with too few candidates takes others at random
        worth = self._worth(rows, round_)
        if options.draw == "top":
            # Equal posteriors are equally good, whatever an instruction makes of their last bits.
            keys[rows[np.lexsort((ties[rows], np.round(worth, 12)))]] = np.arange(len(rows))
        else:
            log_weights = np.full(pool.rows, -np.inf)
            log_weights[rows] = np.log(np.maximum(worth, _TINY))
            keys[rows] = pool.noisy(log_weights, round_)[rows]
        drawn = pool.pick(keys, round_)
        if pool.strata is not None and not pool.strata.is_one:
            return drawn  # groups take turns
        # Best first, the first step of a round would have the prompts of few tasks.
        return drawn[permutation(pool.seed, round_, _MIXED, len(drawn))]

    # The run.

    def state_dict(self) -> Json:
        """See `Selector`."""
        rows = np.flatnonzero(self._counts.sum(0))
        wins, losses = self._counts[:, rows].tolist()
        state = {"rows": rows.tolist(), "wins": wins, "losses": losses, "group_size": self._group_size}
        return state | ({"places": self._places} if self.options.draw == "passes" else {})

    def load_state_dict(self, state: Json) -> None:
        """See `Selector`."""
        self._counts[:, np.asarray(state["rows"], np.int64)] = [state["wins"], state["losses"]]
        self._group_size = state["group_size"]
        self._places = [{**place, "last": list(place["last"])} for place in state.get("places", self._places)]

    def metrics(self) -> dict[str, float]:
        """Prompts seen, those all right (`easy`) and all wrong (`hard`) so far, weights of sources, passes, and the
        share of groups expected to differ.
        """
        wins, losses = self._counts
        counts = {
            "seen": int((wins + losses > 0).sum()),
            "easy": int(((wins > 0) & (losses == 0)).sum()),
            "hard": int(((losses > 0) & (wins == 0)).sum()),
        }
        more: dict[str, float] = dict(self._weights)
        if self.options.draw == "passes":
            sizes = [self.pool.rows] if self.pool.strata is None else self.pool.strata.sizes.tolist()
            pairs = zip(self._places, sizes, strict=True)
            more["pass"] = sum((p["pass"] + p["cursor"] / max(n, 1)) * n for p, n in pairs) / self.pool.rows
        if self._expected_groups is not None:
            more["expected_effective"] = self._expected_groups
        return counts | more

    def plan_facts(self, rows: Ints) -> Json:
        """The failure rates that the posterior expects, and the rollouts that each rests on, prior included.

        The next plan compares both with the outcomes. `evidence` names the labels.
        """
        a, b = self._posterior(rows)
        facts: Json = {"predicted": (b / (a + b)).tolist(), "predicted_rollouts": (a + b).tolist()}
        return facts if self._law is None else facts | {"evidence": {"labels": list(self._labels)}}


def _noticed(context: Context) -> list[str]:
    """Columns that may be labels: names, whole numbers or booleans of few values, the first `_MOST_COLUMNS`."""
    sample = context.scored.take(evenly(np.arange(len(context.scored)), _SAMPLE))
    names = []
    for name, kind in fields(sample.schema):
        if can_group(kind) and name != ID and not name.startswith("gc_"):
            distinct = len(read_column(sample, name).unique())
            names += [name] * (2 <= distinct <= min(_MOST_LABELS, len(sample) // 4))
    return names[:_MOST_COLUMNS]


def _codes(context: Context, name: str) -> Ints:
    """A number for each value of a column, from 0, `[rows]`; one for rows without a value."""
    column = context.column(name)
    _, codes = coded(column, len(column))
    assert codes is not None  # a column has no more values than rows
    return codes.astype(np.int64) + 1
