"""TRL's `AsyncGRPOTrainer` follows a run: `async_arguments` makes what its constructor takes.

The trainer's worker process iterates the data set and calls the reward functions, so it alone draws, plans
and reports. The trainer's own process writes the place beside a checkpoint, and says where to go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import transformers
from trl.trainer.utils import get_callable_name, is_async_callable

from gaincurate.core.artifact import Json
from gaincurate.core.manifest import Document
from gaincurate.core.schema import ID
from gaincurate.schedule.run import read_json
from gaincurate.trainers.round_dataset import DRAW, RoundDataset
from gaincurate.trainers.session import ROUND, RunSession, place_beside

_TRAINED = "rollout_state.json"
"""TRL's file in a checkpoint: `prompt_index` is the first group of this training that was not trained on."""

Reward = Callable[..., Any]


def async_arguments(
    run: str | Path,
    reward_funcs: Reward | Sequence[Reward],
    callbacks: Sequence[transformers.TrainerCallback] = (),
) -> dict[str, Any]:
    """The arguments with which an `AsyncGRPOTrainer` follows a run.

    `AsyncGRPOTrainer(model, args=args, **async_arguments("run", reward))`. Prompts come in the order of the
    plans. Outcomes are the sums of the rewards, as TRL sums them.

    Args:
        run: the run's folder.
        reward_funcs: one or several that can be pickled: a module's functions, or instances of its classes.
            The reward of an environment is not heard.
        callbacks: further callbacks of the trainer's.

    Returns:
        `train_dataset`, `reward_funcs` and `callbacks`.

    Raises:
        OutputError: no run is there.
    """
    functions = [reward_funcs] if callable(reward_funcs) else list(reward_funcs)
    dataset = RoundDataset(run, endless=True)
    rewards = _Rewards(dataset, len(functions))
    kinds = [_HeardLater if is_async_callable(function) else _Heard for function in functions]
    heard = [kind(function, rewards) for kind, function in zip(kinds, functions, strict=True)]
    return {"train_dataset": dataset, "reward_funcs": heard, "callbacks": [_Places(dataset), *callbacks]}


class _Rewards:
    """The rewards of groups that not all functions have scored, by draw."""

    def __init__(self, dataset: RoundDataset, functions: int) -> None:
        self._dataset, self._functions = dataset, functions
        self._by_draw: dict[int, list[Sequence[Any]]] = {}

    def hear(self, rewards: Sequence[Any], columns: Json) -> None:
        """Keep what one function gave a group, `[rollouts]`; report the group after the last function.

        TRL calls functions in threads, all of one group before it scores the next.
        """
        row = {name: columns[name][0] for name in (ID, ROUND, DRAW)}
        parts = self._by_draw.setdefault(row[DRAW], [])
        parts.append(rewards)
        if len(parts) == self._functions and self._by_draw.pop(row[DRAW], []):
            sums = [_sum(values) for values in zip(*parts, strict=True)]
            self._dataset.report([row], [sums], tokens=[[len(ids) for ids in columns["completion_ids"]]])


def _sum(rewards: Sequence[Any]) -> float | None:
    """None where no function could judge; TRL writes that as None or NaN."""
    judged = [float(reward) for reward in rewards if reward is not None and not math.isnan(reward)]
    return math.fsum(judged) if judged else None


class _Heard:
    """A reward function whose rewards are reported, under its name."""

    def __init__(self, function: Reward, rewards: _Rewards) -> None:
        self.function, self.rewards = function, rewards
        self.__name__ = get_callable_name(function)

    def __call__(self, **columns: Any) -> Any:
        rewards = list(self.function(**columns))
        self.rewards.hear(rewards, columns)
        return rewards


class _HeardLater(_Heard):
    async def __call__(self, **columns: Any) -> Any:
        rewards = list(await self.function(**columns))
        self.rewards.hear(rewards, columns)
        return rewards


class _Places(transformers.TrainerCallback):
    """Writes the place beside a checkpoint, and sets the data set's before it is sent to the worker.

    TRL starts the worker in a callback of its own, which comes after those that the constructor was given.
    """

    def __init__(self, dataset: RoundDataset) -> None:
        self._dataset = dataset

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.is_world_process_zero:
            if state.global_step:
                self._dataset.load_state_dict(place_beside(_checkpoint(args, state)))
            self._dataset.begin()
            self._dataset.close()

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        path = _checkpoint(args, state) / _TRAINED
        if state.is_world_process_zero and path.exists():
            first = self._dataset.draw_at(read_json(path, Document)["prompt_index"])
            RunSession(self._dataset.run).save_beside(path.parent, first - 1)


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
