"""What of ms-swift's settings meets a schedule: `swift rlhf --rlhf_type grpo` of the 4.6.0 wheel.

Its trainer is a subclass of TRL's with TRL's names for the batch, so TRL's arithmetic holds.
"""

from __future__ import annotations

from functools import partial

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import ALWAYS, SEGMENT, must
from gaincurate.trainers.doctor.findings import TrainerRules
from gaincurate.trainers.trl import rules as trl

RULES = TrainerRules(
    name="ms-swift",
    launches=("swift", "rlhf.py"),
    style="values",
    rules=(
        common.rows("dataset", ("messages",), "--trainer ms-swift", "jsonl"),
        partial(common.begins, key="model"),
        *common.shuffle("dataset_shuffle"),
        trl.tail,
        trl.passes,
        trl.length,
        partial(common.too_long, key="max_length",
            happens="they are cut from the left, or with truncation_strategy delete another row is trained "
            "in their place"),
        must("dynamic_sample", False, "groups whose rewards are all equal are replaced by other rows, so "
            "prompts of the plan have no outcome that was trained on", name="dynamic-sampling", modes=ALWAYS),
        must("resume_from_checkpoint", None, "the last round's step counter comes back, and as many rows of "
            "the new file are skipped", name="resume", modes=SEGMENT),
        common.reports(("external_plugins",), {"external_plugins": "reward.py"},
            "with a reward in swift.rewards.orms that is given gc_id and appends to {outcomes}"),
        partial(common.output, key="output_dir", what="the checkpoint"),
        must("add_version", False, "the checkpoint lies one folder deeper (vN-DATE) than the run looks",
            name="output", severity="stops", modes=SEGMENT),
        must("tuner_type", "full", common.ADAPTER, name="adapter", severity="stops", modes=SEGMENT,
            advice="or merge it into the model as the last step of the round's command"),
        common.moving_reference("beta", 0.0),
    ),
)  # fmt: skip
