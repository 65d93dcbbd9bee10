"""What a choice of prompts could gain, forecast from a few hundred references before a training.

The true pass rates of the references are estimated first, as a mixture of binomials. Uniform sampling and the
oracle follow from the mixture, strategy `dots` from the mixture of those references that it would draw by
predictions that have not seen them. Strategies that learn from outcomes draw in simulated trainings without a
model, whose policy stays as it is now: a policy that learns makes outcomes age, so their forecast is an upper
bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from gaincurate.core.artifact import Json
from gaincurate.core.columns import read_column
from gaincurate.core.files import reading
from gaincurate.core.foreign import read_bytes
from gaincurate.core.options import ADVANCED, READING, Option, refusals
from gaincurate.core.rng import Floats, Ints, permutation, uniforms
from gaincurate.core.schema import EMBEDDING, ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.embeddings import matrix
from gaincurate.difficulty.methods import read_rates
from gaincurate.difficulty.metrics import observation_noise
from gaincurate.difficulty.pass_rates import PassRates
from gaincurate.difficulty.predict import MethodName, check_ids, make
from gaincurate.difficulty.rollout_set import RolloutSet, is_rollout_set, pass_rates
from gaincurate.errors import InputError
from gaincurate.schedule import base
from gaincurate.schedule.config import Names
from gaincurate.schedule.context import Context
from gaincurate.schedule.observations import Note, pass_rates_of, silent
from gaincurate.schedule.strategies.dots_options import DotsOptions

Grid = npt.NDArray[np.float64]

GRID: Grid = np.linspace(0.0, 1.0, 201)
"""Pass rates that the mixture is of, 0 and 1 among them."""
SILENT = 0.2
"""A prompt hardly teaches where the chance that its group differs is below this. Outcomes of a few rollouts
cannot tell a much lower chance from none."""
_RESAMPLES = 200
_STEPS = np.array([60] + [20, 150] * (_RESAMPLES // 2))
"""Of expectation maximisation, for the estimate and for each resample. Few steps leave a mixture too smooth,
many leave a few spikes and bias the shares. Intervals include both."""
_PROMPTS = 4096  # of a simulated set: the strategies' shares do not depend on its size
_STREAM = 17  # of random numbers that nothing else here uses
_FOLDS = 8
_NEAREST = 24  # references at least that represent the prompts that `dots` draws
_FURTHER = 2
"""References, drawn from all, that count with these: 24 groups of 24 that differ are no certainty."""
FEWEST = 30
"""Prompts with rollouts that a forecast needs at least."""
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
            "Rollouts of a random sample of its prompts (`difficulty rollout --reference`).",
            names=("--rollouts",),
            alias="--outcomes",
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
        str | None, Option("Predict by the mean of a row's group in this column.", READING, metavar="NAME")
    ] = None
    rates: Annotated[
        Names,
        Option(
            "Predict by these columns, the pass rates of other models.", READING, metavar="NAME,...", read=str
        ),
    ] = Field(default_factory=list)
    success: Annotated[
        float | None, Field(gt=0, le=1), Option("Count a rollout as right from this reward on.", READING)
    ] = None
    worlds: Annotated[int, Field(ge=4, le=200), Option("Simulated trainings per strategy.", ADVANCED)] = 40
    seed: Annotated[int, Field(ge=0), Option("Of everything random.", ADVANCED)] = 0


_Figure = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # `read_forecast` reads anything
_Group = Annotated[int, Field(ge=2)]


@dataclass(frozen=True, slots=True)
class Share:
    """An estimate and its 95 % interval over samples of references; see docs/difficulty.md."""

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
    """What a strategy draws.

    `differ` is the share of its groups that differ, `per_thousand` groups that differ per 1,000 generated
    tokens, the strategy's own rollouts included, and `times` is that divided by uniform's.
    """

    strategy: str
    differ: _Part
    per_thousand: Share
    times: Share


@dataclass(frozen=True, slots=True)
class Forecast:
    """The result of `forecast`.

    `dots_references` is how many of the references strategy `dots` observes before each draw by default.
    `silent` is the share of prompts of which a group differs with a chance below `SILENT`. `hopeless` is the
    share that is silent and fails. `wasted` is the share of a uniform step's groups that do not differ.
    `pays_from` is the number of steps from which on one draw of strategy `dots` repays its references, None
    where its interval does not exclude that it draws no better than uniform sampling.
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


def read_references(config: ForecastConfig) -> tuple[PassRates, float]:
    """Pass rates of the newest policy in `--rollouts`, and the mean tokens of a completion.

    Raises:
        InputError: they cannot be read, or the tokens are not known.
        OutputError: an unfinished or damaged rollout set.
    """
    path, tokens = config.outcomes, config.tokens
    if not is_rollout_set(path):
        if config.success is not None:
            raise InputError(f"--success goes with a rollout set, and {path} is none.")
        rates = pass_rates_of(path, option="--rollouts", scored=ScoredSet(config.scored))[-1]
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


def mixture(likelihood: Grid, counts: Floats, steps: npt.ArrayLike = _STEPS[0]) -> Grid:
    """The distribution of pass rates behind outcomes, `[mixtures, grid]`.

    Expectation maximisation, from the flat distribution towards the likeliest (Kiefer and Wolfowitz, 1956).

    Args:
        likelihood: see `likelihoods`, `[outcomes, grid]`.
        counts: how much each outcome counts, `[mixtures, outcomes]`.
        steps: how many to take, `[mixtures]` or one number.
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


def _exponentials(seed: int, count: int) -> Floats:
    """The weights of the references in a resample of the Bayesian bootstrap (Rubin, 1981)."""
    weights: Floats = -np.log(uniforms(seed, 0, _STREAM, 0, count))
    return weights


def _mixtures(wins: Floats, losses: Floats, chosen: Floats, *, further: int = 0, seed: int = 0) -> Grid:
    """The mixture of chosen references, then those of the resamples, `[1 + resamples, grid]`.

    Args:
        wins: of the references.
        losses: of the references.
        chosen: how much each of them counts.
        further: how many more, drawn from all, count with them.
        seed: of the resamples.
    """
    pairs, kinds = np.unique(np.stack([wins, losses], 1), axis=0, return_inverse=True)
    kinds, count = kinds.reshape(-1), len(wins)
    counts = [np.bincount(kinds, chosen + further / count, len(pairs))]
    for number in range(seed, seed + _RESAMPLES):
        more = uniforms(number, 1, _STREAM, 0, count) < further / count
        # The choice depends on the references too and is not repeated, so their weights vary by a fifth more.
        weights = _exponentials(number, count) ** (1.2 if further else 1.0)
        counts.append(np.bincount(kinds, weights * (chosen + more), len(pairs)))
    return mixture(likelihoods(pairs[:, 0], pairs[:, 1]), np.stack(counts), _STEPS)


def wasted_groups(wins: Floats, losses: Floats, group: int = 8) -> Share:
    """The share of a uniform step's groups of size `group` that do not differ.

    `wins` and `losses` are those of a random sample of prompts, `[prompts]`.
    """
    return _share(_mixtures(wins, losses, np.ones(len(wins))) @ (1.0 - chance_to_differ(GRID, group)))


def _best(weights: Grid, chances: Floats, share: float) -> Floats:
    """The mean chance of the best `share` of each mixture, `[mixtures]`."""
    order = np.argsort(-chances, kind="stable")
    ordered = weights[:, order]
    means: Floats = np.clip(share - ordered.cumsum(1) + ordered, 0.0, ordered) @ chances[order] / share
    return means


@dataclass(frozen=True, slots=True)
class _Places:
    """Where prompts are among all, 0 to 1, by predictions of their failure rates that have not seen them.

    `rows` are prompts of the set and `of_rows` their places, `of_references` are those of the references.
    `drawn` is how likely `dots` draws a prompt that is predicted as each reference.
    """

    rows: Ints
    of_rows: Floats
    of_references: Floats
    drawn: Floats


@dataclass(frozen=True, slots=True)
class _World:
    """A simulated set: its rows in the scored set, and their true pass rates."""

    seed: int
    rows: Ints
    rates: Floats


def forecast(config: ForecastConfig, rates: PassRates, tokens: float) -> Forecast:
    """Forecast the groups that differ for uniform sampling, the oracle and the configured strategies.

    Args:
        config: the set, the training and the strategies.
        rates: of the references, which must be a random sample of the set.
        tokens: mean tokens of a completion.

    Raises:
        InputError: too few references, an id that is not in the set, or a strategy that cannot be simulated.
    """
    scored = ScoredSet(config.scored)
    budget = config.budget or max(1, round(len(scored) / 20))
    share, at = budget / len(scored), _check(config, scored, rates, budget)
    strategies = [name for name in config.strategies if not (config.rates and name == "dots")]
    wins, losses = rates.wins, rates.losses
    weights = _mixtures(wins, losses, np.ones(len(at)), seed=config.seed)
    differ = chance_to_differ(GRID, config.group)
    silent = differ < SILENT
    # The estimate, then those of the resamples, `[1 + resamples]` or `[1 + worlds]`.
    uniform: Floats = weights @ differ
    drawn = {"uniform": uniform, "oracle": _best(weights, differ, share)}
    places = _places(scored, config, rates, at, share)
    possible = likelihoods(wins, losses)
    worlds = [
        _world(config, number, places, possible * weights[1 + number]) for number in range(config.worlds)
    ]
    for name in strategies:
        if base.load(name).observes_references:
            # Resamples of its own: how its errors go with uniform's is not known.
            near = _mixtures(wins, losses, places.drawn, further=_FURTHER, seed=config.seed + _RESAMPLES)
            drawn[name] = near @ differ
        elif name not in drawn:
            times = [_simulate(config, name, scored, world, share) for world in worlds]
            drawn[name] = np.minimum(np.array([np.mean(times), *times]) * uniform[: 1 + len(times)], 1.0)

    per_group, rollouts = config.group * tokens, float(wins.sum() + losses.sum())
    observed = min(len(at), DotsOptions.model_fields["references"].default)
    paid_by_dots = observed * rollouts / len(at) * tokens  # before each draw

    def reach(name: str) -> Reach:
        shares = drawn[name]
        per_share = 1000 * budget / (budget * per_group + (paid_by_dots if name == "dots" else 0.0))
        times = per_share * per_group / 1000 * shares / uniform[: len(shares)]
        return Reach(name, _share(shares), _share(per_share * shares), _share(times))

    pays_from, gain = None, _share(drawn.get("dots", uniform) - uniform)
    if gain.low > 0:
        pays_from = paid_by_dots * float(uniform[0]) / (config.step_prompts * per_group * gain.value)
    result = Forecast(
        references=len(rates.ids),
        rollouts=round(rollouts),
        dots_references=observed,
        group=config.group,
        tokens=tokens,
        silent=_share(weights @ silent),
        hopeless=_share(weights @ (silent & (GRID < 0.5))),
        wasted=_share(1.0 - uniform),
        uniform=reach("uniform"),
        oracle=reach("oracle"),
        strategies=[reach(name) for name in strategies],
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
    if config.rates and config.group_column is not None:
        raise InputError("--rates and --group-column are two ways to predict; give one of them.")
    for name in config.strategies:
        if config.rates and name == "dots" and "strategies" in config.model_fields_set:
            raise InputError("--strategy dots does not read --rates; leave one of them out.")
        if base.load(name).ordering != "none":
            raise InputError(
                f"--strategy {name} draws by an order of the set, and a forecast simulates strategies that "
                "go by outcomes or predictions."
            )
    if budget > len(scored):
        raise InputError(f"--budget {budget:,} is more than the {len(scored):,} prompts of {config.scored}.")
    check_ids(scored, rates)
    places = pc.index_in(pa.array(rates.ids), value_set=scored.column(ID).combine_chunks())
    rows: Ints = places.to_numpy().astype(np.int64)
    return rows


def _places(scored: ScoredSet, config: ForecastConfig, rates: PassRates, at: Ints, share: float) -> _Places:
    """Compare references with prompts that the same fits have not seen either."""
    by_rates = bool(config.rates)
    if config.group_column is None and not by_rates and EMBEDDING not in scored.schema.names:
        raise InputError(
            f"{config.scored} has no {EMBEDDING} to predict from: score it with `--signals "
            "angle,nll,entropy,embedding`, or name the column of a row's group (--group-column) or columns "
            "of pass rates (--rates)."
        )
    noise = observation_noise(rates.wins, rates.losses)
    name: MethodName = "rates" if by_rates else "gp" if config.group_column is None else "group-mean"
    fitted = make(
        name,
        scored,
        rates.ids,
        rates.failure,
        noise=noise,
        rollouts=rates.wins + rates.losses,
        group_column=config.group_column,
        columns=config.rates,
    )
    rows = permutation(config.seed, 4, _STREAM, len(scored))[:_PROMPTS]
    others, share = rows[~np.isin(rows, at)], min(1.0, max(share, _NEAREST / len(at)))
    of_rows, of_references, drawn = np.zeros(len(others)), np.zeros(len(at)), np.zeros(len(at))
    ties = uniforms(config.seed, 5, _STREAM, 0, len(at))
    for fold, predicted, of_others in fitted.held_out(scored.take(others), _FOLDS, config.seed):
        low, high = _between(predicted, np.concatenate([of_others, predicted]))
        of_references[fold] = low + ties[fold] * (high - low)
        away, away_of_others = np.abs(predicted - 0.5), np.abs(of_others - 0.5)
        low, high = _between(away, np.concatenate([away_of_others, away]))
        drawn[fold] = np.clip((share - low) / (high - low), 0.0, 1.0)
        of_rows += of_others / _FOLDS
    everywhere = np.full(len(scored), np.nan)
    everywhere[others], everywhere[at] = sum(_between(of_rows, of_rows)) / 2, of_references
    return _Places(rows, everywhere[rows], of_references, drawn)


def _between(values: Floats, among: Floats) -> tuple[Floats, Floats]:
    """The shares of `among` that are below each value, and below or equal."""
    order = np.sort(among)
    below, upto = np.searchsorted(order, values), np.searchsorted(order, values, "right")
    return below / len(among), upto / len(among)


def _world(config: ForecastConfig, number: int, places: _Places, possible: Grid) -> _World:
    """A set whose prompts have rates that go with their predictions as those of the references do.

    Each prompt takes the rate of a reference whose place is near its own, drawn from its `possible` ones,
    `[references, grid]`. Each reference is taken as often as it counts in the resample.
    """
    seed, count = config.seed + number, len(places.rows)
    order = np.argsort(places.of_references, kind="stable")
    upto = _exponentials(seed, len(order))[order].cumsum()
    aims = np.abs(places.of_rows + (uniforms(seed, 2, _STREAM, 0, count) - 0.5) * _NEAREST / len(order))
    references = order[np.searchsorted(upto[:-1], np.minimum(aims, 2.0 - aims) * upto[-1])]
    cumulated = possible.cumsum(1)[references]
    below = uniforms(seed, 3, _STREAM, 0, count)[:, None] * cumulated[:, -1:]
    return _World(seed, places.rows, GRID[np.minimum((cumulated < below).sum(1), len(GRID) - 1)])


def _simulate(config: ForecastConfig, name: str, scored: ScoredSet, world: _World, share: float) -> float:
    """The mean chance that a drawn group differs, in all rounds of a strategy, in times of uniform's."""
    pool = base.Pool(len(world.rows), max(1, round(share * len(world.rows))), world.seed)
    chances = chance_to_differ(world.rates, config.group)
    selector, drawn = base.build(name, pool, {}), []
    for round_ in range(config.rounds):
        selector.prepare(cast("Context", _View(scored, world, round_, rates_of=config.rates)))
        rows = np.asarray(selector.draw(round_), np.int64)
        drawn.append(chances[rows].mean())
        noise = uniforms(world.seed, round_, _STREAM + 1, 0, len(rows) * config.group)
        wins = (noise.reshape(len(rows), -1) < world.rates[rows, None]).sum(1).astype(np.float64)
        selector.observe(
            base.Observed(round_, rows, wins, config.group - wins, float(wins.mean()) / config.group, 0.0)
        )
    return float(np.mean(drawn) / chances.mean()) if chances.any() else 1.0


@dataclass(frozen=True, slots=True)
class _View:
    """What a strategy reads of a simulated set: the columns of the rows in it."""

    scored: ScoredSet
    world: _World
    round: int
    opening: bool = False
    history: None = None
    rates_of: Sequence[str] = ()
    note: Note = silent

    @property
    def rows(self) -> Ints:
        return np.arange(len(self.world.rows))

    @property
    def rates(self) -> Floats | None:
        return read_rates(self.scored, self.rates_of)[self.world.rows] if self.rates_of else None

    def column(self, name: str) -> pa.ChunkedArray:
        return read_column(self.scored, name).take(pa.array(self.world.rows))

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
    """The share of groups that differ, as forecast for a strategy (or else for uniform) and as it came.

    `rounds` are entries of `status`. `came` is the mean of their `effective`, None before the first outcomes.
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


def _share(values: Floats) -> Share:
    """Of an estimate and of resamples, whose middle 97 % hold the truth in about 95 % of simulated sets."""
    low, high = np.quantile(values[1:], [0.015, 0.985])
    return Share(float(values[0]), float(low), float(high))


def advice(result: Forecast) -> list[str]:
    """Recommendations, most important first; docs/difficulty.md gives the reasons for the two thresholds."""
    best = max(result.strategies, key=lambda each: each.times.value, default=None)
    sentences = []
    if result.wasted.value < LITTLE_WASTE or best is None or best.times.low < WORTH:
        sentences.append(
            "Uniform sampling with a smaller batch, such as 4 prompts a step in place of 16: more steps are "
            "worth more here than a choice of prompts."
        )
    else:
        sentences.append(
            f"Strategy {best.strategy}: it can reach {best.times.value:.2f} times uniform's groups that "
            "differ per token. In our trainings twice as many were worth 3 points of accuracy over tuned "
            "uniform sampling. Keep uniform with a smaller batch as the control."
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
        sentences.append("Strategy dots: the references do not show that its choice is better than chance.")
    return sentences
