"""A program: verl's own synchronous trainer without a model, from its configuration to its last step.

What runs is verl's: the settings, `fit`, the loading and saving of checkpoints, dataset, data loader, replay
buffer, TransferQueue under Ray. What does not: rollouts (rewards are a hash of the prompt's id), the workers
(they write a small file in the model's place), and the update. Each step's ids go to `trained.jsonl`.

    python verl_trainer.py WORK OVERRIDE ...        with KILL_AT=N: SIGKILL behind step N's checkpoint
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
import transfer_queue as tq
import verl
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

import tiny

ROLLOUTS = 2


def settings(overrides: list[str]) -> Any:
    """verl's settings with these overrides."""
    folder = str(Path(verl.__file__).parent / "trainer/config")
    with initialize_config_dir(folder, version_base=None):
        return compose("ppo_trainer", overrides=overrides)


def reward(gc_id: str, sample: int) -> float:
    """0 or 1, the same in every process."""
    return float(hashlib.sha256(f"{gc_id} {sample}".encode()).digest()[0] % 2)


class Rollouts:
    """Stands for verl's agent loops: puts what they put into TransferQueue, at once."""

    def __init__(self, failing: set[str]) -> None:
        self.failing = failing

    def generate_sequences(self, prompts: Any) -> None:
        """Two rollouts for each prompt, of one and of two trajectories; none for those that fail in step 1."""
        for place in range(len(prompts)):
            row = {
                name: prompts[name][place] for name in ("uid", "extra_info", "reward_model", "data_source")
            }
            row = {name: getattr(value, "data", value) for name, value in row.items()}
            fails = row["extra_info"]["gc_id"] in self.failing and row["extra_info"]["gc_round"] == 0
            if not fails:
                self._put(row)
            status = {"status": "failure" if fails else "finished"}
            tq.kv_put(key=row["uid"], partition_id="train", tag=status)

    def _put(self, row: dict[str, Any]) -> None:
        keys, fields, tags = [], [], []
        for sample in range(ROLLOUTS):
            for part in range(sample + 1):
                length = 3 + part
                scores = torch.zeros(length)
                scores[-1] = reward(row["extra_info"]["gc_id"], sample)
                keys.append(f"{row['uid']}_{sample}_{part}")
                fields.append(
                    {**row, "responses": torch.ones(length, dtype=torch.int64), "rm_scores": scores}
                )
                tags.append(
                    {"status": "success", "response_len": length, "prompt_len": 2, "seq_len": 2 + length}
                )
        data = list_of_dict_to_tensordict(fields)
        tq.kv_batch_put(keys=keys, partition_id="train", fields=data, tags=tags)


class Workers:
    """Stands for the worker group: a checkpoint is a file with its step, and weights where asked for."""

    def __init__(self, work: Path, contents: list[str]) -> None:
        self.model = work / "model"
        self.contents = contents

    def save_checkpoint(self, path: str, remote: str | None, step: int, max_ckpt_to_keep: int | None) -> None:
        """Write it."""
        Path(path).mkdir(parents=True)
        (Path(path) / "step").write_text(str(step))
        if "hf_model" in self.contents:
            shutil.copytree(self.model, Path(path) / "huggingface")

    def load_checkpoint(self, local_path: str, del_local_after_load: bool) -> None:
        """See that it is there."""
        assert (Path(local_path) / "step").exists()


class Idle:
    """Stands for the checkpoint manager, which has no weights to send."""

    def update_weights(self, step: int | None = None) -> None:
        """Nothing."""

    def sleep_replicas(self) -> None:
        """Nothing."""


class Trainer(PPOTrainerSync):  # type: ignore[misc]
    """verl's trainer on a machine without a GPU."""

    work: Path
    workers: type[Workers] = Workers
    actor_rollout_wg: Any

    def _setup(self) -> None:
        self.tokenizer, self.processor = tiny.tokenizer(), None
        self._init_dataloader()
        self._init_dump_executor()
        contents = list(self.config.actor_rollout_ref.actor.checkpoint.save_contents)
        self.actor_rollout_wg, self.checkpoint_manager = self.workers(self.work, contents), Idle()
        self._load_checkpoint()

    def _step_once(self, metrics: dict[str, Any], timing_raw: dict[str, float], size: int) -> Any:
        batch, found = self.replay_buffer.sample(self.global_steps, "train", size)
        metrics.update(found)
        extra = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=["extra_info"])
        ids = sorted({getattr(one, "data", one)["gc_id"] for one in extra["extra_info"]})
        with (self.work / "trained.jsonl").open("a") as file:
            file.write(
                json.dumps({"step": self.global_steps, "ids": ids, "mu": metrics["gaincurate/mu"]}) + "\n"
            )
        return batch

    def on_step_end(self) -> None:
        """Be killed, where that is asked for."""
        if os.environ.get("KILL_AT") == str(self.global_steps):
            os.kill(os.getpid(), signal.SIGKILL)
        super().on_step_end()

    def _compute_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Needs what nothing computed: log probabilities, times."""


@contextmanager
def ready(kind: type[Trainer], work: Path, overrides: list[str]) -> Iterator[Any]:
    """A trainer that can `fit`, under Ray and with a TransferQueue."""
    config = settings(overrides)
    OmegaConf.resolve(config)
    ray.init(num_cpus=4, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    tq.init(OmegaConf.create({"backend": {"SimpleStorage": {"num_data_storage_units": 1}}}))
    kind.work = work
    trainer = kind(config)
    trainer.init()
    yield trainer
    tq.close()
    ray.shutdown()


def main() -> None:
    """Train."""
    work = Path(sys.argv[1])
    failing = set((work / "failing").read_text().split()) if (work / "failing").exists() else set()
    with ready(Trainer, work, sys.argv[2:]) as trainer:
        trainer.fit(Rollouts(failing))


if __name__ == "__main__":
    main()
