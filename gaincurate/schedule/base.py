"""The base class of strategies, which draw the prompts of each round and learn from their outcomes.

A selector draws ranks (places in its order, 0 is taught first) and learns by rows (places in the scored
set, which never change). A re-scoring may change the order; what a selector knows about a prompt survives it.
"""

from __future__ import annotations

import importlib
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from gaincurate.core.columns import fields, read_column
from gaincurate.core.options import near, refusals
from gaincurate.core.rng import Floats, Ints, Labels, draw_within, gumbel_keys, largest_within, one_group
from gaincurate.core.schema import EMBEDDING, ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.embeddings import matrix
from gaincurate.errors import InputError
from gaincurate.schedule.checkpoints import AS_IT_IS, Held
from gaincurate.schedule.config import STRATEGIES, ScheduleConfig
from gaincurate.schedule.groups import PromptGroups
from gaincurate.schedule.observations import HISTORY, RATES, Note, silent
from gaincurate.schedule.run import Run, read_table

Json = dict[str, Any]
Ordering = Literal["any", "fixed", "none"]


class Options(BaseModel):
    """A strategy's own options: frozen, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def round_size(self, budget: int | None) -> int | None:
        """The number of prompts of a round with this `--budget` (None: not given); None if it is not known.

        Raises InputError if the options require another number.
        """
        return budget

    def check_run(self, config: ScheduleConfig, scored: ScoredSet) -> None:
        """Raise InputError if a run with these options cannot be opened over a set."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The prompts to draw from: `rows` prompts, of which each round has `budget`, drawn under `seed`.

    `angles` are the least and the largest `gc_angle` of the set. With `strata` each group of prompts keeps
    its share of every round: `draw` and `pick` choose within groups. `align_to` is the trainer's number of
    prompts per batch, 1 if it is not known.
    """

    rows: int
    budget: int
    seed: int
    angles: tuple[float, float] = (0.0, 2.0)
    strata: PromptGroups | None = None
    align_to: int = 1

    def draw(self, log_weights: Floats, round_: int, leave_out: Ints | None = None) -> Ints:
        """Draw `[budget]` distinct ranks, one after the other, with weights exp(`log_weights`).

        The same seed, round and weights give the same ranks on every machine. With strata, each group's quota
        is drawn in this way, and the groups take turns as in `pick`.

        Args:
            log_weights: `[rows]`, by rank, finite, up to a constant.
            round_: the round.
            leave_out: distinct ranks that are not drawn. Default: none.

        Raises:
            InputError: a weight is missing or not finite, or too few ranks are left.
        """
        log_weights = self._checked("draw", "log weights", log_weights)
        bad = np.flatnonzero(~np.isfinite(log_weights))
        if len(bad):
            raise InputError(
                f"{len(bad):,} of the {self.rows:,} log weights are not finite ({log_weights[bad[0]]} at "
                f"rank {bad[0]}), and Pool.draw needs finite ones. Look in the strategy for a log of 0, a "
                "division by 0 or a column with missing values."
            )
        return self.draw_by(lambda start, stop: log_weights[start:stop], round_, leave_out)

    def draw_by(
        self, log_weights: Callable[[int, int], Floats], round_: int, leave_out: Ints | None = None
    ) -> Ints:
        """As `draw`; `log_weights(start, stop)` gives the weights of those ranks, `[stop - start]`."""
        left_out = np.zeros(0, np.int64) if leave_out is None else np.sort(leave_out)

        def left_in(start: int, stop: int) -> Floats:
            block, (first, last) = log_weights(start, stop), np.searchsorted(left_out, [start, stop])
            if first < last:
                block = block.copy()
                block[left_out[first:last] - start] = -np.inf
            return block

        sizes = self._quotas(round_, left_out)
        return self._ordered(*draw_within(sizes, left_in, self._labels, seed=self.seed, round_=round_))

    def noisy(self, log_weights: Floats, round_: int) -> Floats:
        """Gumbel keys, `[rows]`: the largest are a draw without replacement by exp(`log_weights`).

        Args:
            log_weights: `[rows]`, by rank; -inf for a rank that is not drawn.
            round_: the round.
        """
        return gumbel_keys(log_weights, seed=self.seed, round_=round_)

    def pick(self, keys: Floats, round_: int) -> Ints:
        """Pick the `[budget]` ranks with the largest keys, largest first; of equal keys the lowest rank.

        With strata each group fills its quota with its largest keys. Then the groups take turns, so that any
        part of the round, such as a trainer's batch, has about their shares.

        Args:
            keys: `[rows]`, by rank; -inf for a rank that is taken only if no other of its group is left.
            round_: the round; it determines the quotas.

        Raises:
            InputError: a key is missing or NaN.
        """
        keys = self._checked("pick", "keys", keys)
        if np.isnan(keys).any():
            raise InputError(
                f"the key of rank {np.isnan(keys).argmax()} is NaN, and Pool.pick needs numbers."
            )
        quotas = self._quotas(round_, np.zeros(0, np.int64))
        return self._ordered(*largest_within(quotas, lambda start, stop: keys[start:stop], self._labels))

    def by_groups(self, round_: int, take: Callable[[int, Ints, int], Ints]) -> Ints:
        """Collect `[budget]` distinct ranks: `take` gives those of a group by its number, ranks and quota."""
        if self.strata is None:
            return take(0, np.arange(self.rows), self.budget)
        quotas, members = self.strata.quotas(self.budget, round_).tolist(), self.strata.members()
        taken = [take(group, members[group], quota) for group, quota in enumerate(quotas) if quota]
        return self.strata.by_turns(np.concatenate(taken))

    def _checked(self, method: str, what: str, values: Any) -> Floats:
        # An array keeps its type: a draw by float32 differs from one by float64.
        array = values if isinstance(values, np.ndarray) else np.asarray(values, np.float64)
        if array.dtype.kind not in "fiub" or array.shape != (self.rows,):
            raise InputError(
                f"the strategy draws with {what} of shape {array.shape} and type {array.dtype}; "
                f"Pool.{method} needs numbers of shape ({self.rows},), one for each rank."
            )
        return array

    @property
    def _labels(self) -> Labels:
        return one_group(self.rows) if self.strata is None else self.strata.labels

    def _quotas(self, round_: int, left_out: Ints) -> Ints:
        """The number of ranks of each group in a round, `[groups]`."""
        if self.strata is None:
            if self.rows - len(left_out) < self.budget:
                raise InputError(
                    f"a round has {self.budget:,} prompts, and {self.rows - len(left_out):,} of "
                    f"{self.rows:,} can be drawn; take a smaller --budget."
                )
            return np.array([self.budget])
        gone = np.bincount(self.strata.labels[left_out], minlength=len(self.strata.names))
        room = self.strata.sizes - gone if len(left_out) else None
        return self.strata.quotas(self.budget, round_, room)

    def _ordered(self, ranks: Ints, keys: Floats) -> Ints:
        """Ranks of a round in its order: largest key first, or by turns of the groups."""
        ranks = ranks[np.lexsort((ranks, -keys))]
        return ranks if self.strata is None else self.strata.by_turns(ranks)


@dataclass(frozen=True, slots=True)
class Context:
    """The argument of `Selector.prepare`: the scored set by row, the newest policy, and evidence.

    A row is a place in the scored set, from 0. A rank is a place in the order that the strategy draws from.
    The set is the one that the run was opened with, also after a re-scoring: embeddings of two models are not
    comparable. Every property reads its file on each access.
    """

    run: Run
    """The run, for its folder and options."""
    round: int
    """The round that is drawn next, from 0."""
    order: str
    """The digest of the order that it is drawn from."""
    checkpoint: str | None = None
    """The newest policy: before round 0 the run's model, then the last checkpoint; None if not known."""
    note: Note = silent
    """Takes a sentence for the person at the terminal."""
    held: Held = AS_IT_IS
    """Takes the run and a checkpoint, and yields a folder of it that nobody changes."""
    reference_outcomes: Path | None = None
    """The path of `--reference-outcomes`."""
    opening: bool = False
    """The run is being opened. For work that takes long raise `NotReadyError`; `schedule next` or `run` then
    calls again."""

    @property
    def scored(self) -> ScoredSet:
        """The scored set; its shards are mapped, not loaded."""
        return self.run.scored

    @property
    def rows(self) -> Ints:
        """`[N]`: the row at each rank."""
        return self.run.order(self.order).rows

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of the scored set by row, `[N]`, mapped; `.to_numpy()` makes an array of it.

        Args:
            name: of a column, or with dots of a field inside a struct.

        Raises:
            InputError: no such column; lists those there are.
        """
        if name in dict(fields(self.scored.schema)):
            return read_column(self.scored, name)
        return self.scored.column(name)

    @property
    def history(self) -> Floats | None:
        """Wins and losses in earlier training by row, `[2, N]` (`--history`); None without one."""
        if not self.run.config.history:
            return None
        table, counts = read_table(self.run.folder / HISTORY), np.zeros((2, self.run.facts["rows"]))
        counts[:, table.column("row").to_numpy()] = [table.column(n).to_numpy() for n in ("wins", "losses")]
        return counts

    @property
    def rates(self) -> Floats | None:
        """Pass rates of other models by row, `[N, models]`, NaN for none (`--rates`); None without any."""
        if not self.run.config.rates:
            return None
        return np.stack([column.to_numpy() for column in read_table(self.run.folder / RATES).columns], 1)

    def embeddings(self, rows: npt.ArrayLike | None = None) -> npt.NDArray[np.float32]:
        """The embeddings of these rows, `[rows, width]`, in this order.

        Args:
            rows: default: all, which is `4 * N * width` bytes at once.

        Raises:
            InputError: the set has none, or a row has none.
        """
        if rows is not None:
            return matrix(self.scored.take(rows), self.scored.folder)
        columns = [name for name in (ID, EMBEDDING) if name in self.scored.schema.names]
        blocks = [matrix(table, self.scored.folder) for table in self.scored.tables(columns)]
        return np.concatenate(blocks)


@dataclass(frozen=True, slots=True)
class Observed:
    """The observations of a round.

    `rows` `[prompts]` are its prompts. `wins` and `losses` `[prompts]` are sums of success and failure (each
    in [0, 1]) over the rollouts of a prompt that could be judged, so together they are their number.
    `accuracy` is Acc_t, the mean over prompts of their mean success; `concentration` is C_t, their mean
    `gc_angle` under the newest scores, 0 if none has an angle. `late` are rows, wins and losses of outcomes
    that came in for earlier rounds. `tokens` `[prompts]` is the mean number of completion tokens over the
    rollouts whose lines have `tokens`, 0 if none has.
    """

    round: int
    rows: Ints
    wins: Floats
    losses: Floats
    accuracy: float
    concentration: float
    late: tuple[Ints, Floats, Floats] = field(
        default_factory=lambda: (np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    )
    tokens: Floats | None = None


class Selector(ABC):
    """One strategy in one run. For a strategy of your own, write a subclass with `draw`.

    Before each round the run makes a new selector: `Class(pool, options)`, then `load_state_dict`. It
    passes the outcomes of the round before to `observe`, and the set and the newest policy to `prepare`. Then
    it calls `draw`, and writes `state_dict` beside the plan. So a run that was killed resumes with the same
    draws.
    """

    Options: ClassVar[type[Options]] = Options
    """The strategy's own options."""
    by: ClassVar[str | None] = None
    """The default column of its order; None for the order of the set."""
    ascending: ClassVar[bool] = True
    """Whether low values of that column come first."""
    ordering: ClassVar[Ordering] = "none"
    """The kind of its order: by `any` column, and it may change from round to round; by any column, but
    `fixed` for the run; or `none`, so that ranks are the set's rows."""
    reads_scores: ClassVar[bool] = True
    """Whether draws depend on scores of the model other than through the order. `gaincurate compare` charges
    a scoring pass for that, and for an order by a score."""
    leaves_out: ClassVar[bool] = False
    """Whether some ranks are never drawn. Their group may then fall short of its share (`--stratify`)."""
    takes_evidence: ClassVar[bool] = False
    """Whether `prepare` reads `Context.history` and `Context.rates` (`--history`, `--rates`)."""
    observes_references: ClassVar[bool] = False
    """Whether `prepare` needs outcomes of reference prompts (`--reference-outcomes`, `--rollout`)."""

    def __init__(self, pool: Pool, options: Any) -> None:
        self.pool, self.options = pool, options

    @classmethod
    def goes_by_scores(cls, options: Mapping[str, Any]) -> bool:
        """`reads_scores` with these options, for a strategy in which it depends on them."""
        return cls.reads_scores

    def prepare(self, context: Context) -> None:  # noqa: B027 - a hook that may be left out
        """Read the inputs of the next draw from the scored set or the newest policy.

        Called once before each draw, after `observe`. `state_dict` need not hold what this reads from files.

        Raises:
            NotReadyError: something has to happen first. The run stays as it is, and `schedule next` or `run`
                tries again.
        """

    @abstractmethod
    def draw(self, round_: int) -> Ints:
        """Draw `[budget]` distinct ranks, in the order of the round; called once per round, in turn."""

    def observe(self, observed: Observed) -> None:  # noqa: B027 - a hook that may be left out
        """Learn from the outcomes of a round before the next one is drawn."""

    def state_dict(self) -> Json:
        """Everything that changed since the start and that a later draw depends on, as JSON values."""
        return {}

    def load_state_dict(self, state: Json) -> None:  # noqa: B027 - a hook that may be left out
        """Restore a `state_dict`."""

    def metrics(self) -> dict[str, float]:
        """Numbers for the plan of the drawn round (`mu`, `sigma`, ...)."""
        return {}

    def plan_facts(self, rows: Ints) -> Json:
        """More entries of that plan: JSON values under names that the plan does not have.

        The outcomes are compared with `predicted`, a failure rate per prompt. `rollouts` are group sizes, one
        per prompt, for trainers that take them. `references` is reserved for `dots`.

        Args:
            rows: `[budget]`, of the prompts, in the plan's order.
        """
        return {}

    def reach(self, rounds: int) -> tuple[int, int] | None:
        """The first and last rank that this many rounds can draw from, for `--rescore window`.

        Called before `prepare`.
        """
        return None


def load(strategy: str) -> type[Selector]:
    """The class of a strategy by its name, or of a user's own strategy by `module:Class`.

    Raises InputError if there is no such strategy, module or class, or the class lacks a method.
    """
    module, _, name = STRATEGIES.get(strategy, strategy).partition(":")
    if not (module and name):
        raise InputError(
            f"--strategy {strategy}: there are {', '.join(STRATEGIES)}, or module:Class for your own"
            f"{near(strategy, STRATEGIES)}."
        )
    try:
        if os.getcwd() not in sys.path and strategy not in STRATEGIES:
            sys.path.append(os.getcwd())  # a script of the same folder, as `python -m` would find it
        kind: Any = getattr(importlib.import_module(module), name, None)
    except (Exception, SystemExit) as error:
        if strategy in STRATEGIES:
            raise
        raise InputError(
            f"--strategy {strategy}: it cannot be imported ({type(error).__name__}: {error}). Run it from "
            f"the folder of {module}, or put that on PYTHONPATH. GAINCURATE_DEBUG=1 shows the traceback."
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Selector)) or kind.__abstractmethods__:
        raise InputError(
            f"--strategy {strategy}: {module} has no subclass {name} of gaincurate.schedule.base.Selector "
            "with a method draw."
        )
    return kind


def check_options(strategy: str, kind: type[Selector], values: Mapping[str, Any]) -> Options:
    """The checked options of a strategy; raises InputError for an unknown name or a wrong value."""
    try:
        return kind.Options(**values)
    except ValidationError as error:
        first = refusals(error)[0]
        if first.kind == "unknown":
            names = ", ".join(kind.Options.model_fields) or "none"
            raise InputError(f"strategy {strategy} has no option {first.name!r}; it has: {names}.") from error
        raise InputError(f"strategy {strategy}: {first}.") from error


def build(strategy: str, pool: Pool, options: Mapping[str, Any]) -> Selector:
    """A selector at its start; raises as `load` and `check_options` do."""
    kind = load(strategy)
    return kind(pool, check_options(strategy, kind, options))
