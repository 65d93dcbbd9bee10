"""Trinity: columns, settings that make it read a file, rules (`trinity/common/config.py`), checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gaincurate.trainers.columns import ExportView
from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import ALWAYS, SEGMENT, find, must, only
from gaincurate.trainers.doctor.findings import Finding, Rule, RuleContext
from gaincurate.trainers.doctor.settings import Settings
from gaincurate.trainers.markers import tracker
from gaincurate.trainers.profile import Launch, Layout, Profile, Rendering, Sharded

LIVE: dict[str, Any] = {"data_selector.selector_type": "gaincurate.trainers.trinity.RunSelector"}
"""The settings that name the live adapter."""

_ONE, _FIRST = "buffer.explorer_input.taskset", "buffer.explorer_input.tasksets.0"
_OPERATORS = "data_processor.experience_pipeline.operators"


def _taskset(settings: Settings) -> str:
    """The key of the only task set, or of the first in a list."""
    return _ONE if any(settings.below(f"{_ONE}.")) else _FIRST


def _at(name: str, row: Callable[[str], Rule]) -> Rule:
    """A rule on a setting of the task set."""
    return lambda settings, context: row(f"{_taskset(settings)}.{name}")(settings, context)


def _of(settings: Settings, name: str) -> Any:
    """The task set's workflow or reward function, or else that of all task sets."""
    return settings[f"{_taskset(settings)}.{name}"] or settings[f"buffer.explorer_input.{name}"]


def texts(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """A system message must be set, or some workflows add their own."""
    flow, key = str(_of(settings, "default_workflow_type")), f"{_taskset(settings)}.format.system_prompt"
    plain = _of(settings, "default_reward_fn_type") in (None, "math_reward")
    kind = flow.removeprefix("async_")
    if settings[key] is None and (kind == "math_boxed_workflow" or (kind == "math_workflow" and plain)):
        why = f"{flow} puts a system message of its own there, which was not scored"
        advice = "where the set has a system message, the one that `gaincurate export --trainer trinity` "
        advice += "names"
        yield find(settings, key, "template", why, {key: ""}, advice)


def order(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """The selector must take the rows in order, or be the live adapter."""
    old = f"{_taskset(settings)}.task_selector.selector_type"
    is_old = settings.known(old) is not None  # deprecated, but it overrides the other
    key = old if is_old else f"{_taskset(settings)}.data_selector.selector_type"
    if context.live:
        why = "rows are chosen by Trinity's own selector, regardless of the plan"
        fix = {f"{_taskset(settings)}.{name}": value for name, value in LIVE.items()}
        return common.unplugged(key, fix | ({old: None} if is_old else {}), why)(settings, context)
    if settings[key] == "shuffle":
        return must(key, "sequential", name="shuffle")(settings, context)
    why = "it chooses by its own rule, some rows again and some never"
    return must(key, "sequential", why, name="selector", modes=ALWAYS)(settings, context)


def lengths(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """No prompt may exceed the model's limit: longer ones are cut, or not answered."""
    happens = "they are cut from the front, so they differ from the scored prompts"
    if not settings["model.enable_prompt_truncation"]:
        happens = "they are not answered"
    if settings["model.max_prompt_tokens"] is not None:
        return common.too_long("model.max_prompt_tokens", happens)(settings, context)
    answer = settings.number("model.max_response_tokens")
    return common.too_long("model.max_model_len", happens, lambda _: answer)(settings, context)


def feedback(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """The experience pipeline needs the operator that passes rewards to the selector."""
    names = [settings[key] for key in settings.below(_OPERATORS) if key.endswith(".name")]
    if context.live and "pass_rate_calculator" not in names:
        title = "the experience pipeline has no pass_rate_calculator: the selector never receives a reward"
        fix = {f"{_OPERATORS}.{len(names)}.name": "pass_rate_calculator"}
        yield Finding("feedback", "stops", title, fix, "before every operator that leaves experiences out")


RULES = (
    _at("path", lambda key: common.rows(key, folder="`gaincurate export RUN --trainer trinity --out "
        "{output}/rows/train.parquet` writes it there")),
    common.unset_below("data_processor.task_pipeline.", "tasks are chosen and ordered by a pipeline of "
        "its own before the training", name="task-pipeline"),
    _at("format.prompt_key", lambda key: must(key, "prompt", name="prompt-key")),
    texts,
    _at("workflow_args.use_base", lambda key: must(key, False, name="template")),
    order,
    _at("data_selector.kwargs.run", common.follows_run),
    common.begins("model.model_path"),
    common.resumes("checkpoint_root_dir", "model.model_path", "continue_from_checkpoint", (False, None),
        {"checkpoint_root_dir": "{output}/trinity"}),
    common.tail("buffer.batch_size"),
    lengths,
    only(lambda settings, _: settings["buffer.total_steps"] is None, common.epochs("buffer.total_epochs")),
    common.steps("buffer.total_steps", "buffer.batch_size"),
    *(must(f"synchronizer.{key}", right, "the explorer chooses rows ahead of the rewards that should "
        "choose them", name="ahead", severity="stale", modes=common.LIVE)
        for key, right in (("sync_interval", 1), ("sync_offset", 0))),
    must("trainer.save_hf_checkpoint", lambda value: value != "never", name="weights",
        fix={"trainer.save_hf_checkpoint": "last"}),
    must("mode", lambda value: value in ("both", "colocate"), "only one half of the trainer: the "
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
)  # fmt: skip


def _launch(path: Path, view: ExportView) -> Launch:
    form = {"prompt_key": "prompt"} | ({"response_key": "answer"} if "answer" in view.columns else {})
    form |= {} if view.system is None else {"system_prompt": view.system}
    lines = [
        "buffer:",
        "  explorer_input:",
        "    tasksets:",
        "      - name: gaincurate",
        "        storage_type: file",
        f"        path: {json.dumps(str(path.parent), ensure_ascii=False)}",
        "        split: train",
        f"        format: {json.dumps(form, ensure_ascii=False)}",
        "        data_selector: {selector_type: sequential}",
    ]
    return Launch("yaml", lines, ["a workflow gets the id as task.raw_task['gc_id']"])


def _tracked(path: Path, step: int) -> str | None:
    """Trackers are updated when all writers are done; `.full_checkpoint` selects the tracker."""
    is_full = (path / ".full_checkpoint").is_file()
    return (tracker() if is_full else tracker("latest_state_dict_iteration.txt"))(path, step)


PROFILE = Profile(
    name="trinity",
    version="0.6.0",
    reads_folder=True,
    columns=lambda view: {"prompt": view.question(), **view.answers("answer")},
    launch=_launch,
    rendering=Rendering(
        "model.enable_thinking",
        "enable_thinking",
        adds=("model.custom_chat_template", "model.chat_template_path"),
        code="the workflow",
    ),
    layout=Layout(
        folders=("global_step_*", "*/global_step_*", "*/*/global_step_*"),
        step=r"global_step_(\d+)",
        unfinished=_tracked,
        weights=("actor/huggingface", "actor/model/huggingface"),
        setting="trainer.save_hf_checkpoint",
        adapters=("actor/huggingface/lora_adapter", "actor/lora_adapter"),
        sharded=tuple(
            Sharded(f"actor/{files}", "trinity convert --checkpoint-dir {checkpoint}")
            for files in ("model_world_size_*_rank_*.pt", "model/dist_ckpt/*", "dist_ckpt/*")
        ),
    ),
    rules=RULES,
    launches=("trinity",),
    live=True,
)
