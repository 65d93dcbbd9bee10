"""verl 0.9.1 follows a run by configuration alone: its dataset, its replay buffer, its checkpoint callback.

`overrides` says what to set. verl builds the callback first, with all settings, then the replay buffer,
then the datasets, all in the driver's process. What they share is in `run.py`. Each is verl's own class
with the run's rows, ids and places put in, so verl trains as it always does.
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
from gaincurate.trainers.verl.settings import check, no_run, overrides, run_in

__all__ = ["RunCheckpoint", "RunDataset", "RunReplayBuffer", "overrides"]


class RunDataset(RLHFDataset):  # type: ignore[misc]
    """verl's dataset with a round's rows for the training files, and as it is for all other files.

    Position i is the i-th prompt of the newest round; an epoch is a round. What a row yields is what
    `RLHFDataset` makes of it; `extra_info` has `gc_id` and `gc_round`.

    Args:
        data_files: the run's folder, or files as verl knows them (for validation).
        tokenizer: verl's.
        config: verl's `data`. `gaincurate.data_source` and `gaincurate.answer_column` in it are for rows
            that have no `data_source` or `reward_model` of their own.
        processor: verl's.
        max_samples: verl's.

    Raises:
        InputError: no run is given, or the checkpoint callback is not set.
    """

    def __init__(
        self,
        data_files: Any,
        tokenizer: Any,
        config: DictConfig,
        processor: Any = None,
        max_samples: int = -1,
    ) -> None:
        run = run_in(data_files)
        self.training: Training | None = current(run) if run is not None else None
        if run is None and run_in(config.get("train_files")) is None:
            raise no_run(config.get("train_files"))
        super().__init__(data_files, tokenizer, config, processor, max_samples)

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
        """As verl's; metrics have the run's, under `gaincurate/`.

        Raises:
            InputError: verl and the run are not at the same step.
        """
        batch, metrics = super().sample(
            global_steps=global_steps, partition_id=partition_id, batch_size=batch_size
        )
        if partition_id == "val":
            return batch, metrics
        training = current()
        training.report(global_steps, rollouts_of(batch))
        of_run = {f"gaincurate/{name}": value for name, value in training.live.metrics().items()}
        return batch, {**metrics, **of_run}


def rollouts_of(batch: Any) -> list[Json]:
    """The outcomes in a sampled batch, a line a rollout.

    A rollout of several turns may be several trajectories; each has the rollout's whole reward.

    Args:
        batch: keys `{uid}_{session}_{index}` and tags of TransferQueue.
    """
    data = tq.kv_batch_get(
        keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_info", "rm_scores"]
    )
    by_rollout: dict[str, Json] = {}
    for key, tag, extra, scores in zip(
        batch.keys, batch.tags, data["extra_info"], data["rm_scores"], strict=True
    ):
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

    Args:
        config: all of verl's settings.

    Raises:
        InputError: settings under which verl would not train by the plan; all of them.
        OutputError: the run stands at a later round than verl, or the checkpoint is of another run.
    """

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        run = run_in(config.data.get("train_files"))
        if run is None:
            raise no_run(config.data.get("train_files"))
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
