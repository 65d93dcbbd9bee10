"""What of SkyRL's settings meets a schedule: commit a9564572 (2026-08-21), `skyrl/train/config/config.py`."""

from __future__ import annotations

from functools import partial
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import RUNS, SEGMENT, table, when
from gaincurate.trainers.doctor.findings import Context, Finding, Found, Rule, TrainerRules
from gaincurate.trainers.doctor.settings import Settings

_TRAINER = "skyrl/train/trainer.py"
_DATASET = "skyrl/train/dataset/dataset.py"
_LOADER = "skyrl/train/utils/trainer_utils.py, build_dataloader"
_ALWAYS = 1_000_000  # steps: the last step of an epoch is saved whatever the period

_SHIPPED = ("aime", "gsm8k", "gsm8k_multi_turn", "lcb", "search", "searchcode", "text2sql")
"""Environments of skyrl-gym itself."""

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
    "trainer.fully_async.sample_full_batch": False,
    "trainer.policy.model.lora.rank": 0,
    "environment.env_class": "gsm8k",
}


def shuffled(settings: Settings, context: Context) -> Found:
    """No setting reaches the loader's sampler."""
    return Finding(
        "shuffle",
        "order",
        "rows are always shuffled, and no setting changes it: which prompts a round has survives that, "
        "their order does not",
        advice="an entry point of your own may override _build_train_dataloader_and_compute_training_steps",
        source=_LOADER,
    )


def resumes(settings: Settings, context: Context) -> Found:
    """The loader's offset and the step counter come back with a checkpoint."""
    mode, key = settings["trainer.resume_mode"], "trainer.ckpt_path"
    if not context.segment or mode in (None, "none"):
        return None
    if mode == "latest" and Settings.follows(settings.place(key), ("output", "round")):
        return None
    fix = {key: "{output}/ckpt"} if mode == "latest" else {"trainer.resume_mode": None}
    return Finding(
        "resume",
        "wrong",
        f"{settings.told('trainer.resume_mode')}, {settings.told(key)}: the last round's step counter and "
        "the loader's offset (data.pt) come back over the new file",
        fix,
        "the next round begins with the weights: trainer.policy.model.path={checkpoint}",
        f"{_TRAINER}, load_checkpoints",
    )


_TABLE = table(
    ("dynamic-sampling", "wrong", RUNS, "trainer.algorithm.dynamic_sampling.type", None, _TRAINER,
     "groups without variance are replaced or left out, so steps and rows do not agree"),
    ("dynamic-sampling", "wrong", RUNS, "trainer.fully_async.sample_full_batch", False,
     "skyrl/train/fully_async_trainer.py",
     "groups without variance are left out for further ones, so steps and rows do not agree"),
    ("validation", "cost", SEGMENT, "trainer.eval_before_train", False, _TRAINER,
     "a whole evaluation before every round"),
)  # fmt: skip

_RULES: tuple[Rule, ...] = (
    partial(common.reads, key="data.train_data", source=_DATASET),
    partial(common.begins, key="trainer.policy.model.path", source="skyrl/train/config/config.py"),
    resumes,
    partial(common.tail, key="trainer.train_batch_size", source=f"{_LOADER}: drop_last=True"),
    partial(common.too_long, key="trainer.max_prompt_length",
        happens="they are dropped when the file is read, so they never report", source=_DATASET),
    partial(common.epochs, key="trainer.epochs", source=_TRAINER),
    partial(common.steps, key="trainer.max_training_steps", per_step="trainer.train_batch_size",
        more_is_fine=True, source=_TRAINER),
    when("weights", "stops", "trainer.hf_save_interval", lambda value: not isinstance(value,
        int) or value <= 0, "no Hugging Face weights, which scoring and the next round begin with",
        {"trainer.hf_save_interval": _ALWAYS},
        advice="with any period above 0 the end of the file is saved too", source=f"{_TRAINER}, save_models",
        modes=("segment",)),
    partial(common.output, key="trainer.export_path", what="the checkpoint", source=_TRAINER),
    partial(common.adapter_only, key="trainer.policy.model.lora.rank", off=0,
        source="skyrl/train/config/config.py"),
    shuffled,
    when("log-without-id", "cost", "environment.env_class", lambda value: value in _SHIPPED,
        "nothing of yours sees the rewards, and SkyRL's own uid is the number of a row after the long "
        "ones were dropped",
        advice="an environment of your own is given the row's other columns, gc_id among them, and can "
        "append a line to {outcomes}; a row's env_class column chooses it", source=_DATASET,
        modes=("segment",)),
    *(partial(common.moving_reference, key=key, off=False, fix=False,
        source=_TRAINER) for key in ("trainer.algorithm.use_kl_loss", "trainer.algorithm.use_kl_in_reward")),
    *_TABLE,
)  # fmt: skip

RULES = TrainerRules(
    name="skyrl",
    version="a9564572 (2026-08-21)",
    launches=("skyrl.train.entrypoints", "main_base"),
    style="hydra",
    defaults=DEFAULTS,
    rules=_RULES,
)
