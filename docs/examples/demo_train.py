"""One round of GRPO with TRL, as `gaincurate schedule run` calls it; put your reward in its place.

Rows come from `data.parquet` in their order; the reward function appends one line for each rollout to the
round's outcomes; the checkpoint goes below the output folder, and the next round goes on from it, optimizer
and learning rate included.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import datasets
import trl

ROLLOUTS, PROMPTS_A_STEP = 4, 2


def has_digit(text: str) -> float:
    """The reward: an untrained model gets it now and then, and can learn to."""
    return float(any(character.isdigit() for character in text))


def main() -> None:
    """Train one round."""
    parser = argparse.ArgumentParser()
    for name in ("data", "round", "checkpoint", "outcomes", "output"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    round_ = int(options.round)
    rows = datasets.load_dataset("parquet", data_files=options.data, split="train")

    def reward(completions: list[Any], gc_id: list[str], trainer_state: Any, **columns: Any) -> list[float]:
        rewards = [has_digit(completion[0]["content"]) for completion in completions]
        with open(options.outcomes, "a") as outcomes:
            for one, found in zip(gc_id, rewards, strict=True):
                line = {"gc_id": one, "reward": found, "round": round_, "step": trainer_state.global_step}
                outcomes.write(json.dumps(line) + "\n")
        return rewards

    steps = len(rows) // PROMPTS_A_STEP
    goes_on = (Path(options.checkpoint) / "trainer_state.json").exists()
    config = trl.GRPOConfig(
        output_dir=options.output,
        max_steps=steps * (round_ + 1),
        save_steps=steps,
        num_generations=ROLLOUTS,
        per_device_train_batch_size=ROLLOUTS * PROMPTS_A_STEP,
        gradient_accumulation_steps=1,
        max_completion_length=12,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        shuffle_dataset=False,  # the plan's order
        ignore_data_skip=True,  # a resumed trainer must not skip this round's rows
        report_to="none",
        logging_steps=steps,
        seed=round_,
        use_cpu=not os.environ.get("CUDA_VISIBLE_DEVICES"),
        bf16=False,
        disable_tqdm=True,
    )
    trainer = trl.GRPOTrainer(model=options.checkpoint, reward_funcs=reward, args=config, train_dataset=rows)
    trainer.train(resume_from_checkpoint=options.checkpoint if goes_on else None)


if __name__ == "__main__":
    main()
