"""What could choosing prompts gain here? An answer from some hundred references, before a training.

Observed pass rates are noisy, so their true distribution is estimated first (the mixture of binomials with
the largest likelihood). Then small trainings without a model are simulated: prompts get pass rates that go
with their prediction as those of the references do, and the strategies themselves draw from them. The policy
stays as it is now in these simulations. A policy that learns makes outcomes age, so the forecast of a
strategy that goes by outcomes is what it can reach at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gaincurate.core.artifact import Json
from gaincurate.core.files import reading
from gaincurate.core.foreign import read_bytes
from gaincurate.core.options import ADVANCED, READING, Option, refusals
from gaincurate.core.rng import Floats, Ints, permutation, uniforms
from gaincurate.core.schema import EMBEDDING, ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.embeddings import matrix
from gaincurate.difficulty.metrics import observation_noise
from gaincurate.difficulty.pass_rates import PassRates
from gaincurate.difficulty.predict import MethodName, Predictor, make
from gaincurate.difficulty.rollout_set import RolloutSet, is_rollout_set, pass_rates
from gaincurate.errors import InputError
from gaincurate.schedule import base
from gaincurate.schedule.context import Context
from gaincurate.schedule.observations import pass_rates_of
from gaincurate.schedule.strategies.dots_options import DotsOptions

Grid = npt.NDArray[np.float64]

GRID: Grid = np.linspace(0.0, 1.0, 201)
"""Pass rates that the mixture is of, 0 and 1 among them."""
SILENT = 0.2
"""A prompt hardly teaches where the chance that its group differs is below this. Outcomes of a few rollouts
cannot tell a much lower chance from none."""
_ITERATIONS = 400
_PROMPTS = 4096  # of a simulated set: the strategies' shares do not depend on its size
_STREAM = 17  # of random numbers that nothing else here uses
FEWEST = 30
"""Prompts with rollouts that a forecast needs at least."""
_RESAMPLES = 40
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")
LITTLE_WASTE = 1 / 2
"""Of uniform's groups. Where less is wasted, exact p (1 - p) gained little in our trainings."""
WORTH = 1.2
"""Times uniform's groups that differ per token, below which a choice is not worth advising."""


class ForecastConfig(BaseModel):
    """What `gaincurate difficulty forecast` does."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scored: Annotated[Path, Option("A finished scored set.", metavar="SCORED", argument=True, stores=True)]
    outcomes: Annotated[
        Path,
        Option(
            "Rollouts of a random sample of its prompts: a rollout set (`difficulty rollout --reference`)."
        ),
    ]
    group: Annotated[int, Field(ge=2, le=100_000), Option("Rollouts per prompt in the training.")] = 8
    step_prompts: Annotated[int, Field(ge=1), Option("Prompts of one step of the trainer.")] = 16
    budget: Annotated[
        int | None, Field(ge=1), Option("Prompts of a round. Default: a twentieth of the set.")
    ] = None
    rounds: Annotated[int, Field(ge=1), Option("Rounds to look ahead.")] = 12
    strategies: Annotated[
        list[str],
        Option(
            "Strategies to try, with their default options; may be repeated. None that draws by an order.",
            names=("--strategy",),
        ),
    ] = ["posterior", "dots"]
    tokens: Annotated[
        float | None,
        Field(ge=1e-3, le=1e9),
        Option("Mean tokens of a completion. Default: that of the rollout set."),
    ] = None
    group_column: Annotated[
        str | None,
        Option(
            "Predict by the mean of a row's group in this column, not by embeddings.",
            READING,
            metavar="NAME",
        ),
    ] = None
    success: Annotated[
        float | None, Field(gt=0, le=1), Option("Count a rollout as right from this reward on.", READING)
    ] = None
    worlds: Annotated[int, Field(ge=4), Option("Simulated trainings per strategy.", ADVANCED)] = 20
    seed: Annotated[int, Field(ge=0), Option("Of everything random.", ADVANCED)] = 0


_Figure = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # `read_forecast` reads anything
_Group = Annotated[int, Field(ge=2)]


@dataclass(frozen=True, slots=True)
class Share:
    """An estimate and its 95 % interval over references drawn with replacement."""

    value: _Figure
    low: _Figure
    high: _Figure


def _of_one(share: Share) -> Share:
    if max(share.low, share.value, share.high) > 1 + 1e-9:  # they are sums
        raise ValueError("it should be a share, 0 to 1")
    return share


_Part = Annotated[Share, AfterValidator(_of_one)]


@dataclass(frozen=True, slots=True)
class Reach:
    """What a strategy draws in the simulations.

    `differ` is the share of its groups that differ, `per_thousand` groups that differ per 1,000 generated
    tokens, the strategy's own rollouts included, and `times` is that divided by uniform's.
    """

    strategy: str
    differ: _Part
    per_thousand: Share
    times: Share


@dataclass(frozen=True, slots=True)
class Forecast:
    """See the module.

    `dots_references` is how many of the references strategy `dots` observes before each draw by default.
    `silent` is the share of prompts of which a group differs with a chance below `SILENT`. `hopeless` is the
    share of those of them that fail. `wasted` is the share of a uniform step's groups that do not differ.
    `pays_from` is the number of steps from which on one draw of strategy `dots` repays its references, None
    where it never does.
    """

    references: int
    rollouts: int
    dots_references: int
    group: _Group
    tokens: _Figure
    silent: _Part
    hopeless: _Part
    wasted: _Part
    uniform: Reach
    oracle: Reach
    strategies: list[Reach]
    pays_from: _Figure | None
    advice: list[str]

    def as_json(self) -> Json:
        """All of it as JSON values."""
        return asdict(self)


def read_references(config: ForecastConfig) -> tuple[PassRates, float]:
    """Pass rates of the newest policy in `--outcomes`, and the mean tokens of a completion.

    Raises:
        InputError: they cannot be read, or the tokens are not known.
        OutputError: an unfinished or damaged rollout set.
    """
    path, tokens = config.outcomes, config.tokens
    if not is_rollout_set(path):
        if config.success is not None:
            raise InputError(f"--success goes with a rollout set, and {path} is none.")
        rates = pass_rates_of(path, scored=ScoredSet(config.scored))[-1]
    else:
        table = pass_rates(path, success=config.success)
        wins, losses = table.column("wins").to_numpy(), table.column("losses").to_numpy()
        judged = np.flatnonzero(wins + losses > 0)
        ids = table.column(ID).take(pa.array(judged)).to_pylist()
        rates = PassRates(path.name, ids, wins[judged], losses[judged])
        manifest = RolloutSet(path).manifest
        if tokens is None and manifest["tokens"]:
            tokens = manifest["tokens"] / manifest["rollouts"]
    if tokens is None:
        raise InputError(f"{path} does not say how long completions are; give the mean with --tokens.")
    return rates, tokens


def chance_to_differ(rates: Floats, group: int) -> Floats:
    """1 - p^G - (1 - p)^G: the chance that a group of G rollouts has a success and a failure."""
    chances: Floats = 1.0 - rates**group - (1.0 - rates) ** group
    return chances


def likelihoods(wins: Floats, losses: Floats) -> Grid:
    """Of each prompt's outcomes under each pass rate of `GRID`, up to a constant, `[prompts, grid]`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        # 0 log 0 is 0: a prompt without a failure may have pass rate 1.
        won = np.where(wins[:, None] > 0, wins[:, None] * np.log(GRID), 0.0)
        lost = np.where(losses[:, None] > 0, losses[:, None] * np.log1p(-GRID), 0.0)
    together = won + lost
    values: Grid = np.exp(together - together.max(1, keepdims=True))
    return values


def mixture(likelihood: Grid, counts: Floats | None = None) -> Floats:
    """The distribution of pass rates that makes the outcomes likeliest, `[grid]`.

    This is the estimate of Kiefer and Wolfowitz (1956), by expectation maximisation on a grid.

    Args:
        likelihood: see `likelihoods`.
        counts: how often each row stands there, `[prompts]`. Default: once.
    """
    shares = np.full(len(likelihood), 1.0) if counts is None else counts
    # Without what stands there no time: it may be so unlike the rest that no weight explains it.
    likelihood, shares = likelihood[shares > 0], shares[shares > 0] / shares.sum()
    weights = np.full(likelihood.shape[1], 1.0 / likelihood.shape[1])
    for _ in range(_ITERATIONS):
        weights = shares @ _posterior(likelihood, weights)
    return weights


def wasted_groups(wins: Floats, losses: Floats, group: int = 8) -> Share:
    """The share of a uniform step's groups that do not differ, estimated from a random sample of prompts.

    Args:
        wins: successes of each prompt's rollouts, `[prompts]`.
        losses: failures.
        group: rollouts per prompt in the training.
    """
    pairs, places = np.unique(np.stack([wins, losses], 1), axis=0, return_inverse=True)
    likelihood, silent = likelihoods(pairs[:, 0], pairs[:, 1]), 1.0 - chance_to_differ(GRID, group)
    places, count = places.reshape(-1), len(wins)
    resampled = []
    for draw in range(_RESAMPLES):
        rows = (uniforms(0, draw, _STREAM, 0, count) * count).astype(np.int64)
        counts = np.bincount(places[rows], minlength=len(pairs)).astype(np.float64)
        resampled.append(mixture(likelihood, counts) @ silent)
    whole = np.bincount(places, minlength=len(pairs)).astype(np.float64)
    return _share(float(mixture(likelihood, whole) @ silent), np.array(resampled))


def _posterior(likelihood: Grid, weights: Floats) -> Grid:
    joint = likelihood * weights
    total = joint.sum(1, keepdims=True)
    if not total.all():
        # Outcomes that these weights call impossible: any pass rate, as far as the outcomes allow it.
        joint = np.where(total > 0, joint, likelihood)
        total = joint.sum(1, keepdims=True)
    rows: Grid = joint / total
    return rows


@dataclass(frozen=True, slots=True)
class _World:
    """A simulated set: its rows in the scored set, what is predicted for each, and its true pass rate.

    `weights` `[grid]` is the mixture of the references that this world drew with replacement.
    """

    seed: int
    rows: Ints
    predicted: Floats
    rates: Floats
    weights: Floats


def forecast(config: ForecastConfig, rates: PassRates, tokens: float) -> Forecast:
    """What strategies could reach.

    Args:
        config: see `ForecastConfig`.
        rates: of the references, which must be a random sample of the set.
        tokens: mean tokens of a completion.

    Raises:
        InputError: too few references, an id that is not in the set, or a strategy that cannot be simulated.
    """
    scored = ScoredSet(config.scored)
    budget = config.budget or max(1, round(len(scored) / 20))
    at = _check(config, scored, rates, budget)
    fitted = _fit(scored, config, rates)
    predicted = np.concatenate([fitted.rows(table) for table in scored.tables(fitted.columns)])
    predicted[at] = fitted.leave_one_out()
    likelihood = likelihoods(rates.wins, rates.losses)
    worlds = [_world(config, number, predicted, at, likelihood) for number in range(config.worlds)]

    differ, weights = chance_to_differ(GRID, config.group), mixture(likelihood)
    silent = differ < SILENT

    def of_mixture(values: Floats) -> Share:
        return _share(float(weights @ values), np.array([world.weights @ values for world in worlds]))

    per_group, rollouts = config.group * tokens, float(rates.wins.sum() + rates.losses.sum())
    observed = min(len(rates.ids), DotsOptions.model_fields["references"].default)
    paid_by_dots = observed * rollouts / len(rates.ids) * tokens  # before each draw
    drawn = {
        name: np.array([_simulate(config, name, scored, world, budget / len(scored)) for world in worlds])
        for name in ["uniform", "oracle", *config.strategies]
    }

    def per_thousand(name: str) -> Floats:
        paid = paid_by_dots if name == "dots" else 0.0
        groups: Floats = 1000 * drawn[name] * budget / (budget * per_group + paid)
        return groups

    def reach(name: str) -> Reach:
        groups = per_thousand(name)
        uniform = per_thousand("uniform")
        times = np.divide(groups, uniform, out=np.ones(len(groups)), where=uniform > 0)
        return Reach(name, *(_share(float(v.mean()), v) for v in (drawn[name], groups, times)))

    pays_from = None
    if "dots" in drawn and (gain := float(drawn["dots"].mean() - drawn["uniform"].mean())) > 0:
        step = config.step_prompts * per_group
        pays_from = paid_by_dots * float(drawn["uniform"].mean()) / (step * gain)
    result = Forecast(
        references=len(rates.ids),
        rollouts=round(rollouts),
        dots_references=observed,
        group=config.group,
        tokens=tokens,
        silent=of_mixture(silent.astype(float)),
        hopeless=of_mixture((silent & (GRID < 0.5)).astype(float)),
        wasted=of_mixture(1.0 - differ),
        uniform=reach("uniform"),
        oracle=reach("oracle"),
        strategies=[reach(name) for name in config.strategies],
        pays_from=pays_from,
        advice=[],
    )
    return replace(result, advice=advice(result))


def _check(config: ForecastConfig, scored: ScoredSet, rates: PassRates, budget: int) -> Ints:
    """The references' rows in the set, `[references]`."""
    if not rates.counted:
        raise InputError(f"{rates.name} does not say how many rollouts a rate is of; a forecast needs that.")
    if len(rates.ids) < FEWEST:
        raise InputError(
            f"{len(rates.ids)} prompts with rollouts are too few for a forecast; {FEWEST} at least, and 256 "
            "to mean something."
        )
    if not (rates.wins.any() and rates.losses.any()):
        every = "right" if rates.wins.any() else "wrong"
        raise InputError(
            f"every rollout of the {len(rates.ids):,} prompts was {every}: as far as these say no group can "
            "differ, and there is nothing to choose by. Take other prompts or another model."
        )
    for name in config.strategies:
        if base.load(name).ordering != "none":
            raise InputError(
                f"--strategy {name} draws by an order of the set, and a forecast simulates strategies that "
                "go by outcomes or predictions."
            )
    if budget > len(scored):
        raise InputError(f"--budget {budget:,} is more than the {len(scored):,} prompts of {config.scored}.")
    places = pc.index_in(pa.array(rates.ids), value_set=scored.column(ID).combine_chunks())
    if places.null_count:
        raise InputError(
            f"{places.null_count:,} of {len(rates.ids):,} prompts with outcomes are not in {config.scored}: "
            "are the outcomes of another set?"
        )
    rows: Ints = places.to_numpy().astype(np.int64)
    return rows


def _fit(scored: ScoredSet, config: ForecastConfig, rates: PassRates) -> Predictor:
    """The predictor of failure rates, fitted on all references."""
    if config.group_column is None and EMBEDDING not in scored.schema.names:
        raise InputError(
            f"{config.scored} has no {EMBEDDING} to predict from: score it with `--signals angle,embedding`, "
            "or name the column of a row's group, --group-column."
        )
    noise = observation_noise(rates.wins, rates.losses)
    name: MethodName = "gp" if config.group_column is None else "group-mean"
    return make(name, scored, rates.ids, rates.failure, noise=noise, group_column=config.group_column)


def _world(config: ForecastConfig, number: int, predicted: Floats, at: Ints, likelihood: Grid) -> _World:
    """A set whose prompts have rates that go with their prediction as those of the references do.

    Each prompt takes the rate of one of the references whose predictions are nearest to its own, drawn from
    what that reference's outcomes leave possible.
    """
    seed, count = config.seed + number, len(at)
    resampled = (uniforms(seed, 0, _STREAM, 0, count) * count).astype(np.int64)
    weights = mixture(likelihood[resampled])
    rows = permutation(seed, 1, _STREAM, len(predicted))[:_PROMPTS]
    by_prediction = resampled[np.argsort(predicted[at[resampled]], kind="stable")]
    sides = [np.searchsorted(predicted[at[by_prediction]], predicted[rows], side) for side in _SIDES]
    nearest = (sides[0] + sides[1]) // 2  # in the middle of those with the same prediction
    near = max(4, count // 32)
    places = nearest + (uniforms(seed, 2, _STREAM, 0, len(rows)) * 2 * near).astype(np.int64) - near
    references = by_prediction[np.clip(places, 0, count - 1)]
    possible = _posterior(likelihood, weights).cumsum(1)[references]
    below = uniforms(seed, 3, _STREAM, 0, len(rows))[:, None] * possible[:, -1:]
    rates = GRID[np.minimum((possible < below).sum(1), len(GRID) - 1)]
    return _World(seed, rows, predicted[rows], rates, weights)


def _simulate(config: ForecastConfig, name: str, scored: ScoredSet, world: _World, share: float) -> float:
    """The mean chance that a group differs, over what a strategy draws in a world in all rounds."""
    pool = base.Pool(len(world.rows), max(1, round(share * len(world.rows))), world.seed)
    chances = chance_to_differ(world.rates, config.group)
    if name == "oracle":
        return float(np.sort(chances)[-pool.budget :].mean())
    if name == "uniform":
        return float(chances.mean())
    selector = base.build(name, pool, {})
    if selector.observes_references:  # it draws what is predicted to be nearest to a failure rate of one half
        nearest = np.argsort(np.abs(world.predicted - 0.5), kind="stable")
        return float(chances[nearest[: pool.budget]].mean())
    drawn = []
    for round_ in range(config.rounds):
        selector.prepare(cast("Context", _View(scored, world, round_)))
        rows = np.asarray(selector.draw(round_), np.int64)
        drawn.append(chances[rows].mean())
        wins = _binomial(world, round_, rows, config.group)
        selector.observe(
            base.Observed(round_, rows, wins, config.group - wins, float(wins.mean()) / config.group, 0.0)
        )
    return float(np.mean(drawn))


def _binomial(world: _World, round_: int, rows: Ints, group: int) -> Floats:
    """Successes of a group of rollouts per row, `[rows]`."""
    size = -(-len(rows) * group // 4) * 4
    noise = uniforms(world.seed, round_, _STREAM + 1, 0, size)[: len(rows) * group].reshape(len(rows), group)
    wins: Floats = (noise < world.rates[rows, None]).sum(1).astype(np.float64)
    return wins


@dataclass(frozen=True, slots=True)
class _View:
    """What a strategy reads of a simulated set: the columns of the rows in it."""

    scored: ScoredSet
    world: _World
    round: int
    opening: bool = False

    @property
    def rows(self) -> Ints:
        return np.arange(len(self.world.rows))

    def column(self, name: str) -> pa.ChunkedArray:
        return self.scored.column(name).take(pa.array(self.world.rows))

    def embeddings(self, rows: npt.ArrayLike | None = None) -> npt.NDArray[np.float32]:
        chosen = self.world.rows if rows is None else self.world.rows[np.asarray(rows)]
        return matrix(self.scored.take(chosen), self.scored.folder)


def read_forecast(path: Path) -> Forecast:
    """What `gaincurate difficulty forecast --out` wrote.

    Raises:
        InputError: the file is something else.
        StorageError: it cannot be read.
    """
    with reading(path):
        text = read_bytes(path)
    try:
        return TypeAdapter(Forecast).validate_json(text)
    except ValidationError as error:
        raise InputError(
            f"--forecast {path} is no forecast ({refusals(error)[0]}); "
            "`gaincurate difficulty forecast --out` writes one.",
            path=str(path),
        ) from error


def beside(expected: Forecast, strategy: str, rounds: Sequence[Json]) -> Json:
    """A forecast beside what came: the share of groups that differ.

    Args:
        expected: the forecast.
        strategy: the run's. Uniform stands in for one that was not forecast.
        rounds: entries of `status`, with `effective` for each round whose outcomes were taken.

    Returns:
        `strategy`, `group`, `forecast` (a `Share`), and `came`, the mean over rounds, None before the first.
    """
    by_name = {each.strategy: each for each in (expected.uniform, *expected.strategies)}
    reach = by_name.get(strategy, expected.uniform)
    shares = [entry["effective"] for entry in rounds if entry["effective"] is not None]
    return {
        "strategy": reach.strategy,
        "group": expected.group,
        "forecast": asdict(reach.differ),
        "came": float(np.mean(shares)) if shares else None,
    }


def _share(value: float, resampled: Floats) -> Share:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Share(value, float(low), float(high))


def advice(result: Forecast) -> list[str]:
    """What to do, most important first.

    docs/difficulty.md says what the two thresholds rest on.
    """
    best = max(result.strategies, key=lambda each: each.times.value, default=None)
    sentences = []
    if result.wasted.value < LITTLE_WASTE or best is None or best.times.low < WORTH:
        sentences.append(
            "Uniform sampling with a smaller batch: more steps are worth more here than a choice of prompts."
        )
    else:
        sentences.append(
            f"Strategy {best.strategy} with --stratify: it can reach {best.times.value:.2f} times uniform's "
            "groups that differ per token. That is no more accuracy yet: in our trainings no strategy beat a "
            "tuned uniform baseline. Keep uniform with a smaller batch as the control."
        )
    if result.hopeless.value > 1 / 3:
        sentences.append(
            f"About {result.hopeless.value:.0%} of the prompts are out of reach now: leave out what is never "
            "answered, or come back to it with a better model."
        )
    if result.pays_from is not None:
        sentences.append(
            f"Strategy dots: a draw repays its {result.dots_references:,} references from "
            f"{np.ceil(result.pays_from):,.0f} steps on."
        )
    elif any(each.strategy == "dots" for each in result.strategies):
        sentences.append(
            "Strategy dots: references do not pay here, the prediction chooses no better than chance."
        )
    return sentences
