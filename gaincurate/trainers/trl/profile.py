"""TRL: columns, settings that make it read a file, rules for the doctor and `attach`, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gaincurate.trainers.columns import ExportColumn, ExportView
from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import ALWAYS, LIVE, SEGMENT, find, must, only
from gaincurate.trainers.doctor.findings import Finding, Rule, RuleContext, defaults_of
from gaincurate.trainers.doctor.settings import Settings
from gaincurate.trainers.markers import json_or_none, unreadable
from gaincurate.trainers.profile import Launch, Layout, Profile, Rendering, Sharded, load_line, words
from gaincurate.trainers.trl.batching import shape_in

_REWARD = {"reward_funcs": "reward.reward"}  # a function of the user's, named as the recipe names it

DEFAULTS = defaults_of("trl")


def tail(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """The prompts of a generation must divide a round, or the rest of the round is dropped."""
    shape, budget = shape_in(settings), context.budget or 0
    key = "generation_batch_size" if settings["steps_per_generation"] is None else "steps_per_generation"
    for finding in common.tail(key, per_step=lambda _: shape.prompts)(settings, context):
        micro = (settings.count("per_device_train_batch_size") or 1) * shape.processes
        sizes = (size for size in range(1, shape.prompts + 1) if budget % size == 0)
        fits = [size for size in sizes if size * shape.group % micro == 0]
        # A trainer that replays has a fixed number of prompts per generation.
        can_fix = fits and not settings["prompts_a_generation"]
        value = max(fits, default=0) * shape.group // (1 if key == "generation_batch_size" else micro)
        yield replace(finding, fix={key: value} if can_fix else {})


def whole_steps(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """A live round must end with an optimizer step; in segment mode, a round's last step may be shorter."""
    shape, key = shape_in(settings), "gradient_accumulation_steps"
    batches = (context.steps(shape.prompts) or 0) * shape.repeats
    if context.live and batches % shape.accumulation:
        why = f"a round of {context.budget:,} prompts gives {batches:,} micro-batches, which is no multiple: "
        why += "an optimizer step would end in the next round"
        fix = {key: math.gcd(batches, shape.accumulation)}
        yield find(settings, key, "uneven-steps", why, fix, severity="stops")


def window(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """No checkpoint may lie inside a generation's window, or a resume would generate it again."""
    key, every, shape = "save_steps", settings.number("save_steps"), shape_in(settings)
    if context.segment or settings["save_strategy"] != "steps" or not every:
        return
    if every < 1 and context.live:
        why = "it is a share of all steps, which may lie inside a generation's window"
        steps = _steps(settings, context)
        whole = steps * context.rounds if steps and context.rounds else shape.window
        yield find(settings, key, "window", why, {key: whole})
    elif every >= 1 and shape.inside(int(every)):
        why = f"it is inside a generation's window of {shape.repeats} micro-batches, so a run that is "
        why += "resumed from there generates these prompts again, and stays out of phase"
        yield find(settings, key, "window", why, {key: math.ceil(every / shape.window) * shape.window})


def ends_inside(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """The last step of a live training must not be inside a generation's window."""
    most, shape = settings.number("max_steps") or 0, shape_in(settings)
    if context.live and most > 0 and shape.inside(int(most)):
        why = f"it is inside a generation's window of {shape.repeats} micro-batches, where no resume is exact"
        fix = {"max_steps": math.ceil(most / shape.window) * shape.window}
        yield find(settings, "max_steps", "window-end", why, fix)


def checkpoints(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """A run that scores again needs a checkpoint at the end of its rounds."""
    strategy, every = settings["save_strategy"], settings.number("save_steps") or 0
    steps = _steps(settings, context)
    if not context.live or not context.read_every or not steps:
        return
    apart = steps * context.read_every
    if strategy != "epoch" and (strategy != "steps" or every < 1 or apart % every):
        often = "round" if context.read_every == 1 else f"{context.read_every} rounds"
        why = f"{context.reader} needs a checkpoint at the end of every {often} of {steps:,} steps, and none "
        why += "is saved there"
        keys, fix = ("save_strategy", "save_steps"), {"save_strategy": "steps", "save_steps": apart}
        yield find(settings, keys, "checkpoint", why, fix, f"or save_steps to a divisor of {apart}", "stops")


def logs(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """Each generation must be logged: a file of completions only has the last one."""
    every, shape = settings.number("logging_steps"), shape_in(settings)
    steps = max(1, shape.repeats // shape.accumulation)
    if not context.live and settings["log_completions"] and every and every > steps:
        why = f"with log_completions, the log has the last completions only, and each {steps} steps make new "
        why += "ones: outcomes that are read from it are missing"
        advice = "or take outcomes in the reward function, where all of them are"
        yield find(settings, "logging_steps", "logs", why, {"logging_steps": 1}, advice)


def _is_unbounded(settings: Settings, context: RuleContext) -> bool:
    """Whether max_steps is not set, so that num_train_epochs applies."""
    most = settings["max_steps"]
    return not Settings.follows(most) and not (isinstance(most, int | float) and most > 0)


def resumed(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """max_steps must grow with the rounds if a checkpoint restores the step counter."""
    if not context.segment or Settings.follows(settings["max_steps"], ("round",)):
        return
    if settings["resume_from_checkpoint"]:
        each = _steps(settings, context) or "STEPS"
        why = "the step counter goes on from the last round's, so later rounds end at once"
        advice = "STEPS is the optimizer steps of one round" if each == "STEPS" else ""
        keys, fix = ("max_steps", "resume_from_checkpoint"), {"max_steps": f"$(({each}*({{round}}+1)))"}
        yield find(settings, keys, "resumed-length", why, fix, advice)


def _steps(settings: Settings, context: RuleContext) -> int | None:
    """The optimizer steps of one round."""
    shape = shape_in(settings)
    return shape.steps(context.budget) if context.budget is not None and shape.prompts else None


def rewards(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """A reward function of the user's must report outcomes; the doctor does not see those in a script."""
    names = settings["reward_funcs"] or []
    users = [name for name in (names if isinstance(names, list) else [names]) if _is_own(str(name))]
    if not context.segment or users or (_is_own(context.script) and not settings.is_given("reward_funcs")):
        return
    advice = "a function that gets gc_id and appends to {outcomes}; if a script passes it, give the doctor "
    advice += "the command that starts the script"
    if settings["log_completions"]:
        yield find(settings, "reward_funcs", "log-without-id", "", _REWARD)
    else:
        yield find(settings, "reward_funcs", "outcomes", "", _REWARD, advice, "stops")


def _is_own(name: str) -> bool:
    """Whether a reward function is imported from another package than TRL."""
    return "." in name and not name.startswith("trl.")


passes = only(_is_unbounded, common.epochs("num_train_epochs"))
length = only(  # for a process whose steps begin at 0
    lambda settings, context: not context.segment or not settings["resume_from_checkpoint"],
    common.length("max_steps", _steps),
)

# Rules that replay also uses.

dealing = tuple(
    must(f"accelerator_config.{key}", False, "rows are dealt to processes in another way than groups need",
        name="dealing", modes=ALWAYS)
    for key in ("split_batches", "dispatch_batches")
)  # fmt: skip
optimizer = (
    must("save_only_model", False, "the optimizer starts over in every round", name="optimizer",
        severity="cost", modes=SEGMENT),
    only(lambda settings, _: settings["save_strategy"] != "no",
        must("save_only_model", False, "a checkpoint has no optimizer and no learning rate, so no resume "
            "goes on where it was", name="optimizer", severity="stops", modes=LIVE,
            advice="or save_strategy='no'")),
)  # fmt: skip
saves_anywhere = must("save_strategy", lambda value: value != "best",
    "the adapter refuses it, because it also saves where no resume is exact", name="saves-anywhere",
    severity="stops", modes=LIVE, fix={"save_strategy": "steps"})  # fmt: skip

RULES: tuple[Rule, ...] = (
    # `trl grpo` has a setting for its data set; the doctor does not see the one in a user's script.
    only(lambda settings, _: settings.is_given("dataset_name"), common.rows("dataset_name", folder="with the "
        "round's file linked into that folder: `ln -s {data} {output}/rows/train.parquet`")),
    # The weights of a checkpoint that is resumed from replace the model's.
    only(lambda settings, _: not Settings.follows(settings["resume_from_checkpoint"], ("checkpoint",)),
        common.begins("model_name_or_path")),
    *common.shuffle_refused("shuffle_dataset"),
    tail,
    whole_steps,
    window,
    ends_inside,
    checkpoints,
    *dealing,
    only(lambda settings, _: settings.is_set("resume_from_checkpoint"),
        must("ignore_data_skip", True, "a round that goes on from the last one's checkpoint skips as many of "
        "its own rows as were trained before", name="skip", modes=SEGMENT)),
    must("ignore_data_skip", False, "a killed run would start its round again, and train its first "
        "prompts twice", name="skip", modes=LIVE),
    logs,
    rewards,
    passes,
    resumed,
    length,
    must("save_strategy", lambda value: value != "no", name="no-checkpoint", fix={"save_strategy": "steps"}),
    saves_anywhere,
    *optimizer,
    must("lr_scheduler_type", lambda value: value in ("constant", "constant_with_warmup"),
        name="learning-rate", fix={"lr_scheduler_type": "constant"}),
    common.output("output_dir"),
    must("beta", 0.0, name="reference"),
    must("use_peft", False, name="adapter"),
    must("remove_unused_columns", False, "gc_id is dropped before the reward functions see it, so no "
        "outcome can be reported", name="columns", modes=ALWAYS),
)  # fmt: skip


def _columns(view: ExportView) -> dict[str, ExportColumn]:
    columns = {"prompt": view.messages()}
    # Reward functions get every column by name, but not a column inside a struct.
    if view.id_in_answer or (view.answer and (view.options.answer_column or "." in view.answer)):
        columns["answer"] = view.gold(keeps_numbers=True)
    return columns


def _trainer_state(path: Path, step: int) -> str | None:
    """Rank 0 writes `trainer_state.json` after everything else."""
    file = path / "trainer_state.json"
    state = json_or_none(file)
    if not isinstance(state, dict) or "global_step" not in state:
        return unreadable(file) or f"{file} is not finished"
    saved = state["global_step"]
    return None if saved == step else f"{file} is of step {saved}, not {step}"


PROFILE = Profile(
    name="trl",
    version="1.16.0",
    reserved=words(
        "prompts completions completion completion_ids trainer_state log_extra log_metric environments"
    ),
    columns=_columns,
    launch=lambda path, view: Launch(
        "python",
        [
            load_line(path),
            "config = trl.GRPOConfig(shuffle_dataset=False, dataloader_num_workers=0, "
            "remove_unused_columns=False)",
        ],
        [
            'log_extra("gc_id", gc_id) in the reward function puts the id into the completions that TRL logs '
            "with log_completions=True, logging_steps=1"
        ],
    ),
    rendering=Rendering("chat_template_kwargs", media=("image", "images"), nulls="all"),
    layout=Layout(
        folders=("checkpoint-*",),
        step=r"checkpoint-(\d+)",
        unfinished=_trainer_state,
        setting="fsdp state_dict_type FULL_STATE_DICT, or stage3_gather_16bit_weights_on_model_save",
        sharded=(
            Sharded(
                "pytorch_model_fsdp_*/*",
                "accelerate merge-weights {checkpoint}/pytorch_model_fsdp_0 {checkpoint}",
            ),
            Sharded(
                "global_step*/*_model_states.pt",
                "python {checkpoint}/zero_to_fp32.py {checkpoint} {checkpoint} --safe_serialization",
            ),
        ),
    ),
    rules=RULES,
    launches=("trl", "accelerate", "torchrun"),
    style="values",
    live=True,
)
