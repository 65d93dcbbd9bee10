"""What of SkyRL's settings meets a schedule: commit a9564572 (2026-08-21), `skyrl/train/config/config.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.findings import About, Finding, Found, Trainer
from gaincurate.trainers.doctor.settings import Settings

_TRAINER = "skyrl/train/trainer.py"
_DATASET = "skyrl/train/dataset/dataset.py"
_LOADER = "skyrl/train/utils/trainer_utils.py, build_dataloader"
_ALWAYS = 1_000_000  # steps: the last step of an epoch is saved whatever the period

DEFAULTS: dict[str, Any] = {
    "data.train_data": ["~/data/gsm8k/train.parquet"],
    "trainer.train_batch_size": 1024,
    "trainer.max_prompt_length": 512,
    "trainer.epochs": 1,
    "trainer.max_training_steps": None,
    "trainer.resume_mode": "latest",
    "trainer.ckpt_path": "~/ckpts/",
    "trainer.hf_save_interval": -1,
    "trainer.export_path": "~/exports/",
    "trainer.eval_before_train": True,
    "trainer.algorithm.dynamic_sampling.type": None,
    "trainer.algorithm.use_kl_loss": True,
    "trainer.algorithm.use_kl_in_reward": False,
    "trainer.fully_async.enabled": False,
    "trainer.policy.model.lora.rank": 0,
    "environment.env_class": "gsm8k",
}


def shuffled(settings: Settings, about: About) -> Found:
    """No setting reaches the loader's sampler."""
    return Finding(
        "shuffle",
        "order",
        "rows are always shuffled, and no setting changes it: which prompts a round has survives, their "
        "order does not",
        advice="an entry point of your own may override _build_train_dataloader_and_compute_training_steps",
        source=_LOADER,
    )


def data(settings: Settings, about: About) -> Iterator[Finding]:
    """Which rows are read, and which of them are left out."""
    size, limit = "trainer.train_batch_size", "trainer.max_prompt_length"
    happens = "are dropped when the file is read, so they never report"
    found = [
        common.reads(settings, about, "data.train_data", source=_DATASET),
        common.tail(settings, about, size, settings.number(size), source=f"{_LOADER}: drop_last=True"),
        common.too_long(settings, about, limit, settings.number(limit), happens, source=_DATASET),
        common.epochs(settings, about, "trainer.epochs", source=_TRAINER),
    ]
    yield from (one for one in found if one)


def length(settings: Settings, about: About) -> Found:
    """A bound on the steps leaves rows out."""
    key = "trainer.max_training_steps"
    most, size = settings.number(key), settings.number("trainer.train_batch_size")
    if not about.segment or most is None or about.budget is None or not size or about.budget % size:
        return None
    wanted = int(about.budget // size)
    if most >= wanted:
        return None
    title = f"{settings.told(key)}, but a round has {wanted} steps: some rows are never trained"
    return Finding("max-steps", "wrong", title, {key: wanted}, source=_TRAINER)


def resumes(settings: Settings, about: About) -> Found:
    """The loader's offset and the step counter come back with a checkpoint."""
    mode, key = settings["trainer.resume_mode"], "trainer.ckpt_path"
    if not about.segment or mode in (None, "none"):
        return None
    if mode == "latest" and Settings.follows(settings[key], ("output", "round")):
        return None
    mend = {key: "{output}/ckpt"} if mode == "latest" else {"trainer.resume_mode": None}
    return Finding(
        "resume",
        "wrong",
        f"{settings.told('trainer.resume_mode')}, {settings.told(key)}: the last round's step counter and "
        "the loader's offset (data.pt) come back over the new file",
        mend,
        "the next round begins with the weights: trainer.policy.model.path={checkpoint}",
        f"{_TRAINER}, load_checkpoints",
    )


def checkpoints(settings: Settings, about: About) -> Iterator[Finding]:
    """What a round leaves is what the next one begins with."""
    if not about.segment:
        return
    every = settings.number("trainer.hf_save_interval")
    if every is None or every <= 0:
        yield Finding(
            "weights",
            "stops",
            f"{settings.told('trainer.hf_save_interval')}: no Hugging Face weights, which scoring and the "
            "next round begin with",
            {"trainer.hf_save_interval": _ALWAYS},
            "with any period above 0 the end of the file is saved too",
            f"{_TRAINER}, save_models",
        )
    if found := common.output(settings, about, "trainer.export_path", "the checkpoint", source=_TRAINER):
        yield found


def sampling(settings: Settings, about: About) -> Found:
    """Dynamic sampling replaces or filters prompts."""
    key = "trainer.algorithm.dynamic_sampling.type"
    happens = "groups without variance are replaced or left out, so steps and rows do not agree"
    return common.drops(settings, about, "dynamic-sampling", key, None, happens, _TRAINER)


def outcomes(settings: Settings, about: About) -> Found:
    """Rows are told apart by their number after filtering; the environment sees their columns."""
    if about.mode == "export" or settings["environment.env_class"] != "gsm8k":
        return None
    return Finding(
        "log-without-id",
        "cost",
        f"{settings.told('environment.env_class')}: nothing of yours sees the rewards, and SkyRL's own uid "
        "is the number of a row after the long ones were dropped",
        {},
        "an environment of your own is given the row's other columns, gc_id among them, and can append a "
        "line to {outcomes}; a row's env_class column chooses it",
        _DATASET,
    )


def costs(settings: Settings, about: About) -> Iterator[Finding]:
    """What is paid or changes its meaning when the trainer is started for each round."""
    if not about.segment:
        return
    key = "trainer.eval_before_train"
    if settings[key]:
        title = f"{settings.told(key)}: a whole evaluation before every round"
        yield Finding("validation", "cost", title, {key: False}, source=_TRAINER)
    for key in ("trainer.algorithm.use_kl_loss", "trainer.algorithm.use_kl_in_reward"):
        if found := common.moving_reference(settings, about, key, False, False, _TRAINER):
            yield found


def adapters(settings: Settings, about: About) -> Found:
    """LoRA checkpoints hold an adapter."""
    return common.adapter_only(settings, about, "trainer.policy.model.lora.rank", 0, _TRAINER)


TRAINER = Trainer(
    name="skyrl",
    version="a9564572 (2026-08-21)",
    launches=("skyrl.train.entrypoints", "main_base"),
    style="hydra",
    defaults=DEFAULTS,
    rules=(shuffled, data, length, resumes, checkpoints, sampling, outcomes, costs, adapters),
)
