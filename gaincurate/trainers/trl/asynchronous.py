"""TRL's `AsyncGRPOTrainer` follows a run: `async_arguments` makes what its constructor takes.

The trainer's worker process iterates the data set and calls the reward functions, so it alone draws, plans
and reports. The trainer's process saves the position with a checkpoint, and restores it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers

from gaincurate.core.foreign import json_file
from gaincurate.core.schema import ID
from gaincurate.schedule.run import Run, refuse_group_sizes
from gaincurate.trainers.round_dataset import DRAW, RoundDataset
from gaincurate.trainers.session import ROUND, RunSession, place_beside, sum_of
from gaincurate.trainers.trl.rewards import Reward, heard, judged


def async_arguments(run: str | Path, reward_funcs: Reward | Sequence[Reward]) -> dict[str, Any]:
    """The arguments with which an `AsyncGRPOTrainer` follows a run.

    `AsyncGRPOTrainer(model, args=args, **async_arguments("run", reward))`. Prompts come in the order of the
    plans. Outcomes are the sums of the rewards, as TRL sums them.

    Args:
        run: the run's folder.
        reward_funcs: one or several that can be pickled: a module's functions, or instances of its classes.
            The reward of an environment is not recorded.

    Returns:
        `train_dataset`, `reward_funcs` and `callbacks`.

    Raises:
        OutputError: no run is there.
        InputError: its plans have group sizes.
    """
    refuse_group_sizes(Run(run), "TRL")
    functions = [reward_funcs] if callable(reward_funcs) else list(reward_funcs)
    dataset = RoundDataset(run, endless=True)
    sums = _Sums(dataset, len(functions))
    rewards = [heard(function, sums) for function in functions]
    return {"train_dataset": dataset, "reward_funcs": rewards, "callbacks": [_Places(dataset)]}


class _Sums:
    """Reports the sums of a group's rewards when the last of the functions has scored it.

    TRL calls the functions in threads, and scores one group after the other.
    """

    def __init__(self, dataset: RoundDataset, functions: int) -> None:
        self._dataset, self._functions = dataset, functions
        self._parts: dict[int, list[list[Any]]] = {}  # by draw

    def __call__(self, rewards: list[Any], columns: Mapping[str, Any]) -> None:
        row = {name: columns[name][0] for name in (ID, ROUND, DRAW)}
        parts = self._parts.setdefault(row[DRAW], [])
        parts.append(rewards)
        if len(parts) == self._functions and self._parts.pop(row[DRAW], []):
            sums = [_sum(values) for values in zip(*parts, strict=True)]
            self._dataset.report([row], [sums], tokens=[[len(ids) for ids in columns["completion_ids"]]])


def _sum(rewards: Sequence[Any]) -> float | None:
    """None where no function could judge."""
    values = [value for value in map(judged, rewards) if value is not None]
    return sum_of(values) if values else None


class _Places(transformers.TrainerCallback):
    """Saves the position with a checkpoint, and restores the data set's before it is sent to the worker.

    A trainer that starts without a checkpoint begins round 0 again: no weights learned from its outcomes.

    TRL starts the worker in its own callback, which runs after those that the constructor was given.
    """

    def __init__(self, dataset: RoundDataset) -> None:
        self._dataset = dataset

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.is_world_process_zero:
            if state.global_step:
                self._dataset.load_state_dict(place_beside(_checkpoint(args, state)))
            self._dataset.begin(restart=not state.global_step)
            self._dataset.close()

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        path = _checkpoint(args, state) / "rollout_state.json"  # TRL's: the first group not trained on
        if state.is_world_process_zero and path.exists():
            first = self._dataset.draw_at(json_file(path)["prompt_index"])
            RunSession(self._dataset.run).save_beside(path.parent, first - 1)


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
