"""slime's arguments that a schedule depends on: commit 624b824a (2026-08-21), `slime/utils/arguments.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import ALWAYS, SEGMENT, find, is_set, must, never, only
from gaincurate.trainers.doctor.findings import Context, Finding, Found, TrainerRules, defaults_of
from gaincurate.trainers.doctor.settings import Settings

LIVE: dict[str, Any] = {
    "data_source_path": "gaincurate.trainers.slime.RunDataSource",
    "rollout_all_samples_process_path": "gaincurate.trainers.slime.report",
}
"""The settings by which the trainer finds the live adapter."""

_TAP = "rollout_all_samples_process_path"
_OVER = "over_sampling_batch_size"
_ALWAYS = 1_000_000  # rollouts: the last one is saved whatever the period
DEFAULTS = defaults_of("slime")


def passes(settings: Settings, context: Context) -> Found:
    """The passes over the file, where no number of rollouts is set."""
    if settings["num_rollout"] is not None:
        return None
    if context.segment and settings["num_epoch"] is None:
        title = "neither num_rollout nor num_epoch is set: slime does not start"
        return Finding("length", "stops", title, {"num_epoch": 1})
    return common.epochs("num_epoch")(settings, context)


def _hides(settings: Settings, context: Context) -> bool:
    """Whether a number of rollouts is set that cannot be compared with the round."""
    size = settings.count("rollout_batch_size")
    fits = context.budget is not None and size and context.budget % size == 0
    return not fits and not Settings.follows(settings["num_rollout"], ("round",))


def begins(settings: Settings, context: Context) -> Found:
    """Training begins with --load, and without it with --ref-load or --hf-checkpoint."""
    keys = ("load",) if settings.place("load") else ("hf_checkpoint", "ref_load")
    finding = next(filter(None, (common.begins(key)(settings, context) for key in keys)), None)
    both = ("load", "hf_checkpoint") if settings.is_given("hf_checkpoint") else ("load",)
    return replace(finding, fix=dict.fromkeys(both, "{checkpoint}")) if finding else None


def resumes(settings: Settings, context: Context) -> Found:
    """A Megatron checkpoint brings the rollout counter and the place in the file back."""
    place = settings.place("load")
    if not context.segment or place is None or Settings.follows(place, ("checkpoint",)):
        return None
    advice = "Hugging Face weights are loaded without either, and without the optimizer"
    return find(settings, "load", "resume", "", {"load": "{checkpoint}"}, advice)


def _no_reward(settings: Settings, context: Context) -> bool:
    """Whether no code of the user's sees the rewards; a function of slime's own reports to nobody."""
    if settings.is_set(_TAP):
        return False
    return not settings.is_set("custom_rm_path") or str(settings.known("custom_rm_path")).startswith("slime.")


def _other_reference(settings: Settings, context: Context) -> bool:
    """Whether the KL reference is no model of its own."""
    place = settings.place("ref_load")
    return place is None or Settings.follows(place, ("checkpoint",))


RULES = TrainerRules(
    name="slime",
    launches=("train.py", "train_async.py"),
    style="dashes",
    live=True,
    rules=(
        common.rows("prompt_data", ("metadata",), "--trainer slime", "jsonl"),
        common.follows_run("prompt_data"),
        common.unplugged("data_source_path", LIVE, "rows come in the file's order, whatever the schedule "
            "plans"),
        common.unplugged(_TAP, {_TAP: LIVE[_TAP]}, "the adapter never receives a reward"),
        resumes,
        begins,
        only(_hides, must("num_rollout", None, "it hides the size of the file, and after its end a round "
            "starts again with its first rows", name="rollouts", modes=SEGMENT,
            fix={"num_rollout": None, "num_epoch": 1})),
        passes,
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
            fix={"rollout_function_path": DEFAULTS["rollout_function_path"]}),
        only(_no_reward, must("custom_rm_path", never, name="outcomes",
            fix={"custom_rm_path": "reward.reward"},
            advice="an async function that appends a line to {outcomes} for sample.metadata['gc_id']")),
        must("save_hf", is_set, name="weights", fix={"save_hf": "{output}/hf/{rollout_id}"}),
        only(lambda settings, _: settings["save_hf"] is not None,
            common.output("save_hf", "/hf/{rollout_id}")),
        only(lambda settings, _: settings["save_interval"] is None or not settings.is_set("save"),
            must("save_interval", never, "nothing is saved without it and save, save_hf included",
            name="no-checkpoint", fix={"save_interval": _ALWAYS, "save": "{output}/megatron"},
            advice="the last rollout is saved whatever the period")),
        must("rollout_shuffle", False, name="shuffle"),
        *(only(_other_reference, must(key, 0.0, name="reference")) for key in ("kl_coef", "kl_loss_coef")),
        must("metadata_key", "metadata", "gc_id is in `metadata`, the one column that stays with a sample",
            name="metadata", modes=ALWAYS),
        must("input_key", "prompt", name="prompt-key"),
    ),
)  # fmt: skip
