"""SkyRL: its columns, the settings that make it read a file, its prompts and checkpoints."""

from __future__ import annotations

from pathlib import Path

from gaincurate.core.schema import ID
from gaincurate.trainers.columns import Column, View
from gaincurate.trainers.markers import tokenizer_unfinished, tracker
from gaincurate.trainers.profile import SHUFFLES, Launch, Layout, Profile, Rendering, Sharded, hydra_value


def _columns(view: View) -> dict[str, Column]:
    columns = {"prompt": view.messages(), **view.same("env_class", view.options.env_class)}
    if view.has_answer:
        columns["reward_spec"] = view.struct("reward_spec", view.answers("ground_truth"), {"method": "rule"})
    return columns


def _launch(path: Path, view: View) -> Launch:
    flags = [f"data.train_data=[{hydra_value(path, quote=True)}]"]
    if view.options.env_class is not None:
        flags.append(f"environment.env_class={view.options.env_class}")
    left_out = "rows longer than trainer.max_prompt_length (512) are left out"
    hints = [SHUFFLES.format("SkyRL"), f"an environment gets the id as extras['{ID}']", left_out]
    return Launch("flags", flags, hints)


def _skyrl(path: Path, step: int) -> str | None:
    """SkyRL: exports have the tokenizer last; checkpoints have a tracker."""
    policy = path / "policy"
    if any(policy.glob("*.safetensors*")) or (policy / "config.json").is_file():
        return tokenizer_unfinished(policy)
    return tracker("latest_ckpt_global_step.txt")(path, step)


PROFILE = Profile(
    name="skyrl",
    version="a9564572 (2026-08-21)",
    judge="data_source",
    env_class=True,
    columns=_columns,
    launch=_launch,
    rendering=Rendering(
        "generator.chat_template_kwargs",
        adds=("generator.chat_template.name_or_path",),
        nulls="all",
    ),
    layout=Layout(
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
)
