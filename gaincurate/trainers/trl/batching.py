"""How TRL walks through a round: the shape of its batches, and why a live run refuses one.

The adapter sees the trainer after TRL resolved its settings, so these checks read the trainer and not the
settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gaincurate.errors import InputError
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.foresight import observes_with_checkpoint


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers of one trainer.

    `prompts` is how many distinct ones a generation has over all processes, `group` the rollouts of each,
    `repeats` how many micro-batches of a process one generation feeds (steps_per_generation *
    num_iterations), `accumulation` how many of them make an optimizer step.
    """

    prompts: int
    group: int
    repeats: int
    accumulation: int
    processes: int = 1
    rank: int = 0

    @property
    def local(self) -> int:
        """Rollouts of a generation on one process."""
        return self.prompts * self.group // self.processes

    @property
    def batch(self) -> dict[str, int]:
        """What must be the same when training resumes; the number of processes may change."""
        return {
            "prompts": self.prompts,
            "group": self.group,
            "repeats": self.repeats,
            "accumulation": self.accumulation,
        }

    def steps(self, budget: int) -> int:
        """Optimizer steps of a round."""
        return budget // self.prompts * self.repeats // self.accumulation

    def taken(self, step: int) -> int:
        """Prompts of a round that were generated for when its optimizer step `step` was done."""
        return step * self.accumulation // self.repeats * self.prompts

    @property
    def window(self) -> int:
        """The least number of optimizer steps that use whole generations."""
        return self.repeats // math.gcd(self.repeats, self.accumulation)

    def inside(self, step: int) -> bool:
        """Whether a generation is in use before and after this optimizer step."""
        return bool(step * self.accumulation % self.repeats)


def prompts_a_generation(trainer: Any) -> int:
    """Distinct prompts that a trainer generates for at a time; one that replays says itself how many."""
    whole: int = trainer.args.generation_batch_size // trainer.num_generations
    return getattr(trainer, "prompts_a_generation", whole)


def shape_of(trainer: Any) -> Shape:
    """The shape of a `trl.GRPOTrainer`."""
    args = trainer.args
    return Shape(
        prompts=prompts_a_generation(trainer),
        group=trainer.num_generations,
        repeats=args.steps_per_generation * trainer.num_iterations,
        accumulation=args.gradient_accumulation_steps,
        processes=trainer.accelerator.num_processes,
        rank=trainer.accelerator.process_index,
    )


def check(trainer: Any, shape: Shape, config: ScheduleConfig, late: bool) -> None:
    """Refuse what would train on other prompts than the plan's, or lose the place.

    Args:
        trainer: a `trl.GRPOTrainer`.
        shape: its shape.
        config: of the run.
        late: rows are chosen when they are generated for.

    Raises:
        InputError: with the setting that mends it.
    """
    args = trainer.args
    if args.remove_unused_columns:
        raise InputError(
            "remove_unused_columns=True drops gc_id before the reward functions see it; set it to False, "
            "TRL's own default."
        )
    if trainer.shuffle_dataset:
        raise InputError(
            "shuffle_dataset=True: the order is the plan's, TRL must not shuffle; set shuffle_dataset=False."
        )
    if args.save_only_model and str(getattr(args.save_strategy, "value", args.save_strategy)) != "no":
        raise InputError(
            "save_only_model=True saves no optimizer and no learning rate, so no resume goes on where it "
            "was; set it to False, or save_strategy='no'."
        )
    _check_budget(shape, config)
    _check_length(args, shape, config, late)
    if late:
        _check_epoch(len(trainer.train_dataset), shape)
    _check_saving(args, shape, config, late)
    if args.ignore_data_skip and not late:
        raise InputError(
            "ignore_data_skip=True: a trainer that resumes inside a round would begin the round again; set "
            "it to False."
        )
    who, every = _needs_checkpoints(config)
    if every:
        _check_weights(trainer, who)
    for name in ("split_batches", "dispatch_batches"):
        if getattr(args.accelerator_config, name, None):
            raise InputError(
                f"accelerator_config {name}=True deals rows to processes in another way than GRPO groups "
                "need; leave it out."
            )


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


def _check_budget(shape: Shape, config: ScheduleConfig) -> None:
    if config.budget % shape.prompts:
        raise InputError(
            f"the run's budget of {config.budget:,} prompts is no multiple of the {shape.prompts:,} that the "
            "trainer generates for at a time (generation_batch_size / num_generations), so the tail of every "
            f"round would be dropped. Start the run with --align-to {shape.prompts} --budget "
            f"{-(-config.budget // shape.prompts) * shape.prompts}, or give a batch whose prompts divide "
            f"{config.budget:,}.",
            budget=config.budget,
            align_to=shape.prompts,
        )
    batches = config.budget // shape.prompts * shape.repeats
    if batches % shape.accumulation:
        raise InputError(
            f"a round of {config.budget:,} prompts gives {batches:,} micro-batches, which is no multiple of "
            f"gradient_accumulation_steps={shape.accumulation}, so an optimizer step would end in the next "
            "round. Change one of the two."
        )


def _check_length(args: Any, shape: Shape, config: ScheduleConfig, late: bool) -> None:
    steps, rounds = shape.steps(config.budget), config.rounds
    if args.max_steps > steps * rounds:
        raise InputError(
            f"max_steps={args.max_steps:,} is more than the run's {rounds:,} rounds of {steps:,} steps; set "
            f"max_steps={steps * rounds} or start a run with more --rounds."
        )
    if args.max_steps > 0 and shape.inside(args.max_steps):
        raise InputError(
            f"max_steps={args.max_steps:,} ends inside a generation's window of {shape.repeats} "
            f"micro-batches, where no resume is exact; set a multiple of {shape.window}."
        )
    if args.max_steps <= 0 and late:
        raise InputError(
            f"late=True goes by steps: set max_steps={steps * rounds}, {rounds:,} rounds of {steps:,} steps."
        )
    if args.max_steps <= 0 and args.num_train_epochs != rounds:
        raise InputError(
            f"num_train_epochs={args.num_train_epochs:g}, and the run has {rounds:,} rounds, each of which "
            f"is an epoch: set num_train_epochs={rounds}."
        )


def _check_epoch(rows: int, shape: Shape) -> None:
    """Refuse a dataset whose epochs end within an optimizer step, which is then a shorter one."""
    batches = rows // shape.prompts * shape.repeats
    if batches == 0 or batches % shape.accumulation:
        least = shape.prompts * shape.accumulation // math.gcd(shape.repeats, shape.accumulation)
        raise InputError(
            f"train_dataset has {rows:,} rows, so an epoch has {batches:,} micro-batches, which is no "
            f"multiple of gradient_accumulation_steps={shape.accumulation}: its last step would be a shorter "
            f"one and the rounds out of step. With late=True any rows will do: give {least} or a multiple of "
            "that."
        )


def _needs_checkpoints(config: ScheduleConfig) -> tuple[str, int]:
    """What takes a checkpoint at the end of every so many rounds; of 0 where nothing does."""
    if observes_with_checkpoint(config):
        return "--rollout without a server", 1
    what = config.rescore.what
    return f"--rescore {what}", 0 if what == "off" else config.rescore.every


def _check_weights(trainer: Any, who: str) -> None:
    """Refuse checkpoints that have no whole weights to score or to generate with."""
    state, mend = trainer.accelerator.state, None
    if getattr(trainer, "is_fsdp_enabled", False):
        kind = str(getattr(state.fsdp_plugin, "state_dict_type", ""))
        if "SHARDED" in kind:
            mend = f"FSDP saves {kind.rpartition('.')[2]}; set fsdp_config state_dict_type=FULL_STATE_DICT"
    if getattr(trainer, "is_deepspeed_enabled", False):
        plugin = state.deepspeed_plugin
        if plugin.zero_stage == 3 and not plugin.zero3_save_16bit_model:
            mend = "ZeRO-3 saves shards; set stage3_gather_16bit_weights_on_model_save=true"
    if mend is not None:
        raise InputError(f"{who} needs whole weights in every checkpoint: {mend}.")


def _check_saving(args: Any, shape: Shape, config: ScheduleConfig, late: bool) -> None:
    steps, (who, rounds) = shape.steps(config.budget), _needs_checkpoints(config)
    strategy, every = str(getattr(args.save_strategy, "value", args.save_strategy)), args.save_steps
    if strategy == "best":
        raise InputError(
            "save_strategy='best' saves at steps that nobody knows, also inside a generation's window, where "
            "no resume is exact; use 'steps' or 'epoch'."
        )
    if strategy == "steps":
        if every < 1:
            raise InputError(f"save_steps={every} is a share; give a number of steps.")
        if shape.inside(every):
            raise InputError(
                f"save_steps={every} saves inside a generation's window of {shape.repeats} micro-batches: a "
                "resumed trainer would generate anew in the middle of it. Set save_steps to a multiple of "
                f"{shape.window}."
            )
    if not rounds:
        return
    at_ends = strategy == "epoch" and not late
    if strategy == "steps":
        at_ends = steps * rounds % every == 0
    if not at_ends:
        often = "round" if rounds == 1 else f"{rounds} rounds"
        raise InputError(
            f"{who} needs a checkpoint at the end of every {often} of {steps:,} steps, and "
            f"save_strategy={strategy!r}, save_steps={every:g} leave none there. Set save_strategy='steps' "
            f"and save_steps={steps * rounds} or a divisor of it."
        )


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
    who, every = _needs_checkpoints(config)
    steps = shape.steps(config.budget)
    end = (round_ + 1) * steps
    if saved == end or not every or (round_ + 1) % every or round_ + 1 == config.rounds:
        return
    last = f"the newest checkpoint is of step {saved:,}" if saved else "no checkpoint was saved"
    raise InputError(
        f"round {round_} ended at step {end:,}, and {last}: {who} takes the policy as it is now, not an "
        "older one. Did a callback keep the trainer from saving, or were its settings changed behind "
        f"attach()? Let it save there (save_strategy='steps', save_steps={steps * every} or a divisor of it) "
        "and resume from its last checkpoint."
    )
