"""What `attach` refuses of a live TRL trainer, before anything is scored.

Rules about settings are those of the doctor. Beside them stand the few that no file says: the rows of the
dataset, and how FSDP and DeepSpeed write checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from datasets import Dataset

from gaincurate.errors import InputError
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.trainers.doctor.findings import Context, Finding, ask, context_of, refuse
from gaincurate.trainers.trl.batching import Shape, resolved
from gaincurate.trainers.trl.rules import RULES


def check(
    trainer: Any,
    shape: Shape,
    config: ScheduleConfig,
    late: bool,
    outcome: str | Sequence[str] | None = None,
    correct: str | None = None,
) -> None:
    """Refuse what would train on other prompts than the plan's, or lose the place.

    Args:
        trainer: a `trl.GRPOTrainer`.
        shape: its shape.
        config: of the run.
        late: rows are chosen when they are generated for.
        outcome: names of the reward functions that are reported; None for all.
        correct: the name of the one that says whether an answer is right.

    Raises:
        InputError: a sentence for each setting, with what fixes it.
    """
    context = context_of(config, "live", late=late)
    findings, _ = ask(RULES.rules, resolved(trainer), context)
    findings += _dataset(trainer.train_dataset, shape, late)
    findings += _weights(trainer, context)
    findings += unheard(trainer, outcome, correct)
    refuse(findings, repr)


def unheard(trainer: Any, outcome: str | Sequence[str] | None, correct: str | None) -> Iterator[Finding]:
    """Reward functions that are named and cannot be listened to; arguments as of `check`."""
    names = list(trainer.reward_func_names)
    outcome = [outcome] if isinstance(outcome, str) else outcome
    summed = names if outcome is None else list(outcome)
    if not summed:
        yield Finding(
            "outcome", "stops", "outcome=[] names no reward function", advice="leave it out for all of them"
        )
    for name in sorted({*summed, *([correct] if correct else [])}):
        if names.count(name) != 1:
            yield reward_missing(names, name)
            continue
        function = trainer.reward_funcs[names.index(name)]
        if not callable(function) or hasattr(function, "parameters"):
            yield Finding(
                "outcome",
                "stops",
                f"{name!r} is a reward model, whose rewards cannot be heard",
                advice="name Python reward functions in outcome=, or call the model in one",
            )


def reward_missing(names: Sequence[str], name: str) -> Finding:
    """A reward function that is not there once."""
    why = "is there more than once" if name in names else "is not there"
    title = f"the reward function {name!r} {why}; the trainer has {', '.join(names)}"
    return Finding("outcome", "stops", title)


def _dataset(rows: Any, shape: Shape, late: bool) -> Iterator[Finding]:
    if not isinstance(rows, Dataset):
        yield Finding(
            "dataset",
            "stops",
            f"train_dataset is a {type(rows).__name__}, whose rows cannot be asked for by place",
            advice="use `gaincurate.trainers.trl.dataset(run)`, or late=True with a map-style dataset",
        )
    elif late and shape.prompts:
        batches = len(rows) // shape.prompts * shape.repeats
        if batches == 0 or batches % shape.accumulation:
            least = shape.prompts * shape.accumulation // math.gcd(shape.repeats, shape.accumulation)
            yield Finding(
                "dataset",
                "stops",
                f"train_dataset has {len(rows):,} rows, so an epoch has {batches:,} micro-batches, which is "
                f"no multiple of gradient_accumulation_steps={shape.accumulation}: its last step would be a "
                "shorter one and the rounds out of step",
                advice=f"with late=True any rows will do: give {least} or a multiple of that",
            )


def _weights(trainer: Any, context: Context) -> Iterator[Finding]:
    """Checkpoints that have no whole weights to score or to generate with."""
    if not context.read_every:
        return
    needs = f"{context.reader} needs whole weights in every checkpoint, and"
    state = trainer.accelerator.state
    if getattr(trainer, "is_fsdp_enabled", False):
        kind = str(getattr(state.fsdp_plugin, "state_dict_type", "")).rpartition(".")[2]
        if "SHARDED" in kind:
            title = f"{needs} FSDP saves {kind}"
            yield Finding("weights", "stops", title, {"fsdp_config state_dict_type": "FULL_STATE_DICT"})
    if getattr(trainer, "is_deepspeed_enabled", False):
        plugin = state.deepspeed_plugin
        if plugin.zero_stage == 3 and not plugin.zero3_save_16bit_model:
            fix = {"stage3_gather_16bit_weights_on_model_save": True}
            yield Finding("weights", "stops", f"{needs} ZeRO-3 saves shards", fix)


def late_first_save(args: Any, steps: int) -> str | None:
    """What to say where nothing is saved in the first round of so many steps; None where something is."""
    strategy = str(getattr(args.save_strategy, "value", args.save_strategy))
    if strategy == "no" or (strategy == "steps" and args.save_steps > steps):
        first = "save_strategy is 'no'" if strategy == "no" else f"save_steps={args.save_steps:g}"
        return (
            f"{first} and a round has {steps:,} steps: a training that is killed before its first checkpoint "
            "can only begin a new run, once round 0 is over"
        )
    return None


def see_checkpoint(config: ScheduleConfig, shape: Shape, round_: int, saved: int) -> None:
    """Refuse to make the next round with the checkpoint of an older policy.

    Args:
        config: of the run.
        shape: of its trainer.
        round_: the round that is over.
        saved: the step of the newest checkpoint; 0 where there is none.

    Raises:
        InputError: the next round is made with a checkpoint, and none was saved at this one's end.
    """
    context = context_of(config, "live")
    every, steps = context.read_every, shape.steps(config.budget)
    end = (round_ + 1) * steps
    if saved == end or not every or (round_ + 1) % every or round_ + 1 == config.rounds:
        return
    last = f"the newest checkpoint is of step {saved:,}" if saved else "no checkpoint was saved"
    raise InputError(
        f"round {round_} ended at step {end:,}, and {last}: {context.reader} takes the policy as it is now, "
        "not an older one. Did a callback keep the trainer from saving, or were its settings changed after "
        f"attach()? Let it save there (save_strategy='steps', save_steps={steps * every} or a divisor of it) "
        "and resume from its last checkpoint."
    )
