"""verl's settings for a run: the Hydra overrides that make it follow one, and what the adapter refuses.

What a setting must be is said in `profile.py`, for the doctor and for the adapter. Settings are looked up by
their dotted names, so nothing here needs verl itself.
"""

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
from gaincurate.trainers.verl.profile import LIVE, RULES

Lookup = Callable[[str], Any]
"""A setting by its dotted name; None where there is none."""

_DATASET, _TAP, _CALLBACK = (
    [f"{key}={value}" for key, value in LIVE.items() if key.startswith(begin)]
    for begin in ("data.custom_cls", "trainer.v1.sampler", "trainer.checkpoint_callback")
)
WITH_WEIGHTS = "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]"
"""The setting that makes verl write Hugging Face weights, which are scored."""


def overrides(run: str | Path, batch: int | None = None) -> list[str]:
    """The overrides that make `python -m verl.trainer.main_ppo` follow the run in a folder.

    `batch` is the prompts a step. Default: the run's `--align-to`, else a round a step.

    Raises:
        InputError: `batch` does not divide the budget.
        OutputError: no run is there.
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
    words = [f"data.train_files={hydra_value(opened.folder)}", *_DATASET, "data.shuffle=False"]
    words += ["data.dataloader_num_workers=0", f"data.train_batch_size={size}"]
    words += [f"trainer.total_epochs={config.rounds}", *_TAP, *_CALLBACK]
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


def no_run(files: Any) -> InputError:
    """The error for training files that are no run."""
    return InputError(
        f"data.train_files is {files}, which is no run, so there is no plan to train by: set it to the "
        "folder that `gaincurate schedule start` made. To train without a run, leave "
        f"{' '.join(_DATASET)} out."
    )


def no_callback(run: Path) -> InputError:
    """The error for a training whose settings were not checked."""
    return InputError(
        f"verl follows {run} only together with its checkpoint callback, which sees all settings: set "
        f"{' '.join(_CALLBACK)} (and leave trainer.use_v1=True; the old trainer has no callback)."
    )


def check(setting: Lookup, run: Run) -> None:
    """Raise an InputError on all settings under which verl would not train by the plan, each with its fix."""
    context = run_context(run, "live", running=True)
    refuse(ask(RULES, Resolved(setting), context)[0])
