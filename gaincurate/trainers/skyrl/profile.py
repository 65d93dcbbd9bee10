"""SkyRL: columns, settings that make it read a file, rules (`config/config.py`), checkpoints."""

from __future__ import annotations

from pathlib import Path

from gaincurate.trainers.columns import ExportColumn, ExportView
from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import must
from gaincurate.trainers.markers import tokenizer_unfinished, tracker
from gaincurate.trainers.profile import SHUFFLES, Launch, Layout, Profile, Rendering, Sharded, hydra_value

_SHIPPED = ("aime", "gsm8k", "gsm8k_multi_turn", "lcb", "search", "searchcode", "text2sql")
"""Environments of skyrl-gym."""

RULES = (
    common.rows("data.train_data"),
    common.begins("trainer.policy.model.path"),
    common.resumes("trainer.ckpt_path", "trainer.policy.model.path", "trainer.resume_mode", ("none", None)),
    common.tail("trainer.train_batch_size"),
    common.too_long("trainer.max_prompt_length",
        "they are dropped when the file is read, so they never report"),
    common.epochs("trainer.epochs"),
    common.steps("trainer.max_training_steps", "trainer.train_batch_size", more_is_fine=True),
    must("trainer.hf_save_interval", common.above_zero, name="weights",
        fix={"trainer.hf_save_interval": common.FOREVER},
        advice="with any period above 0 the end of the file is saved too"),
    common.output("trainer.export_path"),
    must("trainer.policy.model.lora.rank", 0, name="adapter"),
    common.always_shuffled,
    must("environment.env_class", lambda value: value not in _SHIPPED, name="outcomes",
        fix={"environment.env_class": "mine"}, advice="an environment of your own (env_class of a row) "
        "is given the row's other columns, gc_id among them, and can append a line to {outcomes}"),
    must("trainer.algorithm.dynamic_sampling.type", None, name="dynamic-sampling"),
    must("trainer.fully_async.sample_full_batch", False, name="dynamic-sampling"),
    must("trainer.eval_before_train", False, name="validation"),
    must("trainer.algorithm.use_kl_loss", False, name="reference"),
    must("trainer.algorithm.use_kl_in_reward", False, name="reference"),
)  # fmt: skip


def _columns(view: ExportView) -> dict[str, ExportColumn]:
    columns = {"prompt": view.messages(), **view.same("env_class", view.options.env_class)}
    if view.has_answer:
        columns["reward_spec"] = view.struct("reward_spec", view.answers("ground_truth"), {"method": "rule"})
    return columns


def _launch(path: Path, view: ExportView) -> Launch:
    named = view.options.env_class
    flags = [f"data.train_data=[{hydra_value(path, quote=True)}]"]
    flags += [f"environment.env_class={named}"] if named is not None else []
    hints = [SHUFFLES.format("SkyRL"), "an environment gets the id as extras['gc_id']"]
    hints.append("rows longer than trainer.max_prompt_length (512) are left out")
    return Launch("flags", flags, hints)


def _exported(path: Path, step: int) -> str | None:
    """Exports have the tokenizer last; checkpoints have a tracker."""
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
        "generator.chat_template_kwargs", adds=("generator.chat_template.name_or_path",), nulls="all"
    ),
    layout=Layout(
        folders=("global_step_*", "*/global_step_*"),
        step=r"global_step_(\d+)",
        unfinished=_exported,
        weights=("policy",),
        setting="trainer.hf_save_interval (exports to trainer.export_path)",
        adapters=("policy/lora_adapter",),
        sharded=tuple(
            Sharded(f"policy/{files}", None, apart=True)
            for files in ("model_world_size_*_rank_*.pt", "*.distcp")
        ),
    ),
    rules=RULES,
    launches=("skyrl.train.entrypoints", "main_base"),
)
