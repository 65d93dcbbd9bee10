"""Prepares a trainer and its run for `attach`, so that a script needs one more line.

It changes settings at TRL's default, adds ids to rows, and if there is no run, scores the trainer's rows and
starts one. A setting at its default counts as not chosen, because TRL does not record which settings a script
wrote. All other settings that break the plan are refused before anything is scored.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gaincurate.core.artifact import MANIFEST, RUN, Json
from gaincurate.core.files import make_folder, write_json
from gaincurate.core.options import checked
from gaincurate.core.process import command_lock, last_line, run_command
from gaincurate.core.prompts import PROMPT
from gaincurate.errors import GaincurateError, InputError, TrainerError
from gaincurate.schedule import base
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.observations import Note
from gaincurate.schedule.rounds import advance, start
from gaincurate.schedule.run import Run, working_on
from gaincurate.scoring.config import ScoreConfig
from gaincurate.trainers.doctor.findings import Context, ask
from gaincurate.trainers.trl.batching import Shape, resolved
from gaincurate.trainers.trl.rules import DEFAULTS, RULES
from gaincurate.trainers.trl.scored import TOOLS, model_of, schemas_of, see_adapters

_SETTABLE = ("shuffle_dataset", "num_train_epochs", "save_strategy", "save_steps")
"""Settings that a trainer reads when training begins, so they can be changed after its construction."""


def set_defaults(trainer: Any, context: Context) -> Json:
    """Change the settings at TRL's default that break the plan to the fix that the rules name.

    Args:
        trainer: a `trl.GRPOTrainer`.
        context: of the run.

    Returns:
        The settings that were changed, with their values now.
    """
    changed: Json = {}
    for _ in _SETTABLE:  # one fix may ask for another: a window, then a round's end
        before = dict(changed)
        for finding in ask(RULES.rules, resolved(trainer), context)[0]:
            settings = resolved(trainer)
            free = all(
                key in _SETTABLE and (key in changed or settings[key] in (DEFAULTS[key], value))
                for key, value in finding.fix.items()
            )
            if not finding.breaks or not free:
                continue
            for key, value in finding.fix.items():
                if settings[key] != value:
                    setattr(trainer if key == "shuffle_dataset" else trainer.args, key, value)
                    changed[key] = value
        if changed == before:
            break
    return changed


def config_of(
    shape: Shape,
    run: str | Path,
    required: Mapping[str, Any],
    options: Mapping[str, Any],
    score: Mapping[str, Any] | None = None,
) -> ScheduleConfig | None:
    """The options of the run to open, or None where `attach` got no more than a folder to follow.

    Args:
        shape: of the trainer.
        run: the run's folder.
        required: `strategy`, `budget` and `rounds`, None where they were not given. A strategy whose own
            options make the budget needs none.
        options: further keywords of `gaincurate.Schedule.start`, and `scored`.
        score: further options of `gaincurate score`.

    Raises:
        InputError: one of the three is missing, or an option has a wrong value.
    """
    strategy, required = required["strategy"], dict(required)
    if strategy is not None:
        own = base.check_options(strategy, base.load(strategy), options.get("options") or {})
        required["budget"] = own.round_size(required["budget"])
    missing = [name for name, value in required.items() if value is None]
    if len(missing) == len(required) and not options and score is None:
        return None
    if missing:
        raise InputError(
            f"attach() opens a run where strategy=, budget= and rounds= are given: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing. To follow a run that is there, give "
            "its folder alone."
        )
    defaults = {"align_to": shape.prompts, "scored": f"{run}-scored"}
    return checked(ScheduleConfig, {**defaults, **required, **options, "run": run}, keywords=True)


def see_same(run: Run, config: ScheduleConfig) -> None:
    """Refuse to follow a run that was opened with other options than those given now.

    Raises:
        InputError: the options that differ, with both values.
    """
    kind, there = base.load(config.strategy), dict(run.facts["config"])
    own = base.check_options(config.strategy, kind, config.options).model_dump(mode="json")
    given = config.model_dump(mode="json", include=config.model_fields_set - {"run", "scored", "options"})
    if there["strategy"] == config.strategy:
        given, there = given | {name: own[name] for name in config.options}, there | there["options"]
    differing = [
        f"{name} {there.get(name)!r}, not {value!r}"
        for name, value in given.items()
        if there.get(name) != value
    ]
    if differing:
        raise InputError(
            f"{run.folder} was opened with {'; '.join(differing)}. Give what it was opened with, its folder "
            "alone, or the folder of a new run."
        )


def open_run(
    trainer: Any, config: ScheduleConfig, score: Mapping[str, Any], references: str | Path | None, note: Note
) -> None:
    """Score the trainer's rows with the trainer's model unless `config.scored` is a finished set, and open
    the run. Of one that is there only the options are compared.

    Args:
        trainer: a `trl.GRPOTrainer`, whose checked settings are those of `config`.
        config: of the run.
        score: further options of `gaincurate score`.
        references: outcomes of round 0's references, or a rollout set.
        note: called with messages for the user.

    Raises:
        GaincurateError: the rows cannot be scored; the scoring run's own sentence, and where its log is.
        InputError: an option does not go with the set, or is not what the run was opened with.
    """
    given = None if references is None else Path(references)
    if (config.run / RUN).exists():
        run = Run(config.run)
        see_same(run, config)
    else:
        if not (config.scored / MANIFEST).exists():
            _score(trainer, config.scored, score, note)
        run = start(config, note, given)
    if given is not None and run.round < 0:
        with working_on(run.folder):
            advance(run, note=note, references=given)


def _score(trainer: Any, out: Path, score: Mapping[str, Any], note: Note) -> None:
    """Run `gaincurate score` in a separate process, like re-scorings, so its memory is released."""
    model, rows = model_of(trainer), trainer.train_dataset
    given = {"prompt_column": PROMPT, "template_kwargs": trainer.chat_template_kwargs, **score}
    work = out.with_name(f"{out.name}.work")
    data, options, log = work / "rows.parquet", work / "options.json", work / "scoring.log"
    try:
        checked(ScoreConfig, {**given, "data": str(data), "model": model, "out": out}, keywords=True)
    except InputError as error:
        raise InputError(f"score={dict(score)!r}: {error}") from error
    see_adapters(trainer)
    # TRL renders the trainer's tools into every prompt, and no tools of rows.
    rows = rows.remove_columns([name for name in rows.column_names if name == TOOLS])
    if tools := schemas_of(trainer):
        rows = rows.add_column(TOOLS, [json.dumps(tools)] * len(rows))
    make_folder(work)
    rows.to_parquet(str(data))
    write_json(options, given)
    note(f"warning: scores {len(rows):,} prompts with {model} into {out} (log: {log})")
    command = [sys.executable, "-m", "gaincurate", "score", str(data), "--model", model, "--out", str(out)]
    command += ["--config", str(options)]
    try:
        with command_lock(work) as lock:
            run_command(command, environment={}, log=log, lock=lock)
    except TrainerError as error:
        raise GaincurateError(
            f"scoring the trainer's rows failed: {last_line(log) or 'it wrote nothing'} (log: {log}). What "
            "was scored is kept. Run the script again to go on. Options of gaincurate score go into "
            "score={...}.",
            log=str(log),
        ) from error
    shutil.rmtree(work)  # the set has every column of the rows
