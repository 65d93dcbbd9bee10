"""A program: verl's own synchronous trainer with rollout replay, without a model, from settings to last step.

What runs is verl's: settings, `fit`, data loader, TransferQueue under Ray, replay buffer, checkpoints, and of a
step `_compute_old_log_prob` and `_compute_advantage`. What does not: rollouts (tokens, log-probs and rewards
are numbers made of the prompt, the step and the place), the actor (its log-probs are the rollout's less a tenth
for each step that passed), and the update. Each step's rows, as the update would get them, go to `trained.jsonl`.

    python verl_replays.py WORK OVERRIDE ...        with KILL_AT=N: SIGKILL behind step N's checkpoint
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transfer_queue as tq
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

import verl_trainer
from verl_trainer import Workers, ready

FIELDS = [
    "uid",
    "extra_info",
    "prompts",
    "responses",
    "response_mask",
    "rm_scores",
    "input_ids",
    "position_ids",
]
COMPUTED = ["rollout_log_probs", "old_log_probs", "advantages"]


def rewards(index: int, size: int) -> list[float]:
    """Of a prompt's rollouts: every third prompt's are all the same."""
    return [float((index + place) % 2 if index % 3 else index % 2) for place in range(size)]


def made(index: int, step: int, place: int) -> tuple[list[int], list[float]]:
    """Tokens and log-probs of a rollout."""
    length = 2 + (index + place) % 3
    return [1 + (index * 7 + step * 3 + place + k) % 40 for k in range(length)], [
        -(1 + (index + 2 * step + 3 * place + k) % 50) / 10 for k in range(length)
    ]


class Rollouts:
    """Stands for verl's agent loops: puts what `AgentLoopWorkerTQ` puts into TransferQueue, at once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.prompts = 0

    def generate_sequences(self, prompts: Any) -> None:
        """A group for each prompt."""
        step = int(prompts["global_steps"])
        names = ("uid", "extra_info", "reward_model", "data_source", "raw_prompt")
        for at in range(len(prompts)):
            self.prompts += 1
            row = {name: getattr(prompts[name][at], "data", prompts[name][at]) for name in names}
            self._put(row, step)
            tq.kv_put(key=row["uid"], partition_id="train", tag={"status": "finished"})

    def _put(self, row: dict[str, Any], step: int) -> None:
        index = int(row["extra_info"]["index"])
        keys, fields, tags = [], [], []
        prompt = torch.tensor([50, 51 + index])
        for place, reward in enumerate(rewards(index, self.size)):
            tokens, logprobs = made(index, step, place)
            response, mask = torch.tensor(tokens), torch.ones(len(tokens), dtype=torch.int64)
            scores = torch.zeros(len(tokens))
            scores[-1] = reward
            whole = torch.cat([prompt, response])
            keys.append(f"{row['uid']}_{place}_0")
            fields.append(
                {
                    **row,
                    "prompts": prompt,
                    "responses": response,
                    "response_mask": mask,
                    "loss_mask": mask,
                    "input_ids": whole,
                    "position_ids": torch.arange(len(whole)),
                    "rm_scores": scores,
                    "rollout_log_probs": torch.tensor(logprobs),
                    "multi_modal_inputs": {},
                    "num_turns": 2,
                    "extra_fields": {"reward_extra_info": {"acc": reward}},
                    "global_steps": step,
                }
            )
            lengths = {"prompt_len": 2, "response_len": len(tokens), "seq_len": 2 + len(tokens)}
            versions = {"min_global_steps": step - 1, "max_global_steps": step - 1}
            tags.append({"status": "success", **lengths, "global_steps": step, **versions})
        tq.kv_batch_put(keys=keys, partition_id="train", fields=list_of_dict_to_tensordict(fields), tags=tags)


class Actor(Workers):
    """Also gives log-probs: the rollout's, less a tenth for each step since."""

    step = 0

    def compute_log_prob(self, batch: Any) -> Any:
        """Writes what verl's workers write: a number a token of the whole sequence, one place early."""
        data = tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=["rollout_log_probs", "prompts"]
        )
        made = []
        for tag, own, prompt in zip(batch.tags, data["rollout_log_probs"], data["prompts"], strict=True):
            passed = self.step - 1 - tag["min_global_steps"]
            whole = torch.zeros(len(prompt) + len(own))
            whole[len(prompt) - 1 : -1] = own - passed / 10
            made.append({"log_probs": whole, "entropy": torch.zeros(len(whole))})
        tq.kv_batch_put(
            keys=batch.keys, partition_id=batch.partition_id, fields=list_of_dict_to_tensordict(made)
        )
        return batch


class Trainer(verl_trainer.Trainer):
    """The same with rows as an update would get them."""

    workers = Actor

    def _step_once(self, metrics: dict[str, Any], timing_raw: dict[str, float], size: int) -> Any:
        self.actor_rollout_wg.step = self.global_steps
        before = self.agent_loop_manager.prompts
        batch, found = self.replay_buffer.sample(self.global_steps, "train", size)
        metrics.update(found)
        batch.extra_info["temperature"] = self.config.actor_rollout_ref.rollout.temperature
        batch = self._compute_old_log_prob(batch, metrics)
        batch = self._compute_advantage(batch, metrics)
        names = [*FIELDS, *COMPUTED]
        if self.config.algorithm.rollout_correction.rollout_is and not self._bypasses():
            names.append("rollout_is_weights")
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
        rows = []
        for place, (key, tag) in enumerate(zip(batch.keys, batch.tags, strict=True)):
            values = {name: list(data[name])[place] for name in names}
            rows.append({"key": key, "tag": tag, **{name: plain(one) for name, one in values.items()}})
        numbers = {name: value for name, value in metrics.items() if name.startswith("replay/")}
        about = {"step": self.global_steps, "rows": rows, "metrics": numbers}
        about["more"] = self.agent_loop_manager.prompts - before
        with (self.work / "trained.jsonl").open("a") as file:
            file.write(json.dumps(about) + "\n")
        return batch

    def _bypasses(self) -> bool:
        return bool(self.config.algorithm.rollout_correction.bypass_mode)


def plain(value: Any) -> Any:
    """Something of JSON."""
    return value.tolist() if isinstance(value, torch.Tensor) else getattr(value, "data", value)


def main() -> None:
    """Train."""
    work = Path(sys.argv[1])
    with ready(Trainer, work, sys.argv[2:]) as trainer:
        trainer.fit(Rollouts(trainer.config.actor_rollout_ref.rollout.n))
        left = {name: sorted(keys) for name, keys in (tq.kv_list() or {}).items() if keys}
        (work / "left").write_text(json.dumps(left))


if __name__ == "__main__":
    main()
