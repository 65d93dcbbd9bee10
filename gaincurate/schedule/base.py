"""What a strategy is: takes a pool and options, yields a selector that draws rounds and learns from them.

A selector speaks in ranks (places in its order, 0 taught first) when it draws and in rows (places in the
scored set, which never change) when it learns. Knows nothing of files, ids or trainers.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from gaincurate.errors import InputError
from gaincurate.options import refusals
from gaincurate.schedule.noise import Floats, Ints

Json = dict[str, Any]
Ordering = Literal["any", "fixed", "none"]

STRATEGIES = {
    "uniform": "gaincurate.schedule.uniform:Uniform",
    "file-order": "gaincurate.schedule.uniform:FileOrder",
    "length": "gaincurate.schedule.gaussian:Length",
    "gain-rl": "gaincurate.schedule.gaussian:GainRL",
    "variance": "gaincurate.schedule.variance:Variance",
    "dots": "gaincurate.schedule.dots:Dots",
}


class Options(BaseModel):
    """A strategy's own options; frozen, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Pool:
    """What there is to draw from: `rows` prompts, `budget` of them each round, drawn under `seed`.

    `angles` is the least and the largest `gc_angle` of the set.
    """

    rows: int
    budget: int
    seed: int
    angles: tuple[float, float] = (0.0, 2.0)


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known after a round.

    `rows` `[prompts]` are its prompts, `wins` and `losses` `[prompts]` sums over their rollouts of success
    and of failure (each in [0, 1], so both sum to the rollouts that could be judged). `accuracy` is Acc_t,
    the mean over prompts of each one's mean success; `concentration` is C_t, their mean `gc_angle` under the
    newest scores. `late` are rows, wins and losses that came in for earlier rounds.
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


@runtime_checkable
class Selector(Protocol):
    """One strategy in one run.

    Built with `Class(pool, options)`, where `options` is an instance of the class's `Options`. All that a
    later draw depends on must be in `state`, which is written as JSON and given to `restore`.
    """

    Options: ClassVar[type[Options]]
    """The strategy's own options."""
    by: ClassVar[str | None]
    """The column that its order goes by where the user names none; None for the order of the set."""
    ascending: ClassVar[bool]
    """Whether low values come first there."""
    ordering: ClassVar[Ordering]
    """Of what its ranks are: `any` column's order, which may change from round to round; a `fixed` one, any
    column's too; or `none`, the set's own rows."""
    foresees: ClassVar[bool]
    """Whether draws do not depend on what is observed, so that all rounds can be told in advance."""

    def draw(self, round_: int) -> Ints:
        """`[budget]` distinct ranks, in drawn order; called once a round, in turn."""

    def observe(self, observed: Observed) -> None:
        """Learn from a round, before the next is drawn."""

    def state(self) -> Json:
        """Everything that changed since the start, as JSON values."""

    def restore(self, state: Json) -> None:
        """Go on from a state."""

    def metrics(self) -> dict[str, float]:
        """Numbers for the next round's plan (`mu`, `sigma`, ...)."""


def load(strategy: str) -> type[Selector]:
    """The class of a strategy by its name, or of a user's own by `module:Class`.

    Raises:
        InputError: no such strategy, module or class, or the class lacks a part.
    """
    path = STRATEGIES.get(strategy, strategy)
    module, colon, name = path.partition(":")
    if not (colon and all(part.isidentifier() for part in module.split(".")) and name.isidentifier()):
        raise InputError(
            f"--strategy {strategy}: there are {', '.join(STRATEGIES)}, or module:Class for your own."
        )
    try:
        if os.getcwd() not in sys.path and strategy not in STRATEGIES:
            sys.path.append(os.getcwd())  # a script of the same folder, as `python -m` would find it
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"--strategy {strategy}: it cannot be imported ({error}).") from error
    parts = [*Selector.__annotations__, "draw", "observe", "state", "restore", "metrics"]
    absent = [part for part in parts if not hasattr(found, part)]
    if absent:
        raise InputError(
            f"--strategy {strategy}: {name} has no {', '.join(absent)}; see "
            "gaincurate.schedule.base.Selector."
        )
    kind: type[Selector] = found
    return kind


def check_options(strategy: str, kind: type[Selector], given: Mapping[str, Any]) -> Options:
    """The options of a strategy, checked.

    Raises:
        InputError: a name that it does not have, or a value that it does not take.
    """
    try:
        return kind.Options(**given)
    except ValidationError as error:
        first = refusals(error)[0]
        if first.kind == "unknown":
            names = ", ".join(kind.Options.model_fields) or "none"
            raise InputError(f"strategy {strategy} has no option {first.name!r}; it has: {names}.") from error
        raise InputError(f"strategy {strategy}: {first}.") from error


def build(strategy: str, pool: Pool, options: Mapping[str, Any]) -> Selector:
    """A selector at its start.

    Raises:
        InputError: see `load` and `check_options`.
    """
    kind: Any = load(strategy)
    selector: Selector = kind(pool, check_options(strategy, kind, options))
    return selector
