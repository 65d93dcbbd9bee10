"""verl 0.9.1 follows a run by configuration alone: its dataset, its replay buffer, its checkpoint callback.

verl builds the callback first, with all settings, then the replay buffer, then the datasets. They share the
state in `run.py`. Each is a subclass of verl's class that adds the run's rows, ids and places.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import datasets
import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path
from verl.utils.dataset.rl_dataset import RLHFDataset

from gaincurate.core.artifact import Json
from gaincurate.core.schema import ID
from gaincurate.errors import InputError
from gaincurate.schedule.run import Run
from gaincurate.trainers.session import ROUND, reward_of
from gaincurate.trainers.verl.run import Training, begin, current
from gaincurate.trainers.verl.settings import check, overrides, run_in, run_of

__all__ = ["RunCheckpoint", "RunDataset", "RunReplayBuffer", "overrides"]


class RunDataset(RLHFDataset):  # type: ignore[misc]
    """verl's dataset with a round's rows for the training files, and as it is for all other files.

    Position i is the i-th prompt of the newest round; an epoch is a round. What a row yields is what
    `RLHFDataset` makes of it; `extra_info` has `gc_id` and `gc_round`.

    `data_files` is the run's folder, or for validation files as verl knows them. `gaincurate.data_source` and
    `gaincurate.answer_column` in `config`, verl's `data`, are for rows without `data_source` or
    `reward_model`. Raises InputError where no run is given, or the checkpoint callback is not set.
    """

    def __init__(self, data_files: Any, tokenizer: Any, config: DictConfig, *args: Any, **more: Any) -> None:
        run = run_in(data_files)
        if run is None:  # of validation: the training's files are a run
            run_of(config)
        self.training: Training | None = current(run) if run is not None else None
        super().__init__(data_files, tokenizer, config, *args, **more)

    def _download(self, use_origin_parquet: bool = False) -> None:
        if self.training is None:
            super()._download(use_origin_parquet)

    def _read_files_and_tokenize(self) -> None:
        if self.training is None:
            super()._read_files_and_tokenize()
            return
        own = self.config.get("gaincurate") or {}
        rows = self.training.rows(own.get("answer_column"), own.get("data_source"))
        self.dataframe = datasets.Dataset.from_list(rows)
        short = set(self.maybe_filter_out_long_prompts(self.dataframe)[ID])
        if dropped := [row[ID] for row in rows if row[ID] not in short]:
            raise InputError(
                f"data.filter_overlong_prompts=True drops {len(dropped)} prompts of round "
                f"{self.training.live.round}, {dropped[0]} first: they have more than "
                f"data.max_prompt_length={self.max_prompt_length} tokens, and a round is trained whole. Set "
                "data.max_prompt_length higher, and resume."
            )

    def __getitem__(self, item: int) -> dict[str, Any]:
        if self.training is not None and self.training.hand_out(int(item)):
            self._read_files_and_tokenize()
        row: dict[str, Any] = super().__getitem__(item)
        return row

    def __getstate__(self) -> dict[str, Any]:
        # verl's filter counts tokens in another process, which must not hold the run.
        return {**super().__getstate__(), "training": None}

    def state_dict(self) -> Json:
        """The place, which `StatefulDataLoader` puts into data.pt; empty for validation."""
        return self.training.state() if self.training is not None else {}

    def load_state_dict(self, state: Json) -> None:
        """Go back to a place."""
        if self.training is not None:
            self.training.restore(state)
            self._read_files_and_tokenize()


class RunReplayBuffer(ReplayBuffer):  # type: ignore[misc]
    """verl's synchronous replay buffer, which also reports each training batch's rewards to the run.

    The reward of a rollout is the sum of its `rm_scores`, before any KL penalty. A prompt whose rollouts all
    failed is reported as one that could not be judged. Nothing is filtered.
    """

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """As verl's, with the run's metrics; raises InputError where verl and the run are at other steps."""
        batch, metrics = super().sample(global_steps, partition_id, batch_size)
        if partition_id == "val":
            return batch, metrics
        training = current()
        training.report(global_steps, rollouts_of(batch))
        of_run = {f"gaincurate/{name}": value for name, value in training.live.metrics().items()}
        return batch, {**metrics, **of_run}


def rollouts_of(batch: Any) -> list[Json]:
    """The outcomes in a sampled batch, a line a rollout; keys are `{uid}_{session}_{index}`.

    A rollout of several turns may be several trajectories; each has the rollout's whole reward.
    """
    fields, by_rollout = ["extra_info", "rm_scores"], dict[str, Json]()
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
    columns = (batch.keys, batch.tags, *(data[name] for name in fields))
    for key, tag, extra, scores in zip(*columns, strict=True):
        about = getattr(extra, "data", extra)
        rollout, _, _ = key.rpartition("_")
        line = {
            ID: str(about[ID]),
            "round": int(about[ROUND]),
            "reward": reward_of(float(scores.sum())),
            "sample": int(rollout.rpartition("_")[2]),
            "tokens": int(tag["response_len"]) + by_rollout.get(rollout, {}).get("tokens", 0),
        }
        by_rollout[rollout] = line
    return list(by_rollout.values())


class RunCheckpoint(CheckpointCallback):  # type: ignore[misc]
    """Begins the training that follows a run, and saves the position with each checkpoint.

    `config` has all of verl's settings. Raises InputError on all of those under which verl would not train by
    the plan, and as `Training`.
    """

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        run = run_of(config.data)
        check(partial(OmegaConf.select, config), Run(run))
        self.training = begin(run, int(config.data.train_batch_size), resumed(config.trainer))

    def on_save(
        self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs: Any
    ) -> None:
        """Note the checkpoint; after the last one the run is finished."""
        self.training.saved(global_step, checkpoint_dir, whole=not async_save)


def resumed(trainer: DictConfig) -> str | None:
    """The checkpoint that verl will resume from, as `PPOTrainer._load_checkpoint` finds it (0.9.1)."""
    if trainer.resume_mode == "resume_path":
        return os.path.abspath(str(trainer.resume_from_path))
    if trainer.resume_mode == "auto":
        newest: str | None = find_latest_ckpt_path(os.path.abspath(trainer.default_local_dir))
        return newest
    return None
