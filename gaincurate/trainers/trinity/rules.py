"""What of Trinity-RFT's settings meets a schedule: trinity-rft 0.6.0, `trinity/common/config.py`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import when
from gaincurate.trainers.doctor.findings import Context, Finding, Found, Rule, TrainerRules
from gaincurate.trainers.doctor.settings import Settings

LIVE: dict[str, Any] = {"data_selector.selector_type": "gaincurate.trainers.trinity.RunSelector"}
"""The settings by which the trainer finds the live adapter."""

_ONE, _FIRST = "buffer.explorer_input.taskset", "buffer.explorer_input.tasksets.0"
_SELECTORS = "trinity/buffer/selector/selector.py"
_READER = "trinity/buffer/reader/file_reader.py"
_OPERATORS = "data_processor.experience_pipeline.operators"

DEFAULTS: dict[str, Any] = {
    f"{_FIRST}.path": None,
    f"{_FIRST}.format.prompt_key": "prompt",
    f"{_FIRST}.format.response_key": "response",
    f"{_FIRST}.data_selector.selector_type": "sequential",
    "buffer.batch_size": 1,
    "buffer.total_epochs": 1,
    "buffer.total_steps": None,
    "model.max_prompt_tokens": None,
    "model.enable_prompt_truncation": True,
    "explorer.over_rollout.ratio": 0.0,
    "explorer.eval_on_startup": True,
    "synchronizer.sync_interval": 1,
    "synchronizer.sync_offset": 0,
    "trainer.save_hf_checkpoint": "last",
    "checkpoint_root_dir": "",
    "continue_from_checkpoint": True,
    "model.lora_configs": None,
}


def _taskset(settings: Settings) -> str:
    """Where the task set stands: alone, or first in a list."""
    return _ONE if any(settings.below(f"{_ONE}.")) else _FIRST


def data(settings: Settings, context: Context) -> Found:
    """Trinity reads a folder."""
    found = common.reads(settings, context, f"{_taskset(settings)}.path", source=_READER)
    if found is None:
        return None
    advice = "`gaincurate export RUN --trainer trinity --out {output}/rows/train.parquet` writes it there"
    return replace(found, fix={f"{_taskset(settings)}.path": "{output}/rows"}, advice=advice)


def order(settings: Settings, context: Context) -> Found:
    """Who chooses the rows."""
    key = f"{_taskset(settings)}.data_selector.selector_type"
    kind = settings[key]
    if context.live:
        what = "rows are chosen by Trinity's own selector, whatever the schedule plans"
        fix = {f"{_taskset(settings)}.{name}": value for name, value in LIVE.items()}
        return common.unplugged(settings, context, key, fix, what, _SELECTORS)
    if kind in ("sequential", None):
        return None
    if kind == "shuffle":
        return common.shuffle(settings, context, key, source=_SELECTORS, off="sequential")
    return Finding(
        "selector",
        "wrong",
        f"{settings.told(key)}: it chooses by its own rule, some rows again and some never",
        {key: "sequential"},
        source=_SELECTORS,
    )


def run(settings: Settings, context: Context) -> Found:
    """The selector is told of the run."""
    key = f"{_taskset(settings)}.data_selector.kwargs.run"
    return common.follows_run(settings, context, key, source="gaincurate.trainers.trinity")


def _batch(settings: Settings) -> float | None:
    return settings.number("buffer.batch_size")


def lengths(settings: Settings, context: Context) -> Found:
    """Prompts over the model's limit are cut, or not answered."""
    cut = settings["model.enable_prompt_truncation"]
    happens = (
        "they are cut from the front, so they are not what was scored" if cut else "they are not answered"
    )
    return common.too_long(
        settings, context, "model.max_prompt_tokens", happens, source="trinity/common/models"
    )


def passes(settings: Settings, context: Context) -> Found:
    """Without a number of steps, how often the file is gone through."""
    if settings["buffer.total_steps"] is not None:
        return None
    return common.epochs(settings, context, "buffer.total_epochs", source=_READER)


def resumes(settings: Settings, context: Context) -> Found:
    """The explorer's place in the file comes back with a checkpoint."""
    key = "checkpoint_root_dir"
    if not context.segment or not settings["continue_from_checkpoint"]:
        return None
    if Settings.follows(settings[key], ("output", "round")):
        return None
    return Finding(
        "resume",
        "wrong",
        f"{settings.told('continue_from_checkpoint')}, {settings.told(key)}: the place in the last round's "
        "file comes back over the new one",
        {key: "{output}/trinity"},
        "the next round begins with the weights: model.model_path: {checkpoint}",
        "trinity/manager/state_manager.py",
    )


def saved_there(settings: Settings, context: Context) -> Found:
    """What a round leaves must lie in the round's own folder."""
    if settings["continue_from_checkpoint"]:
        return None  # the rule on resuming speaks of the same folder
    return common.output(settings, context, "checkpoint_root_dir", "the checkpoint", "/trinity")


def feedback(settings: Settings, context: Context) -> Found:
    """The selector hears of rewards through one operator of the experience pipeline."""
    names = [settings[key] for key in settings.below(_OPERATORS) if key.endswith(".name")]
    if not context.live or "pass_rate_calculator" in names:
        return None
    return Finding(
        "feedback",
        "stops",
        "the experience pipeline has no pass_rate_calculator: the selector never hears of a reward",
        {f"{_OPERATORS}.{len(names)}.name": "pass_rate_calculator"},
        source="trinity/explorer/explorer.py",
    )


def _ahead(key: str, least: int) -> Rule:
    return when(
        "ahead",
        "stale",
        key,
        lambda value: isinstance(value, int) and value > least,
        "the explorer chooses rows ahead of the rewards that should choose them",
        {key: least},
        source="trinity/explorer/explorer.py",
        modes=("live",),
    )


def adapters(settings: Settings, context: Context) -> Found:
    """LoRA checkpoints hold an adapter."""
    if not context.segment or not list(settings.below("model.lora_configs")):
        return None
    keys = sorted(key for key in settings.below("model.lora_configs") if settings.given[key] is not None)
    if not keys:
        return None
    title = f"{keys[0]} is set: the checkpoint is an adapter alone, which the next round does not begin with"
    return Finding("adapter", "stops", title, dict.fromkeys(keys), source="trinity/common/config.py")


RULES = TrainerRules(
    name="trinity",
    version="0.6.0",
    launches=("trinity",),
    style="hydra",
    defaults=DEFAULTS,
    rules=(
        data,
        order,
        run,
        partial(common.begins, key="model.model_path", source="trinity/common/config.py"),
        resumes,
        partial(common.tail, key="buffer.batch_size", source=f"{_READER}: drop_last=True"),
        lengths,
        passes,
        partial(common.steps, key="buffer.total_steps", per_step=_batch, source=_READER),
        partial(
            common.drops,
            name="over-rollout",
            key="explorer.over_rollout.ratio",
            off=0.0,
            happens="a step does not wait for its slowest tasks, which are never trained and report nothing",
            source="trinity/common/config.py",
        ),
        _ahead("synchronizer.sync_interval", 1),
        _ahead("synchronizer.sync_offset", 0),
        when(
            "weights",
            "stops",
            "trainer.save_hf_checkpoint",
            lambda value: value == "never",
            "no Hugging Face weights, which scoring and the next round begin with",
            {"trainer.save_hf_checkpoint": "last"},
            source="trinity/trainer/trainer.py",
            modes=("segment",),
        ),
        saved_there,
        feedback,
        adapters,
        when(
            "validation",
            "cost",
            "explorer.eval_on_startup",
            bool,
            "an evaluation before every round, where there is an evaluation set",
            {"explorer.eval_on_startup": False},
            source="trinity/explorer/explorer.py",
            modes=("segment",),
        ),
    ),
    live=True,
    resolves=True,
)
