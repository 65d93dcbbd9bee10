"""A TRL trainer that replays sums, as a program: one process of it, told by its environment which.

Usage: replay_run.py MODEL OUTPUT [key=value ...]. Keys: kill (the step after which it kills itself), run (the
folder of a run to follow), any field of Replay, and any field of GRPOConfig. Writes what each generation
brought to OUTPUT/steps-RANK.jsonl, losses to OUTPUT/losses.json.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import trl

import arithmetic
import trl_run
from gaincurate.trainers.trl import attach
from gaincurate.trainers.trl_replay import Replay, ReplayGRPOTrainer


def config(output: Path, **options: Any) -> trl.GRPOConfig:
    """Eight prompts a generation with four rollouts each, on one process or two."""
    given: dict[str, Any] = {
        "per_device_train_batch_size": 32 // int(os.environ.get("WORLD_SIZE", "1")),
        "num_generations": 4,
        "loss_type": "grpo",
        "scale_rewards": "none",
        "save_strategy": "no",
    }
    return trl_run.config(output, **(given | options))


def digests(trainer: Any) -> list[str]:
    """What is in the buffer, whole."""
    return [group.digest() for group in trainer.buffer.groups]


class Told(ReplayGRPOTrainer):
    """Keeps a line a generation: what was planned, generated, stored and trained on."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.lines: list[dict[str, Any]] = []

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        before = {group.key for group in self.buffer.groups}
        output = super()._generate_and_score_completions(inputs)
        if self.model.training:
            plan = self.buffer.plan(self.buffer.step, self.buffer.policy_version)
            self.lines.append(
                {
                    "step": self.state.global_step,
                    "before": sorted(before),
                    "replayed": [group.key for group in plan.replayed],
                    "fresh": [row["gc_id"] for row in inputs],
                    "rows": len(output["prompt_ids"]),
                    "marked": int(output["replayed"].sum()),
                    "buffer": digests(self),
                }
            )
        return output


def main() -> None:
    """Train."""
    model, output = sys.argv[1], Path(sys.argv[2])
    options: dict[str, Any] = {}
    for given in sys.argv[3:]:
        key, _, value = given.partition("=")
        options[key] = json.loads(value)
    kill, run = options.pop("kill", None), options.pop("run", None)
    replay = {field.name: options.pop(field.name) for field in fields(Replay) if field.name in options}
    output.mkdir(exist_ok=True)
    trainer = Told(
        model=model,
        reward_funcs=arithmetic.right,
        args=config(output, **options),
        train_dataset=arithmetic.dataset(9),
        replay=Replay(**replay),
    )
    if run is not None:
        attach(trainer, run)
    if kill is not None:
        trainer.add_callback(trl_run.Killer(kill))
    trainer.train(resume_from_checkpoint=any(output.glob("checkpoint-*")) or None)
    rank = os.environ.get("RANK", "0")
    text = "".join(json.dumps(line) + "\n" for line in trainer.lines)
    (output / f"steps-{rank}.jsonl").write_text(text)
    losses = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    (output / f"losses-{rank}.json").write_text(json.dumps(losses))
    (output / f"log-{rank}.json").write_text(json.dumps(trainer.state.log_history))


if __name__ == "__main__":
    main()
