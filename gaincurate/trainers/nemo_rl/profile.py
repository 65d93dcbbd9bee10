"""NeMo-RL: columns, settings that make it read a file, rules (over `grpo_math_1B.yaml`), checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from gaincurate.trainers.columns import ExportView
from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import ALWAYS, find, must, never, only
from gaincurate.trainers.doctor.findings import Finding, Rule, RuleContext
from gaincurate.trainers.doctor.settings import Settings
from gaincurate.trainers.profile import Launch, Layout, Profile, Rendering, Sharded, hydra_value, system_file

LIVE: dict[str, Any] = {
    "data.use_multiple_dataloader": True,
    "data.custom_dataloader": "gaincurate.trainers.nemo_rl.next_batch",
}
"""The settings that name the live adapter."""

_PARTS = "data.num_prompts_per_dataloader"
_SHIPPED = ("math_default", "math", "math_multi_reward", "code", "reward_model", "code_jaccard", "vlm")
"""Environments of NeMo-RL's registry, which only see a prompt's text and answer."""


def data(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """In segment mode, the round's file must be the only training set, with the trainer's columns."""
    key = "data.train.data_path"
    listed = [name for name in settings.below("data.train.") if name.split(".")[2].isdigit()]
    paths = {settings.place(f"data.train.{name.split('.')[2]}.data_path") for name in listed}
    if paths and all(Settings.follows(path, common.ROUND) for path in paths):
        return
    columns = ("input", "output"), "--trainer nemo-rl", "jsonl"
    for finding in common.rows(key, *columns, renamed="data.train.input_key")(settings, context):
        fix = {"data.train.dataset_name": "ResponseDataset", key: "{output}/data.jsonl"}
        is_view = finding.name == "view"
        yield finding if is_view else replace(finding, fix={**dict.fromkeys(listed), **fix})


def _each(setting: str, be: Any, why: str = "", **more: Any) -> Rule:
    """A rule on a setting of every training set; `data.default` has it for all of them."""

    def rule(settings: Settings, context: RuleContext) -> Iterator[Finding]:
        shared = f"data.default.{setting}"
        keys = [key for key in settings.below("data.train.") if key.endswith(f".{setting}")]
        for key in keys or [shared if settings.is_given(shared) else f"data.train.{setting}"]:
            fix = {key: "mine"} if callable(be) else None  # the name of the user's environment
            yield from must(key, be, why, fix=fix, **more)(settings, context)

    return rule


def weights(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """A round must save complete weights, which scoring and the next round need."""
    form, whole = "checkpointing.model_save_format", "checkpointing.save_consolidated"
    megatron, dtensor = "policy.megatron_cfg.enabled", "policy.dtensor_cfg.enabled"
    if not context.segment or "examples/converters" in context.shell:
        return
    fix: dict[str, Any] = {form: "safetensors", whole: True}
    advice = "or a converter of examples/converters as the last step of the round's script"
    if settings[megatron]:
        yield find(settings, megatron, "weights", "", {megatron: False, dtensor: True, **fix}, advice)
    elif settings[form] != "safetensors" or not settings[whole]:
        yield find(settings, (form, whole), "weights", "", fix, advice)


RULES = (
    data,
    common.unplugged("data.custom_dataloader", LIVE,
        "the loader reads the file in its own order, regardless of the plan"),
    common.begins("policy.model_name"),
    common.resumes("checkpointing.checkpoint_dir", "policy.model_name"),
    only(lambda settings, _: settings[_PARTS] != settings["grpo.num_prompts_per_step"],
        must(_PARTS, never, "the adapter hands out whole steps of grpo.num_prompts_per_step",
        name="parts", severity="stops", modes=common.LIVE, fix={_PARTS: "${grpo.num_prompts_per_step}"})),
    only(lambda settings, _: "gaincurate" in str(settings["data.custom_dataloader"]),
        must("data.use_multiple_dataloader", True, "data.custom_dataloader is not asked, so nothing "
        "follows the schedule", name="adapter-missing", modes=common.LIVE)),
    _each("split_validation_size", 0, "this share of a round is used for validation, and never reports",
        name="split", modes=ALWAYS),
    _each("prompt_file", None, name="prompt-file"),
    _each("system_prompt_file", None, name="prompt-file"),
    common.tail("grpo.num_prompts_per_step"),
    common.too_long("data.max_input_seq_length", "they are cut to a few tokens and left out of the loss",
        lambda _: 1),
    only(lambda _, context: not context.live,  # live, a round is a number of steps
        common.epochs("grpo.max_num_epochs")),
    common.steps("grpo.max_num_steps", "grpo.num_prompts_per_step", more_is_fine=True),
    weights,
    # LoRA checkpoints hold an adapter, of the backend that is on.
    only(lambda settings, _: settings["policy.dtensor_cfg.enabled"] is not False,
        must("policy.dtensor_cfg.lora_cfg.enabled", False, name="adapter")),
    only(lambda settings, _: settings["policy.megatron_cfg.enabled"] is not False,
        must("policy.megatron_cfg.peft.enabled", False, name="adapter")),
    must("data.shuffle", False, name="shuffle", modes=("segment", "export")),
    _each("env_name", lambda value: value not in _SHIPPED, name="outcomes", modes=common.RUNS,
        advice="an environment of your own whose step() appends a line to {outcomes} knows the row"),
    must("loss_fn.reference_policy_kl_penalty", 0, name="reference"),
    must("grpo.use_dynamic_sampling", False, name="dynamic-sampling"),
    must("checkpointing.enabled", True, name="no-checkpoint"),
    must("grpo.async_grpo.enabled", False, "asynchronous GRPO takes no custom dataloader", name="async",
        severity="stops", modes=common.LIVE),
)  # fmt: skip

_CONVERT = (
    "uv run {0} examples/converters/convert_{1}_to_hf.py --config {{checkpoint}}/config.yaml "
    "--{1}-ckpt-path {{checkpoint}}/policy/weights{2} --hf-ckpt-path {{checkpoint}}/hf"
)
_DCP = _CONVERT.format("python", "dcp", "")
_MEGATRON = _CONVERT.format("--extra mcore python", "megatron", "/iter_0000000")


def _launch(path: Path, view: ExportView) -> Launch:
    system = "null" if view.system is None else hydra_value(system_file(path))
    train = ["dataset_name=ResponseDataset", f"data_path={hydra_value(path)}", "input_key=input"]
    train += ["output_key=output", "split_validation_size=0"]
    default = ["prompt_file=null", f"system_prompt_file={system}", "processor=math_hf_data_processor"]
    flags = [f"++data.train.{setting}" for setting in train]
    flags += [f"++data.default.{setting}" for setting in default]
    hint = "only the answer reaches NeMo-RL's environment; --id-in-answer puts the id into the answer, for "
    hint += "an environment of your own that reports outcomes"
    return Launch("flags", [*flags, "++data.shuffle=false"], [hint])


def _renamed(path: Path, step: int) -> str | None:
    """NeMo-RL renames a checkpoint when it is complete."""
    name = path.name.removeprefix("tmp_")
    return None if name == path.name else f"{path} is not finished: it is not yet renamed to {name}"


PROFILE = Profile(
    name="nemo-rl",
    version="7ea279ab (2026-08-22)",
    reserved=frozenset({"messages", "task_name"}),
    answer_needed=True,
    system_file=True,
    columns=lambda view: {"input": view.question(), "output": view.gold(as_text=True)},
    launch=_launch,
    rendering=Rendering("policy.tokenizer.chat_template_kwargs", adds=("policy.tokenizer.chat_template",)),
    layout=Layout(
        folders=("step_*", "tmp_step_*"),
        step=r"(?:tmp_)?step_(\d+)",
        unfinished=_renamed,
        weights=("policy/weights/model/consolidated", "hf"),
        setting="checkpointing.model_save_format=safetensors checkpointing.save_consolidated=true",
        adapters=("policy/weights/model",),
        sharded=(
            Sharded("policy/weights/iter_*", _MEGATRON),
            *(
                Sharded(f"policy/weights/{f}", _DCP)
                for f in (".metadata", "model/.metadata", "model/shard-*")
            ),
        ),
        tokenizer="policy/tokenizer",
    ),
    rules=RULES,
    launches=("run_grpo",),
    live=True,
    whole={"grpo.max_num_epochs": 1, "grpo.max_num_steps": 1_000_000},  # in its source code
)
