"""What of AReaL's settings meets a schedule: commit 4aef98d8 (2026-05-21), `areal/api/cli_args.py`."""

from __future__ import annotations

from functools import partial
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import RUNS, table
from gaincurate.trainers.doctor.findings import Context, Finding, Found, Rule, TrainerRules
from gaincurate.trainers.doctor.settings import Settings

_ARGS = "areal/api/cli_args.py"
_LOADER = "areal/utils/dataloader.py"

DEFAULTS: dict[str, Any] = {
    "train_dataset.path": None,
    "train_dataset.batch_size": 1,
    "train_dataset.shuffle": True,
    "train_dataset.drop_last": True,
    "train_dataset.max_length": None,
    "rollout.max_head_offpolicyness": 0,
    "total_train_epochs": 1,
    "total_train_steps": None,
    "dynamic_bs": False,
    "saver.freq_epochs": None,
    "saver.freq_steps": None,
    "recover.mode": "disabled",
    "cluster.fileroot": "/tmp/areal/",
    "actor.path": "",
    "actor.kl_ctl": 0.1,
    "actor.use_lora": False,
    "ref.path": None,
}


def ahead(settings: Settings, context: Context) -> Found:
    """Rollouts run ahead of training and come back in the order in which they are done."""
    key = "rollout.max_head_offpolicyness"
    if context.mode == "export" or not settings.number(key):
        return None
    return Finding(
        "ahead",
        "wrong",
        f"{settings.told(key)}: rollouts run ahead over the end of the file, and a batch takes what is done "
        "first, so a quick prompt can be trained twice in place of a slow one",
        {key: 0},
        source="areal/infra/staleness_manager.py",
    )


def weights(settings: Settings, context: Context) -> Found:
    """What a round leaves is what scoring and the next one begin with."""
    often = ("saver.freq_epochs", "saver.freq_steps")
    if not context.segment or any(settings[key] is not None for key in often):
        return None
    return Finding(
        "weights",
        "stops",
        f"{settings.told(often[0])}, {settings.told(often[1])}: no weights are saved, which scoring and the "
        "next round begin with",
        {often[0]: 1},
        source="areal/utils/saver.py",
    )


def saved_there(settings: Settings, context: Context) -> Found:
    """What a round leaves must lie in the round's own folder."""
    key = "saver.fileroot" if settings.is_given("saver.fileroot") else "cluster.fileroot"
    return common.output(settings, context, key, "the checkpoint", source="areal/utils/saver.py")


def reference(settings: Settings, context: Context) -> Found:
    """With a KL term, the reference is a model of its own, if it is named."""
    path = settings["ref.path"]
    if path is not None and not Settings.follows(path, ("checkpoint",)):
        return None
    return common.moving_reference(settings, context, "actor.kl_ctl", 0.0, 0.0, _ARGS)


_TABLE = table(
    ("dynamic-batch", "wrong", RUNS, "dynamic_bs", False, _ARGS,
     "a batch ends with what was accepted until then, so steps and rows do not agree"),
)  # fmt: skip

_RULES: tuple[Rule, ...] = (
    *common.rows("train_dataset.path", ("messages",), "--trainer areal", source="areal/dataset"),
    partial(common.begins, key="actor.path", source=_ARGS),
    partial(common.resumes, key="recover.mode", off=("disabled", "off", False, None), fix="disabled",
        place="cluster.fileroot", happens="the step counter and the loader's place in the last round's file "
        "(dataloader_info.pkl) come back over the new one", source="areal/utils/recover.py",
        advice="the next round begins with the weights: actor.path={checkpoint}"),
    partial(common.tail, key="train_dataset.batch_size", source=f"{_LOADER}: drop_last"),
    partial(common.too_long, key="train_dataset.max_length",
        happens="they may be dropped when the file is read (its filter counts the question alone)",
        source="areal/dataset"),
    partial(common.epochs, key="total_train_epochs", source=_ARGS),
    partial(common.steps, key="total_train_steps", per_step="train_dataset.batch_size", source=_ARGS),
    ahead,
    weights,
    saved_there,
    partial(common.adapter_only, key="actor.use_lora", off=False, source=_ARGS),
    partial(common.shuffle, key="train_dataset.shuffle", source=_LOADER),
    reference,
    *_TABLE,
)  # fmt: skip

RULES = TrainerRules(
    name="areal",
    version="4aef98d8 (2026-05-21)",
    launches=("areal.launcher", "_rl.py", "_grpo.py"),
    style="hydra",
    defaults=DEFAULTS,
    rules=_RULES,
    resolves=True,
)
