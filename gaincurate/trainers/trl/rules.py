"""What TRL's settings must be for a run, by TRL's own names, and its batch arithmetic (TRL 1.16.0).

A step's prompts follow from five settings, so the arithmetic stands here once, beside the rules that need it.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import when
from gaincurate.trainers.doctor.findings import About, Finding, Found, TrainerRules
from gaincurate.trainers.doctor.settings import Settings


def micro_batch(settings: Settings) -> float:
    """Completions of one forward and backward, over all processes."""
    return (settings.number("per_device_train_batch_size") or 1) * processes(settings)


def processes(settings: Settings) -> float:
    """Processes of one training, as `accelerate launch` and `torchrun` are told of them; else one."""
    return settings.number("num_processes") or settings.number("nproc_per_node") or 1


def per_generation(settings: Settings) -> float:
    """Completions that one generation makes, over all processes."""
    if given := settings.number("generation_batch_size"):
        return given
    steps = settings.number("steps_per_generation") or settings.number("gradient_accumulation_steps") or 1
    return micro_batch(settings) * steps


def prompts(settings: Settings) -> int:
    """Prompts that one generation has."""
    return int(per_generation(settings) // (settings.number("num_generations") or 1))


def window_of(settings: Settings) -> int:
    """Optimizer steps that one generation is used for."""
    micro = micro_batch(settings)
    steps = per_generation(settings) / micro * (settings.number("num_iterations") or 1)
    return max(1, int(steps // (settings.number("gradient_accumulation_steps") or 1)))


def steps_of(settings: Settings, about: About) -> int | None:
    """Optimizer steps of one round."""
    if about.budget is None or not prompts(settings):
        return None
    micro = micro_batch(settings)
    each = per_generation(settings) / micro * (settings.number("num_iterations") or 1)
    whole = about.budget // prompts(settings)
    return math.ceil(whole * each / (settings.number("gradient_accumulation_steps") or 1))


_CONFIG = "trl/trainer/grpo_config.py"
_LOADER = "trl/trainer/grpo_trainer.py, get_train_dataloader"
_TRAINER = "transformers/trainer.py"

DEFAULTS: dict[str, Any] = {
    "shuffle_dataset": True,
    "remove_unused_columns": False,
    "dataloader_num_workers": 0,
    "steps_per_generation": None,
    "generation_batch_size": None,
    "num_generations": 8,
    "num_iterations": 1,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "save_strategy": "steps",
    "save_steps": 500,
    "save_only_model": False,
    "ignore_data_skip": False,
    "logging_steps": 10,
    "log_completions": False,
    "num_train_epochs": 3.0,
    "max_steps": -1,
    "auto_find_batch_size": False,
    "restore_callback_states_from_checkpoint": False,
    "lr_scheduler_type": "linear",
    "beta": 0.0,
    "resume_from_checkpoint": None,
    "output_dir": None,
    "use_peft": False,
}


def order(settings: Settings, about: About) -> Found:
    """Rows are shuffled unless that is said; the live adapter brings its own order and refuses."""
    if about.live and settings["shuffle_dataset"]:
        return Finding(
            "shuffle",
            "stops",
            f"{settings.told('shuffle_dataset')}: the adapter refuses to begin, because the order would not "
            "be the plan's",
            {"shuffle_dataset": False},
            source=_CONFIG,
        )
    return common.shuffle(settings, about, "shuffle_dataset", source=_CONFIG)


def tail(settings: Settings, about: About) -> Found:
    """A generation takes whole groups of several prompts; what is left of a round is dropped."""
    micro = micro_batch(settings)
    group = settings.number("num_generations") or 1
    key = "generation_batch_size" if settings["steps_per_generation"] is None else "steps_per_generation"
    source = "trl/trainer/utils.py, RepeatSampler"
    found = common.tail(settings, about, key, per_step=prompts, source=source)
    if found is None or about.budget is None:
        return None
    fits = [
        size
        for size in range(1, prompts(settings) + 1)
        if about.budget % size == 0 and size * group % micro == 0
    ]
    value = int(max(fits) * group / (1 if key == "generation_batch_size" else micro)) if fits else None
    return Finding(
        found.name, found.severity, found.title, {key: value} if value else {}, found.advice, found.source
    )


def window(settings: Settings, about: About) -> Found:
    """A checkpoint inside a generation's window makes a resumed run generate it again, out of phase."""
    every, steps = settings.number("save_steps"), window_of(settings)
    if about.segment or settings["save_strategy"] != "steps" or not every or every < 1 or every % steps == 0:
        return None
    return Finding(
        "window",
        "wrong",
        f"{settings.told('save_steps')}, but one generation is used for {steps} steps: a run that is resumed "
        "from between generates these prompts again, and stays out of phase",
        {"save_steps": int(math.ceil(every / steps) * steps)},
        source="trl/trainer/grpo_trainer.py, _prepare_inputs",
    )


def skip(settings: Settings, about: About) -> Found:
    """Resuming skips as many batches as were trained, of whatever data set is there now."""
    on = bool(settings["ignore_data_skip"])
    if about.segment and not on:
        return Finding(
            "skip",
            "wrong",
            f"{settings.told('ignore_data_skip')}: a round that goes on from the last one's checkpoint skips "
            "as many of its own rows as were trained before",
            {"ignore_data_skip": True},
            source=f"{_TRAINER}, skip_first_batches",
        )
    if about.live and on:
        return Finding(
            "skip",
            "wrong",
            f"{settings.told('ignore_data_skip')}: a killed run would begin its round again, and train its "
            "first prompts twice",
            {"ignore_data_skip": False},
            source=f"{_TRAINER}, skip_first_batches",
        )
    return None


def logs(settings: Settings, about: About) -> Found:
    """The completions' file keeps the last generation only, so each must be logged."""
    every, steps = settings.number("logging_steps"), window_of(settings)
    if not settings["log_completions"] or not every or every <= steps:
        return None
    return Finding(
        "logs",
        "wrong",
        f"{settings.told('logging_steps')} with log_completions, but each {steps} steps make new "
        "completions, and the log keeps the last ones only: outcomes that are read from it are missing",
        {"logging_steps": 1},
        "or take outcomes in the reward function, where all of them are",
        "trl/trainer/grpo_trainer.py, _logs",
    )


def passes(settings: Settings, about: About) -> Found:
    """Without max_steps, how often the rows are gone through."""
    most = settings["max_steps"]
    if Settings.follows(most) or (isinstance(most, int | float) and most > 0):
        return None
    return common.epochs(settings, about, "num_train_epochs", source=_TRAINER)


def resumed(settings: Settings, about: About) -> Found:
    """The step counter comes back with a checkpoint, so the bound must grow with the rounds."""
    if not about.segment or Settings.follows(settings["max_steps"], ("round",)):
        return None
    if not settings["resume_from_checkpoint"]:
        return None
    each = steps_of(settings, about) or "STEPS"
    return Finding(
        "resumed-length",
        "wrong",
        f"{settings.told('max_steps')} with resume_from_checkpoint: the step counter goes on from the last "
        "round's, so from the second round on the training ends before it begins",
        {"max_steps": f"$(({each}*({{round}}+1)))"},
        "STEPS is the optimizer steps of one round" if each == "STEPS" else "",
        f"{_TRAINER}, max_steps",
    )


def length(settings: Settings, about: About) -> Found:
    """A bound on the steps, in a process that begins at 0."""
    if about.segment and settings["resume_from_checkpoint"]:
        return None
    each = steps_of(settings, about)
    return common.length(settings, about, "max_steps", each, source=_TRAINER) if each else None


def begins(settings: Settings, about: About) -> Found:
    """The weights of a checkpoint that is resumed from come over the model's."""
    if not about.segment or Settings.follows(settings["resume_from_checkpoint"], ("checkpoint",)):
        return None
    return common.begins(settings, about, "model_name_or_path", "trl/trainer/model_config.py")


def twice(settings: Settings, about: About) -> Found:
    """One of the two follows from the other."""
    keys = ("generation_batch_size", "steps_per_generation")
    if any(settings[key] is None for key in keys):
        return None
    title = f"{settings.told(keys[0])}, {settings.told(keys[1])}: GRPOConfig refuses both at once"
    return Finding("batch-twice", "stops", title, {keys[0]: None}, source=f"{_CONFIG}, __post_init__")


def rows(settings: Settings, about: About) -> Found:
    """`trl grpo` names its data set; a script of one's own is asked nothing."""
    if not settings.is_given("dataset_name"):
        return None
    found = common.reads(settings, about, "dataset_name", source="trl/scripts/grpo.py")
    if found is None:
        return None
    advice = "with the round's file linked into that folder: `ln -s {data} {output}/rows/train.parquet`"
    mend = {"dataset_name": "{output}/rows"}
    return Finding(found.name, found.severity, found.title, mend, advice, found.source)


RULES = TrainerRules(
    name="trl",
    version="1.16.0",
    launches=("trl", "accelerate", "torchrun"),
    style="values",
    defaults=DEFAULTS,
    rules=(
        rows,
        begins,
        when(
            "columns",
            "wrong",
            "remove_unused_columns",
            bool,
            "gc_id is dropped before the reward functions see it, so no outcome can be told",
            {"remove_unused_columns": False},
            source="trl/trainer/grpo_trainer.py, _set_signature_columns_if_needed",
        ),
        order,
        tail,
        window,
        skip,
        logs,
        passes,
        resumed,
        length,
        twice,
        when(
            "no-checkpoint",
            "stops",
            "save_strategy",
            lambda value: value == "no",
            "a round leaves nothing that the next one could begin with",
            {"save_strategy": "steps"},
            source=_TRAINER,
            modes=("segment",),
        ),
        when(
            "saves-anywhere",
            "stops",
            "save_strategy",
            lambda value: value == "best",
            "the adapter refuses it, because it also saves where no resume is exact",
            {"save_strategy": "steps"},
            source="trl/trainer/grpo_trainer.py, _prepare_inputs",
            modes=("live",),
        ),
        when(
            "optimizer",
            "cost",
            "save_only_model",
            bool,
            "the optimizer begins anew every round",
            {"save_only_model": False},
            source=_TRAINER,
            modes=("segment",),
        ),
        when(
            "learning-rate",
            "cost",
            "lr_scheduler_type",
            lambda value: value not in ("constant", "constant_with_warmup"),
            "its end is the last step that a process knows of, so the learning rate falls within every round",
            {"lr_scheduler_type": "constant"},
            source=f"{_TRAINER}, create_scheduler",
            modes=("segment",),
        ),
        partial(common.output, key="output_dir", what="the checkpoint", source=_TRAINER),
        partial(common.workers, key="dataloader_num_workers", source=_LOADER),
        when(
            "batch-finder",
            "stops",
            "auto_find_batch_size",
            bool,
            "GRPOConfig refuses it, because groups would not survive a batch size that changes",
            {"auto_find_batch_size": False},
            source=f"{_CONFIG}, __post_init__",
        ),
        when(
            "callbacks",
            "stale",
            "restore_callback_states_from_checkpoint",
            bool,
            "a resumed run gets a second adapter, and the first one goes on choosing",
            {"restore_callback_states_from_checkpoint": False},
            source=f"{_TRAINER}, _load_callback_state",
            modes=("live",),
        ),
        partial(common.moving_reference, key="beta", off=0.0, mend=0.0, source=_CONFIG),
        partial(common.adapter_only, key="use_peft", off=False, source="trl/trainer/model_config.py"),
    ),
    live=True,
)
