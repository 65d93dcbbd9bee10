"""Compares a trainer's rendered prompts with the scored ones: chat template arguments, tools, token ids.

Parts that the doctor cannot see, such as tools from a file, are never said to agree.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gaincurate.core.foreign import yaml_value
from gaincurate.core.prompts import Columns, chats_of, column_values, read_rows, to_messages
from gaincurate.schedule.run import Run
from gaincurate.scoring.model_files import is_failure
from gaincurate.trainers.columns import has_nulls
from gaincurate.trainers.doctor.common import find
from gaincurate.trainers.doctor.findings import Context, Finding, Found
from gaincurate.trainers.doctor.settings import NotKnown, Settings, flat, shown
from gaincurate.trainers.profile import Profile, Rendering

_ROWS = 16  # prompts whose tokens are compared


def template_arguments(profile: Profile, settings: Settings, context: Context) -> Found:
    """The arguments of the chat template, where they are not those of the scored set."""
    rendering = profile.rendering
    if context.scored is None or (rendering.code and not rendering.arguments):
        return None
    scored = context.scored.get("segmentation", {}).get("template_kwargs") or {}
    wanted = {key: value for key, value in flat(scored).items() if value is not None}
    key, given = rendering.arguments, _arguments(rendering, settings) if rendering.arguments else {}
    if given == wanted:
        return None
    differing = {name for name in {**given, **wanted} if given.get(name) != wanted.get(name)}
    fix: dict[str, Any] = {}
    if rendering.argument:
        fix = {key: wanted.get(rendering.argument)} if differing == {rendering.argument} else {}
    elif key and "." not in key and not any(settings.below(f"{key}.")):
        fix = {key: _json(wanted)}
    elif key:
        fix = {f"{key}.{name}": wanted.get(name) for name in sorted(differing)}
    title = f"{key or f'{profile.name}, which takes none,'} gives the chat template {_json(given)}, but "
    title += f"prompts were scored with {_json(wanted)}: the model reads other prompts than were scored"
    advice = f"or score the set again with --template-kwargs '{_json(given)}'"
    source = settings.source(key, *settings.below(f"{key}."))
    return Finding("template-arguments", "wrong", title, fix, advice, source)


def tools(profile: Profile, settings: Settings, context: Context) -> Found:
    """The tools of a row, where the trainer does not render those that were scored."""
    if context.scored is None:
        return None
    rendering, column = profile.rendering, context.scored["source"].get("tools_column")
    why, key = f"prompts were scored with the tools of column {column!r}", rendering.row_tools
    if column and not (key or rendering.code or additions(rendering, settings, context)):
        advice = "score the set again with --tools-column none, or with the tools that the trainer's "
        advice += "configuration gives to all rows"
        why += f", and {profile.name} renders no tools of a row"
        return Finding("tools", "wrong", why, advice=advice)
    if key and column and settings[key] not in ("tools", column):
        return find(settings, key, "tools", why, {key: "tools"})
    if key and not column and settings[key] in (context.columns or ()):
        why = "the rows have that column, and prompts were scored without tools"
        advice = f"or score the set again with --tools-column {settings[key]}"
        return find(settings, key, "tools", why, {key: "none"}, advice)
    return None


def additions(rendering: Rendering, settings: Settings, context: Context) -> list[str]:
    """Clauses on text that a trainer adds to the prompts and that the doctor does not know."""
    added = (key for key in rendering.adds if settings.is_set(key) and settings.known(key) != "default")
    clauses = [f"{settings.told(key)}, which adds to the prompts" for key in added]
    media = (name for name in rendering.media if name in (context.columns or ()))
    return clauses + [f"the trainer adds the column {name!r} to the prompts" for name in media]


def _arguments(rendering: Rendering, settings: Settings) -> dict[str, Any]:
    """The arguments of the chat template by dotted name.

    Raises:
        NotKnown: a value that only a shell knows, or that is no mapping.
    """
    key = rendering.arguments
    value = settings[key]
    if rendering.argument:
        return {} if value is None else {rendering.argument: value}
    value = _mapping(key, value) if isinstance(value, str) else value
    if not isinstance(value, dict | None):
        raise NotKnown(key, shown(value), "which is no mapping")
    given = flat(value or {})
    given |= {below[len(key) + 1 :]: settings[below] for below in settings.below(f"{key}.")}
    return {name: value for name, value in given.items() if value is not None}


def _mapping(key: str, text: str) -> Any:
    """JSON, YAML, or Hydra's form of a mapping, which needs no space after a colon."""
    for form in (text, re.sub(r":(?=\S)", ": ", text)):
        try:
            value = yaml_value(form)
        except ValueError:
            continue
        if isinstance(value, dict) and not any(":" in str(name) for name in value):
            return value
    raise NotKnown(key, text, "which is no mapping")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def compare_tokens(
    run: Run, profile: Profile, settings: Settings, context: Context
) -> tuple[Finding | None, str]:
    """Render the newest round's first prompts as the trainer does, and compare the token ids with scoring's.

    Returns:
        A finding on the first prompt that differs, and a note on the comparison, or why there was none.
    """
    rendering, model, round_ = profile.rendering, run.config.model, run.round
    path = run.data(round_)
    try:
        unknown = additions(rendering, settings, context)
        unknown += [f"{rendering.code} renders the prompts"] if rendering.code else []
        if template_arguments(profile, settings, context) or tools(profile, settings, context):
            unknown.append("the trainer renders other prompts than were scored")
    except NotKnown as problem:
        unknown = [str(problem)]
    unknown += ["the run has no round yet"] if round_ < 0 else []
    unknown += ["--without-system leaves out a part of the scored prompt"] if run.config.bare else []
    if model is None or not Path(model).is_dir():
        unknown.append(f"the model {model or ''} is no folder on this machine")
    if unknown or model is None:
        return None, f"tokens: not compared: {'; '.join(unknown)}"
    table = read_rows(path).slice(0, _ROWS)
    ids: list[Any] = table.column("gc_id").to_pylist() if "gc_id" in table.column_names else [None]
    if not all(isinstance(each, str) for each in ids) or set(ids) != set(run.ids(round_)[: len(ids)]):
        return None, f"tokens: not compared: {path} has other prompts than the plan"
    identity, rows = run.scored.identity, run.scored.rows(ids)
    arguments = identity.get("segmentation", {}).get("template_kwargs") or {}
    counts = rows.column("gc_prompt_tokens").to_pylist()
    scored = dict(
        zip(rows.column("gc_id").to_pylist(), zip(counts, chats_of(rows, identity), strict=True), strict=True)
    )
    column = Columns.of(identity).tools
    row_tools = column_values(table, column) if column else [None] * len(ids)
    # Only lines of JSON that go through no table have no nulls but the scored ones.
    keeps = bool(rendering.nulls) and not str(settings.known(rendering.nulls)).endswith(".jsonl")
    try:
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(model)

        def tokens(messages: list[Any], tools: list[Any] | None) -> list[int]:
            text = tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=True, **arguments
            )
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])

        for gc_id, messages, own in zip(ids, table.column("prompt").to_pylist(), row_tools, strict=True):
            count, chat = scored[gc_id]
            given = own if keeps and isinstance(own, list) and chat.tools else chat.tools
            trained = tokens(messages if keeps else to_messages(messages), given)
            if len(trained) == count and trained == tokens(chat.messages, chat.tools):
                continue
            how = "has other tokens than when it was scored"
            if len(trained) != count:
                how = f"is {len(trained)} tokens, but was scored as {count}"
            title = f"by the chat template of {model} the prompt of {gc_id} {how}"
            finding = _differs(profile, title, keeps and has_nulls([messages, given]))
            return finding, f"tokens: {gc_id} differs"
    except BaseException as error:  # a template is a program, a file may be broken
        if not is_failure(error):
            raise
        why = " ".join(str(error).split())[:200] or type(error).__name__
        return None, f"tokens: not compared: {model} cannot render them ({why})"
    unseen = f"; tools that {context.script} adds are not seen" if context.script.endswith(".py") else ""
    same = f"{len(ids)} prompts of round {round_} are token for token as they were scored"
    return None, f"tokens: {same}{unseen}"


def _differs(profile: Profile, title: str, nulls: bool) -> Finding:
    if nulls:
        title += f": {profile.name} renders null for each key of tools that only other rows have"
        lines = f"export the rounds as lines of JSON: `gaincurate export RUN --trainer {profile.name}`, or "
        advice = f"{'' if profile.rendering.nulls == 'all' else lines}store tool calls and tools as JSON text"
        return Finding("nulls", "wrong", title, advice=advice)
    title += ": the trainer would read something else than was scored"
    advice = "score the set again with this model's tokenizer, or train with the one that scored it"
    return Finding("tokens", "wrong", title, advice=advice)
