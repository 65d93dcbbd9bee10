"""Forecasts the gain of choosing prompts from a few hundred references before a training.

The true pass rates of the references are estimated first, as a mixture of binomials. Uniform sampling and the
oracle follow from the mixture. Strategies draw in simulated trainings without a model, whose policy stays as
it is now. A policy that learns makes outcomes outdated, so their forecast is an upper bound. In a simulated
set, pass rates depend on labels, earlier training and other models' rates to the degree to which these let
strategy `posterior` predict the outcomes of held-out references.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from gaincurate.core.columns import read_column
from gaincurate.core.options import READING, Option
from gaincurate.core.outcomes import Rules
from gaincurate.core.rng import Floats, Ints, permutation, uniforms
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.beta import groups_that_differ
from gaincurate.difficulty.embeddings import matrix
from gaincurate.difficulty.methods import read_rates
from gaincurate.difficulty.pass_rates import PassRates, of_rollouts
from gaincurate.difficulty.predict import rows_of
from gaincurate.difficulty.rollout_set import is_rollout_set
from gaincurate.errors import InputError
from gaincurate.schedule import base
from gaincurate.schedule.config import Names
from gaincurate.schedule.observations import REPLAY, Note, count_history, pass_rates_of, silent

Grid = npt.NDArray[np.float64]

GRID: Grid = np.linspace(0.0, 1.0, 201)
"""Pass rates that the mixture is of, 0 and 1 among them."""
SILENT = 0.2
"""A prompt whose group differs with a lower chance hardly teaches. Outcomes of a few rollouts cannot
distinguish a much lower chance from none."""
_RESAMPLES = 200
_STEPS = np.array([60] + [20, 150] * (_RESAMPLES // 2))
"""Of expectation maximisation, for the estimate and for each resample. Few steps leave a mixture too smooth,
many leave a few spikes and bias the shares. Intervals include both."""
_WORLDS = 40  # simulated trainings
_PROMPTS = 4096  # of a simulated set: the strategies' shares do not depend on its size
_STREAM = 17  # of random numbers that nothing else here uses
_FOLDS = 8
_GROUPS, _OF_A_GROUP = 8, 32  # groups of references by what is expected of them, and of how many at least
FEWEST = 30
"""Prompts with rollouts that a forecast needs at least."""
LITTLE_WASTE, NO_WASTE = 1 / 2, 1 / 3
"""Of uniform's groups: if less is wasted, exact p (1 - p) gained little or nothing in our trainings."""
WORTH = 1.2
"""Groups that differ per token as a multiple of uniform's; below this, a choice is not recommended."""


class ForecastConfig(BaseModel):
    """Options of `gaincurate difficulty forecast`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scored: Annotated[Path, Option("A finished scored set.", metavar="SCORED", argument=True, stores=True)]
    outcomes: Annotated[
        Path,
        Option(
            "Rollouts of a random sample of its prompts (`difficulty rollout --reference`).",
            names=("--rollouts",),
            alias="--outcomes",
        ),
    ]
    group: Annotated[int, Field(ge=2, le=100_000), Option("Rollouts per prompt in the training.")] = 8
    budget: Annotated[
        int | None, Field(ge=1), Option("Prompts of a round. Default: a twentieth of the set.")
    ] = None
    rounds: Annotated[int, Field(ge=1), Option("Rounds to look ahead.")] = 12
    strategies: Annotated[
        list[str],
        Option(
            "Strategies to try, with their default options; may be repeated. All learn from outcomes only.",
            names=("--strategy",),
        ),
    ] = ["posterior"]
    rates: Annotated[
        Names,
        Option("As in `schedule start`: pass rates of other models.", READING, metavar="NAME,...", read=str),
    ] = Field(default_factory=list)
    history: Annotated[
        list[Path], Option("As in `schedule start`: outcomes of earlier training. May be repeated.", READING)
    ] = Field(default_factory=list)
    success: Annotated[
        float | None,
        Field(gt=0, le=1),
        Option("Count a rollout as right if its reward is at least this.", READING),
    ] = None


@dataclass(frozen=True, slots=True)
class Share:
    """An estimate and its 95 % interval over samples of references; see docs/difficulty.md."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Reach:
    """The share of a strategy's groups that `differ`, and its ratio to uniform's (`times`)."""

    strategy: str
    differ: Share
    times: Share


@dataclass(frozen=True, slots=True)
class EvidenceSource:
    """Evidence from before a training, and how well it `tells` apart prompts whose groups do not differ.

    Take the prompts that it expects to differ least, as large a share as is wasted. `tells` is the share of
    their groups that do not differ, scaled: 0 is the share of all prompts, 1 that of the prompts which true
    pass rates would name.
    """

    name: str
    tells: Share


@dataclass(frozen=True, slots=True)
class Forecast:
    """The result of `forecast`.

    `silent` is the share of prompts of which a group differs with a chance below `SILENT`. `hopeless` is the
    share that is silent and fails. `wasted` is the share of a uniform step's groups that do not differ.
    """

    references: int
    rollouts: int
    group: int
    budget: int
    silent: Share
    hopeless: Share
    wasted: Share
    uniform: Reach
    oracle: Reach
    strategies: list[Reach]
    sources: list[EvidenceSource]
    advice: list[str]


def read_references(config: ForecastConfig) -> PassRates:
    """Pass rates of the newest policy in `--rollouts`.

    Raises InputError if they cannot be read, OutputError for an unfinished or damaged rollout set.
    """
    if is_rollout_set(config.outcomes):
        return of_rollouts(config.outcomes, config.success)
    if config.success is not None:
        raise InputError(f"--success goes with a rollout set, and {config.outcomes} is none.")
    return pass_rates_of(config.outcomes, scored=ScoredSet(config.scored))[-1]


def chance_to_differ(rates: Floats, group: int) -> Floats:
    """1 - p^G - (1 - p)^G: the chance that a group of G rollouts has a success and a failure."""
    return 1.0 - rates**group - (1.0 - rates) ** group


def likelihoods(wins: Floats, losses: Floats) -> Grid:
    """Likelihoods of outcomes under each pass rate of `GRID`, up to a constant, `[prompts, grid]`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        # 0 log 0 is 0: a prompt without a failure may have pass rate 1.
        won = np.where(wins[:, None] > 0, wins[:, None] * np.log(GRID), 0.0)
        lost = np.where(losses[:, None] > 0, losses[:, None] * np.log1p(-GRID), 0.0)
    together = won + lost
    values: Grid = np.exp(together - together.max(1, keepdims=True))
    return values


def mixture(likelihood: Grid, counts: Floats, steps: npt.ArrayLike = _STEPS[0]) -> Grid:
    """The distribution of pass rates behind outcomes, `[mixtures, grid]`.

    Expectation maximisation, from the flat distribution towards the likeliest (Kiefer and Wolfowitz, 1956).
    `likelihood` is `[outcomes, grid]`; `counts`, `[mixtures, outcomes]`, is how much each outcome counts;
    `steps` is the number to take, one or `[mixtures]`.
    """
    shares = counts / counts.sum(1, keepdims=True)
    weights: Grid = np.full((len(counts), len(GRID)), 1.0 / len(GRID))
    for step in range(np.max(steps)):
        total = weights @ likelihood.T
        # Outcomes that these weights call impossible are left out.
        ratios = np.divide(shares, total, out=np.zeros_like(total), where=total > 0)
        moved = weights * (ratios @ likelihood)
        moving = (step < np.asarray(steps)).reshape(-1, 1)
        weights = np.where(moving, moved / moved.sum(1, keepdims=True), weights)
    return weights


def _mixtures(wins: Floats, losses: Floats, chosen: npt.NDArray[Any], *, seed: int = 0) -> Grid:
    """The mixture of the references, `chosen` of each, then those of resamples, `[1 + resamples, grid]`."""
    pairs, kinds = np.unique(np.stack([wins, losses], 1), axis=0, return_inverse=True)
    # The Bayesian bootstrap (Rubin, 1981) weighs references by exponentials.
    numbers = range(seed, seed + _RESAMPLES)
    resamples = [-np.log(uniforms(number, 0, _STREAM, 0, len(wins))) for number in numbers]
    every = [np.ones(len(wins)), *resamples]
    counts = [np.bincount(kinds.reshape(-1), weights * chosen, len(pairs)) for weights in every]
    return mixture(likelihoods(pairs[:, 0], pairs[:, 1]), np.stack(counts), _STEPS)


def wasted_groups(wins: Floats, losses: Floats, group: int = 8) -> Share:
    """The share of a uniform step's groups that do not differ, from a random sample, `[prompts]`."""
    return _share(_mixtures(wins, losses, np.ones(len(wins))) @ (1.0 - chance_to_differ(GRID, group)))


def _best(weights: Grid, chances: Floats, share: float) -> Floats:
    """The mean chance of the best `share` of each mixture, `[mixtures]`."""
    order = np.argsort(-chances, kind="stable")
    ordered = weights[:, order]
    return np.clip(share - ordered.cumsum(1) + ordered, 0.0, ordered) @ chances[order] / share


def forecast(config: ForecastConfig, rates: PassRates, worlds: int = _WORLDS, seed: int = 0) -> Forecast:
    """Forecast the groups that differ for uniform sampling, the oracle and the configured strategies.

    `rates` are of the references, which must be a random sample of the set; `worlds` is the number of
    simulated trainings.

    Raises:
        InputError: too few references, an id that is not in the set, or a strategy that cannot be simulated.
    """
    scored = ScoredSet(config.scored)
    budget = config.budget or max(1, round(len(scored) / 20))
    share, at = budget / len(scored), _check(config, scored, rates, budget)
    wins, losses = rates.wins, rates.losses
    weights = _mixtures(wins, losses, np.ones(len(at)), seed=seed)
    differ = chance_to_differ(GRID, config.group)
    silent = differ < SILENT
    # The estimate, then those of the resamples, `[1 + resamples]` or `[1 + worlds]`.
    uniform: Floats = weights @ differ
    oracle = _best(weights, differ, share)
    others = np.setdiff1d(permutation(seed, 4, _STREAM, len(scored))[:_PROMPTS], at)
    rows = np.concatenate([at, others])
    history = count_history(config.history, scored, Rules())[:, rows] if config.history else None
    of_others = read_rates(scored, config.rates)[rows] if config.rates else None
    view = _View(scored, rows, history, of_others)
    sources, places = _sources(view, config.group, wins, losses, weights, seed)
    count = min(_GROUPS, max(1, len(at) // _OF_A_GROUP))
    borders = np.sort(places[: len(at)])[len(at) * np.arange(1, count) // count]
    groups = np.searchsorted(borders, places, "right")
    of_groups = [_mixtures(wins, losses, groups[: len(at)] == group, seed=seed) for group in range(count)]
    mixtures = np.stack(of_groups, 1)[1:]  # [resamples, groups, grid]
    true_rates: list[Floats] = []  # of each simulated set's rows, from the mixture of their group
    for world in range(worlds):
        cumulated = mixtures[world].cumsum(1)[groups]
        below = uniforms(seed + world, 3, _STREAM, 0, len(groups))[:, None] * cumulated[:, -1:]
        true_rates.append(GRID[np.minimum((cumulated < below).sum(1), len(GRID) - 1)])

    def reach(name: str, shares: Floats) -> Reach:
        return Reach(name, _share(shares), _share(shares / uniform[: len(shares)]))

    strategies = []
    for name in config.strategies:
        times = [_simulate(config, name, view, seed + i, true, share) for i, true in enumerate(true_rates)]
        drawn = np.array([np.mean(times), *times]) * uniform[: 1 + worlds]
        strategies.append(reach(name, np.minimum(drawn, oracle[: 1 + worlds])))
    result = Forecast(
        references=len(rates.ids),
        rollouts=round(float(wins.sum() + losses.sum())),
        group=config.group,
        budget=budget,
        silent=_share(weights @ silent),
        hopeless=_share(weights @ (silent & (GRID < 0.5))),
        wasted=_share(1.0 - uniform),
        uniform=reach("uniform", uniform),
        oracle=reach("oracle", oracle),
        strategies=strategies,
        sources=sources,
        advice=[],
    )
    return replace(result, advice=advice(result))


def _check(config: ForecastConfig, scored: ScoredSet, rates: PassRates, budget: int) -> Ints:
    """The references' rows in the set, `[references]`."""
    count, wrong = len(rates.ids), None
    kinds = {name: base.load(name) for name in config.strategies}
    others = [name for name, kind in kinds.items() if kind.ordering != "none" or kind.observes_references]
    if not rates.counted:
        wrong = f"{rates.name} does not say how many rollouts a rate is of; a forecast needs that"
    elif count < FEWEST:
        wrong = f"{count} prompts with rollouts are too few for a forecast; {FEWEST} at least"
    elif not (rates.wins.any() and rates.losses.any()):
        wrong = f"every rollout of the {count:,} prompts has the same reward, so no group can differ and "
        wrong += "there is nothing to choose by. Take other prompts or another model"
    elif others:
        wrong = f"--strategy {others[0]} draws by an order or by references, and a forecast simulates "
        wrong += "strategies that learn from outcomes"
    elif budget > len(scored):
        wrong = f"--budget {budget:,} is more than the {len(scored):,} prompts of {config.scored}"
    if wrong:
        raise InputError(f"{wrong}.")
    return rows_of(scored, rates)


def _sources(
    view: _View, group: int, wins: Floats, losses: Floats, weights: Grid, seed: int
) -> tuple[list[EvidenceSource], Floats]:
    """How well each source separates prompts, and the rank of each row by all sources, `[rows]`, 0 to 1.

    The rows of `view` are the references, then others. `weights` are those of `_mixtures`.
    """
    bare = replace(view, history=None, rates=None)
    views = {"labels": bare}
    if view.history is not None:
        views["history"] = replace(bare, history=view.history)
    if view.rates is not None:
        views["rates"] = replace(bare, rates=view.rates)
    if len(views) > 1:
        views["all of them"] = view
    sources, equal = [], 1.0 - chance_to_differ(GRID, group)
    wasted = weights @ equal
    best = _best(weights, equal, wasted[0])
    for name, evidence in views.items():
        expected, labels = _expected(evidence, name in ("labels", "all of them"), wins, losses, seed)
        worth = np.zeros(len(wins))
        for fold, failure, rollouts in expected:
            b = rollouts[fold] * failure[fold]
            worth[fold] = groups_that_differ(rollouts[fold] - b, b, group)
        # Of equal worth, all count in part.
        below, upto = _between(worth)
        lowest = np.clip((wasted[0] - below) / (upto - below), 1e-9, 1.0)
        among = _mixtures(wins, losses, lowest, seed=seed) @ equal
        tells = np.clip((among - wasted) / np.maximum(best - wasted, 1e-9), 0.0, 1.0)
        shown = f"labels {' and '.join(labels) or '(none noticed)'}" if name == "labels" else name
        sources.append(EvidenceSource(shown, _share(tells)))
    places, others = np.zeros(len(view.rows)), np.arange(len(wins), len(view.rows))
    ties = uniforms(seed, 5, _STREAM, 0, len(places))
    for fold, failure, _ in expected:  # by all sources
        unseen = np.append(fold, others)
        low, high = _between(failure[unseen])
        places[unseen] += (low + ties[unseen] * (high - low)) / np.where(unseen < len(wins), 1, _FOLDS)
    return sources, places


def _expected(
    view: _View, by_labels: bool, wins: Floats, losses: Floats, seed: int
) -> tuple[list[tuple[Ints, Floats, Floats]], list[str]]:
    """The expectations of `posterior` without the outcomes of a fold: for each fold its references, failure
    rates `[rows]` and the number of rollouts behind each; then the labels that it noticed last.
    """
    options = {} if by_labels else {"labels": "none"}
    selector = base.build("posterior", base.Pool(len(view.rows), 1, seed), options)
    order, expected = permutation(seed, 6, _STREAM, len(wins)), []
    for part in range(_FOLDS):
        fold = order[part::_FOLDS]
        counted = np.ones(len(wins))
        counted[fold] = 0.0
        outcomes = {"rows": np.arange(len(wins)), "wins": wins * counted, "losses": losses * counted}
        selector.load_state_dict(selector.state_dict() | outcomes)
        selector.prepare(cast("base.Context", view))
        facts = selector.plan_facts(np.arange(len(view.rows)))
        expected.append((fold, np.array(facts["predicted"]), np.array(facts["predicted_rollouts"])))
    return expected, facts["evidence"].get("labels", [])


def _between(values: Floats) -> tuple[Floats, Floats]:
    """The shares of the values that are below each of them, and below or equal."""
    ascending = np.sort(values)
    below, upto = (np.searchsorted(ascending, values, side) for side in ("left", "right"))
    return below / len(values), upto / len(values)


def _simulate(
    config: ForecastConfig, name: str, view: _View, seed: int, rates: Floats, share: float
) -> float:
    """The mean chance that a drawn group differs in all rounds of a strategy, as a multiple of uniform's."""
    pool = base.Pool(len(view.rows), max(1, round(share * len(view.rows))), seed)
    chances = chance_to_differ(rates, config.group)
    selector, drawn = base.build(name, pool, {}), []
    for round_ in range(config.rounds):
        selector.prepare(cast("base.Context", replace(view, round=round_)))
        rows = np.asarray(selector.draw(round_), np.int64)
        drawn.append(chances[rows].mean())
        noise = uniforms(seed, round_, _STREAM + 1, 0, len(rows) * config.group)
        wins = (noise.reshape(len(rows), -1) < rates[rows, None]).sum(1).astype(np.float64)
        accuracy = float(wins.mean()) / config.group
        selector.observe(base.Observed(round_, rows, wins, config.group - wins, accuracy, 0.0))
    return float(np.mean(drawn) / chances.mean()) if chances.any() else 1.0


@dataclass(frozen=True, slots=True)
class _View:
    """A simulated set, as a strategy reads it: the columns of `rows` of the scored set."""

    scored: ScoredSet
    rows_of_set: Ints
    history: Floats | None = None
    rates: Floats | None = None
    round: int = 0
    opening: bool = False
    note: Note = silent

    @property
    def rows(self) -> Ints:
        return np.arange(len(self.rows_of_set))

    def column(self, name: str) -> pa.ChunkedArray:
        return read_column(self.scored, name).take(pa.array(self.rows_of_set))

    def embeddings(self, rows: npt.ArrayLike | None = None) -> npt.NDArray[np.float32]:
        chosen = self.rows_of_set if rows is None else self.rows_of_set[np.asarray(rows)]
        return matrix(self.scored.take(chosen), self.scored.folder)


def _share(values: Floats) -> Share:
    """An estimate with the middle 97 % of resamples, which hold the truth in about 95 % of simulated sets."""
    low, high = np.quantile(values[1:], [0.015, 0.985])
    return Share(float(values[0]), float(min(low, values[0])), float(max(high, values[0])))


def advice(result: Forecast) -> list[str]:
    """Recommendations, most important first; docs/difficulty.md gives the reasons for the thresholds."""
    best = max(result.strategies, key=lambda each: each.times.value, default=None)
    sentences = []
    if result.wasted.value < NO_WASTE:
        sentences.append(
            f"Choosing prompts will not pay: {result.wasted.value:.0%} of uniform's groups teach nothing, "
            "less than a third. Tune uniform sampling's batch, group size and learning rate, and stop there."
        )
    elif result.wasted.value < LITTLE_WASTE or best is None or best.times.low < WORTH:
        sentences.append(
            "Uniform sampling with a smaller batch, such as 4 prompts a step in place of 16: more steps are "
            "worth more here than a choice of prompts."
        )
    else:
        source = max(result.sources, key=lambda each: each.tells.value)
        share = f"{source.tells.value:.0%} of what true pass rates would tell"
        evidence = f"The best evidence is {source.name} ({share}). " if source.tells.value > 0 else ""
        sentences.append(
            f"Strategy {best.strategy}: it can reach {best.times.value:.2f} times uniform's groups that "
            "differ per token. In our trainings twice as many were worth 2 to 3 points of accuracy over "
            f"tuned uniform sampling. {evidence}Keep uniform with a smaller batch as the control."
        )
    if result.wasted.value > LITTLE_WASTE:
        sentences.append(f"{REPLAY[0].upper()}{REPLAY[1:]}.")
    if result.hopeless.value > 1 / 3:
        sentences.append(
            f"About {result.hopeless.value:.0%} of the prompts are out of reach now: leave out what is never "
            "answered, or come back to it with a better model."
        )
    return sentences
