"""What of slime's arguments meets a schedule: commit 624b824a (2026-08-21), `slime/utils/arguments.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.findings import About, Finding, Found, Trainer
from gaincurate.trainers.doctor.live import LIVE
from gaincurate.trainers.doctor.settings import Settings

_SOURCE = "slime/rollout/data_source.py"
_ARGUMENTS = "slime/utils/arguments.py"
_ROLLOUT = "slime/rollout/sglang_rollout.py"
_ALWAYS = 1_000_000  # rollouts: the last one is saved whatever the period

DEFAULTS: dict[str, Any] = {
    "prompt_data": None,
    "input_key": "input",
    "label_key": None,
    "metadata_key": "metadata",
    "apply_chat_template": False,
    "rollout_shuffle": False,
    "rollout_batch_size": None,
    "rollout_max_prompt_len": None,
    "over_sampling_batch_size": None,
    "dynamic_sampling_filter_path": None,
    "partial_rollout": False,
    "num_rollout": None,
    "num_epoch": None,
    "start_rollout_id": None,
    "data_source_path": "slime.rollout.data_source.RolloutDataSourceWithBuffer",
    "custom_rm_path": None,
    "rollout_all_samples_process_path": None,
    "ref_load": None,
    "load": None,
    "save": None,
    "save_interval": None,
    "save_hf": None,
    "kl_coef": 0.0,
    "kl_loss_coef": 0.0,
}


def data(settings: Settings, about: About) -> Iterator[Finding]:
    """Which rows are read, in which order, and which are left out."""
    limit, size = "rollout_max_prompt_len", "rollout_batch_size"
    happens = "are dropped when the file is read, so they never report"
    source = "slime/ray/rollout.py, get_num_rollout_per_epoch"
    found = [
        common.reads(settings, about, "prompt_data", source=_SOURCE),
        common.shuffle(settings, about, "rollout_shuffle", source=_SOURCE),
        common.too_long(
            settings, about, limit, settings.number(limit), happens, source="slime/utils/data.py"
        ),
    ]
    if not about.live:
        found.append(common.tail(settings, about, size, settings.number(size), source=source))
    yield from (one for one in found if one)


def keys(settings: Settings, about: About) -> Iterator[Finding]:
    """What is taken from a row."""
    if settings["input_key"] != "prompt":
        title = f"{settings.told('input_key')}: the chat messages are in `prompt`"
        yield Finding("prompt-key", "stops", title, {"input_key": "prompt"}, source="slime/utils/data.py")
    if not settings["apply_chat_template"]:
        yield Finding(
            "template",
            "wrong",
            f"{settings.told('apply_chat_template')}: the model would read the messages without its chat "
            "template, which is not what was scored",
            {"apply_chat_template": True},
            source="slime/utils/data.py",
        )
    if settings["metadata_key"] != "metadata":
        yield Finding(
            "metadata",
            "wrong",
            f"{settings.told('metadata_key')}: gc_id is carried in `metadata`, the one column that stays "
            "with a sample",
            {"metadata_key": "metadata"},
            source="slime/utils/data.py",
        )


def length(settings: Settings, about: About) -> Iterator[Finding]:
    """How many rollouts one process makes; behind the end of the file it begins again."""
    many, passes, size = (
        settings.number("num_rollout"),
        settings["num_epoch"],
        settings.number("rollout_batch_size"),
    )
    if about.mode == "export" or Settings.follows(settings["num_rollout"], ("round",)):
        return
    if many is None:
        if found := common.epochs(settings, about, "num_epoch", source=_ARGUMENTS):
            yield found
        if about.segment and passes is None:
            title = "neither num_rollout nor num_epoch is set: slime does not begin"
            yield Finding("length", "stops", title, {"num_epoch": 1}, source=_ARGUMENTS)
        return
    if about.budget is None or not size or about.budget % size:
        if about.segment:
            yield Finding(
                "rollouts",
                "wrong",
                f"{settings.told('num_rollout')}: it hides the size of the file: behind its end a round "
                "begins again with its first rows",
                {"num_rollout": None, "num_epoch": 1},
                source=_SOURCE,
            )
        return
    wanted = int(about.budget // size) * ((about.rounds or 1) if about.live else 1)
    if many != wanted:
        yield Finding(
            "rollouts",
            "wrong",
            f"{settings.told('num_rollout')}, but {'the run' if about.live else 'a round'} has {wanted}: "
            f"{'some rows are never trained' if many < wanted else 'rows are trained again'}",
            {"num_rollout": wanted},
            source=_SOURCE,
        )


def resumes(settings: Settings, about: About) -> Found:
    """A Megatron checkpoint brings the rollout counter and the place in the file back."""
    if not about.segment or settings["load"] is None or Settings.follows(settings["load"], ("checkpoint",)):
        return None
    return Finding(
        "resume",
        "wrong",
        f"{settings.told('load')}: the rollout counter and the place in the file "
        "(rollout/global_dataset_state_dict_*.pt) of the last round come back, and the training ends at once",
        {"load": "{checkpoint}"},
        "Hugging Face weights are loaded without either, and without the optimizer",
        f"{_SOURCE}, load",
    )


def sampling(settings: Settings, about: About) -> Iterator[Finding]:
    """What takes more prompts than a step trains."""
    over, size = settings.number("over_sampling_batch_size"), settings.number("rollout_batch_size")
    if about.mode != "export" and over is not None and over != size:
        yield Finding(
            "over-sampling",
            "wrong",
            f"{settings.told('over_sampling_batch_size')}, {settings.told('rollout_batch_size')}: more "
            "prompts are taken from the file than a step trains, and those that come late are thrown away",
            {"over_sampling_batch_size": None},
            source=_ROLLOUT,
        )
    happens = "groups that it refuses are replaced by further prompts, so steps and rows do not agree"
    key = "dynamic_sampling_filter_path"
    if found := common.drops(settings, about, "dynamic-sampling", key, None, happens, _ROLLOUT):
        yield found
    happens = "unfinished samples go back to a buffer that is gone when the round's process ends"
    if about.live:
        happens = "unfinished samples come back in later rounds than they were planned for"
    if found := common.drops(settings, about, "partial-rollout", "partial_rollout", False, happens, _ROLLOUT):
        yield found


def outcomes(settings: Settings, about: About) -> Found:
    """A built-in reward gives numbers, and nobody tells whose they are."""
    return common.reports(
        settings,
        about,
        ("custom_rm_path", "rollout_all_samples_process_path"),
        {"custom_rm_path": "reward.reward"},
        "an async function that appends a line to {outcomes} for sample.metadata['gc_id']",
        _ARGUMENTS,
    )


def checkpoints(settings: Settings, about: About) -> Iterator[Finding]:
    """What a round leaves is what the next one begins with."""
    if not about.segment:
        return
    if settings["save_hf"] is None:
        yield Finding(
            "weights",
            "stops",
            f"{settings.told('save_hf')}: no Hugging Face weights, which scoring and the next round begin "
            "with",
            {"save_hf": "{output}/hf/{rollout_id}"},
            source="slime/backends/megatron_utils/actor.py, save_model",
        )
    elif found := common.output(settings, about, "save_hf", "the checkpoint", "/hf/{rollout_id}"):
        yield found
    if settings["save_interval"] is None or settings["save"] is None:
        yield Finding(
            "no-checkpoint",
            "stops",
            f"{settings.told('save_interval')}, {settings.told('save')}: nothing is saved, save_hf included",
            {"save_interval": _ALWAYS, "save": "{output}/megatron"},
            "the last rollout is saved whatever the period",
            "train.py",
        )


def live(settings: Settings, about: About) -> Found:
    """In live mode the rows come from the adapter."""
    what = "rows come in the file's order, whatever the schedule plans"
    return common.unplugged(settings, about, "data_source_path", LIVE["slime"], what, _ARGUMENTS)


def reference(settings: Settings, about: About) -> Iterator[Finding]:
    """With a KL term, the reference is --ref-load, or else the model that a process begins with."""
    if settings["ref_load"] is None or Settings.follows(settings["ref_load"], ("checkpoint",)):
        for key in ("kl_coef", "kl_loss_coef"):
            if found := common.moving_reference(settings, about, key, 0.0, 0.0, _ARGUMENTS):
                yield found


TRAINER = Trainer(
    name="slime",
    version="624b824a (2026-08-21)",
    launches=("train.py", "train_async.py"),
    style="dashes",
    defaults=DEFAULTS,
    rules=(data, keys, length, resumes, sampling, outcomes, checkpoints, live, reference),
    live=True,
)
