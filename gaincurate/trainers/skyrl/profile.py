"""What is known of SkyRL: the columns that it reads, its settings for them, its checkpoints, logs and
recipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gaincurate.core.schema import ID
from gaincurate.trainers.columns import Parts, ViewOptions
from gaincurate.trainers.markers import tokenizer_unfinished, tracker
from gaincurate.trainers.profile import (
    CONSTANT_RATE,
    NO_REFERENCE,
    OPTIMIZER_LOST,
    SHUFFLES,
    Columns,
    Launch,
    Layout,
    Profile,
    Recipe,
    Rendering,
    Sharded,
    hydra_value,
)

if TYPE_CHECKING:
    from gaincurate.trainers.view import View


_SCRIPT = """\
batch=64     # prompts a step: `schedule start --align-to 64`
gaincurate export "$run" --round "$round" --trainer skyrl --env-class mine --out "$output/data.parquet"

# An entry point as examples/train/multiply/main_multiply.py: it registers your environment.
uv run --isolated --extra fsdp -m main_gaincurate \\
    data.train_data="['$output/data.parquet']" \\
    data.val_data="['$output/data.parquet']" \\
    environment.env_class=mine \\
    trainer.policy.model.path="$checkpoint" \\
    trainer.policy.optimizer_config.lr=1e-6 \\
    trainer.algorithm.advantage_estimator=grpo \\
    trainer.algorithm.use_kl_loss=false \\
    trainer.epochs=1 \\
    trainer.train_batch_size="$batch" \\
    trainer.policy_mini_batch_size="$batch" \\
    trainer.max_prompt_length=2048 \\
    generator.n_samples_per_prompt=8 \\
    trainer.eval_before_train=false \\
    trainer.eval_interval=-1 \\
    trainer.resume_mode=none \\
    trainer.ckpt_interval=-1 \\
    trainer.ckpt_path="$output/ckpt" \\
    trainer.hf_save_interval=1000000 \\
    trainer.export_path="$output/hf"
"""


def _columns(parts: Parts, options: ViewOptions) -> Columns:
    columns = {"prompt": parts.messages()}
    if options.env_class is not None:
        columns["env_class"] = parts.same(options.env_class)
    elif "env_class" in parts.schema.names:
        columns["env_class"] = parts.column("env_class")
    if parts.has_answer:
        reward = {"ground_truth": parts.gold()}
        columns["reward_spec"] = parts.struct("reward_spec", reward, {"method": "rule"})
    return columns


def _launch(path: Path, view: View) -> Launch:
    flags = [f"data.train_data=[{hydra_value(path, quote=True)}]"]
    if view.options.env_class is not None:
        flags.append(f"environment.env_class={view.options.env_class}")
    hints = [SHUFFLES.format("SkyRL"), f"an environment gets the id as extras['{ID}']"]
    hints.append("rows longer than trainer.max_prompt_length (512) are left out")
    return Launch("flags", flags, hints)


def _skyrl(path: Path, step: int) -> str | None:
    """SkyRL: exports have the tokenizer last; checkpoints have a tracker."""
    policy = path / "policy"
    if any(policy.glob("*.safetensors*")) or (policy / "config.json").is_file():
        return tokenizer_unfinished(policy)
    return tracker("latest_ckpt_global_step.txt")(path, step)


PROFILE = Profile(
    name="skyrl",
    version="a9564572e (2026-08-21)",
    judge="data_source",
    env_class=True,
    columns=_columns,
    launch=_launch,
    rendering=Rendering(
        {"generator.chat_template_kwargs": ""},
        adds={"generator.chat_template.name_or_path": "a chat template"},
        nulls="all",
    ),
    layout=Layout(
        version="git a9564572 (2026-08-21)",
        folders=("global_step_*", "*/global_step_*"),
        step=r"global_step_(\d+)",
        marker="below `export_path`: the tokenizer's files in `policy`, written after the weights, can be "
        "read; below `ckpt_path`: `latest_ckpt_global_step.txt` has N or more",
        unfinished=_skyrl,
        weights=("policy",),
        setting="trainer.hf_save_interval (exports to trainer.export_path)",
        adapters=("policy/lora_adapter",),
        sharded=(
            Sharded("policy/model_world_size_*_rank_*.pt", None, apart=True),
            Sharded("policy/*.distcp", None, apart=True),
        ),
    ),
    recipe=Recipe(
        version="a9564572 (2026-08-21)",
        body=_SCRIPT,
        optimizer=f"{OPTIMIZER_LOST}; kept only by resuming, which brings the last file's offset "
        "(data.pt) back",
        rate=CONSTANT_RATE,
        reference=NO_REFERENCE,
        outcomes="your environment, which is given the row's gc_id and appends to $GAINCURATE_OUTCOMES",
    ),
)
