"""One round of GRPO with TRL, as `gaincurate schedule run` calls it. Change what you like.

The rows of `--data` are trained on in their order. One line per rollout goes to `--outcomes`, from which
the next round is drawn. The checkpoint is saved below `--output`. The next round goes on from it, with its
optimizer.

Needs `pip install trl`.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import trl
from reward import reward

ROLLOUTS = 4  # of each prompt
PROMPTS = 4  # in each step


def load(name: str) -> tuple[Any, Any]:
    """The model and its tokenizer, of a checkpoint's folder, a .gguf file or a Hub id."""
    auto = transformers.AutoModelForCausalLM
    if not name.endswith(".gguf"):
        return auto.from_pretrained(name, dtype=torch.float32), transformers.AutoTokenizer.from_pretrained(
            name
        )
    folder, file = Path(name).parent, Path(name).name
    read = auto.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    if hasattr(read.config, "quantization_config"):
        del read.config.quantization_config  # the weights are plain numbers now, which TRL does not know
    model = auto.from_config(read.config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    return model, transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)


def main() -> None:
    """Train one round."""
    parser = argparse.ArgumentParser()
    for name in ("data", "model", "outcomes"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("round", "output"):
        parser.add_argument(f"--{name}", default=os.environ.get(f"GAINCURATE_{name.upper()}"))
    options = parser.parse_args()
    rows = datasets.load_dataset("parquet", data_files=options.data, split="train")

    def recorded(completions: list[Any], gc_id: list[str], **columns: Any) -> list[float]:
        rewards = reward(completions, **columns)
        with open(options.outcomes, "a") as outcomes:
            for one, value in zip(gc_id, rewards, strict=True):
                outcomes.write(
                    json.dumps({"gc_id": one, "reward": value, "round": int(options.round)}) + "\n"
                )
        return rewards

    state = Path(options.model) / "trainer_state.json"  # of the round before, if there was one
    before = json.loads(state.read_text())["global_step"] if state.exists() else 0
    steps = len(rows) // PROMPTS
    config = trl.GRPOConfig(
        output_dir=options.output,
        max_steps=before + steps,
        save_steps=steps,
        num_generations=ROLLOUTS,
        per_device_train_batch_size=ROLLOUTS * PROMPTS,
        gradient_accumulation_steps=1,
        max_completion_length=32,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        shuffle_dataset=False,  # keeps the plan's order
        ignore_data_skip=True,  # a resumed trainer must not skip this round's rows
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available(),
    )
    model, tokenizer = load(options.model)
    trainer = trl.GRPOTrainer(model, recorded, config, train_dataset=rows, processing_class=tokenizer)
    trainer.train(resume_from_checkpoint=options.model if before else None)


if __name__ == "__main__":
    main()
