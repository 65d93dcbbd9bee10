"""The base class of strategies, which draw the prompts of each round and learn from their outcomes.

A selector draws ranks (places in its order, 0 is taught first) and learns by rows (places in the scored
set, which never change): a re-scoring may change the order, and what was learnt of a prompt must survive it.
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
    """A strategy's own options; frozen, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def round_size(self, budget: int | None) -> int | None:
        """The prompts of a round, where `--budget` says so many or nothing; None where they are not known.

        Raises InputError where the options ask for another number.
        """
        return budget

    def check_run(self, config: ScheduleConfig, scored: ScoredSet) -> None:
        """See that a run with these options can be opened over a set; raises InputError where it cannot."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The prompts to draw from: `rows` prompts, `budget` of them each round, drawn under `seed`.

    `angles` is the least and the largest `gc_angle` of the set. With `strata` each group of prompts keeps its
    share of every round: `draw` and `pick` choose within groups. `align_to` is the trainer's prompts a batch,
    1 where it is not known.
    """

    rows: int
    budget: int
    seed: int
    angles: tuple[float, float] = (0.0, 2.0)
    strata: PromptGroups | None = None
    align_to: int = 1

    def draw(self, log_weights: Floats, round_: int, leave_out: Ints | None = None) -> Ints:
        """`[budget]` distinct ranks, as if drawn one after the other with weights exp(`log_weights`).

        The same ranks for the same seed, round and weights, on every machine. With strata, each group's
        part of them is drawn so, in the order of `pick`.

        Args:
            log_weights: `[rows]`, by rank, finite, up to a constant.
            round_: the round.
            leave_out: ranks that are not drawn, distinct. Default: none.

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
        """As `draw`, with weights that are made for the ranks from `start` to `stop`, `[stop - start]`."""
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
        """Keys whose largest are a draw by exp(`log_weights`) without replacement (Gumbel top-k), `[rows]`.

        Args:
            log_weights: `[rows]`, by rank; -inf for what is not drawn.
            round_: the round.
        """
        return gumbel_keys(log_weights, seed=self.seed, round_=round_)

    def pick(self, keys: Floats, round_: int) -> Ints:
        """`[budget]` distinct ranks with the largest keys, largest first; of equal keys the lowest rank.

        With strata they are the largest of each group, whose quota they fill. Then groups take turns, so that
        any stretch of the round, a trainer's batch for one, has their shares too.

        Args:
            keys: `[rows]`, by rank; -inf for what is only taken where nothing else is left (of its group).
            round_: the round, by which quotas go.

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
        """`[budget]` distinct ranks: those that `take` gives for each group's number, ranks and quota."""
        if self.strata is None:
            return take(0, np.arange(self.rows), self.budget)
        quotas, members = self.strata.quotas(self.budget, round_).tolist(), self.strata.members()
        taken = [take(group, members[group], quota) for group, quota in enumerate(quotas) if quota]
        return self.strata.by_turns(np.concatenate(taken))

    def _checked(self, method: str, what: str, values: Any) -> Floats:
        # An array stays as it is: a draw by float32 is another than by float64.
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
    comparable. Every property reads its file when it is asked for.
    """

    run: Run
    """The run, for its folder and options."""
    round: int
    """The round that is drawn next, from 0."""
    order: str
    """The digest of the order that it is drawn from."""
    checkpoint: str | None = None
    """The newest policy: the run's model before round 0, then what the last round left, None for nothing."""
    note: Note = silent
    """Takes a sentence for the person at the terminal."""
    held: Held = AS_IT_IS
    """Takes the run and a checkpoint, yields a folder of it that stays as it is."""
    reference_outcomes: Path | None = None
    """The path of `--reference-outcomes`."""
    opening: bool = False
    """The run is being opened. What takes long has to wait: raise `NotReadyError`, and `schedule next` or
    `run` asks again."""

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

    `rows` `[prompts]` are its prompts, `wins` and `losses` `[prompts]` sums over their rollouts of success
    and of failure (each in [0, 1], so both sum to the rollouts that could be judged). `accuracy` is Acc_t,
    the mean over prompts of each one's mean success; `concentration` is C_t, their mean `gc_angle` under the
    newest scores, 0 where none of them has one. `late` are rows, wins and losses that came in for earlier
    rounds. `tokens` `[prompts]` are mean completion tokens of those of their rollouts whose lines have
    `tokens`, 0 where none has.
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
    """One strategy in one run. A strategy of one's own is a subclass with `draw`.

    Before each round a selector is made again, with `Class(pool, options)` and `load_state_dict`. It hears of
    the round before (`observe`), can look at the set and at the newest policy (`prepare`), draws, and its
    `state_dict` is written beside the plan. So a run that was killed goes on to the same draws.
    """

    Options: ClassVar[type[Options]] = Options
    """The strategy's own options."""
    by: ClassVar[str | None] = None
    """The column that its order goes by where the user names none; None for the order of the set."""
    ascending: ClassVar[bool] = True
    """Whether low values come first there."""
    ordering: ClassVar[Ordering] = "none"
    """Of what its ranks are: `any` column's order, which may change from round to round; a `fixed` one, any
    column's too; or `none`, the set's own rows."""
    reads_scores: ClassVar[bool] = True
    """Whether draws depend on what the model gave for each prompt, the order aside. `gaincurate compare`
    charges a scoring pass for it, and for an order by a score."""
    leaves_out: ClassVar[bool] = False
    """Whether some ranks are never drawn. Their group may then give less than its share (`--stratify`)."""
    takes_evidence: ClassVar[bool] = False
    """Whether `prepare` reads `Context.history` and `Context.rates` (`--history`, `--rates`)."""
    observes_references: ClassVar[bool] = False
    """Whether `prepare` asks what reference prompts do (`--reference-outcomes`, `--rollout`)."""

    def __init__(self, pool: Pool, options: Any) -> None:
        self.pool, self.options = pool, options

    @classmethod
    def goes_by_scores(cls, options: Mapping[str, Any]) -> bool:
        """`reads_scores` with these options, where it depends on them."""
        return cls.reads_scores

    def prepare(self, context: Context) -> None:  # noqa: B027 - a hook that may be left out
        """Learn what the next draw needs, from the scored set or from the newest policy.

        Called once before each draw, after `observe`. What it takes from files need not be in `state_dict`.

        Raises:
            NotReadyError: something has to happen first. The run stays as it is, and is asked again by
                `schedule next` or `run`.
        """

    @abstractmethod
    def draw(self, round_: int) -> Ints:
        """`[budget]` distinct ranks, in drawn order; called once per round, in turn."""

    def observe(self, observed: Observed) -> None:  # noqa: B027 - a hook that may be left out
        """Learn from a round, before the next is drawn."""

    def state_dict(self) -> Json:
        """All that a later draw depends on and that changed since the start, as JSON values."""
        return {}

    def load_state_dict(self, state: Json) -> None:  # noqa: B027 - a hook that may be left out
        """Go on from a `state_dict`."""

    def metrics(self) -> dict[str, float]:
        """Numbers for the plan of the round that was drawn (`mu`, `sigma`, ...)."""
        return {}

    def plan_facts(self, rows: Ints) -> Json:
        """More for that plan, as JSON values under names that it does not have.

        `predicted`, a failure rate per prompt, is compared with what comes back. `rollouts` are the prompts'
        group sizes, for trainers that take them. `references` is what `dots` says of its own and no other
        strategy may use.

        Args:
            rows: `[budget]`, of the prompts, in the plan's order.
        """
        return {}

    def reach(self, rounds: int) -> tuple[int, int] | None:
        """The first and last rank that so many rounds can draw from, for `--rescore window`.

        Called before `prepare`.
        """
        return None


def load(strategy: str) -> type[Selector]:
    """The class of a strategy by its name, or of a user's own by `module:Class`.

    Raises InputError for no such strategy, module or class, or a class that lacks a part.
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
        kind: Any = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:
        if strategy in STRATEGIES:
            raise
        raise InputError(
            f"--strategy {strategy}: it cannot be imported ({type(error).__name__}: {error}). Run it from "
            f"the folder of {module}, or put that on PYTHONPATH. GAINCURATE_DEBUG=1 shows the traceback."
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Selector)) or kind.__abstractmethods__:
        raise InputError(
            f"--strategy {strategy}: {name} is no complete subclass of gaincurate.schedule.base.Selector."
        )
    return kind


def check_options(strategy: str, kind: type[Selector], values: Mapping[str, Any]) -> Options:
    """The options of a strategy; raises InputError for a name that it does not have, or a wrong value."""
    try:
        return kind.Options(**values)
    except ValidationError as error:
        first = refusals(error)[0]
        if first.kind == "unknown":
            names = ", ".join(kind.Options.model_fields) or "none"
            raise InputError(f"strategy {strategy} has no option {first.name!r}; it has: {names}.") from error
        raise InputError(f"strategy {strategy}: {first}.") from error


def build(strategy: str, pool: Pool, options: Mapping[str, Any]) -> Selector:
    """A selector at its start; raises what `load` and `check_options` raise."""
    kind = load(strategy)
    return kind(pool, check_options(strategy, kind, options))
