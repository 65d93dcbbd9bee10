"""What of SkyRL's settings meets a schedule: commit a9564572 (2026-08-21), `skyrl/train/config/config.py`."""

from __future__ import annotations

from functools import partial

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import SEGMENT, must
from gaincurate.trainers.doctor.findings import Context, Found, TrainerRules
from gaincurate.trainers.doctor.settings import Settings

_REPLACED = "groups without variance are replaced or left out, so steps and rows do not agree"
_ALWAYS = 1_000_000  # steps: the last step of an epoch is saved whatever the period

_SHIPPED = ("aime", "gsm8k", "gsm8k_multi_turn", "lcb", "search", "searchcode", "text2sql")
"""Environments of skyrl-gym itself."""


def resumes(settings: Settings, context: Context) -> Found:
    """The loader's offset and the step counter come back with a checkpoint."""
    latest = settings["trainer.resume_mode"] == "latest"
    return common.resumes(
        settings,
        context,
        "trainer.ckpt_path",
        "the last round's step counter and the loader's offset (data.pt) come back over the new file",
        "the next round begins with the weights: trainer.policy.model.path={checkpoint}",
        key="trainer.resume_mode",
        off=(None, "none"),
        fix="{output}/ckpt" if latest else None,
    )


RULES = TrainerRules(
    name="skyrl",
    launches=("skyrl.train.entrypoints", "main_base"),
    style="hydra",
    rules=(
        partial(common.reads, key="data.train_data"),
        partial(common.begins, key="trainer.policy.model.path"),
        resumes,
        partial(common.tail, key="trainer.train_batch_size"),
        partial(common.too_long, key="trainer.max_prompt_length",
            happens="they are dropped when the file is read, so they never report"),
        partial(common.epochs, key="trainer.epochs"),
        partial(common.steps, key="trainer.max_training_steps", per_step="trainer.train_batch_size",
            more_is_fine=True),
        must("trainer.hf_save_interval", common.above_zero,
            "no Hugging Face weights, which scoring and the next round begin with", name="weights",
            severity="stops", modes=SEGMENT, fix={"trainer.hf_save_interval": _ALWAYS},
            advice="with any period above 0 the end of the file is saved too"),
        partial(common.output, key="trainer.export_path", what="the checkpoint"),
        common.adapter_only("trainer.policy.model.lora.rank", 0),
        common.always_shuffled(),
        must("environment.env_class", lambda value: value not in _SHIPPED, "nothing of yours sees the "
            "rewards, and SkyRL's own uid is the number of a row after the long ones were dropped",
            name="log-without-id", severity="cost", modes=SEGMENT,
            advice="an environment of your own is given the row's other columns, gc_id among them, and can "
            "append a line to {outcomes}; a row's env_class column chooses it"),
        must("trainer.algorithm.dynamic_sampling.type", None, _REPLACED, name="dynamic-sampling"),
        must("trainer.fully_async.sample_full_batch", False, _REPLACED, name="dynamic-sampling"),
        must("trainer.eval_before_train", False, "a whole evaluation before every round",
            name="validation", severity="cost", modes=SEGMENT),
        *(common.moving_reference(f"trainer.algorithm.{key}", False)
            for key in ("use_kl_loss", "use_kl_in_reward")),
    ),
)  # fmt: skip
