"""Which checkpoint a TRL trainer can resume from, or why not.

It must be whole, of the history that survived, and lie between two generations of the same batch: TRL
generates once for several steps, and a checkpoint inside them has lost the rollouts. Read in TRL 1.16.0 and
transformers 5.23.0.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from gaincurate.core.artifact import Json
from gaincurate.core.outcomes import newest_attempts, read_file
from gaincurate.errors import InputError, OutputError
from gaincurate.schedule.checkpoints import why_incomplete
from gaincurate.schedule.observations import rules_of
from gaincurate.schedule.rollback import check_place
from gaincurate.schedule.run import Run
from gaincurate.trainers.session import PLACE, RunSession, place_beside
from gaincurate.trainers.trl.batching import Shape

_PREFIX = "checkpoint"
_log = logging.getLogger("gaincurate")


def checkpoint_folder(output: str | Path, step: int) -> Path:
    """Where transformers' Trainer saves the checkpoint of a step."""
    return Path(output) / f"{_PREFIX}-{step}"


def checkpoints(output: str | Path) -> dict[int, Path]:
    """The checkpoints in an output folder, by step."""
    found = {}
    for path in Path(output).glob(f"{_PREFIX}-*"):
        if number := re.fullmatch(rf"{_PREFIX}-(\d+)", path.name):
            found[int(number[1])] = path
    return found


def newest(output: str | Path, live: RunSession, shape: Shape) -> Path | None:
    """The newest checkpoint to resume from; what is wrong with later ones is logged."""
    found = checkpoints(output)
    for step in sorted(found, reverse=True):
        try:
            if (why := _unfinished(found[step], step, shape)) is None:
                place_in(found[step], step, live, shape)
                return found[step]
        except (InputError, OutputError) as error:
            why = str(error)
        _log.warning("cannot resume from %s: %s", found[step], why)
    return None


def place_in(checkpoint: Path, step: int, live: RunSession, shape: Shape) -> Json:
    """The place to go back to with a checkpoint; nothing is changed.

    Args:
        checkpoint: its folder.
        step: the trainer's step in it.
        live: the run.
        shape: of the trainer as it is now.

    Returns:
        What was saved beside it, or where the run stands, if a kill came before that was written.

    Raises:
        OutputError: another run's, or of a history that was undone.
        InputError: training that resumes there would not be what it was.
    """
    if not (checkpoint / PLACE).exists():
        return _place_without(checkpoint, step, live, shape)
    saved = place_beside(checkpoint)
    check_place(live.run, saved, checkpoint.name)
    steps = shape.steps(live.budget)
    done = step - int(saved["round"]) * steps
    was = saved.get("batch", {})
    if was != shape.batch:
        changed = [
            f"{name} {was.get(name)}, now {value}"
            for name, value in shape.batch.items()
            if was.get(name) != value
        ]
        raise InputError(
            f"it was saved with another batch ({'; '.join(changed)}), so no resume from it is exact. Put the "
            "settings back; prompts are generation_batch_size / num_generations."
        )
    if int(saved["step"]) != step or not 0 <= done <= steps or shape.inside(done):
        raise InputError(
            f"it was saved after step {saved['step']} in round {saved['round']}, and generations are used "
            f"for {shape.window} steps: no resume from it is exact. Resume from another."
        )
    return saved


def _place_without(checkpoint: Path, step: int, live: RunSession, shape: Shape) -> Json:
    """Where the run stands, if its last outcomes are those of the checkpoint's last generation."""
    steps, round_ = shape.steps(live.budget), live.round
    done = step - round_ * steps
    if not live.finished and 0 < done <= steps and not shape.inside(done):
        taken = shape.taken(done)
        last = round_ * steps + (taken // shape.prompts - 1) * shape.repeats // shape.accumulation + 1
        if _told(live.run, round_) == (taken, last):
            return {**live.save(step, batch=shape.batch), "position": taken}
    raise OutputError(
        f"it has no {PLACE}, and {live.run.folder} stands at round {round_}, not behind its step {step}: it "
        "was not saved by this run, or in a history that was undone."
    )


def _told(run: Run, round_: int) -> tuple[int, int]:
    """How many prompts of a round have outcomes, and the last step of them."""
    lines = read_file(run.outcomes(round_), round_, run.ids, rules_of(run.config))
    kept, _ = newest_attempts([line for line in lines if line.round == round_])
    return len({line.gc_id for line in kept}), max((line.step or 0 for line in kept), default=0)


def _unfinished(path: Path, step: int, shape: Shape) -> str | None:
    """What a trainer needs and is not there; sharded weights are the trainer's own matter."""
    state = path / "trainer_state.json"
    try:
        found = json.loads(state.read_bytes())["global_step"]
    except (OSError, ValueError, LookupError, TypeError):
        return f"{state.name} is missing or not finished"
    if found != step:
        return f"{state.name} is of step {found}"
    if not any((path / name).exists() for name in ("rng_state.pth", "rng_state_0.pth")):
        return "rng_state.pth is missing"
    if (path / "rng_state_0.pth").exists():  # each process writes its own, and none waits for the others
        for rank in range(shape.processes):
            if not (path / f"rng_state_{rank}.pth").exists():
                return f"rng_state_{rank}.pth is missing"
    return why_incomplete(path) if (path / "model.safetensors").exists() else None
