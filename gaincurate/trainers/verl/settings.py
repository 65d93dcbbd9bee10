"""verl's settings for a run, without verl: the overrides that make it follow one, and what is refused."""

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
"""A setting by its dotted name; None where there is none."""

_PLUGS = [f"{key}={value}" for key, value in LIVE.items()]  # the first two are of the data set


def overrides(run: str | Path, batch: int | None = None) -> list[str]:
    """The overrides that make `python -m verl.trainer.main_ppo` follow the run in a folder.

    `batch` is the prompts a step. Default: the run's `--align-to`, else a round a step. Raises InputError
    where it does not divide the budget, and OutputError where no run is there.
    """
    opened = Run(Path(run).resolve())
    config = opened.config
    size = batch or (config.align_to if config.align_to > 1 else config.budget)
    if config.budget % size:
        raise InputError(
            f"data.train_batch_size is {size} and a round has {config.budget:,} prompts, which is no "
            "multiple: a batch would lie in two rounds. Set it to a divisor of "
            f"{config.budget:,}, or start a run with --align-to {size}."
        )
    words = [f"data.train_files={hydra_value(opened.folder)}", *_PLUGS[:2], "data.shuffle=False"]
    words += ["data.dataloader_num_workers=0", f"data.train_batch_size={size}"]
    words += [f"trainer.total_epochs={config.rounds}", *_PLUGS[2:]]
    if every := context_of(config, "live").read_every:
        words += [WITH_WEIGHTS, f"trainer.save_freq={config.budget // size * every}"]
    return words


def run_in(files: Any) -> Path | None:
    """The run's folder that `data.train_files` or `data.val_files` names; None where those are files."""
    several = [files] if isinstance(files, str | Path) or files is None else list(files)
    if len(several) != 1 or several[0] is None:
        return None
    folder = Path(several[0]).expanduser()
    return folder.resolve() if (folder / RUN).is_file() else None


def run_of(config: Any) -> Path:
    """The run's folder that verl's `data` section names; raises InputError where it names none."""
    files = config.get("train_files")
    if (run := run_in(files)) is None:
        raise InputError(
            f"data.train_files is {files}, which is no run: set it to the folder that `gaincurate schedule "
            f"start` made. To train without a run, leave {' '.join(_PLUGS[:2])} out."
        )
    return run


def check(setting: Lookup, run: Run) -> None:
    """Raise an InputError on all settings under which verl would not train by the plan, each with its fix."""
    context = run_context(run, "live", running=True)
    refuse(ask(RULES, Resolved(setting), context)[0])
