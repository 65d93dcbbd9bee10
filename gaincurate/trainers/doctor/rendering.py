"""Compares a trainer's rendered prompts with the scored ones: chat template arguments, tools, token counts.

Parts that the doctor cannot see, such as tools from a file, are never said to agree.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from gaincurate.core.artifact import broken
from gaincurate.core.foreign import yaml_value
from gaincurate.core.prompts import Columns, PromptProblem, chats_of, column_values, read_rows, to_messages
from gaincurate.errors import OutputError
from gaincurate.schedule.run import Run
from gaincurate.scoring.model_files import is_failure
from gaincurate.trainers.columns import has_nulls
from gaincurate.trainers.doctor.common import find
from gaincurate.trainers.doctor.findings import Context, Finding
from gaincurate.trainers.doctor.settings import NotKnown, Settings, flat, shown
from gaincurate.trainers.profile import Profile, Rendering

_ROWS = 16


def differences(profile: Profile, settings: Settings, context: Context) -> Iterator[Finding]:
    """The differences between the trainer's prompts and the scored ones."""
    if context.scored is None:
        return
    rendering, name = profile.rendering, profile.name
    scored = context.scored.get("segmentation", {}).get("template_kwargs") or {}
    wanted = {key: value for key, value in flat(scored).items() if value is not None}
    given = _arguments(rendering, settings)
    if given != wanted and not (rendering.code and not rendering.arguments):
        keys = " or ".join(rendering.arguments) or f"{name}, which takes none,"
        yield Finding(
            "template-arguments",
            "wrong",
            f"{keys} gives the chat template {_json(given)}, but prompts were scored with {_json(wanted)}: "
            "the model reads other prompts than were scored",
            _fix(rendering, settings, given, wanted),
            f"or score the set again with --template-kwargs '{_json(given)}'",
            settings.source(*rendering.arguments, *chain(*map(settings.below, rendering.arguments))),
        )
    column = context.scored["source"].get("tools_column")
    if not rendering.row_tools:
        if column and not rendering.code and not any(_adds(rendering, settings)):
            yield Finding(
                "tools",
                "wrong",
                f"prompts were scored with the tools of column {column!r}, and {name} renders no tools of "
                "a row",
                {},
                "score the set again with --tools-column none, or with the tools that the trainer's own "
                "configuration gives to all rows",
            )
        return
    key, right = rendering.row_tools, "tools" if column else None
    if column and settings[key] not in (right, column):
        yield find(
            settings, key, "tools", f"prompts were scored with the tools of column {column!r}", {key: right}
        )
    elif not column and settings[key] in (context.columns or ()):
        advice = f"or score the set again with --tools-column {settings[key]}"
        why = "the rows have that column, and prompts were scored without tools"
        yield find(settings, key, "tools", why, {key: "none"}, advice)


def _adds(rendering: Rendering, settings: Settings) -> Iterator[str]:
    """The settings that add text that the doctor does not know."""
    return (key for key in rendering.adds if settings.is_set(key) and settings.known(key) != "default")


def unknown(rendering: Rendering, settings: Settings, context: Context) -> list[str]:
    """Clauses for a note on additions to the prompts that the doctor does not know."""
    added = _adds(rendering, settings)
    reasons = [f"this trainer adds {rendering.adds[key]} from {settings.told(key)}" for key in added]
    media = [name for name in rendering.media if name in (context.columns or ())]
    reasons += [f"this trainer adds the column {name!r} to prompts" for name in media]
    if rendering.code:
        reasons.append(f"{rendering.code} renders the prompts")
    return reasons


def _arguments(rendering: Rendering, settings: Settings) -> dict[str, Any]:
    """The arguments of the chat template by dotted name.

    Raises:
        NotKnown: a value that only a shell knows, or that is no mapping.
    """
    given: dict[str, Any] = {}
    for key, name in rendering.arguments.items():
        value = settings[key]
        if name:
            given[name] = value
            continue
        value = _mapping(key, value) if isinstance(value, str) else value
        if not isinstance(value, dict | None):
            raise NotKnown(key, shown(value), "which is no mapping")
        given |= flat(value or {})
        given |= {below[len(key) + 1 :]: settings[below] for below in settings.below(f"{key}.")}
    return {key: value for key, value in given.items() if value is not None}


def _mapping(key: str, text: str) -> Any:
    """JSON, YAML, or Hydra's form of a mapping, which needs no space behind a colon."""
    for form in (text, re.sub(r":(?=\S)", ": ", text)):
        try:
            value = yaml_value(form)
        except ValueError:
            continue
        if isinstance(value, dict) and not any(":" in str(name) for name in value):
            return value
    raise NotKnown(key, text, "which is no mapping")


def _fix(
    rendering: Rendering, settings: Settings, given: dict[str, Any], wanted: dict[str, Any]
) -> dict[str, Any]:
    """The settings that give the scored arguments: one for each argument, or one JSON text."""
    for key, name in rendering.arguments.items():
        if name:
            return {key: wanted.get(name)} if set(given) | set(wanted) <= {name} else {}
        if "." not in key and not any(settings.below(f"{key}.")):
            return {key: _json(wanted)}
        differing = [one for one in {**given, **wanted} if given.get(one) != wanted.get(one)]
        return {f"{key}.{one}": wanted.get(one) for one in differing}
    return {}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def compare_tokens(
    folder: Path, profile: Profile, settings: Settings, context: Context
) -> tuple[Finding | None, str]:
    """Render the newest round's first prompts as the trainer does, and count.

    Args:
        folder: of the run.
        profile: of the trainer.
        settings: of the trainer.
        context: of the run.

    Returns:
        A finding where a count differs, and a note on the comparison, or why there was none.
    """
    run, rendering = Run(folder), profile.rendering
    model = run.config.model
    try:
        reason = "; ".join(unknown(rendering, settings, context))
        reason = f"not known: {reason}" if reason else ""
        if not reason and any(differences(profile, settings, context)):
            reason = "not compared, because this trainer renders other prompts than were scored"
    except NotKnown as problem:
        reason = f"not known: {problem}"
    if not reason and run.config.bare:
        reason = "not compared, because --without-system leaves out a part of the scored prompt"
    if not reason and (model is None or not Path(model).is_dir()):
        reason = f"not compared, because the model {model or ''} is no folder on this machine"
    if not reason and importlib.util.find_spec("transformers") is None:
        reason = "not compared, because transformers is not installed"
    if reason or model is None:
        return None, f"token counts: {reason}"
    round_, path = run.newest(), run.data(run.newest())
    table = read_rows(path).slice(0, _ROWS)
    if "gc_id" not in table.column_names:
        raise broken(path)("it has no column 'gc_id'")
    ids = table.column("gc_id").to_pylist()
    if set(ids) != set(run.ids(round_)[: len(ids)]):
        return None, f"token counts: not compared, because {path} has other prompts than the plan"
    scored_rows = run.scored.rows(ids)
    chats = chats_of(scored_rows, run.scored.identity)
    scored = dict(
        zip(
            scored_rows.column("gc_id").to_pylist(),
            zip(scored_rows.column("gc_prompt_tokens").to_pylist(), chats, strict=True),
            strict=True,
        )
    )
    column = Columns.of(run.scored.identity).tools if rendering.row_tools else None
    in_file = column_values(table, column) if column else [None] * len(ids)
    arguments = run.scored.identity.get("segmentation", {}).get("template_kwargs") or {}
    # Only lines of JSON that go through no table have no nulls but the scored ones.
    keeps = bool(rendering.nulls) and not str(settings.known(rendering.nulls)).endswith(".jsonl")
    try:
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(model)
        for gc_id, messages, row_tools in zip(ids, table.column("prompt").to_pylist(), in_file, strict=True):
            wanted, chat = scored[gc_id]
            tools = chat.tools if column else None
            if keeps and isinstance(row_tools, list) and tools:
                tools = row_tools
            text = tokenizer.apply_chat_template(
                messages if keeps else to_messages(messages),
                tools=tools,
                tokenize=False,
                add_generation_prompt=True,
                **arguments,
            )
            count = len(tokenizer(text, add_special_tokens=False)["input_ids"])
            if count != wanted:
                title = f"the prompt of {gc_id} is {count} tokens by the chat template of {model}, but was "
                title += f"scored as {wanted}"
                nulls = keeps and has_nulls([messages, tools])
                return _differs(profile, title, nulls), f"token counts: {gc_id} differs"
    except (PromptProblem, OutputError) as problem:
        return None, f"token counts: not compared, because of {path}: {problem}"
    except BaseException as error:  # a template is a program, a file may be broken
        if not is_failure(error):
            raise
        why = " ".join(str(error).split())[:200] or type(error).__name__
        return None, f"token counts: not compared, because the tokenizer of {model} fails ({why})"
    unseen = f"; tools that {context.script} adds are not seen" if context.script.endswith(".py") else ""
    same = f"{len(ids)} prompts of round {round_} are as long as they were when scored"
    return None, f"token counts: {same}{unseen}"


def _differs(profile: Profile, title: str, nulls: bool) -> Finding:
    if nulls:
        title += f": {profile.name} renders null for each key of tools that only other rows have"
        lines = f"export the rounds as lines of JSON: `gaincurate export RUN --trainer {profile.name}`, or "
        advice = f"{'' if profile.rendering.nulls == 'all' else lines}store tool calls and tools as JSON text"
        return Finding("nulls", "wrong", title, {}, advice)
    title += ": the trainer would read something else than was scored"
    advice = "score the set again with this model's tokenizer, or train with the one that scored it"
    return Finding("tokens", "wrong", title, {}, advice)
