"""TRL's settings that a schedule depends on, by TRL's own names (TRL 1.16.0).

The doctor asks these rules of a file, and `attach` asks them of a trainer's resolved settings. What only a
live trainer can tell is in `checks.py`.
"""

from __future__ import annotations

import math
from dataclasses import replace

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import ALWAYS, LIVE, SEGMENT, find, must, only
from gaincurate.trainers.doctor.findings import Context, Found, Rule, TrainerRules, defaults_of
from gaincurate.trainers.doctor.settings import Settings
from gaincurate.trainers.trl.batching import shape_in

_REWARD = {"reward_funcs": "reward.reward"}  # a function of the user's, named as the recipe names it

DEFAULTS = defaults_of("trl")


def tail(settings: Settings, context: Context) -> Found:
    """A generation takes whole groups of several prompts; the rest of a round is dropped."""
    shape = shape_in(settings)
    key = "generation_batch_size" if settings["steps_per_generation"] is None else "steps_per_generation"
    finding = common.tail(key, per_step=lambda _: shape.prompts)(settings, context)
    if finding is None or context.budget is None:
        return None
    micro = (settings.count("per_device_train_batch_size") or 1) * shape.processes
    sizes = (size for size in range(1, shape.prompts + 1) if context.budget % size == 0)
    fits = [size for size in sizes if size * shape.group % micro == 0]
    if not fits or settings["prompts_a_generation"]:  # of a trainer that replays, its share says how many
        return replace(finding, fix={})
    value = max(fits) * shape.group / (1 if key == "generation_batch_size" else micro)
    return replace(finding, fix={key: int(value)})


def whole_steps(settings: Settings, context: Context) -> Found:
    """A live round ends with an optimizer step; in segment mode the last step of a round is a shorter one."""
    shape, key = shape_in(settings), "gradient_accumulation_steps"
    if not context.live or context.budget is None or not shape.prompts or context.budget % shape.prompts:
        return None
    batches = context.budget // shape.prompts * shape.repeats
    if batches % shape.accumulation == 0:
        return None
    why = f"a round of {context.budget:,} prompts gives {batches:,} micro-batches, which is no multiple: an "
    why += "optimizer step would end in the next round"
    fix = {key: math.gcd(batches, shape.accumulation)}
    return find(settings, key, "uneven-steps", why, fix, severity="stops")


def window(settings: Settings, context: Context) -> Found:
    """A checkpoint inside a generation's window makes a resumed run generate it again, out of phase."""
    key, every, shape = "save_steps", settings.number("save_steps"), shape_in(settings)
    if context.segment or settings["save_strategy"] != "steps" or not every:
        return None
    if every < 1 and context.live:
        why = "it is a share of all steps, which may lie inside a generation's window"
        steps = _steps(settings, context)  # to the end of the run, or of the first window
        whole = steps * context.rounds if steps and context.rounds else shape.window
        return find(settings, key, "window", why, {key: whole})
    if every < 1 or not shape.inside(int(every)):
        return None
    why = f"it is inside a generation's window of {shape.repeats} micro-batches, so a run that is resumed "
    why += "from there generates these prompts again, and stays out of phase"
    return find(settings, key, "window", why, {key: math.ceil(every / shape.window) * shape.window})


def ends_inside(settings: Settings, context: Context) -> Found:
    """The last checkpoint of a live training is at its last step."""
    most, shape = settings.number("max_steps") or 0, shape_in(settings)
    if not context.live or most <= 0 or not shape.inside(int(most)):
        return None
    why = f"it is inside a generation's window of {shape.repeats} micro-batches, where no resume is exact"
    fix = {"max_steps": math.ceil(most / shape.window) * shape.window}
    return find(settings, "max_steps", "window-end", why, fix)


def checkpoints(settings: Settings, context: Context) -> Found:
    """A run that scores again needs a checkpoint of its round's end."""
    strategy, every = settings["save_strategy"], settings.number("save_steps") or 0
    steps = _steps(settings, context)
    if not context.live or not context.read_every or not steps:
        return None
    apart = steps * context.read_every
    if strategy == "epoch" or (strategy == "steps" and every >= 1 and apart % every == 0):
        return None
    often = "round" if context.read_every == 1 else f"{context.read_every} rounds"
    why = f"{context.reader} needs a checkpoint at the end of every {often} of {steps:,} steps, and none is "
    why += "saved there"
    fix, advice = {"save_strategy": "steps", "save_steps": apart}, f"or save_steps to a divisor of {apart}"
    return find(settings, ("save_strategy", "save_steps"), "checkpoint", why, fix, advice, "stops")


def logs(settings: Settings, context: Context) -> Found:
    """The completions' file has the last generation only, which reports them unless an adapter does."""
    every, shape = settings.number("logging_steps"), shape_in(settings)
    steps = max(1, shape.repeats // shape.accumulation)
    if context.live or not settings["log_completions"] or not every or every <= steps:
        return None
    why = f"with log_completions, the log has the last completions only, and each {steps} steps make new "
    why += "ones: outcomes that are read from it are missing"
    advice = "or take outcomes in the reward function, where all of them are"
    return find(settings, "logging_steps", "logs", why, {"logging_steps": 1}, advice)


def passes(settings: Settings, context: Context) -> Found:
    """The passes over the rows, where max_steps is not set."""
    most = settings["max_steps"]
    if Settings.follows(most) or (isinstance(most, int | float) and most > 0):
        return None
    return common.epochs("num_train_epochs")(settings, context)


def resumed(settings: Settings, context: Context) -> Found:
    """The step counter comes back with a checkpoint, so the bound must grow with the rounds."""
    if not context.segment or Settings.follows(settings["max_steps"], ("round",)):
        return None
    if not settings["resume_from_checkpoint"]:
        return None
    each = _steps(settings, context) or "STEPS"
    why = "the step counter goes on from the last round's, so later rounds end at once"
    advice = "STEPS is the optimizer steps of one round" if each == "STEPS" else ""
    keys, fix = ("max_steps", "resume_from_checkpoint"), {"max_steps": f"$(({each}*({{round}}+1)))"}
    return find(settings, keys, "resumed-length", why, fix, advice)


def length(settings: Settings, context: Context) -> Found:
    """A bound on the steps, in a process that begins at 0."""
    if context.segment and settings["resume_from_checkpoint"]:
        return None
    each = _steps(settings, context)
    return common.length("max_steps", each)(settings, context) if each else None


def _steps(settings: Settings, context: Context) -> int | None:
    """Optimizer steps of one round."""
    shape = shape_in(settings)
    return shape.steps(context.budget) if context.budget is not None and shape.prompts else None


def rows(settings: Settings, context: Context) -> Found:
    """`trl grpo` names its data set; the doctor does not see that of a user's script."""
    given = settings.is_given("dataset_name")
    if not given or (finding := common.reads("dataset_name")(settings, context)) is None:
        return None
    advice = "with the round's file linked into that folder: `ln -s {data} {output}/rows/train.parquet`"
    return replace(finding, fix={"dataset_name": "{output}/rows"}, advice=advice)


def rewards(settings: Settings, context: Context) -> Found:
    """TRL's own reward functions and reward models report no outcomes; the doctor does not see a script's."""
    own = settings["reward_funcs"] or []
    own = [name for name in (own if isinstance(own, list) else [own]) if _is_own(str(name))]
    if not context.segment or own or (_is_own(context.script) and not settings.is_given("reward_funcs")):
        return None
    if settings["log_completions"]:
        return find(settings, "reward_funcs", "log-without-id", "", _REWARD)
    advice = "a function that is given gc_id and appends a line to {outcomes}; where a script of your own "
    advice += "passes it, give the doctor the line that starts the script"
    return find(settings, "reward_funcs", "outcomes", "", _REWARD, advice, "stops")


def _is_own(name: str) -> bool:
    """Whether a reward function is imported from elsewhere than TRL."""
    return "." in name and not name.startswith("trl.")


# Rules that replay asks for by name.

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

_RULES: tuple[Rule, ...] = (
    rows,
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

RULES = TrainerRules(
    name="trl",
    launches=("trl", "accelerate", "torchrun"),
    style="values",
    rules=_RULES,
    live=True,
)
