"""What `attach` does for a trainer before it follows a run, so that a script needs one line more.

It sets what is still at TRL's default, gives rows their ids, and where there is no run yet it scores the
trainer's own rows and opens one. A setting at its default counts as not chosen: TRL keeps no record of what a
script wrote. All other settings that break the plan are refused, before anything is scored.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.types as pt
from datasets import Dataset

from gaincurate.core.artifact import MANIFEST, RUN, Json
from gaincurate.core.files import make_folder, write_json
from gaincurate.core.options import checked, near
from gaincurate.core.process import command_lock, last_line, run_command
from gaincurate.core.prompts import PROMPT, Columns
from gaincurate.core.schema import ID
from gaincurate.errors import GaincurateError, InputError, TrainerError
from gaincurate.schedule import base
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.observations import Note
from gaincurate.schedule.rounds import start
from gaincurate.schedule.run import Run
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.ids import content_ids
from gaincurate.trainers.doctor.findings import Context, Finding, ask
from gaincurate.trainers.trl.batching import Shape, resolved
from gaincurate.trainers.trl.rules import DEFAULTS, RULES

_SETTABLE = ("shuffle_dataset", "num_train_epochs", "max_steps", "save_strategy", "save_steps")
"""What a trainer reads when training begins, so that it can be set after the trainer was made."""


def set_defaults(trainer: Any, context: Context) -> Json:
    """Set what breaks the plan and is still at TRL's default, to what the rules say fixes it.

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
    """What a run is to be opened with, or None where `attach` got no more than a folder to follow.

    Args:
        shape: of the trainer.
        run: the run's folder.
        required: `strategy`, `budget` and `rounds`, None where they were not given.
        options: further ones of `ScheduleConfig`, `scored` among them.
        score: further options of `gaincurate score`.

    Raises:
        InputError: one of the three is missing, or an option is not what it must be.
    """
    names = {*ScheduleConfig.model_fields, "late", "outcome", "correct", "score"} - {"run"}
    for name in options:
        if name not in names:
            raise InputError(f"attach() takes no {name!r}{near(name, sorted(names))}.")
    missing = [name for name, value in required.items() if value is None]
    if len(missing) == len(required) and not options and score is None:
        return None
    if missing:
        raise InputError(
            f"attach() opens a run where strategy=, budget= and rounds= are given: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing. To follow a run that is there, give "
            "its folder alone."
        )
    place = options.get("scored") or f"{run}-scored"
    return checked(
        ScheduleConfig, {"align_to": shape.prompts, **required, **options, "run": run, "scored": place}
    )


def see_same(run: Run, config: ScheduleConfig) -> None:
    """Refuse to follow a run that was opened with other options than those given now.

    Raises:
        InputError: which differ, and how.
    """
    there: Json = run.facts["config"]
    given = config.model_dump(mode="json", include=config.model_fields_set - {"run", "scored"})
    kind = base.load(config.strategy)
    own = base.check_options(config.strategy, kind, config.options).model_dump(mode="json")
    given["options"] = {name: own[name] for name in config.options}
    differing = [
        f"{name} {there.get(name)!r}, not {value!r}"
        for name, value in given.items()
        if name != "options" and there.get(name) != value
    ]
    differing += [
        f"{name} {there['options'].get(name)!r}, not {value!r}"
        for name, value in given["options"].items()
        if there["strategy"] == config.strategy and there["options"].get(name) != value
    ]
    if differing:
        raise InputError(
            f"{run.folder} was opened with {'; '.join(differing)}. Give what it was opened with, its folder "
            "alone, or the folder of a new run."
        )


def open_run(trainer: Any, config: ScheduleConfig, score: Mapping[str, Any], note: Note) -> None:
    """Score the trainer's rows with the trainer's model unless `config.scored` is a finished set, and open
    the run. Of one that is there only the options are compared.

    Args:
        trainer: a `trl.GRPOTrainer`, whose checked settings are those of `config`.
        config: of the run.
        score: further options of `gaincurate score`.
        note: called with what a person should know.

    Raises:
        GaincurateError: the rows cannot be scored; the scoring run's own sentence, and where its log is.
        InputError: an option does not go with the set, or is not what the run was opened with.
    """
    if (config.run / RUN).exists():
        see_same(Run(config.run), config)
        return
    if not (config.scored / MANIFEST).exists():
        _score(trainer, config.scored, score, note)
    start(config, note)


def _score(trainer: Any, out: Path, score: Mapping[str, Any], note: Note) -> None:
    """`gaincurate score` in a process of its own, as re-scorings are, so that no memory of it stays here."""
    see_chat(trainer.train_dataset)
    model = model_of(trainer)
    given = {"prompt_column": PROMPT, **score}
    work = out.with_name(f"{out.name}.work")
    data, options, log = work / "rows.parquet", work / "options.json", work / "scoring.log"
    checked(ScoreConfig, {**given, "data": str(data), "model": model, "out": out})
    make_folder(work)
    trainer.train_dataset.to_parquet(str(data))
    write_json(options, given)
    note(f"warning: scores {len(trainer.train_dataset):,} prompts with {model} into {out} (log: {log})")
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


def model_of(trainer: Any) -> str:
    """The name that the trainer's model was loaded by, with its revision where it is of the Hub.

    Raises:
        InputError: it has none, so no other process can load it.
    """
    config = trainer.model.config
    name, revision = getattr(config, "_name_or_path", ""), getattr(config, "_commit_hash", None)
    if not name:
        raise InputError(
            "the trainer's model was not loaded by a name, so no other process can score with it. Save "
            "it and give its folder to GRPOTrainer, or give scored= with a set that `gaincurate score` made."
        )
    return name if revision is None or Path(name).exists() else f"{name}@{revision}"


def see_chat(rows: Dataset) -> None:
    """Refuse prompts that TRL gives the model as they are: scores are of chat messages in the template.

    Raises:
        InputError: the prompts are texts.
    """
    kind = rows.features.arrow_schema.field(PROMPT).type if PROMPT in rows.column_names else None
    if kind is not None and (pt.is_string(kind) or pt.is_large_string(kind)):
        raise InputError(
            "train_dataset has prompts of plain text, which TRL gives the model without its chat template, "
            'and scores are of chat messages: make them [{"role": "user", "content": TEXT}].'
        )


def add_ids(trainer: Any, run: Run) -> list[Finding]:
    """Give the trainer's rows the ids of the run's set, where they have none.

    Args:
        trainer: a `trl.GRPOTrainer`.
        run: the run.

    Returns:
        Why they cannot have them.
    """
    rows = trainer.train_dataset
    if not isinstance(rows, Dataset) or ID in rows.column_names:
        return []
    try:
        trainer.train_dataset = with_ids(rows, run)
    except InputError as error:
        return [Finding("rows", "stops", str(error).removesuffix("."))]
    return []


def with_ids(rows: Dataset, run: Run) -> Dataset:
    """The trainer's own rows with the ids that the run's scored set gives them, `gc_id`.

    An id is a hash of what a row asks and its answer, or the set's column of ids, so each row has one
    whatever order the rows are in.

    Args:
        rows: with `prompt`, and the set's columns of answers or ids.
        run: the run.

    Raises:
        InputError: the rows lack a column, are texts, or are trained on with other messages than were scored.
    """
    identity = run.scored.identity
    source, added = identity["source"], identity.get("segmentation", {})
    advice = "train on `gaincurate.trainers.trl.dataset(run)`, or on rows that were exported with their ids."
    see_chat(rows)
    if not run.config.bare and (added.get("system") is not None or added.get("shots")):
        raise InputError(
            f"train_dataset has no {ID}, and {run.config.scored} was scored with a system message or "
            f"examples that its rows lack: {advice}"
        )
    answer, id_column = source.get("answer_column"), source.get("id_column")
    needs = [id_column] if id_column else [PROMPT, answer] if answer else [PROMPT]
    if missing := [name for name in needs if name.partition(".")[0] not in rows.column_names]:
        raise InputError(
            f"train_dataset has no {ID}, and no column {', '.join(missing)} to find its rows in the scored "
            f"set by: {advice}"
        )
    columns = Columns(PROMPT, answer, id_column, "")
    heads = list(dict.fromkeys(name.partition(".")[0] for name in needs))
    table = rows.select_columns(heads).with_format("arrow")[:]
    made: Dataset = rows.add_column(ID, content_ids(table, columns))
    return made
