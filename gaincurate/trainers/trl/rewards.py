"""Records the rewards of a TRL trainer's reward functions, so that they become a run's outcomes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from gaincurate.core.artifact import Json
from gaincurate.core.schema import ID
from gaincurate.errors import InputError
from gaincurate.trainers.session import reward_of
from gaincurate.trainers.trl.batching import BatchShape

Reward = Callable[..., Any]
Hear = Callable[[list[Any], Mapping[str, Any]], None]
"""Takes the rewards of a call, `[rollouts]`, and the call's columns."""


class Heard:
    """A reward function under its name that also passes rewards to `hear`; can be pickled if both can."""

    def __init__(self, function: Reward, hear: Hear, name: str) -> None:
        self.function, self._hear, self.__name__ = function, hear, name

    def __call__(self, **columns: Any) -> Any:
        """Call the reward function as TRL does, and pass on its rewards."""
        return self._pass_on(self.function(**columns), columns)

    def _pass_on(self, rewards: Any, columns: Mapping[str, Any]) -> list[Any]:
        listed = list(rewards)
        self._hear(listed, columns)
        return listed


class _HeardLater(Heard):
    async def __call__(self, **columns: Any) -> Any:
        return self._pass_on(await self.function(**columns), columns)


def heard(function: Reward, hear: Hear) -> Heard:
    """A replacement for a reward function that passes its rewards to `hear`; asynchronous if that one is."""
    plain = function
    while isinstance(plain, partial):
        plain = plain.func
    is_later = any(map(inspect.iscoroutinefunction, (plain, getattr(plain, "__call__", None))))  # noqa: B004
    name = getattr(plain, "__name__", type(plain).__name__)
    return (_HeardLater if is_later else Heard)(function, hear, name)


def judged(reward: Any) -> float | None:
    """A reward as a float; None if the function could not judge, for which TRL has None or NaN."""
    number = math.nan if reward is None else float(reward)
    return None if math.isnan(number) else number


def weighted(weights: Iterable[float], rewards: Iterable[Any]) -> float | None:
    """The weighted sum of a rollout's rewards as in TRL, `[functions]` both; infinity if it is not finite.

    A function that could not judge is left out; the sum is None if no function could.
    """
    judgements = zip(weights, map(judged, rewards), strict=True)
    parts = [weight * reward for weight, reward in judgements if reward is not None]
    try:
        return math.fsum(parts) if parts else None
    except (ValueError, OverflowError):  # infinities of both signs, or more than a float
        return math.inf


class Tap:
    """Collects the rewards of a trainer's generations on this process, until `drain`.

    It replaces the trainer's `reward_funcs`. `outcome` names the functions whose weighted sum is the reward,
    None for all, and `correct` the function for correctness, in [0, 1]; `check` has checked both. `metrics`
    go to the trainer's logs, under `gaincurate/`.
    """

    def __init__(
        self, trainer: Any, shape: BatchShape, outcome: str | Sequence[str] | None, correct: str | None
    ) -> None:
        self.metrics: Mapping[str, float] = {}
        names = list(trainer.reward_func_names)
        summed = names if outcome is None else [outcome] if isinstance(outcome, str) else outcome
        weights = zip(names, map(reward_of, trainer.reward_weights.tolist()), strict=True)
        self._weights = {name: weight for name, weight in weights if name in summed}
        self.shape, self._correct = shape, correct
        self._calls: dict[str, list[list[float | None]]] = {
            name: [] for name in names if name in summed or name == correct
        }
        self._rows: list[tuple[list[str], list[int]]] = []  # ids and completion tokens, of each generation
        # A new list: TRL keeps the user's own. Bound methods: before 1.14, TRL awaits no objects.
        trainer.reward_funcs = [
            heard(function, partial(self._hear, name)).__call__ if name in self._calls else function
            for name, function in zip(names, trainer.reward_funcs, strict=True)
        ]
        self._evaluates = False
        trainer.evaluation_loop = self._evaluation()(trainer.evaluation_loop)

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        """Mark evaluations, because Unsloth sets the model to training mode before their rewards too."""
        self._evaluates = True
        try:
            yield
        finally:
            self._evaluates = False

    def _hear(self, name: str, rewards: list[Any], columns: Mapping[str, Any]) -> None:
        if self._evaluates:
            return
        if ID not in columns:
            raise InputError(f"rows have no {ID}: use gaincurate.trainers.trl.dataset(run) or exported rows.")
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
        """This process's new outcomes, first used by optimizer step `step`, from 1; None if there is none."""
        if not self._rows:
            return None
        lines: list[Json] = []
        for (ids, tokens), *calls in zip(self._rows, *self._calls.values(), strict=True):
            first = self.shape.rank * len(ids)
            for place, (gc_id, *values) in enumerate(zip(ids, *calls, strict=True)):
                rewards = dict(zip(self._calls, values, strict=True))
                reward = weighted(self._weights.values(), map(rewards.__getitem__, self._weights))
                line = {ID: gc_id, "reward": reward, "step": step}
                line |= {"sample": (first + place) % self.shape.group, "tokens": tokens[place]}
                if self._correct is not None:
                    line["correct"] = rewards[self._correct]
                lines.append(line)
        self.forget()
        return lines
