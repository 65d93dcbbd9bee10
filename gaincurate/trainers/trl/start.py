"""Prepares a trainer and its run for `attach`: settings, ids of rows, the scored set and the run.

A setting at TRL's default counts as not chosen, because TRL does not record which settings a script sets. It
is changed if it breaks the plan; other settings are refused before anything is scored.

Prompts are compared with the scored ones as token ids, because template variables change prompts. The
trainer's tokenizer makes both, so that another model may have scored the set.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import get_json_schema

from gaincurate.core.artifact import MANIFEST, RUN, Json
from gaincurate.core.files import digest_json, make_folder, write_json
from gaincurate.core.options import checked
from gaincurate.core.process import command_lock, last_line, run_command
from gaincurate.core.prompts import PROMPT, Columns, prompts_of
from gaincurate.core.schema import ID
from gaincurate.errors import GaincurateError, InputError, TrainerError
from gaincurate.schedule import base
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.observations import Note
from gaincurate.schedule.rounds import advance, start
from gaincurate.schedule.run import Run, working_on
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.ids import content_ids
from gaincurate.trainers.doctor.findings import Finding, RuleContext, ask
from gaincurate.trainers.trl.batching import BatchShape, resolved
from gaincurate.trainers.trl.checks import places_of, stops
from gaincurate.trainers.trl.profile import DEFAULTS, RULES

# A trainer reads these when the training begins, so they can be changed after its construction.
_SETTABLE = ("shuffle_dataset", "num_train_epochs", "save_strategy", "save_steps")
TOOLS = "tools"  # the column of JSON schemas that scoring renders into a prompt
_COMPARED = 1024  # prompts of a round whose tokens are compared
_ADVICE = "train on `gaincurate.trainers.trl.dataset(run)`, or on rows that were exported with their ids"
_TO_CHAT = 'train_dataset.map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})'


def set_defaults(trainer: Any, context: RuleContext) -> Json:
    """Change settings at TRL's default that break the plan to the rules' fixes; returns the new values."""
    changed: Json = {}
    for _ in _SETTABLE:  # one fix may require another: a window, then a round's end
        for finding in ask(RULES, resolved(trainer), context)[0]:
            settings = resolved(trainer)
            free = all(
                key in _SETTABLE and (key in changed or settings[key] in (DEFAULTS[key], value))
                for key, value in finding.fix.items()
            )
            for key, value in finding.fix.items() if finding.breaks and free else ():
                if settings[key] != value:
                    setattr(trainer if key == "shuffle_dataset" else trainer.args, key, value)
                    changed[key] = value
    return changed


def config_of(
    shape: BatchShape, run: str | Path, required: Json, options: Json, score: Mapping[str, Any] | None = None
) -> ScheduleConfig | None:
    """The options of the run to open, or None if `attach` only got a folder to follow.

    `required` has `strategy`, `budget` and `rounds`, None if not given. A strategy whose options determine
    the budget needs no budget. The other arguments are those of `attach`. Raises InputError if one of the
    three is missing, or an option has a wrong value.
    """
    if set(required.values()) == {None} and not options and score is None:
        return None
    strategy, required = required["strategy"], dict(required)
    if strategy is not None:
        own = base.check_options(strategy, base.load(strategy), options.get("options") or {})
        required["budget"] = own.round_size(required["budget"])
    if missing := [name for name, value in required.items() if value is None]:
        raise InputError(
            f"attach() opens a run if strategy=, budget= and rounds= are given: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing. To follow an old run, give only its folder."
        )
    defaults = {"align_to": shape.prompts, "scored": f"{run}-scored"}
    return checked(ScheduleConfig, {**defaults, **required, **options, "run": run}, keywords=True)


def see_same(run: Run, config: ScheduleConfig) -> None:
    """Raise InputError if a run was opened with other options than those given now."""
    kind, there = base.load(config.strategy), dict(run.facts["config"])
    own = base.check_options(config.strategy, kind, config.options).model_dump(mode="json")
    given = config.model_dump(mode="json", include=config.model_fields_set - {"run", "scored", "options"})
    if there["strategy"] == config.strategy:
        given, there = given | {name: own[name] for name in config.options}, there | there["options"]
    changed = {name: value for name, value in given.items() if there.get(name) != value}
    if changed:
        changes = "; ".join(f"{name} {there.get(name)!r}, not {value!r}" for name, value in changed.items())
        raise InputError(
            f"{run.folder} was opened with {changes}. Give that, only its folder, or a new folder."
        )


def open_run(
    trainer: Any, config: ScheduleConfig, score: Mapping[str, Any], references: str | Path | None, note: Note
) -> None:
    """Score the trainer's rows unless `config.scored` is a finished set, and open the run.

    If the run exists, only its options are compared. Raises as `attach`.
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
    """Run `gaincurate score` in a separate process, as for re-scorings, so that its memory is released."""
    model, rows = model_of(trainer), trainer.train_dataset
    given = {"prompt_column": PROMPT, "template_kwargs": trainer.chat_template_kwargs, **score}
    work = out.with_name(f"{out.name}.work")
    data, options, log = work / "rows.parquet", work / "options.json", work / "scoring.log"
    try:
        checked(ScoreConfig, {**given, "data": str(data), "model": model, "out": out}, keywords=True)
    except InputError as error:
        raise InputError(f"score={dict(score)!r}: {error}") from error
    see_adapters(trainer)
    # TRL renders the trainer's tools into every prompt, but not the tools of rows.
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
            f"scoring the trainer's rows failed: {last_line(log) or 'it wrote nothing'} (log: {log}). Scores "
            "are kept. Run the script again to continue. score={...} takes options of gaincurate score.",
            log=str(log),
        ) from error
    shutil.rmtree(work)  # the set has every column of the rows


def see_prompts(trainer: Any, run: Run, ids: Sequence[str], note: Note) -> Iterator[Finding]:
    """Findings on prompts that TRL renders differently than scored, among the round's first 1,024 ids."""
    places = places_of(trainer.train_dataset, ids)[:_COMPARED]
    identity, ids, name = run.scored.identity, ids[:_COMPARED], run.config.scored
    yield from _see_tools(trainer, run, note)
    tokenizer, given = trainer.processing_class, trainer.chat_template_kwargs
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        kind = type(tokenizer).__name__
        note(f"warning: the prompts that the trainer's {kind} makes are not compared with the scored ones")
        return
    template = identity.get("tokenizer", {}).get("chat_template")
    if template is not None and template != digest_json(tokenizer.chat_template):
        note(f"warning: the trainer's chat template is not the one that {name} was scored with")
    messages = prompts_of(run.scored.rows(ids), identity, bare=run.config.bare)
    prompts: list[Any] = trainer.train_dataset.select(places)[:][PROMPT]
    if not tokenizer.chat_template and not isinstance(prompts[0], str):
        yield stops("rows", "the prompts are chat messages, and the trainer's tokenizer has no chat template")
        return
    variables = identity.get("segmentation", {}).get("template_kwargs", {})
    scored = []
    for each in messages:
        answered = each[-1]["role"] == "assistant"
        options = {"add_generation_prompt": not answered, "continue_final_message": answered, **variables}
        scored.append(_tokens(tokenizer, each if tokenizer.chat_template else each[-1]["content"], options))
    trained = [_tokens(tokenizer, each, {"add_generation_prompt": True, **given}) for each in prompts]
    differing = [place for place, tokens in enumerate(scored) if tokens != trained[place]]
    if not differing:
        return
    first, fix, advice = differing[0], Json(), _ADVICE
    first_row = pa.table({PROMPT: [prompts[first]], ID: [ids[first]]})
    if isinstance(prompts[first], str):
        why = "its prompt is plain text, to which TRL does not apply the chat template"
        advice = f"make the prompts chat messages: {_TO_CHAT}"
    elif prompts_of(first_row, {"source": {"prompt_column": PROMPT}}, bare=True)[0] != messages[first]:
        why = "its messages are not those of the scored set"
    elif given != variables:
        why, fix = f"{name} was scored with other template variables", {"chat_template_kwargs": variables}
        advice = f"or score the rows again with --template-kwargs '{json.dumps(given)}'"
    elif messages[first][-1]["role"] == "assistant":
        why = "scoring continues its last message, and TRL does not"
        advice = "end the prompts with a message of the user"
    else:
        why = "TRL renders the null fields of its messages"
    title = (
        f"TRL gives the model {len(trained[first]):,} tokens of {ids[first]!r}, and {len(scored[first]):,} "
        f"were scored ({len(differing):,} of {len(ids):,} prompts differ): {why}"
    )
    yield stops("rows", title, advice, **fix)


def _tokens(tokenizer: Any, prompt: Any, options: Mapping[str, Any]) -> list[int]:
    """The token ids of a prompt, `[tokens]`, as in TRL 1.16.0 without tools (`_tokenize_prompts`)."""
    if isinstance(prompt, str):
        return list(tokenizer(text=prompt)["input_ids"])
    return list(tokenizer.apply_chat_template(prompt, return_dict=True, **options)["input_ids"])


def schemas_of(trainer: Any) -> list[Json]:
    """The JSON schemas of the tools that TRL renders into every prompt; empty for RLOO, which has none."""
    return [get_json_schema(tool) for tool in getattr(trainer, "tools", None) or []]


def _see_tools(trainer: Any, run: Run, note: Note) -> Iterator[Finding]:
    column, tools = run.scored.identity["source"].get("tools_column"), schemas_of(trainer)
    if column and not tools:
        yield stops(
            "tools",
            f"{run.config.scored} was scored with the tools in column {column!r}, which TRL does not render",
            "give GRPOTrainer tools=[...], or score again with --tools-column none",
        )
    elif tools and not (column and set(run.scored.column(column).to_pylist()) == {json.dumps(tools)}):
        names = ", ".join(tool["function"]["name"] for tool in tools)
        scored = f"the tools in column {column!r}" if column else "no tools"
        note(
            f"warning: TRL renders the tools {names} into every prompt, and {run.config.scored} was scored "
            f"with {scored}: its token counts and scores are of other prompts"
        )


def model_of(trainer: Any) -> str:
    """The name by which the trainer's model was loaded, with its revision if it is from the Hub."""
    config = trainer.model.config
    name, revision = getattr(config, "_name_or_path", ""), getattr(config, "_commit_hash", None)
    if not name:
        raise InputError(
            "the trainer's model was not loaded by a name, so no other process can score with it. Save "
            "it and give its folder to GRPOTrainer, or give scored= with a set from `gaincurate score`."
        )
    return name if revision is None or Path(name).exists() else f"{name}@{revision}"


def see_adapters(trainer: Any) -> None:
    """Raise InputError if the trainer's adapters are trained, because scoring would use the base model."""
    configs = getattr(trainer.model, "peft_config", {}).values()
    if not {getattr(config, "init_lora_weights", True) for config in configs} <= {True, False, "gaussian"}:
        return  # an initialization from the model's weights, in which lora_B is not 0
    for key, value in trainer.model.named_parameters():
        if ".lora_B." in key and value.any():
            raise InputError(
                f"the trainer's model has a trained adapter ({key}), and only its base would be scored. Give "
                "the trainer a folder with the merged model, or give scored= with a set of these weights."
            )


def with_ids(rows: Dataset, run: Run) -> Dataset:
    """The trainer's rows with the ids of the run's scored set, `gc_id`.

    An id is a hash of a row's prompt and answer, or in the set's column of ids, so rows may have any order.
    Raises InputError if they lack a column, or the set was scored with further messages.
    """
    identity = run.scored.identity
    source, added = identity["source"], identity.get("segmentation", {})
    if not run.config.bare and (added.get("system") is not None or added.get("shots")):
        raise InputError(
            f"train_dataset has no {ID}, and {run.config.scored} was scored with a system message or "
            f"examples that its rows lack: {_ADVICE}."
        )
    answer, id_column = source.get("answer_column"), source.get("id_column")
    needs = [id_column] if id_column else [PROMPT, answer] if answer else [PROMPT]
    if missing := [name for name in needs if name.partition(".")[0] not in rows.column_names]:
        raise InputError(f"train_dataset has no {ID} and no {', '.join(missing)} to find it by: {_ADVICE}.")
    columns = Columns(PROMPT, answer, id_column, note="")
    heads = list(dict.fromkeys(name.partition(".")[0] for name in needs))
    table = rows.select_columns(heads).with_format("arrow")[:]
    made: Dataset = rows.add_column(ID, content_ids(table, columns))
    return made
