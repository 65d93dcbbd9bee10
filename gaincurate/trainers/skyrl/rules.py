"""SkyRL's settings that a schedule depends on: commit a9564572 (2026-08-21), `config/config.py`."""

from __future__ import annotations

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import must
from gaincurate.trainers.doctor.findings import TrainerRules

_ALWAYS = 1_000_000  # steps: the last step of an epoch is saved whatever the period
_SHIPPED = ("aime", "gsm8k", "gsm8k_multi_turn", "lcb", "search", "searchcode", "text2sql")
"""Environments of skyrl-gym itself."""

RULES = TrainerRules(
    name="skyrl",
    launches=("skyrl.train.entrypoints", "main_base"),
    rules=(
        common.rows("data.train_data"),
        common.begins("trainer.policy.model.path"),
        common.resumes("trainer.ckpt_path", "trainer.policy.model.path", key="trainer.resume_mode",
            off=("none", None)),
        common.tail("trainer.train_batch_size"),
        common.too_long("trainer.max_prompt_length",
            "they are dropped when the file is read, so they never report"),
        common.epochs("trainer.epochs"),
        common.steps("trainer.max_training_steps", "trainer.train_batch_size", more_is_fine=True),
        must("trainer.hf_save_interval", common.above_zero, name="weights",
            fix={"trainer.hf_save_interval": _ALWAYS},
            advice="with any period above 0 the end of the file is saved too"),
        common.output("trainer.export_path"),
        must("trainer.policy.model.lora.rank", 0, name="adapter"),
        common.always_shuffled,
        must("environment.env_class", lambda value: value not in _SHIPPED, name="outcomes",
            fix={"environment.env_class": "mine"}, advice="an environment of your own (env_class of a row) "
            "is given the row's other columns, gc_id among them, and can append a line to {outcomes}"),
        must("trainer.algorithm.dynamic_sampling.type", None, name="dynamic-sampling"),
        must("trainer.fully_async.sample_full_batch", False, name="dynamic-sampling"),
        must("trainer.eval_before_train", False, name="validation"),
        *(must(f"trainer.algorithm.{key}", False, name="reference")
            for key in ("use_kl_loss", "use_kl_in_reward")),
    ),
)  # fmt: skip
