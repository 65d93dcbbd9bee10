"""The checks of `attach` on a TRL trainer before anything is scored, and the checkpoints to resume from.

Rules on settings are the doctor's; further checks concern rows, FSDP and DeepSpeed. A checkpoint to resume
from must be complete, of the current history, and between two generations, because the rollouts of a
generation in use are lost. Written against TRL 1.16.0 and transformers 5.23.0.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from gaincurate.core.artifact import Json
from gaincurate.core.outcomes import newest_attempts, read_file
from gaincurate.core.schema import ID
from gaincurate.errors import InputError, OutputError
from gaincurate.schedule.checkpoints import check_place, why_incomplete
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.trainers.checkpoints import checkpoints
from gaincurate.trainers.doctor.findings import Finding, RuleContext, ask, context_of, refuse
from gaincurate.trainers.profile import layout_of
from gaincurate.trainers.session import PLACE, RunSession, place_beside
from gaincurate.trainers.trl.batching import BatchShape, resolved
from gaincurate.trainers.trl.profile import RULES

_BATCH = {  # the settings from which the sizes of `BatchShape.batch` follow
    "prompts": "per_device_train_batch_size * processes * steps_per_generation / num_generations",
    "group": "num_generations",
    "repeats": "steps_per_generation * num_iterations",
    "accumulation": "gradient_accumulation_steps",
}
_log = logging.getLogger("gaincurate")


def stops(name: str, title: str, advice: str = "", **fix: Any) -> Finding:
    """A finding that stops the training and concerns no setting of a file."""
    return Finding(name, "stops", title, fix, advice)


def check(
    trainer: Any,
    config: ScheduleConfig,
    outcome: str | Sequence[str] | None = None,
    correct: str | None = None,
) -> None:
    """Refuse a `trl.GRPOTrainer` that would train on other prompts than the plan's, or lose the position.

    `outcome` names the reward functions that are reported (None: all), and `correct` the one for correctness.
    Raises an InputError with a sentence and a fix for each setting.
    """
    context = context_of(config, "live")
    findings, _ = ask(RULES, resolved(trainer), context)
    if not isinstance(rows := trainer.train_dataset, Dataset):
        title = f"train_dataset is a {type(rows).__name__}, whose rows cannot be asked for by place"
        findings.append(stops("dataset", title, "use `gaincurate.trainers.trl.dataset(run)`"))
    findings += _weights(trainer, context)
    findings += unheard(trainer, outcome, correct)
    refuse(findings, repr)


def unheard(trainer: Any, outcome: str | Sequence[str] | None, correct: str | None) -> Iterator[Finding]:
    """Findings for named reward functions whose rewards cannot be recorded; arguments as in `check`."""
    names = list(trainer.reward_func_names)
    summed = names if outcome is None else [outcome] if isinstance(outcome, str) else list(outcome)
    if not summed:
        yield stops("outcome", "outcome=[] names no reward function", "leave it out for all of them")
    for name in sorted({*summed, *([correct] if correct else [])}):
        if names.count(name) != 1:
            yield reward_missing(names, name)
            continue
        function = trainer.reward_funcs[names.index(name)]
        if not callable(function) or hasattr(function, "parameters"):
            title = f"{name!r} is a reward model, whose rewards cannot be recorded"
            advice = "name Python reward functions in outcome=, or call the model in one"
            yield stops("outcome", title, advice)


def reward_missing(names: Sequence[str], name: str) -> Finding:
    """The finding for a reward function that the trainer does not have exactly once."""
    why = "occurs more than once" if name in names else "does not exist"
    return stops("outcome", f"the reward function {name!r} {why}; the trainer has {', '.join(names)}")


def places_of(rows: Dataset, ids: Sequence[str]) -> list[int]:
    """The places of the rows with these ids, `[ids]`; raises InputError if one is missing."""
    column = rows.select_columns(ID).with_format("arrow")[:].column(ID)
    places = pc.index_in(pa.array(ids, pa.string()), value_set=pc.cast(column, pa.string()).combine_chunks())
    if places.null_count:
        missing = ids[pc.indices_nonzero(pc.is_null(places))[0].as_py()]
        raise InputError(
            f"train_dataset has no row for {missing!r} of the plan ({places.null_count:,} of {len(ids):,} "
            "are missing): it is not made from the run's scored set, or was filtered."
        )
    rows_at: list[int] = places.to_pylist()
    return rows_at


def _weights(trainer: Any, context: RuleContext) -> Iterator[Finding]:
    """Findings for checkpoints without whole weights, if the run scores or generates with them."""
    if not context.read_every:
        return
    needs = f"{context.reader} needs whole weights in every checkpoint, and"
    state = trainer.accelerator.state
    if getattr(trainer, "is_fsdp_enabled", False):
        kind = str(getattr(state.fsdp_plugin, "state_dict_type", "")).rpartition(".")[2]
        if "SHARDED" in kind:
            fix: dict[str, Any] = {"fsdp_config state_dict_type": "FULL_STATE_DICT"}
            yield stops("weights", f"{needs} FSDP saves {kind}", **fix)
    if getattr(trainer, "is_deepspeed_enabled", False):
        plugin = state.deepspeed_plugin
        if plugin.zero_stage == 3 and not plugin.zero3_save_16bit_model:
            fix = {"stage3_gather_16bit_weights_on_model_save": True}
            yield stops("weights", f"{needs} ZeRO-3 saves shards", **fix)


def see_checkpoint(config: ScheduleConfig, shape: BatchShape, round_: int, saved: int) -> None:
    """Check that the newest checkpoint, of step `saved`, is of the round's end if the run needs it.

    Raises:
        InputError: the next round needs a checkpoint, and none was saved at this round's end.
    """
    context = context_of(config, "live")
    every, steps = context.read_every, shape.steps(config.budget)
    end = (round_ + 1) * steps
    if saved == end or not every or (round_ + 1) % every or round_ + 1 == config.rounds:
        return
    last = f"the newest checkpoint is of step {saved:,}" if saved else "no checkpoint was saved"
    raise InputError(
        f"round {round_} ended at step {end:,}, and {last}: {context.reader} takes the policy as it is now. "
        "Did a callback prevent saving, or were settings changed after attach()? Let the trainer save there "
        f"(save_strategy='steps', save_steps={steps * every} or a divisor), and resume from its last "
        "checkpoint."
    )


def newest(output: str | Path, live: RunSession, shape: BatchShape) -> Path | None:
    """The newest checkpoint to resume from; the reasons against later ones are logged.

    Raises InputError if all have another batch, because a new start would undo the training.
    """
    by_step, of_another_batch = dict(checkpoints(Path(output), layout_of("trl"))), None
    for step in sorted(by_step, reverse=True):
        try:
            if (why := _unfinished(by_step[step], step, shape)) is None:
                place_in(by_step[step], step, live, shape)
                return by_step[step]
        except (InputError, OutputError) as error:
            why = str(error)
            if "batch" in error.data and of_another_batch is None:
                of_another_batch = InputError(f"cannot resume from {by_step[step]}: {error}", **error.data)
        _log.warning("cannot resume from %s: %s", by_step[step], why)
    if of_another_batch is not None:
        raise of_another_batch
    return None


def place_in(checkpoint: Path, step: int, live: RunSession, shape: BatchShape) -> Json:
    """The place to which the checkpoint of a step returns; nothing is changed.

    It is the position saved with the checkpoint, or the run's if the process was killed before saving it.
    Raises OutputError for another run or a history that was undone, InputError if no resume is exact.
    """
    if not (checkpoint / PLACE).exists():
        return _place_without(step, live, shape)
    saved = place_beside(checkpoint)
    check_place(live.run, saved, checkpoint.name)
    steps = shape.steps(live.budget)
    done = step - int(saved["round"]) * steps
    was = saved.get("batch", {})
    if was != shape.batch:
        changed = [name for name, value in shape.batch.items() if was.get(name) != value]
        listed = "; ".join(f"{_BATCH[name]} was {was.get(name)}, now {shape.batch[name]}" for name in changed)
        raise InputError(
            f"it has another batch, so no resume is exact: {listed}. Set these back, or start a new run.",
            batch=changed,
        )
    if int(saved["step"]) != step or not 0 <= done <= steps or shape.inside(done):
        raise InputError(
            f"it was saved after step {saved['step']} in round {saved['round']}, and generations are used "
            f"for {shape.window} steps: no resume from it is exact. Resume from another."
        )
    return saved


def _place_without(step: int, live: RunSession, shape: BatchShape) -> Json:
    """The run's position, if its last outcomes are those of the checkpoint's last generation."""
    steps, round_, run = shape.steps(live.budget), live.round, live.run
    done = step - round_ * steps
    if not live.finished and 0 < done <= steps and not shape.inside(done):
        taken = shape.taken(done)
        last = round_ * steps + (taken // shape.prompts - 1) * shape.repeats // shape.accumulation + 1
        lines = read_file(run.outcomes(round_), round_, run.ids, run.rules)
        lines, _ = newest_attempts([line for line in lines if line.round == round_])
        reported = len({line.gc_id for line in lines}), max((line.step or 0 for line in lines), default=0)
        if reported == (taken, last):
            return {**live.save(step, batch=shape.batch), "position": taken}
    raise OutputError(
        f"it has no {PLACE}, and {live.run.folder} is in round {round_}, not after its step {step}: it was "
        "not saved by this run, or in a history that was undone."
    )


def _unfinished(path: Path, step: int, shape: BatchShape) -> str | None:
    """The reason if files that the trainer needs are missing, or None; sharded weights are not checked."""
    # Each process writes its own file, and none waits for the others.
    ranks = [f"_{rank}" for rank in range(shape.processes)] if (path / "rng_state_0.pth").exists() else [""]
    if why := layout_of("trl").unfinished(path, step):
        return why
    for name in (f"rng_state{rank}.pth" for rank in ranks):
        if not (path / name).exists():
            return f"{name} is missing"
    return why_incomplete(path) if (path / "model.safetensors").exists() else None
