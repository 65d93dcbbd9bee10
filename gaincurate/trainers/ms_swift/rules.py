"""ms-swift's settings that a schedule depends on: `swift rlhf --rlhf_type grpo` of the 4.6.0 wheel.

Its trainer is a subclass of TRL's with TRL's names for the batch, so TRL's arithmetic holds.
"""

from __future__ import annotations

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import ALWAYS, must
from gaincurate.trainers.doctor.findings import TrainerRules
from gaincurate.trainers.trl import rules as trl

RULES = TrainerRules(
    name="ms-swift",
    launches=("swift", "rlhf.py"),
    style="values",
    rules=(
        common.rows("dataset", ("messages",), "--trainer ms-swift", "jsonl"),
        common.begins("model"),
        must("dataset_shuffle", False, name="shuffle"),
        trl.tail,
        trl.passes,
        trl.length,
        common.too_long("max_length", "they are cut from the left, or with truncation_strategy delete "
            "another row is trained in their place"),
        must("dynamic_sample", False, name="dynamic-sampling", modes=ALWAYS),
        must("resume_from_checkpoint", None, name="resume"),
        common.reports(("external_plugins",), {"external_plugins": "reward.py"},
            "with a reward in swift.rewards.orms that is given gc_id and appends to {outcomes}"),
        common.output("output_dir"),
        must("add_version", False, "the checkpoint lies one folder deeper (vN-DATE) than the run looks",
            name="output", severity="stops", modes=common.SEGMENT),
        must("tuner_type", "full", name="adapter"),
        must("beta", 0.0, name="reference"),
    ),
)  # fmt: skip
