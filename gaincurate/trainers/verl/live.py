"""verl 0.9.1 follows a run by settings only, with our dataset, replay buffer and checkpoint callback.

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
    """verl's dataset, with a round's rows in place of training files; other files are unchanged.

    Position i is the i-th prompt of the newest round, and an epoch is a round. `RLHFDataset` processes the
    rows; `extra_info` has `gc_id` and `gc_round`.

    `data_files` is the run's folder, or for validation verl's files. `gaincurate.data_source` and
    `gaincurate.answer_column` in `config`, verl's `data`, are for rows without `data_source` or
    `reward_model`. Raises InputError if no run is given, or the checkpoint callback is not set.
    """

    def __init__(self, data_files: Any, tokenizer: Any, config: DictConfig, *args: Any, **more: Any) -> None:
        run = run_in(data_files)
        if run is None:  # for validation; the training's files must be a run
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
        names = self.config.get("gaincurate") or {}
        rows = self.training.rows(names.get("answer_column"), names.get("data_source"))
        self.dataframe = datasets.Dataset.from_list(rows)
        short = set(self.maybe_filter_out_long_prompts(self.dataframe)[ID])
        if dropped := [row[ID] for row in rows if row[ID] not in short]:
            raise InputError(
                f"data.filter_overlong_prompts=True drops {len(dropped)} prompts of round "
                f"{self.training.live.round}, {dropped[0]} first, with more than data.max_prompt_length="
                f"{self.max_prompt_length} tokens. Set data.max_prompt_length higher, and resume."
            )

    def __getitem__(self, item: int) -> dict[str, Any]:
        if self.training is not None and self.training.hand_out(int(item)):
            self._read_files_and_tokenize()
        row: dict[str, Any] = super().__getitem__(item)
        return row

    def __getstate__(self) -> dict[str, Any]:
        # verl's filter counts tokens in another process, which must not lock the run.
        return {**super().__getstate__(), "training": None}

    def state_dict(self) -> Json:
        """The place in the run, which `StatefulDataLoader` saves in data.pt; empty for validation."""
        return self.training.state() if self.training is not None else {}

    def load_state_dict(self, state: Json) -> None:
        """Return the run to a saved place."""
        if self.training is not None:
            self.training.restore(state)
            self._read_files_and_tokenize()


class RunReplayBuffer(ReplayBuffer):  # type: ignore[misc]
    """verl's synchronous replay buffer, which also reports each training batch's rewards to the run.

    The reward of a rollout is the sum of its `rm_scores`, before any KL penalty. A prompt whose rollouts all
    failed is reported as not judged. No rollout is filtered.
    """

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """Sample as verl does, and add the run's metrics; raises InputError if the run is at another step."""
        batch, metrics = super().sample(global_steps, partition_id, batch_size)
        if partition_id == "val":
            return batch, metrics
        training = current()
        training.report(global_steps, rollouts_of(batch))
        of_run = {f"gaincurate/{name}": value for name, value in training.live.metrics().items()}
        return batch, {**metrics, **of_run}


def rollouts_of(batch: Any) -> list[Json]:
    """The outcomes of a sampled batch, one per rollout; keys are `{uid}_{session}_{index}`.

    A rollout of several turns may have several trajectories, each with the rollout's whole reward.
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

    `config` has all settings of verl. Raises InputError for those that break the plan, and as `Training`.
    """

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        run = run_of(config.data)
        check(partial(OmegaConf.select, config), Run(run))
        self.training = begin(run, int(config.data.train_batch_size), resumed(config.trainer))

    def on_save(
        self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs: Any
    ) -> None:
        """Save the run's place with the checkpoint; the last checkpoint finishes the run."""
        self.training.saved(global_step, checkpoint_dir, whole=not async_save)


def resumed(trainer: DictConfig) -> str | None:
    """The checkpoint that verl will resume from, as `PPOTrainer._load_checkpoint` finds it (0.9.1)."""
    if trainer.resume_mode == "resume_path":
        return os.path.abspath(str(trainer.resume_from_path))
    if trainer.resume_mode == "auto":
        newest: str | None = find_latest_ckpt_path(os.path.abspath(trainer.default_local_dir))
        return newest
    return None
