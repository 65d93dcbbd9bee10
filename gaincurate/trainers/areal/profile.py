"""What is known of AReaL: the columns that it reads, its settings for them, its checkpoints, logs and
recipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gaincurate.core.schema import ID
from gaincurate.trainers.columns import Parts, ViewOptions
from gaincurate.trainers.markers import json_or_none, tokenizer_unfinished
from gaincurate.trainers.profile import (
    CONSTANT_RATE,
    OPTIMIZER_LOST,
    Columns,
    Launch,
    Layout,
    Profile,
    Recipe,
    Rendering,
    load_line,
)

if TYPE_CHECKING:
    from gaincurate.trainers.view import View


_SCRIPT = """\
batch=64     # prompts a step: `schedule start --align-to 64`
base=/models/base              # the KL reference
gaincurate export "$run" --round "$round" --trainer areal --out "$output/data.parquet"

# A script as examples/math/gsm8k_rl.py that loads the Parquet file of train_dataset.path.
python3 train_rl.py --config grpo.yaml \\
    actor.path="$checkpoint" \\
    ref.path="$base" \\
    train_dataset.path="$output/data.parquet" \\
    train_dataset.shuffle=false \\
    train_dataset.batch_size="$batch" \\
    rollout.consumer_batch_size="$batch" \\
    rollout.max_head_offpolicyness=0 \\
    total_train_epochs=1 \\
    recover.mode=disabled \\
    saver.freq_epochs=1 \\
    saver.fileroot="$output" \\
    cluster.fileroot="$output"

# The weights lie deeper than the driver looks.
mv "$output"/checkpoints/*/*/*/default/epoch* "$output/hf"
"""


def _columns(parts: Parts, options: ViewOptions) -> Columns:
    columns = {"messages": parts.messages()}
    return columns | ({"answer": parts.gold()} if parts.has_answer else {})


def _launch(path: Path, view: View) -> Launch:
    hints = [
        "these lines go into your training script; with train_dataset.shuffle=false and "
        "train_dataset.num_workers=0 the rows keep their order",
        f"a reward function gets the id as the keyword {ID}",
    ]
    return Launch("python", [load_line(path)], hints)


def _areal(path: Path, step: int) -> str | None:
    """AReaL: no marker; the recovery's state comes later than the weights, and so does the tokenizer."""
    for above in path.parents[:2]:
        step_info = json_or_none(above / "recover_info" / "step_info.json")
        if isinstance(step_info, dict) and isinstance(step_info.get("global_step"), int):
            if step_info["global_step"] >= step:
                return None
            break
    return tokenizer_unfinished(path)


PROFILE = Profile(
    name="areal",
    version="4aef98d8d (2026-05-21)",
    reserved=frozenset({"prompt", "completions", "prompt_ids", "completion_ids"}),
    columns=_columns,
    launch=_launch,
    rendering=Rendering(code="the workflow of the training script", nulls="all"),
    layout=Layout(
        version="git 4aef98d8 (2026-05-21)",
        folders=(
            "epoch*globalstep*",
            "default/epoch*globalstep*",
            "*/*/*/default/epoch*globalstep*",
            "checkpoints/*/*/*/default/epoch*globalstep*",
        ),
        step=r"epoch\d+epochstep\d+globalstep(\d+)",
        marker="none of its own: `recover_info/step_info.json` has step N or more, or "
        "the tokenizer's files, written after the weights, can be read",
        unfinished=_areal,
        weights=(".",),
        setting="saver.freq_steps",
        adapters=(".",),
    ),
    recipe=Recipe(
        version="4aef98d8 (2026-05-21)",
        body=_SCRIPT,
        optimizer=f"{OPTIMIZER_LOST}; kept only by recover.mode, which brings the last file's place back",
        rate=CONSTANT_RATE,
        reference="ref.path: the same model in all rounds",
        outcomes="your workflow, which is given the row's gc_id and appends to $GAINCURATE_OUTCOMES",
    ),
)
