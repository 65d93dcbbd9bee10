"""AReaL: columns, settings that make it read a file, rules (`areal/api/cli_args.py`), checkpoints."""

from __future__ import annotations

from pathlib import Path

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import is_set, must, only
from gaincurate.trainers.doctor.settings import Settings
from gaincurate.trainers.markers import json_or_none, tokenizer_unfinished
from gaincurate.trainers.profile import Launch, Layout, Profile, Rendering, load_line

RULES = (
    common.rows("train_dataset.path", ("messages",), "--trainer areal"),
    common.begins("actor.path"),
    common.resumes("cluster.fileroot", "actor.path", "recover.mode", ("disabled", "off", False, None)),
    common.tail("train_dataset.batch_size"),
    common.too_long("train_dataset.max_length",
        "they may be dropped when the file is read (its filter counts only the question)"),
    common.epochs("total_train_epochs"),
    common.steps("total_train_steps", "train_dataset.batch_size"),
    must("rollout.max_head_offpolicyness", lambda value: not value, name="ahead",
        fix={"rollout.max_head_offpolicyness": 0}),
    only(lambda settings, _: settings["saver.freq_steps"] is None,
        must("saver.freq_epochs", is_set, name="weights", fix={"saver.freq_epochs": 1})),
    # Without saver.fileroot, weights are written below cluster.fileroot.
    only(lambda settings, _: settings.is_given("saver.fileroot"), common.output("saver.fileroot")),
    only(lambda settings, _: not settings.is_given("saver.fileroot"), common.output("cluster.fileroot")),
    must("actor.use_lora", False, name="adapter"),
    must("train_dataset.shuffle", False, name="shuffle"),
    only(lambda settings, _: (
        settings["ref.path"] is None or Settings.follows(settings["ref.path"], ("checkpoint",))),
        must("actor.kl_ctl", 0.0, name="reference")),
    must("dynamic_bs", False, "a batch ends with what was accepted until then, so steps and rows do not "
        "agree", name="dynamic-batch"),
)  # fmt: skip


def _recovered(path: Path, step: int) -> str | None:
    """There is no marker; the recovery state and the tokenizer are written after the weights."""
    infos = (json_or_none(above / "recover_info" / "step_info.json") for above in path.parents[:2])
    steps = [info.get("global_step") for info in infos if isinstance(info, dict)]
    newest = next((number for number in steps if isinstance(number, int)), None)
    return None if newest is not None and newest >= step else tokenizer_unfinished(path)


PROFILE = Profile(
    name="areal",
    version="4aef98d8 (2026-05-21)",
    reserved=frozenset({"prompt", "completions", "prompt_ids", "completion_ids"}),
    columns=lambda view: {"messages": view.messages(), **view.answers("answer")},
    launch=lambda path, view: Launch(
        "python",
        [load_line(path)],
        [
            "these lines go into your training script; with train_dataset.shuffle=false and "
            "train_dataset.num_workers=0 the rows keep their order",
            "a reward function gets the id as the keyword gc_id",
        ],
    ),
    rendering=Rendering(code="the workflow of the training script", nulls="all"),
    layout=Layout(
        folders=tuple(
            f"{above}epoch*globalstep*"
            for above in ("", "default/", "*/*/*/default/", "checkpoints/*/*/*/default/")
        ),
        step=r"epoch\d+epochstep\d+globalstep(\d+)",
        unfinished=_recovered,
        setting="saver.freq_steps",
    ),
    rules=RULES,
    launches=("areal.launcher", "_rl.py", "_grpo.py"),
)
