"""Which checkpoint a TRL trainer can resume from: takes its output folder, yields the newest one, or why not.

Whole, of the history that survived, and between two generations. Read in TRL 1.16.0 and transformers 5.23.0.
Knows nothing of what resuming does.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from gaincurate.errors import OutputError
from gaincurate.schedule.back import check_place
from gaincurate.schedule.checkpoints import why_incomplete
from gaincurate.schedule.run import Run, read_json
from gaincurate.shards import Json
from gaincurate.trainers.place import PLACE
from gaincurate.trainers.trl_shape import Shape

_PREFIX = "checkpoint"
_log = logging.getLogger("gaincurate")


def checkpoint_folder(output: str | Path, step: int) -> Path:
    """Where transformers' Trainer saves the checkpoint of a step."""
    return Path(output) / f"{_PREFIX}-{step}"


def checkpoints(output: str | Path) -> dict[int, Path]:
    """The checkpoints in an output folder, by step."""
    return {
        int(number): path
        for path in Path(output).glob(f"{_PREFIX}-*")
        if (number := path.name.rpartition("-")[2]).isdecimal()
    }


def newest(output: str | Path, run: Run, shape: Shape) -> Path | None:
    """The newest checkpoint to resume from; what is wrong with later ones is logged."""
    found = checkpoints(output)
    for step in sorted(found, reverse=True):
        why = _why_not(found[step], step, run, shape)
        if why is None:
            return found[step]
        _log.warning("cannot resume from %s: %s", found[step], why)
    return None


def why_not_exact(saved: Json, step: int, shape: Shape, budget: int) -> str | None:
    """Why training that resumes at this step would not be what it was; None where it would.

    Args:
        saved: the place beside the checkpoint.
        step: the trainer's step in it.
        shape: of the trainer as it is now.
        budget: prompts in a round.
    """
    steps = shape.steps(budget)
    done = step - int(saved["round"]) * steps
    if int(saved["step"]) == step and 0 <= done <= steps and not shape.inside(done):
        return None
    return (
        f"it was saved after step {saved['step']} in round {saved['round']}; with rounds of {steps} steps "
        f"and generations that are used for {shape.window}, no resume from it is exact. Resume from another, "
        "or undo what was changed of the batch since."
    )


def _why_not(path: Path, step: int, run: Run, shape: Shape) -> str | None:
    if (why := _unfinished(path, step)) is not None:
        return why
    if not (path / PLACE).exists():
        return None  # killed before it was written: the trainer's step will say where that is
    try:
        saved = read_json(path / PLACE)
        check_place(run, saved, path.name)
    except OutputError as error:
        return str(error)
    return why_not_exact(saved, step, shape, run.config.budget)


def _unfinished(path: Path, step: int) -> str | None:
    """What a trainer needs and is not there; sharded weights are the trainer's own matter."""
    state = path / "trainer_state.json"
    try:
        found = json.loads(state.read_bytes())["global_step"]
    except (OSError, ValueError, LookupError, TypeError):
        return f"{state.name} is missing or not finished"
    if found != step:
        return f"{state.name} is of step {found}"
    return why_incomplete(path) if (path / "model.safetensors").exists() else None
