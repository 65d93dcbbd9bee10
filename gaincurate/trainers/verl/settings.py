"""verl's settings for a run: the overrides with which it follows a run, and checks. Works without verl."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gaincurate.core.artifact import RUN
from gaincurate.errors import InputError
from gaincurate.schedule.run import Run
from gaincurate.trainers.doctor.examine import run_context
from gaincurate.trainers.doctor.findings import ask, context_of, refuse
from gaincurate.trainers.doctor.settings import Resolved
from gaincurate.trainers.profile import hydra_value
from gaincurate.trainers.verl.profile import LIVE, RULES, WITH_WEIGHTS

Lookup = Callable[[str], Any]
"""Returns a setting by its dotted name, or None."""

_PLUGS = [f"{key}={value}" for key, value in LIVE.items()]  # the first two are for the data set


def overrides(run: str | Path, batch: int | None = None) -> list[str]:
    """The overrides with which `python -m verl.trainer.main_ppo` follows the run in a folder.

    `batch` is the number of prompts per step; default: the run's `--align-to`, or else the whole round.
    Raises InputError if it does not divide the budget, and OutputError if the folder has no run.
    """
    opened = Run(Path(run).resolve())
    config = opened.config
    size = batch or (config.align_to if config.align_to > 1 else config.budget)
    if config.budget % size:
        raise InputError(
            f"data.train_batch_size is {size} and a round has {config.budget:,} prompts, which is no "
            f"multiple: a batch would span two rounds. Set a divisor, or start a run with --align-to {size}."
        )
    words = [f"data.train_files={hydra_value(opened.folder)}", *_PLUGS[:2], "data.shuffle=False"]
    words += ["data.dataloader_num_workers=0", f"data.train_batch_size={size}"]
    words += [f"trainer.total_epochs={config.rounds}", *_PLUGS[2:]]
    if every := context_of(config, "live").read_every:
        words += [WITH_WEIGHTS, f"trainer.save_freq={config.budget // size * every}"]
    return words


def run_in(files: Any) -> Path | None:
    """The run's folder that `data.train_files` or `data.val_files` names; None if they name files."""
    several = [files] if isinstance(files, str | Path) or files is None else list(files)
    if len(several) != 1 or several[0] is None:
        return None
    folder = Path(several[0]).expanduser()
    return folder.resolve() if (folder / RUN).is_file() else None


def run_of(config: Any) -> Path:
    """The run's folder that verl's `data` section names; raises InputError if it names none."""
    files = config.get("train_files")
    if (run := run_in(files)) is None:
        raise InputError(
            f"data.train_files is {files}, which is no run: set it to the folder that `gaincurate schedule "
            f"start` made. To train without a run, leave {' '.join(_PLUGS[:2])} out."
        )
    return run


def check(setting: Lookup, run: Run) -> None:
    """Raise an InputError for all settings with which verl would not follow the plan, with their fixes."""
    context = run_context(run, "live", running=True)
    refuse(ask(RULES, Resolved(setting), context)[0])
