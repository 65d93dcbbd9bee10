"""Prompts by the chance that their group of rollouts differs, under a posterior of each prompt's pass rate.

A group whose rollouts are all right or all wrong has no gradient. The posterior of a prompt is Beta(a +
wins, b + losses). Wins and losses fade when the prompt is observed again, because the model changes. a and
b come from the prompt's labels, from outcomes of earlier training and from pass rates of other models, as
far as these make the outcomes likely. The value of a prompt is U_G, the chance that its G rollouts are
neither all right nor all wrong.

The prior of a prompt with label l is Beta(s m, s (1 - m)), by empirical Bayes. The mean m is the label's pass
rate, drawn towards the mean of all prompts by c rollouts. The strength s is how alike the prompts of the
label are. s and c, which is common to all labels, maximise the likelihood of each prompt's outcomes given
those of the other prompts, so an uninformative label gets a small strength. Unlike a full hierarchical model,
this needs one pass over the outcomes and no approximation. The same likelihood chooses the labels, and the
weights of other sources.

Rounds are cut from passes over the set, as with `uniform`. A pass draws a prompt with the chance
min(1, U / U*), but at least `retest`. U* is the mean of U over a draw in proportion to U, so the passes are
those of `uniform` if few groups are silent. Rounds are not drawn by weights, as in the papers, because
independent rounds draw some prompts twice before others once; the accuracies differ by less than their error
(docs/studies/lean). The papers' settings are presets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from gaincurate.core.columns import can_group, coded, fields, read_column
from gaincurate.core.options import POSTERIOR, Option, names_of
from gaincurate.core.rng import PASSES, Floats, Ints, between, keys_of, largest, permutation, uniforms
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty import beta
from gaincurate.difficulty.embeddings import evenly_spaced
from gaincurate.difficulty.rates import calibrate
from gaincurate.schedule import base
from gaincurate.schedule.base import Context, Json, Observed, Pool
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.groups import check_groups

Aim = Literal["groups", "variance", "thompson"]
_OWN: dict[str, Any] = {"labels": "none", "prior": 1.0}
PRESETS: dict[str, dict[str, Any]] = {
    "variance": {**_OWN, "aim": "variance", "draw": "weights"},
    "mopps": {**_OWN, "aim": "thompson", "draw": "top", "candidates": 16, "memory": 1.0},
    "mapp": {**_OWN, "draw": "weights", "candidates": 8, "memory": 0.5},
}
"""The options that each preset sets apart from the defaults."""
AUTO, NO_LABELS = "auto", "none"
_CANDIDATES, _TIES, _SAMPLES, _MIXED, _CHANCES = (k << 32 for k in (2, 3, 6, 7, 16))
"""Streams of uniforms. The stream of weighted draws is 0."""
_FIRST_WEIGHT = 0.5  # until there are outcomes by which to choose
_WEIGHTS = (_FIRST_WEIGHT, 0.0, 0.25, 1.0)
"""Weights to try for outcomes of earlier training and rates of other models; of equal ones the first wins."""
_ENOUGH = 32
_MOST_VALUES, _MOST_COLUMNS, _SAMPLE = 256, 6, 4096
_AHEAD = 16  # prompts of a pass considered at once for one that is drawn
_AT_THE_END = np.uint64(1 << 63)
_TINY = 1e-300
Counts = Floats
"""Wins and losses, `[2, prompts]`."""

_JUDGES, _CHOOSERS = 2048, 1024  # observed prompts at most by which laws are fitted, and labels chosen
_CROSSED = 3  # columns, the best, that are tried in pairs
_FEWEST = 16  # observed prompts for a choice of labels
_COST = 7.0
"""The log likelihood that a column must gain: it has to make outcomes 1,000 times as likely. The best of six
columns with random values gains 2 at the median, and over 6 in one of 20 sets of 16 to 512 prompts."""
_PULLS = (0.25, 1.0, 4.0, 16.0)  # c
_STRENGTHS = np.array([0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])  # s
_OF_ALL = 4.0  # prompts that the mean likelihood of all labels counts for in the choice of one label's s
_LEAST = 1e-3  # a mean is never 0 or 1


class PosteriorOptions(base.Options):
    """Evidence, the aim, and how a round is drawn. A preset fills the options that are not given."""

    preset: Annotated[
        Literal["variance", "mopps", "mapp"] | None,
        Option("Settings of a published method. Options that you give override them.", POSTERIOR),
    ] = None
    labels: Annotated[
        str,
        Option(
            "Columns that group similar prompts, or none. auto: the columns that predict the first "
            "outcomes best.",
            POSTERIOR,
            metavar="NAME,...",
        ),
    ] = AUTO
    prior: float = Field(default=0.05, ge=1e-9, le=1e9)
    """Wins and losses that every prompt has before it is observed."""
    memory: float = Field(default=0.9, ge=0, le=1)
    """The share of an outcome's weight that remains when the prompt is observed again. 1 forgets nothing."""
    aim: Aim = "groups"
    """The value of a prompt: the chance that its group differs, the mean of p (1 - p), or a
    sample of p near `target_pass_rate`."""
    draw: Literal["passes", "weights", "top"] = "passes"
    """How a round is drawn: in passes without replacement, by weights in each round, or the best."""
    retest: float = Field(default=0.1, gt=0, le=1)
    """Least chance that a pass draws a prompt. 1 makes the passes those of `uniform`."""
    candidates: int | None = Field(default=None, ge=1)
    """A round is chosen from this many times its prompts, at random (`weights`, `top`). Default: from all."""
    group_size: int = Field(default=8, ge=2, le=100_000)
    """Rollouts per prompt, until some were observed."""
    group_sizes: Annotated[
        tuple[int, int] | None,
        BeforeValidator(lambda value: value.split(",") if isinstance(value, str) else value),
    ] = None
    """The least and the most rollouts of a prompt (`4,16`): more where they make it likelier that the group
    differs, with `group_size` as their mean in each batch. Default: the trainer's size for all prompts."""
    target_pass_rate: float = Field(default=0.5, ge=0, le=1)
    """The pass rate that `thompson` aims at."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        settings = PRESETS.get(str(values.get("preset")), {}) if isinstance(values, dict) else {}
        return {**settings, **values} if settings else values

    @model_validator(mode="after")
    def _check_pairs(self) -> PosteriorOptions:
        if self.aim == "thompson" and self.draw != "top":
            raise ValueError("aim thompson takes the best of its samples: give draw=top with it")
        if self.group_sizes and not 1 < self.group_sizes[0] <= self.group_size <= self.group_sizes[1]:
            raise ValueError(
                f"group_sizes are 2 or more and have group_size = {self.group_size}, the trainer's rollouts "
                "per prompt, between them"
            )
        if self.candidates is not None and self.draw == "passes":
            raise ValueError("passes draw among all prompts: leave candidates out, or give draw=weights")
        return self

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        if self.group_sizes is None:  # plans without group sizes do not name the option
            values.pop("group_sizes", None)
        return values

    @property
    def columns(self) -> list[str]:
        """The columns that `labels` names."""
        return [] if self.labels in (AUTO, NO_LABELS) else names_of(self.labels)

    def check_run(self, config: ScheduleConfig, scored: ScoredSet) -> None:
        """Raise InputError if the set lacks a label."""
        for name in self.columns:
            check_groups(scored, name, f"labels = {self.labels}")


class Posterior(base.Selector):
    """Draws prompts by U_G, the chance that a group differs; options as in `PosteriorOptions`."""

    Options: ClassVar[type[base.Options]] = PosteriorOptions
    options: PosteriorOptions
    takes_evidence: ClassVar[bool] = True

    def __init__(self, pool: Pool, options: PosteriorOptions) -> None:
        super().__init__(pool, options)
        self._outcomes: Counts = np.zeros((2, pool.rows))
        """Wins and losses of each row, faded."""
        self._law = Law(np.full((2, pool.rows), options.prior), 0.0)
        self._group_size = options.group_size  # as observed in the last round
        self._codes: dict[str, Ints] | None = None
        """A number for each value of the columns that are or may be labels, by row."""
        self._labels: tuple[str, ...] = ()
        self._weights: dict[str, float] = {}
        self._rates: list[float] = []  # the weight of each other model's rates, of standardised logits
        self._expected_groups: float | None = None
        groups = 1 if pool.strata is None else len(pool.strata.names)
        self._places: list[Json] = [{"pass": 0, "cursor": 0, "last": []} for _ in range(groups)]
        """Of each group of `--stratify`: its pass, how many prompts of the pass were considered, and those
        that the round in which it began had drawn before, which come last."""

    @classmethod
    def goes_by_scores(cls, options: Mapping[str, Any]) -> bool:
        """Whether a score is among the labels."""
        return any(name.startswith("gc_") for name in PosteriorOptions(**options).columns)

    # Evidence.

    def observe(self, observed: Observed) -> None:
        """Fade the outcomes of the round's prompts, and add the new ones."""
        outcomes = np.array([observed.wins, observed.losses])
        judged = outcomes.sum(0) > 0
        rows, outcomes = observed.rows[judged], outcomes[:, judged]
        # A single rollout that is neither right nor wrong may be the mean of a group.
        sizes = outcomes.sum(0)[(outcomes.sum(0) > 1) | (outcomes == 0).any(0)]
        if len(sizes) and self.options.group_sizes is None:
            self._group_size = max(2, int(np.median(sizes)))
        self._outcomes[:, rows] = self.options.memory * self._outcomes[:, rows] + outcomes
        late, *late_outcomes = observed.late
        for counts, added in zip(self._outcomes, late_outcomes, strict=True):
            np.add.at(counts, late, added)

    def prepare(self, context: Context) -> None:
        """Read labels, earlier outcomes and other models' rates, and fit the law of each prompt."""
        options, history, of_others = self.options, context.history, context.rates
        if options.labels == NO_LABELS and history is None and of_others is None:
            return
        outcomes = self._outcomes if history is None else self._outcomes + _FIRST_WEIGHT * history
        if self._codes is None:
            names = _noticed(context) if options.labels == AUTO else options.columns
            self._codes = {name: _codes_of(context, name) for name in names}
        codes, before = self._codes, self._labels
        self._labels = best_labels(codes, outcomes, options.prior) if options.labels == AUTO else tuple(codes)
        if self._labels not in (before, ()):
            context.note(f"prompts with the same {' and '.join(self._labels)} are expected to be alike")
        labels = _crossed([codes[name] for name in self._labels], self.pool.rows)
        rates = None
        if of_others is not None:
            rates, self._rates = _as_outcomes(of_others, outcomes)
        enough = (self._outcomes.sum(0) > 0).sum() >= _ENOUGH
        sources = {name: v for name, v in (("history", history), ("rates", rates)) if v is not None}
        laws = {}
        for weights in product(_WEIGHTS if enough else (_FIRST_WEIGHT,), repeat=len(sources)):
            counts = {name: w * sources[name] for name, w in zip(sources, weights, strict=True)}
            with_rates = options.prior + counts.get("rates", np.zeros((2, 1)))
            laws[weights] = law_of(labels, self._outcomes, with_rates, counts.get("history"))
        best = max(laws, key=lambda weights: laws[weights].fit)
        self._law = laws[best]
        self._weights = {f"{name}_weight": weight for name, weight in zip(sources, best, strict=True)}

    def _posterior(self, rows: Ints | slice) -> Counts:
        """Parameters a and b of these rows, `[2, rows]`."""
        return self._law.counts[:, rows] + self._outcomes[:, rows]

    # The draw.

    def draw(self, round_: int) -> Ints:
        """`[budget]` distinct rows."""
        if self.options.draw == "passes":
            take = partial(self._take, worth=self._worth(slice(None), round_))
            drawn = self.pool.by_groups(round_, take)
        else:
            drawn = self._choose(round_)
        sizes = self._sizes(drawn)
        chances = []
        for size in np.unique(sizes).tolist():
            a, b = self._posterior(drawn[sizes == size])
            chances.append(beta.groups_that_differ(a, b, size))
        self._expected_groups = float(np.concatenate(chances).mean())
        return drawn

    def _sizes(self, rows: Ints) -> Ints:
        """Rollouts of each prompt of a round, `[budget]`, with the trainer's mean in each of its batches."""
        size = self._group_size
        if self.options.group_sizes is None:
            return np.full(len(rows), size)
        batch = self.pool.align_to if self.pool.align_to > 1 else len(rows)
        sizes = []
        for first in range(0, len(rows), batch):
            a, b = self._posterior(rows[first : first + batch])
            sizes.append(beta.group_sizes(a, b, *self.options.group_sizes, size * len(a)))
        return np.concatenate(sizes)

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

    def _take(self, group: int, rows: Ints, size: int, worth: Floats) -> Ints:
        """The next `size` rows, `[size]`, of a group's own passes over its `rows`; `worth` is of all rows."""
        seed, place, count, worth = self.pool.seed, self._places[group], len(rows), worth[rows]
        stream = 1 if self.pool.strata is None else PASSES + group
        chance = np.clip(worth * worth.sum() / np.maximum((worth**2).sum(), _TINY), self.options.retest, 1)
        taken, ends = np.zeros(0, np.int64), 0
        while len(taken) < size:
            keys = keys_of(seed, place["pass"], stream, count)
            keys[place["last"]] |= _AT_THE_END
            stop = min(place["cursor"] + _AHEAD * (size - len(taken)), count)
            numbers = between(keys, place["cursor"], stop)
            able = (uniforms(seed, place["pass"], _CHANCES + stream, 0, count) < chance)[numbers]
            if ends > 1:  # a whole pass within one round: all that were not drawn are
                able[:] = True
            steps = np.flatnonzero(able & ~np.isin(numbers, taken))[: size - len(taken)]
            taken = np.concatenate([taken, numbers[steps]])
            place["cursor"] = stop if len(taken) < size else place["cursor"] + int(steps[-1]) + 1
            if place["cursor"] == count:
                place |= {"pass": place["pass"] + 1, "cursor": 0, "last": taken.tolist()}
                ends += 1
        return rows[taken]

    def _choose(self, round_: int) -> Ints:
        """The best of the candidates, or a draw by weights among them."""
        pool, options = self.pool, self.options
        able = np.ones(pool.rows, bool) if pool.strata is None else pool.strata.drawn
        rows = np.flatnonzero(able)
        if options.candidates is not None and options.candidates * pool.budget < len(rows):
            numbers = np.where(able, uniforms(pool.seed, round_, _CANDIDATES, 0, pool.rows), -1)
            rows = np.sort(largest(numbers, options.candidates * pool.budget))
        ties, worth = uniforms(pool.seed, round_, _TIES, 0, pool.rows), self._worth(rows, round_)
        keys = -1e300 * (1 + ties)  # below all others: a group with too few candidates takes others at random
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
        # In a random order: best first, the first step of a round would have the prompts of few tasks.
        return drawn[permutation(pool.seed, round_, _MIXED, len(drawn))]

    # The run.

    def state_dict(self) -> Json:
        """See `Selector`."""
        rows = np.flatnonzero(self._outcomes.sum(0))
        wins, losses = self._outcomes[:, rows].tolist()
        state: Json = {"rows": rows.tolist(), "wins": wins, "losses": losses}
        state |= {"group_size": self._group_size, "labels": list(self._labels)}
        return state | ({"places": self._places} if self.options.draw == "passes" else {})

    def load_state_dict(self, state: Json) -> None:
        """See `Selector`."""
        self._outcomes[:, np.asarray(state["rows"], np.int64)] = [state["wins"], state["losses"]]
        self._group_size, self._labels = state["group_size"], tuple(state["labels"])
        self._places = [{**place, "last": list(place["last"])} for place in state.get("places", self._places)]

    def metrics(self) -> dict[str, float]:
        """Prompts seen, `easy` (all right) and `hard` ones so far, passes, weights, groups to differ."""
        wins, losses = self._outcomes
        counts: dict[str, float] = {
            "seen": int(((wins > 0) | (losses > 0)).sum()),
            "easy": int(((wins > 0) & (losses == 0)).sum()),
            "hard": int(((losses > 0) & (wins == 0)).sum()),
        }
        if self.options.draw == "passes":
            strata = self.pool.strata
            sizes = [self.pool.rows] if strata is None else (strata.sizes * (strata.parts > 0)).tolist()
            pairs = list(zip(self._places, sizes, strict=True))
            counts["pass"] = sum(p["pass"] * n + p["cursor"] for p, n in pairs if n) / sum(sizes)
        more = {} if self._expected_groups is None else {"expected_effective": self._expected_groups}
        return counts | self._weights | more

    def plan_facts(self, rows: Ints) -> Json:
        """The expected failure rates, and the rollouts that each rests on, prior included.

        The next plan compares both with the outcomes. `evidence` has the labels, and the weight of each other
        model's rates.
        """
        a, b = self._posterior(rows)
        facts: Json = {"predicted": (b / (a + b)).tolist(), "predicted_rollouts": (a + b).tolist()}
        if self.options.group_sizes is not None:
            facts["rollouts"] = self._sizes(rows).tolist()
        evidence = {"labels": list(self._labels), "rates": self._rates}
        return facts | {"evidence": {name: values for name, values in evidence.items() if values}}


def _noticed(context: Context) -> list[str]:
    """Columns that may be labels: names, whole numbers or booleans of few values, the first of them."""
    sample = context.scored.take(evenly_spaced(len(context.scored), _SAMPLE))
    names = []
    for name, kind in fields(sample.schema):
        if can_group(kind) and name != ID and not name.startswith("gc_"):
            distinct = len(read_column(sample, name).unique())
            if 2 <= distinct <= min(_MOST_VALUES, len(sample) // 4):
                names.append(name)
    return names[:_MOST_COLUMNS]


def _codes_of(context: Context, name: str) -> Ints:
    """A number for each value of a column, from 0, `[rows]`; 0 for rows without a value."""
    column = context.column(name)
    _, codes = coded(column, len(column))
    assert codes is not None  # a column has no more values than rows
    return codes.astype(np.int64) + 1


def _as_outcomes(rates: Floats, outcomes: Counts) -> tuple[Counts, list[float]]:
    """Other models' pass rates, recalibrated, as wins and losses of prompts, and the weight of each model."""
    rows = _observed(outcomes, _JUDGES)
    fitted = calibrate(rates, rows, *outcomes[:, rows])
    strength = np.where(np.isnan(fitted.expected), 0.0, fitted.strength)
    expected = np.nan_to_num(fitted.expected)
    return strength * np.array([expected, 1 - expected]), np.round(fitted.weights, 4).tolist()


@dataclass(frozen=True, slots=True)
class Law:
    """Beta parameters of each prompt before its own outcomes, and the log-likelihood of the fit."""

    counts: Counts
    fit: float


def law_of(labels: Ints, outcomes: Counts, base: Counts, history: Counts | None = None) -> Law:
    """The prior of each prompt, by its label.

    The mean of a label leaves out the prompt's own outcomes, because they count for the prompt itself.

    Args:
        labels: `[prompts]`, from 0.
        outcomes: `[2, prompts]`, 0 where nothing was observed.
        base: `[2, prompts]` or `[2, 1]`, wins and losses that prompts have besides, in no label's mean.
        history: `[2, prompts]`, wins and losses in earlier training: part of the mean of a label and of the
            prior of their prompt. Default: none.
    """
    every = outcomes if history is None else outcomes + history
    before = np.broadcast_to(base if history is None else base + history, outcomes.shape)
    if not every.any():
        return Law(before, 0.0)
    size = int(labels.max(initial=0)) + 1
    of_label = np.array([np.bincount(labels, row, size) for row in every])
    mean_of_all = of_label[0].sum() / of_label.sum()

    def means(rows: Ints | slice, pull: float) -> Floats:
        """Of each row's label without the row, `[rows]`."""
        others = np.maximum(of_label[:, labels[rows]] - every[:, rows], 0.0)
        rates: Floats = (others[0] + pull * mean_of_all) / (others.sum(0) + pull)
        return np.clip(rates, _LEAST, 1 - _LEAST)

    # Before this run has outcomes, a law has to make those of earlier training likely.
    judged, given = (outcomes, before) if outcomes.any() else (every, np.broadcast_to(base, outcomes.shape))
    judges = _observed(judged, _JUDGES)
    judged, given = judged[:, judges], given[:, judges]

    def likelihoods(pull: float) -> Floats:
        """Of each judge under each strength, `[strengths, judges]`."""
        rates = means(judges, pull)
        laws = [given + strength * np.array([rates, 1 - rates]) for strength in _STRENGTHS]
        return np.array([beta.log_evidences(*law, *judged) for law in laws])

    by_pull = {pull: likelihoods(pull) for pull in _PULLS}
    pull = max(_PULLS, key=lambda pull: float(by_pull[pull].sum(1).max()))
    fits = by_pull[pull]
    of_labels = np.array([np.bincount(labels[judges], row, size) for row in fits])
    strengths = _STRENGTHS[np.argmax(of_labels + _OF_ALL * fits.mean(1, keepdims=True), axis=0)][labels]
    rates = means(slice(None), pull)
    return Law(before + strengths * np.array([rates, 1 - rates]), float(fits.sum(1).max()))


def best_labels(columns: Mapping[str, Ints], outcomes: Counts, prior: float) -> tuple[str, ...]:
    """The columns whose values, crossed, predict outcomes best, each at a `_COST`: none, one or two of them.

    Args:
        columns: the codes of each column by its name, `[prompts]`.
        outcomes: `[2, prompts]`.
        prior: wins and losses that every prompt has before it is observed.
    """
    seen = _observed(outcomes, _CHOOSERS)
    if len(seen) < _FEWEST:
        return ()

    def fit(names: tuple[str, ...]) -> float:
        labels = _crossed([columns[name][seen] for name in names], len(seen))
        return law_of(labels, outcomes[:, seen], np.full((2, 1), prior)).fit

    fits = {names: fit(names) for names in [(), *((name,) for name in columns)]}
    best = sorted(columns, key=lambda name: -fits[name,])[:_CROSSED]
    fits |= {names: fit(names) for names in combinations([name for name in columns if name in best], 2)}
    return max(fits, key=lambda names: fits[names] - _COST * len(names))


def _crossed(columns: list[Ints], rows: int) -> Ints:
    """A number from 0 for each combination of values that occurs, `[rows]`."""
    labels = np.zeros(rows, np.int64)
    for column in columns:
        labels = labels * (int(column.max(initial=0)) + 1) + column
        labels = np.unique(labels, return_inverse=True)[1].reshape(-1)
    return labels


def _observed(outcomes: Counts, most: int) -> Ints:
    """The rows with outcomes, or `most` of them, evenly spaced."""
    rows = np.flatnonzero(outcomes.sum(0))
    return rows[evenly_spaced(len(rows), most)]
