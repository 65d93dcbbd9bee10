"""Rollout replay for verl 0.9.1 (sync): its replay buffer also returns groups of earlier steps.

verl generates for `data.train_batch_size` prompts per step, as many as a step with replay needs. Other steps
request the rest. Replayed groups are put into TransferQueue under new uids, so verl computes their old
log-probs and advantages.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transfer_queue as tq
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from gaincurate.errors import InputError
from gaincurate.replay import buffer, metrics
from gaincurate.replay.state import NAME, load, save
from gaincurate.trainers.verl.live import resumed
from gaincurate.trainers.verl.replay_settings import Trajectory, check, groups_of, rows_of, sizes_of

_log = logging.getLogger(__name__)
_resumed: Path | None = None


class ReplayCheckpoint(CheckpointCallback):  # type: ignore[misc]
    """Checks verl's settings, and saves the buffer with each checkpoint.

    Raises InputError for all settings that replay does not support.
    """

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        check(partial(OmegaConf.select, config))
        global _resumed
        folder = resumed(config.trainer)
        _resumed = None if folder is None else Path(folder)

    def on_save(
        self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs: Any
    ) -> None:
        """Write the buffer's state into the checkpoint's folder."""
        save(trainer.replay_buffer.replay, Path(checkpoint_dir) / NAME)


class GroupReplayBuffer(ReplayBuffer):  # type: ignore[misc]
    """verl's synchronous replay buffer, which also replays.

    `sampler_kwargs` has `ReplayConfig`'s values by name, verl's `temperature` and `top_p`, `reward_range`
    (default [0, 1]), and `begin_empty`, to resume from a checkpoint without a buffer. Raises InputError for
    wrong sizes, OutputError if the checkpoint to resume from has no buffer or other sizes.
    """

    def __init__(self, *, sampler_kwargs: Any, **others: Any) -> None:
        super().__init__(sampler_kwargs=sampler_kwargs, **others)
        options = dict(sampler_kwargs or {})
        self.replay = buffer.ReplayBuffer(sizes_of(options))
        low, high = options.get("reward_range", (0.0, 1.0))
        self._span = (float(low), float(high))
        self._sampled = {name: options.get(name, 1.0) for name in ("temperature", "top_p")}
        if _resumed is not None:
            load(self.replay, _resumed / NAME, begin_empty=bool(options.get("begin_empty")))

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """Sample as verl does, append the replayed groups, and add metrics under `replay/`."""
        if partition_id == "val":
            plain: tuple[Any, dict[str, Any]] = super().sample(global_steps, partition_id, batch_size)
            return plain
        plan = self.replay.plan(global_steps)
        if (missing := plan.fresh_groups - batch_size) > 0:
            self.refill_fn(missing)
        batch, numbers = super().sample(global_steps, partition_id, plan.fresh_groups)
        size = self.replay.config.group_size
        fresh = groups_of(_rows_in(batch), global_steps, size, self._span, **self._sampled)
        self.replay.insert(fresh)
        if (text := metrics.warning(self.replay)) is not None:
            _log.warning(text)
        again = [
            row
            for place, group in enumerate(plan.replayed)
            for row in rows_of(group, f"replay{global_steps}-{place}", global_steps)
        ]
        return _with(batch, again), {**numbers, **metrics.step_metrics(self.replay, fresh)}


def _with(batch: Any, rows: Sequence[Trajectory]) -> Any:
    """The sampled batch with replayed rows appended, which are put into TransferQueue."""
    if not rows:
        return batch
    keys, tags = [row.key for row in rows], [dict(row.tag) for row in rows]
    fields = list_of_dict_to_tensordict([row.fields for row in rows])
    tq.kv_batch_put(keys=keys, partition_id=batch.partition_id, fields=fields, tags=tags)
    return KVBatchMeta(partition_id=batch.partition_id, keys=[*batch.keys, *keys], tags=[*batch.tags, *tags])


def _rows_in(batch: Any) -> list[Trajectory]:
    """The trajectories of a sampled batch, with all their fields."""
    if not batch.keys:
        raise InputError("the batch has no trajectory: all its rollouts failed.")
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id)
    columns = {name: list(data[name]) for name in data.keys()}  # noqa: SIM118 a TensorDict iterates over rows
    return [
        Trajectory(key, tag, {name: _value(column[place]) for name, column in columns.items()})
        for place, (key, tag) in enumerate(zip(batch.keys, batch.tags, strict=True))
    ]


def _value(value: Any) -> Any:
    return value if isinstance(value, torch.Tensor) else getattr(value, "data", value)
