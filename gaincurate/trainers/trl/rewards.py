"""Listens to the reward functions of a TRL trainer, so that their rewards become a run's outcomes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

from gaincurate.core.artifact import Json
from gaincurate.core.schema import ID
from gaincurate.errors import InputError
from gaincurate.trainers.session import reward_of, sum_of
from gaincurate.trainers.trl.batching import Shape

Reward = Callable[..., Any]
Hear = Callable[[list[Any], Mapping[str, Any]], None]
"""Takes the rewards of a call, `[rollouts]`, and the columns that it was given."""


class Heard:
    """A reward function, under its name, whose rewards `hear` gets; pickled where both of them can be."""

    def __init__(self, function: Reward, hear: Hear) -> None:
        self.function, self._hear = function, hear
        plain = _plain(function)
        self.__name__ = getattr(plain, "__name__", type(plain).__name__)

    def __call__(self, **columns: Any) -> Any:
        """As TRL calls reward functions."""
        return self._pass_on(self.function(**columns), columns)

    def _pass_on(self, rewards: Any, columns: Mapping[str, Any]) -> list[Any]:
        listed = list(rewards)
        self._hear(listed, columns)
        return listed


class _HeardLater(Heard):
    async def __call__(self, **columns: Any) -> Any:
        return self._pass_on(await self.function(**columns), columns)


def heard(function: Reward, hear: Hear) -> Heard:
    """The function in whose place TRL calls the reward function; it is asynchronous where that one is."""
    plain = _plain(function)
    is_later = any(map(inspect.iscoroutinefunction, (plain, getattr(plain, "__call__", None))))  # noqa: B004
    return (_HeardLater if is_later else Heard)(function, hear)


def _plain(function: Reward) -> Reward:
    while isinstance(function, partial):
        function = function.func
    return function


def judged(reward: Any) -> float | None:
    """A reward function's value as a float; None where it could not judge, in TRL's words None or NaN."""
    number = math.nan if reward is None else float(reward)
    return None if math.isnan(number) else number


class Tap:
    """The rewards of a trainer's generations on this process, until `drain`.

    Args:
        trainer: a `trl.GRPOTrainer`; its `reward_funcs` are replaced.
        shape: its shape.
        outcome: names of the functions whose weighted sum is the reward; None for all. `check` saw them.
        correct: the name of one whose value says whether an answer is right, in [0, 1].

    Attributes:
        metrics: numbers for the trainer's own logs, under `gaincurate/`.
    """

    def __init__(
        self, trainer: Any, shape: Shape, outcome: str | Sequence[str] | None, correct: str | None
    ) -> None:
        self.metrics: Mapping[str, float] = {}
        names = list(trainer.reward_func_names)
        outcome = [outcome] if isinstance(outcome, str) else outcome
        self._shape, self._correct = shape, correct
        self._summed = set(names if outcome is None else outcome)
        weights = [reward_of(weight) for weight in trainer.reward_weights.tolist()]
        self._weights = dict(zip(names, weights, strict=True))
        wanted = [name for name in names if name in self._summed or name == correct]
        self._calls: dict[str, list[list[float | None]]] = {name: [] for name in wanted}
        self._rows: list[tuple[list[str], list[int]]] = []  # ids and completion tokens, of each generation
        functions = list(zip(names, trainer.reward_funcs, strict=True))
        trainer.reward_funcs = [  # a new list: TRL keeps the user's own
            self._tapped(name, function) if name in wanted else function for name, function in functions
        ]
        self._evaluates = False
        trainer.evaluation_loop = self._evaluation()(trainer.evaluation_loop)

    def _tapped(self, name: str, function: Reward) -> Reward:
        listening = heard(function, partial(self._hear, name))
        if not isinstance(listening, _HeardLater):
            return listening

        @wraps(function)  # before 1.14, TRL awaits asynchronous functions, and no objects with such a call
        async def later(**columns: Any) -> Any:
            return await listening(**columns)

        return later

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        """Around evaluations: Unsloth puts the model into training mode before their rewards too."""
        self._evaluates = True
        try:
            yield
        finally:
            self._evaluates = False

    def _hear(self, name: str, rewards: list[Any], columns: Mapping[str, Any]) -> None:
        if self._evaluates:
            return
        if ID not in columns:
            raise InputError(
                f"the rows have no {ID}: train on `gaincurate.trainers.trl.dataset(run)`, or on rows that "
                "were exported with their ids."
            )
        self._calls[name].append([judged(reward) for reward in rewards])
        if name == next(iter(self._calls)):
            self._rows.append((list(columns[ID]), [len(ids) for ids in columns["completion_ids"]]))
            for key, value in self.metrics.items():
                columns["log_metric"](f"gaincurate/{key}", value)

    def forget(self) -> None:
        """Discard the rewards of a step that did not end."""
        self._rows.clear()
        for calls in self._calls.values():
            calls.clear()

    def drain(self, step: int) -> list[Json] | None:
        """The outcome lines of this process since the last time; None where nothing was generated.

        Args:
            step: the optimizer step that used them first, from 1.
        """
        if not self._rows:
            return None
        lines: list[Json] = []
        for (ids, tokens), *calls in zip(self._rows, *self._calls.values(), strict=True):
            first = self._shape.rank * len(ids)
            for place, (gc_id, *values) in enumerate(zip(ids, *calls, strict=True)):
                rewards = dict(zip(self._calls, values, strict=True))
                line = {ID: gc_id, "reward": self._sum(rewards), "step": step}
                line |= {"sample": (first + place) % self._shape.group, "tokens": tokens[place]}
                if self._correct is not None:
                    line["correct"] = rewards[self._correct]
                lines.append(line)
        self.forget()
        return lines

    def _sum(self, rewards: Mapping[str, float | None]) -> float | None:
        """As TRL weighs them: a function that could not judge is left out, None where none could."""
        there = {name: value for name, value in rewards.items() if name in self._summed and value is not None}
        return sum_of([self._weights[name] * value for name, value in there.items()]) if there else None
