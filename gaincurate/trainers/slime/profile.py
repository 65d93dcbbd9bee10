"""slime: columns, settings that make it read a file, rules (`slime/utils/arguments.py`), checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from gaincurate.trainers.columns import ExportColumn, ExportView
from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import ALWAYS, SEGMENT, find, is_set, must, never, only
from gaincurate.trainers.doctor.findings import Finding, RuleContext, defaults_of
from gaincurate.trainers.doctor.settings import Settings
from gaincurate.trainers.markers import tracker, unreadable
from gaincurate.trainers.profile import Launch, Layout, Profile, Rendering, Sharded

LIVE: dict[str, Any] = {
    "data_source_path": "gaincurate.trainers.slime.RunDataSource",
    "rollout_all_samples_process_path": "gaincurate.trainers.slime.report",
}
"""The settings that name the live adapter."""

_TAP = "rollout_all_samples_process_path"
_OVER = "over_sampling_batch_size"


def unset(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """The training needs a setting for its length."""
    if context.segment and settings["num_rollout"] is None and settings["num_epoch"] is None:
        title = "neither num_rollout nor num_epoch is set: slime does not start"
        yield Finding("length", "stops", title, {"num_epoch": 1})


def begins(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """A round must start from the last checkpoint: by --load, or else --ref-load or --hf-checkpoint."""
    keys = ("load",) if settings.place("load") else ("hf_checkpoint", "ref_load")
    both = ("load", "hf_checkpoint") if settings.is_given("hf_checkpoint") else ("load",)
    findings = (finding for key in keys for finding in common.begins(key)(settings, context))
    for finding in islice(findings, 1):
        yield replace(finding, fix=dict.fromkeys(both, "{checkpoint}"))


def resumes(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """A Megatron checkpoint would restore the rollout counter and the place in the file."""
    place = settings.place("load")
    if context.segment and place is not None and not Settings.follows(place, ("checkpoint",)):
        advice = "Hugging Face weights are loaded without either, and without the optimizer"
        yield find(settings, "load", "resume", "", {"load": "{checkpoint}"}, advice)


def _no_reward(settings: Settings, context: RuleContext) -> bool:
    """Whether no code of the user's sees the rewards; slime's own functions report no outcomes."""
    path = str(settings.known("custom_rm_path"))
    return not settings.is_set(_TAP) and (not settings.is_set("custom_rm_path") or path.startswith("slime."))


RULES = (
    common.rows("prompt_data", ("metadata",), "--trainer slime", "jsonl"),
    common.follows_run("prompt_data"),
    common.unplugged("data_source_path", LIVE, "rows come in the file's order, regardless of the plan"),
    common.unplugged(_TAP, {_TAP: LIVE[_TAP]}, "the adapter never receives a reward"),
    resumes,
    begins,
    # Without the steps of a round, a number of rollouts cannot be compared with them.
    only(lambda settings, context: not context.steps(settings.count("rollout_batch_size"))
        and not Settings.follows(settings["num_rollout"], ("round",)),
        must("num_rollout", None, "it hides the size of the file, and after its end a round starts again "
        "with its first rows", name="rollouts", modes=SEGMENT, fix={"num_rollout": None, "num_epoch": 1})),
    unset,
    only(lambda settings, _: settings["num_rollout"] is None, common.epochs("num_epoch")),
    common.steps("num_rollout", "rollout_batch_size"),
    common.tail("rollout_batch_size"),
    only(lambda _, context: not context.live,  # the adapter reads the rows without a limit
        common.too_long("rollout_max_prompt_len",
            "they are dropped when the file is read, so they never report")),
    only(lambda settings, _: not settings.is_set("custom_generate_function_path"),
        must("apply_chat_template", True, name="template")),
    only(lambda settings, _: settings[_OVER] != settings["rollout_batch_size"],
        must(_OVER, None, "more prompts are taken than a step trains, and late ones are thrown away",
        name="over-sampling")),
    must("dynamic_sampling_filter_path", None, name="dynamic-sampling"),
    must("partial_rollout", False, "unfinished samples come back in a later round than planned, or never",
        name="partial-rollout"),
    must("rollout_function_path", lambda value: "fully_async" not in str(value), name="ahead",
        fix={"rollout_function_path": defaults_of("slime")["rollout_function_path"]}),
    only(_no_reward, must("custom_rm_path", never, name="outcomes",
        fix={"custom_rm_path": "reward.reward"},
        advice="an async function that appends a line to {outcomes} for sample.metadata['gc_id']")),
    must("save_hf", is_set, name="weights", fix={"save_hf": "{output}/hf/{rollout_id}"}),
    only(lambda settings, _: settings["save_hf"] is not None,
        common.output("save_hf", "/hf/{rollout_id}")),
    only(lambda settings, _: settings["save_interval"] is None or not settings.is_set("save"),
        must("save_interval", never, "nothing is saved without it and save, save_hf included",
        name="no-checkpoint", fix={"save_interval": common.FOREVER, "save": "{output}/megatron"},
        advice="the last rollout is saved for any save_interval")),
    must("rollout_shuffle", False, name="shuffle"),
    *(only(lambda settings, _: (settings.place("ref_load") is None
        or Settings.follows(settings.place("ref_load"), ("checkpoint",))),
        must(key, 0.0, name="reference")) for key in ("kl_coef", "kl_loss_coef")),
    must("metadata_key", "metadata", "gc_id is in `metadata`, the one column that stays with a sample",
        name="metadata", modes=ALWAYS),
    must("input_key", "prompt", name="prompt-key"),
)  # fmt: skip


def _columns(view: ExportView) -> dict[str, ExportColumn]:
    tools = {"tools": view.row_tools()} if view.tools else {}
    metadata = view.struct("metadata", {"gc_id": view.ids()})
    return {"prompt": view.messages(), **view.answers("label"), **tools, "metadata": metadata}


def _launch(path: Path, view: ExportView) -> Launch:
    flags = ["--prompt-data", str(path), "--input-key", "prompt"]
    flags += ["--label-key", "label"] if "label" in view.columns else []
    flags += ["--metadata-key", "metadata", "--apply-chat-template"]
    flags += ["--tool-key", "tools"] if "tools" in view.columns else []
    media = {name[:-1]: name for name in ("images", "videos", "audios") if name in view.schema.names}
    flags += ["--multimodal-keys", json.dumps(media)] if media else []
    return Launch("flags", flags, ["leave --rollout-shuffle out", "the id is in Sample.metadata['gc_id']"])


def _indexed(path: Path, step: int) -> str | None:
    """`--save-hf` writes the index after all shards; Megatron has a tracker."""
    if any(path.glob("*.distcp")):
        return tracker()(path, step)
    is_one = (path / "model.safetensors").is_file()  # one file needs no index; its header tells
    return None if is_one else unreadable(path / "model.safetensors.index.json")


PROFILE = Profile(
    name="slime",
    version="624b824a (2026-08-21)",
    reserved=frozenset({"tools"}),
    columns=_columns,
    launch=_launch,
    rendering=Rendering(
        "apply_chat_template_kwargs",
        row_tools="tool_key",
        adds=("multimodal_keys", "custom_generate_function_path"),
        nulls="prompt_data",
    ),
    layout=Layout(
        folders=("*", "*/*"),
        step=r"(?:.*\D)?(\d+)",
        unfinished=_indexed,
        weights=(".", "hf"),
        adapters=(),
        any_name=True,
        setting="--save-hf PATH/{rollout_id}",
        sharded=(
            Sharded(
                "*.distcp",
                "python tools/convert_torch_dist_to_hf.py --input-dir {checkpoint} "
                "--output-dir {checkpoint}/hf --origin-hf-dir HF_CHECKPOINT",
                apart=True,
            ),
        ),
    ),
    rules=RULES,
    launches=("train.py", "train_async.py"),
    style="dashes",
    live=True,
)
