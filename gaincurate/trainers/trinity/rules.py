"""Trinity-RFT's settings that a schedule depends on: trinity-rft 0.6.0, `trinity/common/config.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import ALWAYS, SEGMENT, Row, find, must, only
from gaincurate.trainers.doctor.findings import Context, Finding, Found, TrainerRules
from gaincurate.trainers.doctor.settings import Settings

LIVE: dict[str, Any] = {"data_selector.selector_type": "gaincurate.trainers.trinity.RunSelector"}
"""The settings by which the trainer finds the live adapter."""

_ONE, _FIRST = "buffer.explorer_input.taskset", "buffer.explorer_input.tasksets.0"
_OPERATORS = "data_processor.experience_pipeline.operators"


def _taskset(settings: Settings) -> str:
    """The key of the task set: alone, or the first in a list."""
    return _ONE if any(settings.below(f"{_ONE}.")) else _FIRST


def _at(name: str, row: Callable[[str], Row]) -> Row:
    """A rule on a setting of the task set."""
    return lambda settings, context: row(f"{_taskset(settings)}.{name}")(settings, context)


def data(settings: Settings, context: Context) -> Found:
    """Trinity reads a folder."""
    key = f"{_taskset(settings)}.path"
    if (finding := common.reads(key)(settings, context)) is None:
        return None
    advice = "`gaincurate export RUN --trainer trinity --out {output}/rows/train.parquet` writes it there"
    return replace(finding, fix={key: "{output}/rows"}, advice=advice)


def _of(settings: Settings, name: str) -> str:
    """The key of a workflow or a reward function: the task set's own, or that of all."""
    own = f"{_taskset(settings)}.{name}"
    return own if settings[own] else f"buffer.explorer_input.{name}"


def texts(settings: Settings, context: Context) -> Found:
    """Workflows put a system message of their own before a question that has none."""
    flow = str(settings[_of(settings, "default_workflow_type")])
    key, kind = f"{_taskset(settings)}.format.system_prompt", flow.removeprefix("async_")
    plain = settings[_of(settings, "default_reward_fn_type")] in (None, "math_reward")
    adds = kind == "math_boxed_workflow" or (kind == "math_workflow" and plain)
    if settings[key] is not None or not adds:
        return None
    why = f"{flow} puts a system message of its own there, which was not scored"
    advice = "where the set has a system message, the one that `gaincurate export --trainer trinity` names"
    return find(settings, key, "template", why, {key: ""}, advice)


def order(settings: Settings, context: Context) -> Found:
    """The selector that chooses the rows."""
    old = f"{_taskset(settings)}.task_selector.selector_type"
    is_old = settings.known(old) is not None  # deprecated, and still over the other
    key = old if is_old else f"{_taskset(settings)}.data_selector.selector_type"
    if context.live:
        why = "rows are chosen by Trinity's own selector, whatever the schedule plans"
        fix = {f"{_taskset(settings)}.{name}": value for name, value in LIVE.items()}
        return common.unplugged(key, fix | ({old: None} if is_old else {}), why)(settings, context)
    if settings[key] == "shuffle":
        return must(key, "sequential", name="shuffle")(settings, context)
    why = "it chooses by its own rule, some rows again and some never"
    return must(key, "sequential", why, name="selector", modes=ALWAYS)(settings, context)


def lengths(settings: Settings, context: Context) -> Found:
    """Prompts over the model's limit are cut, or not answered."""
    happens = "they are cut from the front, so they are not what was scored"
    if not settings["model.enable_prompt_truncation"]:
        happens = "they are not answered"
    is_own = settings["model.max_prompt_tokens"] is not None
    key = "model.max_prompt_tokens" if is_own else "model.max_model_len"
    answer = 0 if is_own else settings.number("model.max_response_tokens")
    return common.too_long(key, happens, lambda _: answer)(settings, context)


def feedback(settings: Settings, context: Context) -> Found:
    """The selector receives rewards through one operator of the experience pipeline."""
    names = [settings[key] for key in settings.below(_OPERATORS) if key.endswith(".name")]
    if not context.live or "pass_rate_calculator" in names:
        return None
    title = "the experience pipeline has no pass_rate_calculator: the selector never receives a reward"
    fix = {f"{_OPERATORS}.{len(names)}.name": "pass_rate_calculator"}
    return Finding("feedback", "stops", title, fix, "before every operator that leaves experiences out")


RULES = TrainerRules(
    name="trinity",
    launches=("trinity",),
    live=True,
    rules=(
        data,
        common.unset_below("data_processor.task_pipeline.", "tasks are chosen and ordered by a pipeline of "
            "its own before the training", name="task-pipeline"),
        _at("format.prompt_key", lambda key: must(key, "prompt", name="prompt-key")),
        texts,
        _at("workflow_args.use_base", lambda key: must(key, False, name="template")),
        order,
        _at("data_selector.kwargs.run", common.follows_run),
        common.begins("model.model_path"),
        common.resumes("checkpoint_root_dir", "model.model_path", key="continue_from_checkpoint",
            off=(False, None), fix={"checkpoint_root_dir": "{output}/trinity"}),
        common.tail("buffer.batch_size"),
        lengths,
        only(lambda settings, _: settings["buffer.total_steps"] is None,
            common.epochs("buffer.total_epochs")),
        common.steps("buffer.total_steps", "buffer.batch_size"),
        *(must(f"synchronizer.{key}", right, "the explorer chooses rows ahead of the rewards that should "
            "choose them", name="ahead", severity="stale", modes=common.LIVE)
            for key, right in (("sync_interval", 1), ("sync_offset", 0))),
        must("trainer.save_hf_checkpoint", lambda value: value != "never", name="weights",
            fix={"trainer.save_hf_checkpoint": "last"}),
        must("mode", lambda value: value in ("both", "colocate"), "one half of the trainer alone: the "
            "process of a round does not both roll out and train", name="half", severity="stops",
            modes=SEGMENT, fix={"mode": "both"}),
        only(lambda settings, _: not settings["continue_from_checkpoint"],
            common.output("checkpoint_root_dir", "/trinity")),
        feedback,
        common.unset_below("model.lora_configs", name="adapter"),
        only(lambda settings, _: any(settings.below("buffer.explorer_input.eval_tasksets.")),
            must("explorer.eval_on_startup", False, name="validation")),
        must("explorer.over_rollout.ratio", 0.0, "a step does not wait for its slowest tasks, which are "
            "never trained and report nothing", name="over-rollout"),
        must("model.tinker.enable", False, "the weights stay with the service that trains, and scoring and "
            "the next round have none", name="weights"),
    ),
)  # fmt: skip
