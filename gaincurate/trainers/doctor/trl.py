"""What of TRL's settings meets a schedule: `GRPOConfig` of TRL 1.16.0 with transformers 5.23.0."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.findings import About, Finding, Found, Trainer
from gaincurate.trainers.doctor.settings import Settings
from gaincurate.trainers.doctor.trl_batches import micro_batch, prompts, steps_of, window_of

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


def columns(settings: Settings, about: About) -> Found:
    """Columns that the model does not take are dropped, `gc_id` among them."""
    if not settings["remove_unused_columns"]:
        return None
    return Finding(
        "columns",
        "wrong",
        f"{settings.told('remove_unused_columns')}: gc_id is dropped before the reward functions see it, so "
        "no outcome can be told",
        {"remove_unused_columns": False},
        source="trl/trainer/grpo_trainer.py, _set_signature_columns_if_needed",
    )


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
    found = common.tail(settings, about, key, prompts(settings), source="trl/trainer/utils.py, RepeatSampler")
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


def length(settings: Settings, about: About) -> Iterator[Finding]:
    """How long one process trains."""
    most = settings["max_steps"]
    steps = steps_of(settings, about)
    if about.mode == "export" or Settings.follows(most, ("round",)):
        return
    if not isinstance(most, int | float) or most <= 0:
        if (found := common.epochs(settings, about, "num_train_epochs", source=_TRAINER)) is not None:
            yield found
        most = None
    resumed = about.segment and settings["resume_from_checkpoint"]
    if resumed:
        each = steps or "STEPS"
        yield Finding(
            "resumed-length",
            "wrong",
            f"{settings.told('max_steps')} with resume_from_checkpoint: the step counter goes on from the "
            "last round's, so from the second round on the training ends before it begins",
            {"max_steps": f"$(({each}*({{round}}+1)))"},
            "STEPS is the optimizer steps of one round" if steps is None else "",
            f"{_TRAINER}, max_steps",
        )
    elif most is not None and steps is not None:
        wanted = steps * (about.rounds or 1) if about.live else steps
        if most != wanted:
            yield Finding(
                "max-steps",
                "wrong",
                f"{settings.told('max_steps')}, but {'the run' if about.live else 'a round'} has {wanted} "
                "optimizer steps: "
                f"{'some rows are never trained' if most < wanted else 'rows are trained again'}",
                {"max_steps": wanted},
                source=_TRAINER,
            )


def checkpoints(settings: Settings, about: About) -> Iterator[Finding]:
    """What a round leaves is what the next one begins with."""
    if not about.segment:
        return
    if settings["save_strategy"] == "no":
        yield Finding(
            "no-checkpoint",
            "stops",
            f"{settings.told('save_strategy')}: a round leaves nothing that the next one could begin with",
            {"save_strategy": "steps"},
            source=_TRAINER,
        )
    if settings["save_only_model"]:
        yield Finding(
            "optimizer",
            "cost",
            f"{settings.told('save_only_model')}: the optimizer begins anew every round",
            {"save_only_model": False},
            source=_TRAINER,
        )
    if settings["lr_scheduler_type"] not in ("constant", "constant_with_warmup"):
        yield Finding(
            "learning-rate",
            "cost",
            f"{settings.told('lr_scheduler_type')}: its end is the last step that a process knows of, so the "
            "learning rate falls within every round",
            {"lr_scheduler_type": "constant"},
            source=f"{_TRAINER}, create_scheduler",
        )
    found = common.output(settings, about, "output_dir", "the checkpoint", source=_TRAINER)
    yield from (found,) if found else ()


def workers(settings: Settings, about: About) -> Found:
    """Each worker fetches generations ahead of the sampler's own one."""
    return common.workers(settings, about, "dataloader_num_workers", source=_LOADER)


def batch_finder(settings: Settings, about: About) -> Found:
    """GRPO's groups do not survive a batch size that changes."""
    if not settings["auto_find_batch_size"]:
        return None
    return Finding(
        "batch-finder",
        "stops",
        f"{settings.told('auto_find_batch_size')}: GRPOConfig refuses it",
        {"auto_find_batch_size": False},
        source=f"{_CONFIG}, __post_init__",
    )


def callbacks(settings: Settings, about: About) -> Found:
    """Restored callbacks are new objects that the sampler does not know."""
    if not about.live or not settings["restore_callback_states_from_checkpoint"]:
        return None
    return Finding(
        "callbacks",
        "stale",
        f"{settings.told('restore_callback_states_from_checkpoint')}: a resumed run gets a second adapter, "
        "and the first one goes on choosing",
        {"restore_callback_states_from_checkpoint": False},
        source=f"{_TRAINER}, _load_callback_state",
    )


def reference(settings: Settings, about: About) -> Found:
    """With a KL term, the reference is the model that a process begins with."""
    return common.moving_reference(settings, about, "beta", 0.0, 0.0, _CONFIG)


def adapters(settings: Settings, about: About) -> Found:
    """LoRA checkpoints hold an adapter."""
    return common.adapter_only(settings, about, "use_peft", False, "trl/trainer/model_config.py")


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


TRAINER = Trainer(
    name="trl",
    version="1.16.0",
    launches=("trl", "accelerate", "torchrun", "grpo"),
    style="values",
    defaults=DEFAULTS,
    rules=(
        rows,
        columns,
        order,
        tail,
        window,
        skip,
        logs,
        length,
        checkpoints,
        workers,
        batch_finder,
        callbacks,
        reference,
        adapters,
    ),
    live=True,
)
