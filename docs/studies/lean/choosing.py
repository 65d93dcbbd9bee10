"""Drives a strategy of `gaincurate schedule` without a run's files, and the oracles that no run can have.

A strategy sees of its `Context` what it needs to draw: the set's columns and embeddings, the order and the
round. One that needs a run's folder, such as `dots`, cannot be driven so. An oracle is a strategy that asks
the loop for exact values of the newest policy.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
import transformers
from head import read, roll
from policy import Policy, Tensor, trees
from pydantic import Field
from world import Prompts, World

from gaincurate.core.rng import Floats, Ints, keys_of, permutation
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.embeddings import matrix
from gaincurate.schedule import base
from gaincurate.schedule.groups import PromptGroups
from gaincurate.schedule.run import Order, build

FLOOR = 1e-12  # of a value whose logarithm is a weight
_SHUFFLE, _ROLL = 0x4F52, 0x4F53  # of the seed's noise; no strategy uses them
_ROLLOUTS = 16
_READ = 32  # prompts of one backward pass
_STEP = 0.002  # of a finite difference: the length of the move in weights; an optimizer step moves .09


@dataclass(frozen=True)
class Exact:
    """What the newest policy is worth, exactly; nothing is computed before it is asked for."""

    prompts: Prompts
    policy: Policy

    def accuracies(self) -> Floats:
        """`[N]`: p of each prompt."""
        return self.prompts.accuracies(self.policy)

    def influences(self, on: Prompts | None = None) -> Floats:
        """`[N]`: the inner product of each prompt's gradient of p with that of the mean p of `on`.

        Without `on`, of all that are chosen from. A prompt's expected policy gradient with r - mean is
        (G - 1) / G of its gradient of p. The product is
        the derivative of its p along the mean's gradient.
        """
        return slopes(self.policy, mean_gradient(self.policy, on or self.prompts), self.accuracies)


def mean_gradient(policy: Policy, prompts: Prompts) -> list[Tensor]:
    """The gradient of the mean p of these prompts, by parameter."""
    weights = policy.parameters()
    total = [torch.zeros_like(w) for w in weights]
    for _, values in prompts.chunks(policy):
        for sum_, part in zip(total, torch.autograd.grad(values.sum(), weights), strict=True):
            sum_ += part / len(prompts)
    return total


def slopes(policy: Policy, direction: list[Tensor], measure: Callable[[], Floats]) -> Floats:
    """Derivatives of what is measured, along a direction in weights: a central difference of two passes."""
    weights = policy.parameters()
    norm = float(torch.stack([part.norm() for part in direction]).norm())
    if not norm:
        return np.zeros_like(measure())
    start = [w.detach().clone() for w in weights]
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for w, begin, part in zip(weights, start, direction, strict=True):
                w.copy_(begin + sign * _STEP / norm * part)
        ends.append(measure())
    with torch.no_grad():
        for w, begin in zip(weights, start, strict=True):
            w.copy_(begin)
    values: Floats = (ends[0] - ends[1]) * norm / (2 * _STEP)
    return values


def log_probs(policy: Policy, prompts: Prompts, completions: list[list[list[int]]]) -> Floats:
    """`[R]`, of whole completions."""
    logs: Floats = read(policy, prompts.tokens, completions).log_probs.double().numpy()
    return logs


def sampled_mean(
    policy: Policy, prompts: Prompts, completions: list[list[list[int]]], weights: Tensor
) -> list[Tensor]:
    """The mean of all prompts' policy gradients, by parameter, from completions with weights `[R]`."""
    own = weights.split(list(map(len, completions)))
    used = [place for place, part in enumerate(own) if part.any()]
    used.sort(key=lambda place: len(prompts.tokens[place]) + sum(map(len, completions[place])))
    total = [torch.zeros_like(w) for w in policy.parameters()]
    for places in np.array_split(used, -(-len(used) // _READ)) if used else ():
        batch = trees([prompts.tokens[place] for place in places], [completions[place] for place in places])
        each = torch.cat([own[place] for place in places])[batch.branch]
        mean = (each * policy.log_probs(batch)).sum() / len(prompts)
        for sum_, part in zip(total, torch.autograd.grad(mean, policy.parameters()), strict=True):
            sum_ += part
    return total


def sampled_influences(
    policy: Policy, prompts: Prompts, completions: list[list[list[int]]], weights: Tensor
) -> Floats:
    """`[draws, N]`: policy gradients along the mean of the next draw's; weights `[R, draws]`, of completions.

    Nothing here asks how likely an answer is, so a trainer could do it: the price is a backward pass over the
    rollouts and two forward passes.
    """
    owners = np.repeat(np.arange(len(prompts)), list(map(len, completions)))
    found = []
    for own, others in zip(weights.T, weights.roll(-1, 1).T, strict=True):
        direction = sampled_mean(policy, prompts, completions, others)
        slope = slopes(policy, direction, lambda: log_probs(policy, prompts, completions))
        found.append(np.bincount(owners, own.numpy() * slope, len(prompts)))
    return np.array(found)


@dataclass(frozen=True)
class Context:
    """Stands in for `gaincurate.schedule.base.Context`, by the parts that have a meaning here."""

    scored: ScoredSet
    taken: Ints
    rows: Ints
    round: int
    exact: Exact
    bill: Counter[str] = field(default_factory=Counter)
    """Tokens that a strategy spends before it draws, by what they are for; the loop charges them."""
    opening: bool = False
    history: Any = None
    rates: Any = None
    note: Any = print

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of the rows that are chosen from, `[N]`."""
        return self.scored.take(self.taken).column(name)

    def embeddings(self, rows: Any = None) -> Any:
        """The embeddings of these rows, `[rows, width]`; default: all."""
        return matrix(self.scored.take(self.taken if rows is None else self.taken[rows]), self.scored.folder)


class Chooser:
    """One strategy in one training.

    Args:
        world: what it chooses from.
        strategy: a name of `gaincurate schedule start --strategy`, or `module:Class`.
        options: its own.
        by: column of its order; None for its own.
        ascending: low values first; None for its own.
        budget: prompts of a round.
        seed: of its draws.
        stratify: whether every task keeps its share of each round.
    """

    def __init__(
        self,
        world: World,
        strategy: str,
        options: dict[str, Any],
        by: str | None,
        ascending: bool | None,
        budget: int,
        seed: int,
        stratify: bool = False,
    ) -> None:
        self._world, kind = world, base.load(strategy)
        self._angles = world.scored.take(world.rows).column("gc_angle").to_numpy().astype(np.float64)
        by = by or kind.by
        if ascending is None:
            ascending = kind.ascending if by == kind.by else False
        self._rows = self._order(by, ascending)
        tasks, names = np.unique(world.prompts.tasks[self._rows], return_inverse=True)[::-1]
        pool = base.Pool(
            len(world.rows),
            budget,
            seed,
            (float(self._angles.min()), float(self._angles.max())),
            PromptGroups.coded(tasks.astype(np.int32), [str(name) for name in names]) if stratify else None,
        )
        self.selector = base.build(strategy, pool, options)
        self.bill: Counter[str] = Counter()
        """Tokens that the strategy has spent on its own."""
        self.history: Any = None
        """Wins and losses in earlier trainings, `[2, N]`."""
        self._last = self._last_ranks = np.zeros(0, np.int64)

    def _order(self, by: str | None, ascending: bool) -> Ints:
        """The row at each rank, by the rule of `gaincurate schedule`."""
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder) / "order.arrow", self._world.scored, by, ascending=ascending)
            rows = Order(Path(folder) / "order.arrow").rows
        places = np.full(len(self._world.scored), -1)
        places[self._world.rows] = np.arange(len(self._world.rows))
        return places[rows][places[rows] >= 0]

    def draw(self, round_: int, policy: Policy) -> Ints:
        """Places among the world's prompts in drawn order: the budget, less the groups of `reused`."""
        world = self._world
        exact = Exact(world.prompts, policy)
        context: Any = Context(
            world.scored, world.rows, self._rows, round_, exact, self.bill, history=self.history
        )
        self.selector.prepare(context)
        drawn = self.selector.draw(round_)
        self._last_ranks = drawn[: len(drawn) - len(self.reused)]
        self._last = self._rows[self._last_ranks]
        return self._last

    def sizes(self, count: int, rollouts: int) -> Ints:
        """Rollouts of each of the prompts that were drawn last, `[count]`."""
        sizes = self.selector.plan_facts(self._last_ranks).get("rollouts")
        return np.full(count, rollouts) if sizes is None else np.array(sizes)

    @property
    def reused(self) -> list[Any]:
        """Groups that the strategy generated before its last draw, and that the round trains on."""
        return list(getattr(self.selector, "reused", ()))

    def rolled(self, places: Ints, groups: Sequence[Any], policy: Policy) -> None:
        """Show a strategy that asks for them the rollouts of the round that was drawn last."""
        if rolled := getattr(self.selector, "rolled", None):
            rolled(Exact(self._world.prompts, policy), places, groups)

    def observe(self, round_: int, wins: Floats, losses: Floats, tokens: Floats) -> None:
        """Have the strategy learn from the round that was drawn last; `[budget]` each, in its order.

        `tokens` are means of a prompt's rollouts.
        """
        rates = wins / (wins + losses)
        angle = float(self._angles[self._last].mean())
        self.selector.observe(
            base.Observed(round_, self._last, wins, losses, float(rates.mean()), angle, tokens=tokens)
        )


def drawn_by(values: Floats, power: float, pool: base.Pool, round_: int, stream: int) -> Ints:
    """`[budget]` distinct ranks, drawn by values to a power; the stream is of the noise that orders them."""
    shares = values / max(float(values.max()), FLOOR)
    chosen = pool.pick(pool.noisy(power * np.log(np.maximum(shares, FLOOR)), round_), round_)
    if pool.strata is not None:  # its groups take turns
        return chosen
    # In a random order: by their keys, a round's first step would have its best prompts, of few tasks.
    return chosen[permutation(pool.seed, round_, stream, len(chosen))]


class OracleOptions(base.Options):
    """How exact values become draws."""

    of: Literal["variance", "influence", "sampled"] = "variance"
    """p (1 - p), or `Exact.influences`, or those by `_ROLLOUTS` rollouts of each. Below 0 counts as 0."""
    power: float = Field(default=4.0, ge=0)
    """Exponent of the weight; 0 draws evenly."""


class Oracle(base.Selector):
    """Values of the newest policy that nobody has at this price: exact, or by rollouts that cost nothing.

    Args:
        pool: what is drawn from.
        options: see `OracleOptions`.
    """

    Options: ClassVar[type[base.Options]] = OracleOptions
    reads_scores: ClassVar[bool] = False
    _prompts: Prompts | None = None

    def prepare(self, context: Any) -> None:
        """Ask for the values."""
        exact = context.exact if isinstance(context, Context) else self._of_a_run(context)
        if self.options.of == "variance":
            rates = exact.accuracies()
            values = rates * (1 - rates)
        elif self.options.of == "influence":
            values = exact.influences()
        else:
            values = self._sampled(exact, context.round)
        self._values = values[context.rows]

    def _sampled(self, exact: Exact, round_: int) -> Floats:
        """Influences by rollouts in two halves, each along the mean of the other."""
        prompts = exact.prompts
        # Prompts whose rollouts are all alike with a chance of .99 are not rolled out, and count as 0.
        seed = int(keys_of(self.pool.seed, round_, _ROLL, 1)[0]) >> 1
        outcomes = roll(exact.policy, prompts, _ROLLOUTS, seed, exact.accuracies())
        weights = outcomes.weights((_ROLLOUTS // 2,), 2, np.zeros(len(prompts), np.int64))[:, 0]
        values: Floats = sampled_influences(exact.policy, prompts, outcomes.completions, weights).mean(0)
        return values

    def _of_a_run(self, context: Any) -> Exact:
        """Of a run of `gaincurate compare`, whose trainer saves its weights before each round."""
        if self._prompts is None:  # how an answer is spelt does not change
            tokenizer = transformers.AutoTokenizer.from_pretrained(context.run.config.model)
            self._prompts = Prompts(context.scored, np.arange(len(context.scored)), tokenizer)
        return Exact(self._prompts, Policy(Path(context.checkpoint)))

    def draw(self, round_: int) -> Ints:
        """`[budget]` distinct rows."""
        return drawn_by(self._values, self.options.power, self.pool, round_, _SHUFFLE)
