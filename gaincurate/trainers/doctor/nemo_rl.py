"""What of NeMo-RL's settings meets a schedule: commit 7ea279ab (2026-08-22).

Defaults are those of `examples/configs/grpo_math_1B.yaml`, which it begins with where no other is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.findings import About, Finding, Found, Trainer
from gaincurate.trainers.doctor.live import LIVE
from gaincurate.trainers.doctor.settings import Settings

_GRPO = "nemo_rl/algorithms/grpo.py"
_PROCESSORS = "nemo_rl/data/processors.py"
_RESPONSES = "nemo_rl/data/datasets/response_datasets/response_dataset.py"

DEFAULTS: dict[str, Any] = {
    "data.shuffle": True,
    "data.num_workers": 1,
    "data.max_input_seq_length": "${policy.max_total_sequence_length}",
    "data.use_multiple_dataloader": False,
    "data.custom_dataloader": None,
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
    "policy.dtensor_cfg.lora_cfg.enabled": False,
}


def data(settings: Settings, about: About) -> Iterator[Finding]:
    """Which rows are read, in which order."""
    if about.segment and not Settings.follows(settings["data.train.data_path"], ("data", "output", "round")):
        yield Finding(
            "data",
            "wrong",
            f"{settings.told('data.train.dataset_name')}, {settings.told('data.train.data_path')}: every "
            "round would train on the same rows, whatever was planned",
            {"data.train.dataset_name": "ResponseDataset", "data.train.data_path": "{output}/data.jsonl"},
            "written by `gaincurate export --trainer nemo-rl` at the head of the round's command",
            _RESPONSES,
        )
    if found := common.shuffle(settings, about, "data.shuffle", source=f"{_GRPO}, setup"):
        yield found
    if found := common.workers(settings, about, "data.num_workers", source=f"{_GRPO}, setup"):
        yield found
    each = settings.number("grpo.num_prompts_per_step")
    source = f"{_GRPO}, setup: drop_last=True"
    if found := common.tail(settings, about, "grpo.num_prompts_per_step", each, source=source):
        yield found
    part = settings.number("data.train.split_validation_size")
    if part:
        yield Finding(
            "split",
            "wrong",
            f"{settings.told('data.train.split_validation_size')}: {part:.0%} of a round's rows are taken "
            "away for validation, and never report",
            {"data.train.split_validation_size": 0},
            source=_RESPONSES,
        )


def prompts(settings: Settings, about: About) -> Iterator[Finding]:
    """What the model reads."""
    if settings["data.default.prompt_file"]:
        yield Finding(
            "prompt-file",
            "wrong",
            f"{settings.told('data.default.prompt_file')}: the question is put into another text, which is "
            "not what was scored",
            {"data.default.prompt_file": None},
            source=f"{_PROCESSORS}, math_hf_data_processor",
        )
    key = "data.max_input_seq_length"
    limit = settings.number(key)
    happens = "are cut to a few tokens and left out of the loss"
    below = None if limit is None else limit - 1
    if found := common.too_long(settings, about, key, below, happens, spare=1, source=_PROCESSORS):
        yield found


def resumes(settings: Settings, about: About) -> Found:
    """The loader's offset comes back wherever the data set's name is the same."""
    key = "checkpointing.checkpoint_dir"
    if not about.segment or not settings["checkpointing.enabled"]:
        return None
    if Settings.follows(settings[key], ("output", "round")):
        return None
    return Finding(
        "resume",
        "wrong",
        f"{settings.told(key)}: the newest checkpoint there is taken up, and because the data set's name is "
        "the same its loader's offset is put onto the new file",
        {key: "{output}"},
        "the next round begins with the weights: policy.model_name={checkpoint}",
        "nemo_rl/data/utils.py, load_dataloader_state",
    )


def length(settings: Settings, about: About) -> Iterator[Finding]:
    """How many passes and steps one process trains."""
    if found := common.epochs(settings, about, "grpo.max_num_epochs", source=_GRPO):
        yield found
    most, each = settings.number("grpo.max_num_steps"), settings.number("grpo.num_prompts_per_step")
    if about.mode == "export" or about.budget is None or not most or not each or about.budget % each:
        return
    wanted = int(about.budget // each) * ((about.rounds or 1) if about.live else 1)
    if most < wanted:
        yield Finding(
            "max-steps",
            "wrong",
            f"{settings.told('grpo.max_num_steps')}, but {'the run' if about.live else 'a round'} has "
            f"{wanted} steps: some rows are never trained",
            {"grpo.max_num_steps": wanted},
            source=_GRPO,
        )


def sampling(settings: Settings, about: About) -> Found:
    """Dynamic sampling draws prompts until enough groups have variance."""
    happens = "groups without variance are replaced by further prompts, so steps and rows do not agree"
    return common.drops(
        settings, about, "dynamic-sampling", "grpo.use_dynamic_sampling", False, happens, _GRPO
    )


def checkpoints(settings: Settings, about: About) -> Iterator[Finding]:
    """What a round leaves is what the next one begins with."""
    if not about.segment:
        return
    if not settings["checkpointing.enabled"]:
        yield Finding(
            "no-checkpoint",
            "stops",
            f"{settings.told('checkpointing.enabled')}: a round leaves nothing that the next one could begin "
            "with",
            {"checkpointing.enabled": True},
            source=_GRPO,
        )
    form, whole = "checkpointing.model_save_format", "checkpointing.save_consolidated"
    if settings[form] != "safetensors" or not settings[whole]:
        yield Finding(
            "weights",
            "stops",
            f"{settings.told(form)}, {settings.told(whole)}: no whole Hugging Face checkpoint, which scoring "
            "and the next round begin with",
            {form: "safetensors", whole: True},
            "or a converter of examples/converters as the last step of the round's command",
            "nemo_rl/utils/checkpoint.py",
        )


def outcomes(settings: Settings, about: About) -> Found:
    """The trainer's own log has no id."""
    if about.mode == "export" or settings["data.default.env_name"] != "math":
        return None
    return Finding(
        "log-without-id",
        "cost",
        f"{settings.told('data.default.env_name')}: nothing of yours sees the rewards; "
        "train_data_step*.jsonl has no id, so outcomes are joined by the text of the prompt",
        {},
        "an environment of your own whose step() appends a line to {outcomes} knows the row",
        f"{_GRPO}, train_data_step",
    )


def live(settings: Settings, about: About) -> Iterator[Finding]:
    """What the adapter needs of a long run."""
    if not about.live:
        return
    what = "the loader reads the file in its own order, whatever the schedule plans"
    if found := common.unplugged(settings, about, "data.custom_dataloader", LIVE["nemo-rl"], what, _GRPO):
        yield found
    if settings["grpo.async_grpo.enabled"]:
        yield Finding(
            "async",
            "stops",
            f"{settings.told('grpo.async_grpo.enabled')}: asynchronous GRPO takes no custom dataloader",
            {"grpo.async_grpo.enabled": False},
            source="examples/run_grpo.py",
        )


def reference(settings: Settings, about: About) -> Found:
    """With a KL term, the reference is the model that a process begins with."""
    return common.moving_reference(settings, about, "loss_fn.reference_policy_kl_penalty", 0, 0, _GRPO)


def adapters(settings: Settings, about: About) -> Found:
    """LoRA checkpoints hold an adapter."""
    return common.adapter_only(settings, about, "policy.dtensor_cfg.lora_cfg.enabled", False, _GRPO)


TRAINER = Trainer(
    name="nemo-rl",
    version="7ea279ab (2026-08-22)",
    launches=("run_grpo",),
    style="hydra",
    defaults=DEFAULTS,
    rules=(data, prompts, resumes, length, sampling, checkpoints, outcomes, live, reference, adapters),
    live=True,
)
