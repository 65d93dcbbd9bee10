"""ms-swift: columns, settings that make it read a file, rules (its trainer is a subclass of TRL's)."""

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import ALWAYS, must
from gaincurate.trainers.profile import Launch, Profile, words
from gaincurate.trainers.trl import profile as trl

RULES = (
    common.rows("dataset", ("messages",), "--trainer ms-swift", "jsonl"),
    common.begins("model"),
    must("dataset_shuffle", False, name="shuffle"),
    trl.tail,
    trl.passes,
    trl.length,
    common.too_long("max_length", "they are cut from the left, or with truncation_strategy delete another "
        "row is trained in their place"),
    must("dynamic_sample", False, name="dynamic-sampling", modes=ALWAYS),
    must("resume_from_checkpoint", None, name="resume"),
    common.reports(("external_plugins",), {"external_plugins": "reward.py"},
        "with a reward in swift.rewards.orms that is given gc_id and appends to {outcomes}"),
    common.output("output_dir"),
    must("add_version", False, "the checkpoint lies one folder deeper (vN-DATE) than the run looks",
        name="output", severity="stops", modes=common.SEGMENT),
    must("tuner_type", "full", name="adapter"),
    must("beta", 0.0, name="reference"),
)  # fmt: skip

PROFILE = Profile(
    name="ms-swift",
    version="4.6.0",
    # The first line: other names of messages and of a system message, which is put before them.
    reserved=words(
        "conversation conversations system system_prompt "
        "images videos audios objects channel margin rejected_messages rejected_response "
        "completions trainer_state trajectory_inputs"
    ),
    suffixes=(".jsonl", ".parquet"),
    columns=lambda view: {"messages": view.messages(), **view.answers("solution")},
    launch=lambda path, view: Launch(
        "flags",
        ["--dataset", str(path), "--dataset_shuffle", "false"],
        ["a reward function gets the id as the keyword gc_id, and the answer as solution"],
    ),
    rules=RULES,
    launches=("swift", "rlhf.py"),
    style="values",
)
