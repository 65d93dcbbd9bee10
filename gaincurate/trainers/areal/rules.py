"""What of AReaL's settings meets a schedule: commit 4aef98d8 (2026-05-21), `areal/api/cli_args.py`."""

from __future__ import annotations

from functools import partial

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import SEGMENT, must, only
from gaincurate.trainers.doctor.findings import Context, Found, TrainerRules
from gaincurate.trainers.doctor.settings import Settings


def saved_there(settings: Settings, context: Context) -> Found:
    """What a round leaves must lie in the round's own folder."""
    key = "saver.fileroot" if settings.is_given("saver.fileroot") else "cluster.fileroot"
    return common.output(settings, context, key, "the checkpoint")


RULES = TrainerRules(
    name="areal",
    launches=("areal.launcher", "_rl.py", "_grpo.py"),
    style="hydra",
    resolves=True,
    rules=(
        common.rows("train_dataset.path", ("messages",), "--trainer areal"),
        partial(common.begins, key="actor.path"),
        partial(common.resumes, key="recover.mode", off=("disabled", "off", False, None), fix="disabled",
            place="cluster.fileroot",
            happens="the step counter and the loader's place in the last round's "
            "file (dataloader_info.pkl) come back over the new one",
            advice="the next round begins with the weights: actor.path={checkpoint}"),
        partial(common.tail, key="train_dataset.batch_size"),
        partial(common.too_long, key="train_dataset.max_length",
            happens="they may be dropped when the file is read (its filter counts the question alone)"),
        partial(common.epochs, key="total_train_epochs"),
        partial(common.steps, key="total_train_steps", per_step="train_dataset.batch_size"),
        must("rollout.max_head_offpolicyness", lambda value: not value,
            "rollouts run ahead over the end of "
            "the file, and a batch takes what is done first, so a quick prompt can be trained twice in place "
            "of a slow one", name="ahead", fix={"rollout.max_head_offpolicyness": 0}),
        only(lambda settings, _: settings["saver.freq_steps"] is None, must("saver.freq_epochs",
            lambda value: value is not None,
            "no weights are saved, which scoring and the next round begin with", name="weights",
            severity="stops", modes=SEGMENT, fix={"saver.freq_epochs": 1})),
        saved_there,
        common.adapter_only("actor.use_lora", False),
        *common.shuffle("train_dataset.shuffle"),
        only(lambda settings, _: (
            settings["ref.path"] is None or Settings.follows(settings["ref.path"], ("checkpoint",))),
            common.moving_reference("actor.kl_ctl", 0.0)),
        must("dynamic_bs", False,
            "a batch ends with what was accepted until then, so steps and rows do not agree",
            name="dynamic-batch"),
    ),
)  # fmt: skip
