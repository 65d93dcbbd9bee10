"""What of NeMo-RL's settings meets a schedule: commit 7ea279ab (2026-08-22).

Defaults are those of `examples/configs/grpo_math_1B.yaml`, which it begins with where no other is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import LIVE as LIVE_MODE
from gaincurate.trainers.doctor.common import RUNS, SEGMENT, table
from gaincurate.trainers.doctor.findings import Context, Finding, Found, Rule, TrainerRules
from gaincurate.trainers.doctor.settings import Settings

LIVE: dict[str, Any] = {
    "data.use_multiple_dataloader": True,
    "data.custom_dataloader": "gaincurate.trainers.nemo_rl.next_batch",
}
"""The settings by which the trainer finds the live adapter."""

_MANY = 10_000  # steps: nobody means a round of so many
_GRPO = "nemo_rl/algorithms/grpo.py"
_PROCESSORS = "nemo_rl/data/processors.py"
_RESPONSES = "nemo_rl/data/datasets/response_datasets/response_dataset.py"

DEFAULTS: dict[str, Any] = {
    "data.shuffle": True,
    "data.max_input_seq_length": "${policy.max_total_sequence_length}",
    "data.use_multiple_dataloader": False,
    "data.custom_dataloader": None,
    "data.num_prompts_per_dataloader": None,
    "data.train.dataset_name": "OpenMathInstruct-2",
    "data.train.data_path": None,
    "data.train.split_validation_size": 0.05,
    "data.default.prompt_file": "examples/prompts/cot.txt",
    "data.default.env_name": "math",
    "grpo.num_prompts_per_step": 32,
    "grpo.num_generations_per_prompt": 16,
    "grpo.max_num_epochs": 1,
    "grpo.max_num_steps": 1_000_000,
    "grpo.use_dynamic_sampling": False,
    "grpo.async_grpo.enabled": False,
    "loss_fn.reference_policy_kl_penalty": 0.01,
    "checkpointing.enabled": True,
    "checkpointing.checkpoint_dir": "results/grpo",
    "checkpointing.model_save_format": "safetensors",
    "checkpointing.save_consolidated": False,
    "policy.max_total_sequence_length": 512,
    "policy.dtensor_cfg.enabled": True,
    "policy.dtensor_cfg.lora_cfg.enabled": False,
    "policy.megatron_cfg.enabled": False,
    "policy.megatron_cfg.peft.enabled": False,
}


def _batch(settings: Settings) -> float | None:
    return settings.count("grpo.num_prompts_per_step")


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
    own = f"{place}.{name}"
    return (
        own
        if settings.is_given(own) or not settings.is_given(f"data.default.{name}")
        else f"data.default.{name}"
    )


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
        _RESPONSES,
    )


def views(settings: Settings, context: Context) -> Found:
    """The trainer reads columns that the round's own file may not have."""
    place = _sets(settings)[0]
    return common.view(
        settings,
        context,
        f"{place}.data_path",
        ("input", "output"),
        "--trainer nemo-rl",
        "jsonl",
        f"{place}.input_key",
        _RESPONSES,
    )


def splits(settings: Settings, context: Context) -> Iterator[Finding]:
    """A part of a training set may become the validation set."""
    for key in dict.fromkeys(_of(settings, place, "split_validation_size") for place in _sets(settings)):
        if settings[key]:
            title = f"{settings.told(key)}: this share of a round is kept for validation, and never reports"
            yield Finding("split", "wrong", title, {key: 0}, source=_RESPONSES)


def texts(settings: Settings, context: Context) -> Iterator[Finding]:
    """Files may put the question into another text."""
    for name, what in (
        ("prompt_file", "the question is put into another text"),
        ("system_prompt_file", "a system message is put before it"),
    ):
        for key in dict.fromkeys(_of(settings, place, name) for place in _sets(settings)):
            if settings[key]:
                title = f"{settings.told(key)}: {what}, which is not what was scored"
                source = f"{_PROCESSORS}, math_hf_data_processor"
                yield Finding("prompt-file", "wrong", title, {key: None}, source=source)


def unread(settings: Settings, context: Context) -> Found:
    """A custom dataloader is asked only where several loaders are on."""
    key = "data.use_multiple_dataloader"
    if not context.live or settings[key] or "gaincurate" not in str(settings["data.custom_dataloader"]):
        return None
    title = f"{settings.told(key)}: data.custom_dataloader is not asked, so nothing follows the schedule"
    return Finding("adapter-missing", "wrong", title, {key: True}, source="nemo_rl/data/dataloader.py")


def single_controller(settings: Settings, context: Context) -> Found:
    """Another entry point over the same files, which reads one loader in its own order."""
    several = "data.use_multiple_dataloader"
    if "single_controller" not in context.script or not (context.live or settings[several]):
        return None
    return Finding(
        "single-controller",
        "stops",
        f"{context.script} refuses several dataloaders, and the live adapter needs them",
        {several: False} if context.segment else {},
        "start examples/run_grpo.py" + ("" if context.live else ", or use one dataloader"),
        "nemo_rl/algorithms/single_controller_utils/setup.py",
    )


def unended(settings: Settings, context: Context) -> Found:
    """The asynchronous trainer ends with its last step alone, and fails where the rows end before."""
    on, most = "grpo.async_grpo.enabled", settings.number("grpo.max_num_steps")
    each = _batch(settings)
    steps = int(context.budget // each) if context.budget and each and context.budget % each == 0 else None
    if (
        not context.segment
        or not settings[on]
        or most is None
        or (most < _MANY if steps is None else most <= steps)
    ):
        return None
    return Finding(
        "async-end",
        "stops",
        f"{settings.told('grpo.max_num_steps')} with {on}: it ends with that step alone, and where a round's "
        "rows end before, with an error",
        {"grpo.max_num_steps": steps} if steps else {on: False},
        "" if steps else "or set grpo.max_num_steps to the steps of a round",
        f"{_GRPO}, async_grpo_train",
    )


def adapters(settings: Settings, context: Context) -> Iterator[Finding]:
    """LoRA checkpoints hold an adapter, of the backend that is on."""
    for backend, key in (("dtensor_cfg", "lora_cfg.enabled"), ("megatron_cfg", "peft.enabled")):
        if settings[f"policy.{backend}.enabled"] is False:
            continue
        found = common.adapter_only(settings, context, f"policy.{backend}.{key}", False, "nemo_rl/models")
        if found:
            yield found


def unjoined(settings: Settings, context: Context) -> Found:
    """The trainer's own environments report to nobody."""
    key = _of(settings, _sets(settings)[0], "env_name")
    if context.mode == "export" or settings[key] not in _SHIPPED:
        return None
    return Finding(
        "log-without-id",
        "cost",
        f"{settings.told(key)}: nothing of yours sees the rewards; train_data_step*.jsonl has no id, so "
        "outcomes are joined by the text of the prompt",
        advice="an environment of your own whose step() appends a line to {outcomes} knows the row",
        source=f"{_GRPO}, train_data_step",
    )


def order(settings: Settings, context: Context) -> Found:
    """The live adapter asks the data set for rows, and the loader for none."""
    return (
        None if context.live else common.shuffle(settings, context, "data.shuffle", source=f"{_GRPO}, setup")
    )


def passes(settings: Settings, context: Context) -> Found:
    """The live adapter's rounds are steps."""
    return None if context.live else common.epochs(settings, context, "grpo.max_num_epochs", source=_GRPO)


def divided(settings: Settings, context: Context) -> Found:
    """With several loaders a step is made of their parts."""
    each, whole = settings["data.num_prompts_per_dataloader"], settings["grpo.num_prompts_per_step"]
    if not context.live or each == whole:
        return None
    return Finding(
        "parts",
        "stops",
        f"{settings.told('data.num_prompts_per_dataloader')}, {settings.told('grpo.num_prompts_per_step')}: "
        "the adapter hands out whole steps",
        {"data.num_prompts_per_dataloader": whole},
        source="nemo_rl/data/dataloader.py",
    )


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
        "nemo_rl/utils/checkpoint.py",
    )


_TABLE = table(
    ("dynamic-sampling", "wrong", RUNS, "grpo.use_dynamic_sampling", False, _GRPO,
     "groups without variance are replaced by further prompts, so steps and rows do not agree"),
    ("no-checkpoint", "stops", SEGMENT, "checkpointing.enabled", True, _GRPO,
     "a round leaves nothing that the next one could begin with"),
    ("async", "stops", LIVE_MODE, "grpo.async_grpo.enabled", False, "examples/run_grpo.py",
     "asynchronous GRPO takes no custom dataloader"),
)  # fmt: skip

_RULES: tuple[Rule, ...] = (
    data,
    views,
    partial(common.unplugged, key="data.custom_dataloader", fix=LIVE,
        what="the loader reads the file in its own order, whatever the schedule plans",
        source="nemo_rl/data/dataloader.py"),
    partial(common.begins, key="policy.model_name", source="nemo_rl/models"),
    partial(common.resumes, place="checkpointing.checkpoint_dir", happens="the newest checkpoint there is "
        "taken up, and because the data set's name is the same its loader's offset is put onto the new file",
        advice="the next round begins with the weights: policy.model_name={checkpoint}",
        source="nemo_rl/data/utils.py, load_dataloader_state"),
    divided,
    unread,
    single_controller,
    splits,
    texts,
    partial(common.tail, key="grpo.num_prompts_per_step", source=f"{_GRPO}, setup: drop_last=True"),
    partial(common.too_long, key="data.max_input_seq_length",
        happens="they are cut to a few tokens and left out of the loss", below=lambda _: 1,
        source=_PROCESSORS),
    passes,
    partial(common.steps, key="grpo.max_num_steps", per_step=_batch, more_is_fine=True, source=_GRPO),
    weights,
    unended,
    adapters,
    order,
    unjoined,
    partial(common.moving_reference, key="loss_fn.reference_policy_kl_penalty", off=0, fix=0, source=_GRPO),
    *_TABLE,
)  # fmt: skip

RULES = TrainerRules(
    name="nemo-rl",
    version="7ea279ab (2026-08-22)",
    launches=("run_grpo",),
    style="hydra",
    defaults=DEFAULTS,
    rules=_RULES,
    live=True,
    resolves=True,
    whole=WHOLE,
)
