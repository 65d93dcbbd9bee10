"""AReaL's settings that a schedule depends on: commit 4aef98d8 (2026-05-21), `areal/api/cli_args.py`."""

from __future__ import annotations

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import is_set, must, only
from gaincurate.trainers.doctor.findings import TrainerRules
from gaincurate.trainers.doctor.settings import Settings

RULES = TrainerRules(
    name="areal",
    launches=("areal.launcher", "_rl.py", "_grpo.py"),
    rules=(
        common.rows("train_dataset.path", ("messages",), "--trainer areal"),
        common.begins("actor.path"),
        common.resumes("cluster.fileroot", "actor.path", key="recover.mode",
            off=("disabled", "off", False, None)),
        common.tail("train_dataset.batch_size"),
        common.too_long("train_dataset.max_length",
            "they may be dropped when the file is read (its filter counts the question alone)"),
        common.epochs("total_train_epochs"),
        common.steps("total_train_steps", "train_dataset.batch_size"),
        must("rollout.max_head_offpolicyness", lambda value: not value, name="ahead",
            fix={"rollout.max_head_offpolicyness": 0}),
        only(lambda settings, _: settings["saver.freq_steps"] is None,
            must("saver.freq_epochs", is_set, name="weights", fix={"saver.freq_epochs": 1})),
        # The folder of the weights is that of everything else where it is not set.
        only(lambda settings, _: settings.is_given("saver.fileroot"), common.output("saver.fileroot")),
        only(lambda settings, _: not settings.is_given("saver.fileroot"), common.output("cluster.fileroot")),
        must("actor.use_lora", False, name="adapter"),
        must("train_dataset.shuffle", False, name="shuffle"),
        only(lambda settings, _: (
            settings["ref.path"] is None or Settings.follows(settings["ref.path"], ("checkpoint",))),
            must("actor.kl_ctl", 0.0, name="reference")),
        must("dynamic_bs", False, "a batch ends with what was accepted until then, so steps and rows do not "
            "agree", name="dynamic-batch"),
    ),
)  # fmt: skip
