"""What of AReaL's settings meets a schedule: commit 4aef98d8 (2026-05-21), `areal/api/cli_args.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.findings import About, Finding, Found, Trainer
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


def data(settings: Settings, about: About) -> Iterator[Finding]:
    """Which rows are read, in which order, and which are left out."""
    size, limit = "train_dataset.batch_size", "train_dataset.max_length"
    happens = "may be dropped when the file is read (its filter counts the question alone)"
    found = [
        common.reads(settings, about, "train_dataset.path", source="areal/dataset"),
        common.shuffle(settings, about, "train_dataset.shuffle", source=_LOADER),
        common.tail(settings, about, size, settings.number(size), source=f"{_LOADER}: drop_last"),
        common.too_long(settings, about, limit, settings.number(limit), happens, source="areal/dataset"),
        common.epochs(settings, about, "total_train_epochs", source=_ARGS),
    ]
    yield from (one for one in found if one)


def length(settings: Settings, about: About) -> Found:
    """A bound on the steps leaves rows out."""
    key, size = "total_train_steps", settings.number("train_dataset.batch_size")
    most = settings.number(key)
    if not about.segment or most is None or about.budget is None or not size or about.budget % size:
        return None
    wanted = int(about.budget // size)
    if most == wanted:
        return None
    why = "some rows are never trained" if most < wanted else "rows are trained again"
    title = f"{settings.told(key)}, but a round has {wanted} steps: {why}"
    return Finding("max-steps", "wrong", title, {key: wanted}, source=_ARGS)


def ahead(settings: Settings, about: About) -> Found:
    """Rollouts run ahead of training and come back in the order in which they are done."""
    key = "rollout.max_head_offpolicyness"
    if about.mode == "export" or not settings.number(key):
        return None
    return Finding(
        "ahead",
        "wrong",
        f"{settings.told(key)}: rollouts run ahead over the end of the file, and a batch takes what is done "
        "first, so a quick prompt can be trained twice in place of a slow one",
        {key: 0},
        source="areal/infra/staleness_manager.py",
    )


def sampling(settings: Settings, about: About) -> Found:
    """Dynamic batches leave what is refused out."""
    happens = "a batch ends with what was accepted until then, so steps and rows do not agree"
    return common.drops(settings, about, "dynamic-batch", "dynamic_bs", False, happens, _ARGS)


def resumes(settings: Settings, about: About) -> Found:
    """The loader's place in another file comes back."""
    key = "recover.mode"
    if not about.segment or settings[key] in ("disabled", "off", False, None):
        return None
    if Settings.follows(settings["cluster.fileroot"], ("output", "round")):
        return None
    return Finding(
        "resume",
        "wrong",
        f"{settings.told(key)}: the step counter and the loader's place in the last round's file "
        "(dataloader_info.pkl) come back over the new one",
        {key: "disabled"},
        "the next round begins with the weights: actor.path={checkpoint}",
        "areal/utils/recover.py",
    )


def checkpoints(settings: Settings, about: About) -> Iterator[Finding]:
    """What a round leaves is what the next one begins with."""
    if not about.segment:
        return
    often = ("saver.freq_epochs", "saver.freq_steps")
    if all(settings[key] is None for key in often):
        yield Finding(
            "weights",
            "stops",
            f"{settings.told(often[0])}, {settings.told(often[1])}: no weights are saved, which scoring and "
            "the next round begin with",
            {often[0]: 1},
            source="areal/utils/saver.py",
        )
    root = "saver.fileroot" if settings.is_given("saver.fileroot") else "cluster.fileroot"
    if found := common.output(settings, about, root, "the checkpoint", source="areal/utils/saver.py"):
        yield found


def reference(settings: Settings, about: About) -> Found:
    """With a KL term, the reference is a model of its own, if it is named."""
    path = settings["ref.path"]
    if path is not None and not Settings.follows(path, ("checkpoint",)):
        return None
    return common.moving_reference(settings, about, "actor.kl_ctl", 0.0, 0.0, _ARGS)


def adapters(settings: Settings, about: About) -> Found:
    """LoRA checkpoints hold an adapter."""
    return common.adapter_only(settings, about, "actor.use_lora", False, _ARGS)


TRAINER = Trainer(
    name="areal",
    version="4aef98d8 (2026-05-21)",
    launches=("areal", "_rl.py", "grpo.py"),
    style="hydra",
    defaults=DEFAULTS,
    rules=(data, length, ahead, sampling, resumes, checkpoints, reference, adapters),
)
