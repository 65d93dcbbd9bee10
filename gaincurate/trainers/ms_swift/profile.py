"""What is known of ms-swift: the columns that it reads, its settings for them, and its recipe.

Its checkpoints are those of transformers' Trainer, below one more folder unless `--add_version false` is set.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gaincurate.trainers.columns import Parts, ViewOptions
from gaincurate.trainers.profile import (
    CONSTANT_RATE,
    NO_REFERENCE,
    OPTIMIZER_LOST,
    Columns,
    Launch,
    Profile,
    Recipe,
    words,
)

if TYPE_CHECKING:
    from gaincurate.trainers.view import View


_SCRIPT = """\
gaincurate export "$run" --round "$round" --trainer ms-swift --out "$output/data.jsonl"

# 64 rollouts a generation are 8 prompts: `schedule start --align-to 8`. NPROC_PER_NODE=N for N processes.
swift rlhf \\
    --rlhf_type grpo \\
    --model "$checkpoint" \\
    --tuner_type full \\
    --dataset "$output/data.jsonl" \\
    --dataset_shuffle false \\
    --external_plugins reward.py \\
    --reward_funcs mine \\
    --num_generations 8 \\
    --generation_batch_size 64 \\
    --num_train_epochs 1 \\
    --lr_scheduler_type constant \\
    --beta 0 \\
    --add_version false \\
    --output_dir "$output"
"""


def _columns(parts: Parts, options: ViewOptions) -> Columns:
    return {"messages": parts.messages()} | ({"solution": parts.gold()} if parts.has_answer else {})


def _launch(path: Path, view: View) -> Launch:
    hint = "a reward function gets the id as the keyword gc_id, and the answer as solution"
    return Launch("flags", ["--dataset", str(path), "--dataset_shuffle", "false"], [hint])


PROFILE = Profile(
    name="ms-swift",
    version="4.6.0",
    # The first line: other names of messages and of a system message, which is put before them.
    reserved=words(
        "conversation conversations system system_prompt "
        "images videos audios objects channel margin rejected_messages rejected_response "
        "completions trainer_state trajectory_inputs"
    ),
    suffixes=(".jsonl", ".parquet"),
    columns=_columns,
    launch=_launch,
    recipe=Recipe(
        version="4.6.0",
        body=_SCRIPT,
        optimizer=OPTIMIZER_LOST,
        rate=CONSTANT_RATE,
        reference=NO_REFERENCE,
        outcomes="the reward `mine` of reward.py, which is given gc_id and appends to $GAINCURATE_OUTCOMES",
    ),
)
