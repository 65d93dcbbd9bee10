"""What of slime's arguments meets a schedule: commit 624b824a (2026-08-21), `slime/utils/arguments.py`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import ALWAYS, table
from gaincurate.trainers.doctor.findings import Context, Finding, Found, Rule, Severity, TrainerRules
from gaincurate.trainers.doctor.settings import Settings

LIVE: dict[str, Any] = {
    "data_source_path": "gaincurate.trainers.slime.RunDataSource",
    "rollout_all_samples_process_path": "gaincurate.trainers.slime.report",
}
"""The settings by which the trainer finds the live adapter."""

_SOURCE = "slime/rollout/data_source.py"
_ARGUMENTS = "slime/utils/arguments.py"
_DATA = "slime/utils/data.py"
_ROLLOUT = "slime/rollout/sglang_rollout.py"
_TAP = "rollout_all_samples_process_path"
_ALWAYS = 1_000_000  # rollouts: the last one is saved whatever the period

DEFAULTS: dict[str, Any] = {
    "prompt_data": None,
    "input_key": "input",
    "label_key": None,
    "metadata_key": "metadata",
    "tool_key": "tools",
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
    "rollout_function_path": "slime.rollout.sglang_rollout.generate_rollout",
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


def passes(settings: Settings, context: Context) -> Found:
    """Without a number of rollouts, how often the file is gone through."""
    if settings["num_rollout"] is not None:
        return None
    if context.segment and settings["num_epoch"] is None:
        title = "neither num_rollout nor num_epoch is set: slime does not begin"
        return Finding("length", "stops", title, {"num_epoch": 1}, source=_ARGUMENTS)
    return common.epochs(settings, context, "num_epoch", source=_ARGUMENTS)


def hides(settings: Settings, context: Context) -> Found:
    """A number of rollouts says nothing of the file: behind its end it begins again."""
    many, size = settings["num_rollout"], settings.count("rollout_batch_size")
    if not context.segment or many is None or Settings.follows(many, ("round",)):
        return None
    if context.budget is not None and size and context.budget % size == 0:
        return None  # it can be compared
    return Finding(
        "rollouts",
        "wrong",
        f"{settings.told('num_rollout')}: it hides the size of the file, and behind its end a round begins "
        "again with its first rows",
        {"num_rollout": None, "num_epoch": 1},
        source=_SOURCE,
    )


def resumes(settings: Settings, context: Context) -> Found:
    """A Megatron checkpoint brings the rollout counter and the place in the file back."""
    if (
        not context.segment
        or settings.place("load") is None
        or Settings.follows(settings.place("load"), ("checkpoint",))
    ):
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


def begins(settings: Settings, context: Context) -> Found:
    """Training begins with --load, and without it with --ref-load or --hf-checkpoint."""
    key = "load" if settings.place("load") else "hf_checkpoint"
    found = common.begins(settings, context, key, _ARGUMENTS)
    if found is None and key == "hf_checkpoint":
        found = common.begins(settings, context, "ref_load", _ARGUMENTS)
    if found is None:
        return None
    both = ("load", "hf_checkpoint") if settings.is_given("hf_checkpoint") else ("load",)
    return replace(found, fix=dict.fromkeys(both, "{checkpoint}"))


def over_sampling(settings: Settings, context: Context) -> Found:
    """More prompts are begun than a step trains."""
    over, size = settings.number("over_sampling_batch_size"), settings.count("rollout_batch_size")
    if context.mode == "export" or over is None or over == size:
        return None
    late = "those that come late are thrown away"
    if context.live:
        late = "the adapter hands those that come late out again"
    return Finding(
        "over-sampling",
        "cost" if context.live else "wrong",
        f"{settings.told('over_sampling_batch_size')}, {settings.told('rollout_batch_size')}: more prompts "
        f"are taken than a step trains, and {late}",
        {"over_sampling_batch_size": None},
        source=_ROLLOUT,
    )


def weights(settings: Settings, context: Context) -> Found:
    """What a round leaves is what scoring and the next one begin with."""
    if not context.segment or settings["save_hf"] is not None:
        return None
    return Finding(
        "weights",
        "stops",
        f"{settings.told('save_hf')}: no Hugging Face weights, which scoring and the next round begin with",
        {"save_hf": "{output}/hf/{rollout_id}"},
        source="slime/backends/megatron_utils/actor.py, save_model",
    )


def saved_there(settings: Settings, context: Context) -> Found:
    """Weights must lie in the round's own folder."""
    if settings["save_hf"] is None:
        return None  # the rule on weights speaks of it
    return common.output(settings, context, "save_hf", "the checkpoint", "/hf/{rollout_id}")


def period(settings: Settings, context: Context) -> Found:
    """Nothing is saved without a period and a folder."""
    if not context.segment or (settings["save_interval"] is not None and settings.is_set("save")):
        return None
    return Finding(
        "no-checkpoint",
        "stops",
        f"{settings.told('save_interval')}, {settings.told('save')}: nothing is saved, save_hf included",
        {"save_interval": _ALWAYS, "save": "{output}/megatron"},
        "the last rollout is saved whatever the period",
        "train.py",
    )


def ahead(settings: Settings, context: Context) -> Found:
    """The asynchronous rollout keeps its workers busy with the next prompts, whatever a step needs."""
    key = "rollout_function_path"
    if context.mode == "export" or "fully_async" not in str(settings[key]):
        return None
    return Finding(
        "ahead",
        "stale" if context.live else "wrong",
        f"{settings.told(key)}: "
        + (
            "prompts are begun before the rewards that should choose them"
            if context.live
            else "rollouts run ahead over the end of the file, and a step takes what is done first: a quick "
            "prompt can be trained twice in place of a slow one"
        ),
        {key: DEFAULTS[key]},
        source="slime/rollout/fully_async_rollout.py",
    )


def reports(settings: Settings, context: Context) -> Found:
    """Somebody of the user's must see the rewards; a function of slime's own tells nobody."""
    if str(settings["custom_rm_path"]).startswith("slime.") and not settings[_TAP]:
        settings = Settings({**settings.given, "custom_rm_path": None}, settings.defaults)
    return common.reports(
        settings,
        context,
        ("custom_rm_path", _TAP),
        {"custom_rm_path": "reward.reward"},
        "an async function that appends a line to {outcomes} for sample.metadata['gc_id']",
        _ARGUMENTS,
    )


def _partial_rollouts(settings: Settings, context: Context) -> Found:
    happens = "unfinished samples go back to a buffer that is gone when the round's process ends"
    if context.live:
        happens = "unfinished samples come back in later rounds than they were planned for"
    return _replaced(settings, context, "partial-rollout", "partial_rollout", False, happens)


def _dynamic_sampling(settings: Settings, context: Context) -> Found:
    """The adapter reports refused groups too, so that a live round goes on with a part of its outcomes."""
    happens = "groups that it refuses are replaced by further prompts, so steps and rows do not agree"
    finding = _replaced(settings, context, "dynamic-sampling", "dynamic_sampling_filter_path", None, happens)
    advice = "or start the run with a --min-coverage below 1" if context.live else ""
    return replace(finding, advice=advice) if finding else None


def _replaced(
    settings: Settings, context: Context, name: str, key: str, off: bool | None, happens: str
) -> Found:
    """A live round only has fewer outcomes."""
    if context.mode == "export" or not settings[key]:
        return None
    severity: Severity = "cost" if context.live else "wrong"
    return Finding(name, severity, f"{settings.told(key)}: {happens}", {key: off}, source=_ROLLOUT)


def _too_long(settings: Settings, context: Context) -> Found:
    if context.live:
        return None  # the adapter reads the rows without a limit
    happens = "they are dropped when the file is read, so they never report"
    return common.too_long(settings, context, "rollout_max_prompt_len", happens, source=_DATA)


def _template(settings: Settings, context: Context) -> Found:
    """A generate function of one's own is given the messages, and renders them as it likes."""
    key = "apply_chat_template"
    if settings[key] or settings.is_set("custom_generate_function_path"):
        return None
    return Finding(
        "template",
        "wrong",
        f"{settings.told(key)}: the model would read the messages without its chat template, which is not "
        "what was scored",
        {key: True},
        source=_DATA,
    )


def _reference(settings: Settings, context: Context, key: str) -> Found:
    """With a KL term, the reference is --ref-load, or else the model that a process begins with."""
    if settings.place("ref_load") is not None and not Settings.follows(
        settings.place("ref_load"), ("checkpoint",)
    ):
        return None
    return common.moving_reference(settings, context, key, 0.0, 0.0, _ARGUMENTS)


_TABLE = table(
    ("metadata", "wrong", ALWAYS, "metadata_key", "metadata", _DATA,
     "gc_id is carried in `metadata`, the one column that stays with a sample"),
    ("prompt-key", "stops", ALWAYS, "input_key", "prompt", _DATA, "the chat messages are in `prompt`"),
)  # fmt: skip

_RULES: tuple[Rule, ...] = (
    *common.rows("prompt_data", ("metadata",), "--trainer slime", "jsonl", source=_SOURCE),
    partial(common.follows_run, key="prompt_data", source="gaincurate.trainers.slime"),
    partial(common.unplugged, key="data_source_path", fix=LIVE,
        what="rows come in the file's order, whatever the schedule plans", source=_ARGUMENTS),
    partial(common.unplugged, key=_TAP, fix={_TAP: LIVE[_TAP]}, what="the adapter never hears of a reward",
        source=_ARGUMENTS),
    resumes,
    begins,
    hides,
    passes,
    partial(common.steps, key="num_rollout", per_step="rollout_batch_size", source=_SOURCE),
    partial(common.tail, key="rollout_batch_size", source="slime/ray/rollout.py, get_num_rollout_per_epoch"),
    _too_long,
    _template,
    over_sampling,
    _dynamic_sampling,
    _partial_rollouts,
    ahead,
    reports,
    weights,
    saved_there,
    period,
    partial(common.shuffle, key="rollout_shuffle", source=_SOURCE),
    *(partial(_reference, key=key) for key in ("kl_coef", "kl_loss_coef")),
    *_TABLE,
)  # fmt: skip

RULES = TrainerRules(
    name="slime",
    version="624b824a (2026-08-21)",
    launches=("train.py", "train_async.py"),
    style="dashes",
    defaults=DEFAULTS,
    rules=_RULES,
    live=True,
)
