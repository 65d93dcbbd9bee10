"""Rows into TRL and rewards out of it.

The plan is the data set: a row of the round is known by its place in the sampler's order, and the rewards
are recorded where TRL gathers them over all processes, because a wrapped reward function would see one
process alone.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import torch

from gaincurate.core.artifact import Json
from gaincurate.core.prompts import training_rows
from gaincurate.core.schema import ID
from gaincurate.errors import InputError
from gaincurate.schedule.run import Run
from gaincurate.trainers.doctor.findings import refuse
from gaincurate.trainers.session import reward_of
from gaincurate.trainers.trl.batching import Shape
from gaincurate.trainers.trl.checks import unheard


def dataset(run: str | Path) -> datasets.Dataset:
    """The scored set of a run as rows for training: `prompt`, `gc_id` and the source's columns.

    Args:
        run: the run's folder.

    Returns:
        All rows of the set, `[rows]`, in its order; `prompt` is the chat messages as they were scored.

    Raises:
        OutputError: no run, or its scored set is gone.
    """
    opened = Run(run)
    scored, config = opened.scored, opened.config
    table = pa.concat_tables(scored.tables())  # memory-mapped, and not hashed: the manifest's hash will do
    schema = table.schema
    whole = datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint=scored.manifest_hash)

    def rows(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        few = pa.Table.from_pydict(batch, pa.schema([schema.field(name) for name in batch]))
        found: dict[str, list[Any]] = training_rows(
            few, scored.identity, bare=config.bare, with_scores=config.with_scores
        ).to_pydict()
        return found

    return whole.with_transform(rows)


def places_of(rows: datasets.Dataset, ids: Sequence[str]) -> list[int]:
    """Where the rows with these ids are, `[ids]`.

    Raises:
        InputError: one is not there.
    """
    if ID not in rows.column_names:
        raise InputError(
            f"train_dataset has no {ID} column: train on `gaincurate.trainers.trl.dataset(run)`, or on rows "
            "that were exported with their ids."
        )
    column = rows.select_columns(ID).with_format("arrow")[:].column(ID)
    places = pc.index_in(pa.array(ids, pa.string()), value_set=pc.cast(column, pa.string()).combine_chunks())
    if places.null_count:
        missing = ids[pc.indices_nonzero(pc.is_null(places))[0].as_py()]
        raise InputError(
            f"train_dataset has no row for {missing!r}, which the plan asks for ({places.null_count:,} of "
            f"{len(ids):,} are missing): it is not made of the run's scored set, or was filtered."
        )
    found: list[int] = places.to_pylist()
    return found


class RoundSampler(torch.utils.data.Sampler[int]):
    """A round's prompts as TRL's RepeatSampler would give them, in the plan's order.

    For every generation of B prompts: R times, each prompt G times in a row. All processes walk through the
    same sequence and take their slices of it.

    Args:
        places: called when an epoch begins; the rows of the round, `[budget]`.
        budget: prompts in a round.
        shape: of the trainer.
    """

    def __init__(self, places: Callable[[], Sequence[int]], budget: int, shape: Shape) -> None:
        self._places, self._budget, self._shape = places, budget, shape

    def __len__(self) -> int:
        return self._budget * self._shape.group * self._shape.repeats

    def __iter__(self) -> Iterator[int]:
        places, shape = self._places(), self._shape
        for start in range(0, len(places), shape.prompts):
            for _ in range(shape.repeats):
                for place in places[start : start + shape.prompts]:
                    for _ in range(shape.group):
                        yield place


_Call = tuple[list[str], list[float | None], list[int]]
"""Ids, rewards and completion tokens of one generation on one process, `[rollouts]` each."""


class Tap:
    """Listens to the reward functions of a trainer.

    Args:
        trainer: a `trl.GRPOTrainer`; its `reward_funcs` are wrapped in place.
        shape: its shape.
        outcome: names of the functions whose weighted sum is the reward; None for all.
        correct: the name of one whose value says whether an answer is right, in [0, 1].
        metrics: numbers for the trainer's own logs, under `gaincurate/`.

    Raises:
        InputError: a name that there is not, or a reward model, which is no function.
    """

    def __init__(
        self,
        trainer: Any,
        shape: Shape,
        outcome: str | Sequence[str] | None,
        correct: str | None,
        metrics: Callable[[], Mapping[str, float]],
    ) -> None:
        names = list(trainer.reward_func_names)
        self._shape, self._trainer, self._metrics = shape, trainer, metrics
        outcome = [outcome] if isinstance(outcome, str) else outcome
        self._summed = list(names if outcome is None else outcome)
        refuse(unheard(trainer, outcome, correct))
        self._correct = correct
        wanted = {*self._summed, *([correct] if correct else [])}
        weights = [reward_of(weight) for weight in trainer.reward_weights.tolist()]
        self._weights = dict(zip(names, weights, strict=True))
        self._calls: dict[str, list[_Call]] = {name: [] for name in names if name in wanted}
        first = True
        trainer.reward_funcs = list(trainer.reward_funcs)  # TRL keeps the user's own list
        for place, (name, function) in enumerate(zip(names, trainer.reward_funcs, strict=True)):
            if name not in wanted:
                continue
            trainer.reward_funcs[place] = self._wrapped(name, function, logs=first)
            first = False

    def _wrapped(self, name: str, function: Callable[..., Any], *, logs: bool) -> Callable[..., Any]:
        def hear(rewards: Any, columns: Mapping[str, Any]) -> None:
            if not self._trainer.model.training:  # an evaluation
                return
            if ID not in columns:
                raise InputError(
                    f"the rows have no {ID}: train on `gaincurate.trainers.trl.dataset(run)`, or on rows "
                    "that were exported with their ids."
                )
            ids, tokens = list(columns[ID]), [len(found) for found in columns["completion_ids"]]
            self._calls[name].append((ids, [_plain(reward) for reward in rewards], tokens))
            if logs:
                for key, value in self._metrics().items():
                    columns["log_metric"](f"gaincurate/{key}", value)

        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - an object with an asynchronous call
        ):

            @functools.wraps(function)
            async def heard_later(*args: Any, **columns: Any) -> Any:
                rewards = list(await function(*args, **columns))
                hear(rewards, columns)
                return rewards

            return heard_later

        @functools.wraps(function)
        def heard(*args: Any, **columns: Any) -> Any:
            rewards = list(function(*args, **columns))
            hear(rewards, columns)
            return rewards

        return heard

    @property
    def several(self) -> bool:
        """Whether a reward is the sum of several functions'."""
        return len(self._summed) > 1

    def forget(self) -> None:
        """Drop what was heard in a step that did not end."""
        for heard in self._calls.values():
            heard.clear()

    def drain(self, step: int) -> list[Json] | None:
        """The outcome lines of this process since the last time; None where nothing was generated.

        Args:
            step: the optimizer step that used them first, from 1.
        """
        if not any(self._calls.values()):
            return None
        lines: list[Json] = []
        for calls in zip(*self._calls.values(), strict=True):
            by_name = dict(zip(self._calls, calls, strict=True))
            ids, _, tokens = calls[0]
            for place, gc_id in enumerate(ids):
                rewards = {name: call[1][place] for name, call in by_name.items()}
                where = self._shape.rank * len(ids) + place
                line = {ID: gc_id, "reward": self._sum(rewards), "step": step}
                line |= {"sample": where % self._shape.group, "tokens": tokens[place]}
                if self._correct is not None:
                    line["correct"] = rewards[self._correct]
                lines.append(line)
        self.forget()
        return lines

    def _sum(self, rewards: Mapping[str, float | None]) -> float | None:
        """As TRL weighs them: a function that could not judge is left out, None where none could."""
        found = [self._weights[name] * value for name in self._summed if (value := rewards[name]) is not None]
        return math.fsum(found) if found else None


def _plain(reward: Any) -> float | None:
    if reward is None:
        return None
    number = float(reward)
    return None if math.isnan(number) else number  # TRL's own word for a reward that is not there
