"""What of NeMo-RL's settings meets a schedule: commit 7ea279ab (2026-08-22).

Defaults are those of `examples/configs/grpo_math_1B.yaml`, which it begins with where no other is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import ALWAYS, EXPORT, SEGMENT, Row, must, only
from gaincurate.trainers.doctor.common import LIVE as LIVE_MODE
from gaincurate.trainers.doctor.findings import Context, Finding, Found, Rule, TrainerRules
from gaincurate.trainers.doctor.settings import Settings

LIVE: dict[str, Any] = {
    "data.use_multiple_dataloader": True,
    "data.custom_dataloader": "gaincurate.trainers.nemo_rl.next_batch",
}
"""The settings by which the trainer finds the live adapter."""


_PARTS = "data.num_prompts_per_dataloader"

WHOLE: dict[str, Any] = {"grpo.max_num_epochs": 1, "grpo.max_num_steps": 1_000_000}
"""What holds where a file says all: what the code itself takes for a setting that is not there."""

_SHIPPED = ("math_default", "math", "math_multi_reward", "code", "reward_model", "code_jaccard", "vlm")
"""Environments of the trainer's own registry that see a prompt's text and answer alone."""


def _sets(settings: Settings) -> list[str]:
    """Where the training sets stand: alone, or as places of a list."""
    places = {
        ".".join(key.split(".")[:3])
        for key in settings.below("data.train.")
        if key.split(".")[2].isdigit() and settings.given[key] is not None
    }
    return sorted(places) or ["data.train"]


def _of(settings: Settings, place: str, name: str) -> str:
    """The setting that holds for one training set: its own, or that of all."""
    own, default = f"{place}.{name}", f"data.default.{name}"
    return default if settings.is_given(default) and not settings.is_given(own) else own


def data(settings: Settings, context: Context) -> Found:
    """In segment mode the training set is the round's own file, alone."""
    sets = _sets(settings)
    bad = [
        place
        for place in sets
        if not Settings.follows(settings.place(f"{place}.data_path"), ("data", "output", "round"))
    ]
    if not context.segment or not bad:
        return None
    first = bad[0] if len(bad) == len(sets) else ""
    fix: dict[str, Any] = {
        key: None for place in bad if place != first for key in settings.below(f"{place}.")
    }
    if first:
        fix |= {f"{first}.dataset_name": "ResponseDataset", f"{first}.data_path": "{output}/data.jsonl"}
    return Finding(
        "data",
        "wrong",
        f"{settings.told(f'{bad[0]}.dataset_name')}, {settings.told(f'{bad[0]}.data_path')}: every round "
        "would train on the same rows, whatever was planned",
        fix,
        "written by `gaincurate export --trainer nemo-rl` at the head of the round's command",
    )


def views(settings: Settings, context: Context) -> Found:
    """The trainer reads columns that the round's own file may not have."""
    place = _sets(settings)[0]
    export = ("--trainer nemo-rl", "jsonl", f"{place}.input_key")
    return common.view(settings, context, f"{place}.data_path", ("input", "output"), *export)


def _each(name: str, row: Callable[[str], Row]) -> Rule:
    """A rule on a setting of every training set, or of all at once."""

    def rule(settings: Settings, context: Context) -> Iterator[Finding]:
        for key in dict.fromkeys(_of(settings, place, name) for place in _sets(settings)):
            if finding := row(key)(settings, context):
                yield finding

    return rule


def _adapter(backend: str, key: str) -> Row:
    """LoRA checkpoints hold an adapter, of the backend that is on."""
    rule = common.adapter_only(f"policy.{backend}.{key}", False)
    return only(lambda settings, _: settings[f"policy.{backend}.enabled"] is not False, rule)


def weights(settings: Settings, context: Context) -> Found:
    """What a round leaves is what scoring and the next one begin with."""
    form, whole = "checkpointing.model_save_format", "checkpointing.save_consolidated"
    megatron, dtensor = "policy.megatron_cfg.enabled", "policy.dtensor_cfg.enabled"
    if not context.segment or "examples/converters" in context.shell:
        return None
    if not settings[megatron] and settings[form] == "safetensors" and settings[whole]:
        return None
    told, fix = [settings.told(form), settings.told(whole)], {form: "safetensors", whole: True}
    if settings[megatron]:
        told, fix = [settings.told(megatron)], {megatron: False, dtensor: True, **fix}
    return Finding(
        "weights",
        "stops",
        f"{', '.join(told)}: no whole Hugging Face checkpoint, which scoring and the next round begin with",
        fix,
        "or a converter of examples/converters as the last step of the round's script",
    )


RULES = TrainerRules(
    name="nemo-rl",
    launches=("run_grpo",),
    style="hydra",
    live=True,
    resolves=True,
    whole=WHOLE,
    rules=(
        data,
        views,
        partial(common.unplugged, key="data.custom_dataloader", fix=LIVE,
            what="the loader reads the file in its own order, whatever the schedule plans"),
        partial(common.begins, key="policy.model_name"),
        partial(common.resumes, place="checkpointing.checkpoint_dir", happens="the newest checkpoint there "
            "is taken up, and because the data set's name is the same its loader's offset is put onto the "
            "new file", advice="the next round begins with the weights: policy.model_name={checkpoint}"),
        only(lambda settings, _: settings[_PARTS] != settings["grpo.num_prompts_per_step"],
            must(_PARTS, lambda _: False, "the adapter hands out whole steps of grpo.num_prompts_per_step",
            name="parts", severity="stops", modes=LIVE_MODE,
            fix={_PARTS: "${grpo.num_prompts_per_step}"})),
        only(lambda settings, _: "gaincurate" in str(settings["data.custom_dataloader"]),
            must("data.use_multiple_dataloader", True, "data.custom_dataloader is not asked, so nothing "
            "follows the schedule", name="adapter-missing", modes=LIVE_MODE)),
        _each("split_validation_size", lambda key: must(key, 0, "this share of a round is kept for "
            "validation, and never reports", name="split", modes=ALWAYS)),
        _each("prompt_file", lambda key: must(key, None, "the question is put into another text, which is "
            "not what was scored", name="prompt-file", modes=ALWAYS)),
        _each("system_prompt_file", lambda key: must(key, None, "a system message is put before the "
            "question, which is not what was scored", name="prompt-file", modes=ALWAYS)),
        partial(common.tail, key="grpo.num_prompts_per_step"),
        partial(common.too_long, key="data.max_input_seq_length",
            happens="they are cut to a few tokens and left out of the loss", below=lambda _: 1),
        only(lambda _, context: not context.live,  # live, a round is a number of steps
            partial(common.epochs, key="grpo.max_num_epochs")),
        partial(common.steps, key="grpo.max_num_steps", per_step="grpo.num_prompts_per_step",
            more_is_fine=True),
        weights,
        _adapter("dtensor_cfg", "lora_cfg.enabled"),
        _adapter("megatron_cfg", "peft.enabled"),
        *common.shuffle("data.shuffle", modes=(*SEGMENT, *EXPORT)),
        _each("env_name", lambda key: must(key, lambda value: value not in _SHIPPED, "nothing of yours sees "
            "the rewards, so a round has no outcomes",
            name="log-without-id", severity="cost",
            advice="an environment of your own whose step() appends a line to {outcomes} knows the row")),
        common.moving_reference("loss_fn.reference_policy_kl_penalty", 0),
        must("grpo.use_dynamic_sampling", False, "groups without variance are replaced by further prompts, "
            "so steps and rows do not agree", name="dynamic-sampling"),
        must("checkpointing.enabled", True, "a round leaves nothing that the next one could begin with",
            name="no-checkpoint", severity="stops", modes=SEGMENT),
        must("grpo.async_grpo.enabled", False, "asynchronous GRPO takes no custom dataloader", name="async",
            severity="stops", modes=LIVE_MODE),
    ),
)  # fmt: skip
