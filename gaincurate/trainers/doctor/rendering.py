"""Compares a trainer's rendered prompts with the scored ones: chat template arguments, tools, and nulls.

Parts that the doctor cannot see, such as tools from a file, are never said to agree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from gaincurate.core.foreign import yaml_value
from gaincurate.core.prompts import column_values, read_rows
from gaincurate.trainers.columns import has_nulls
from gaincurate.trainers.doctor.common import find
from gaincurate.trainers.doctor.findings import Context, Finding, Found
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
    if context.data is not None and (finding := _nulls(context.data, column, profile, settings)):
        yield finding
    if not rendering.row_tools:
        if column and not rendering.code and not _adds(rendering, settings):
            title = f"prompts were scored with the tools of column {column!r}, and {name} renders no tools "
            advice = "score the set again with --tools-column none, or with the tools that the trainer's own "
            advice += "configuration gives to all rows"
            yield Finding("tools", "wrong", f"{title}of a row", {}, advice)
        return
    key, right = rendering.row_tools, "tools" if column else None
    if column and settings[key] not in (right, column):
        why = f"prompts were scored with the tools of column {column!r}"
        yield find(settings, key, "tools", why, {key: right})
    elif not column and settings[key] in (context.columns or ()):
        advice = f"or score the set again with --tools-column {settings[key]}"
        why = "the rows have that column, and prompts were scored without tools"
        yield find(settings, key, "tools", why, {key: "none"}, advice)


def adds_text(rendering: Rendering, settings: Settings, context: Context) -> bool:
    """Whether a trainer adds text to the prompts that the doctor does not know."""
    return _adds(rendering, settings) or not set(rendering.media).isdisjoint(context.columns or ())


def _adds(rendering: Rendering, settings: Settings) -> bool:
    return any(settings.is_set(key) and settings.known(key) != "default" for key in rendering.adds)


def _nulls(data: Path, tools: str | None, profile: Profile, settings: Settings) -> Found:
    """Keys of tools and tool calls that only other rows of the newest round have, rendered as null."""
    rendering = profile.rendering
    if not rendering.nulls or str(settings.known(rendering.nulls)).endswith(".jsonl"):
        return None
    table = read_rows(data).slice(0, _ROWS)
    rows = table.column("prompt").to_pylist()
    if tools and rendering.row_tools:
        rows += column_values(table, tools)
    if not has_nulls(row for row in rows if isinstance(row, list)):
        return None
    lines = f"export the rounds as lines of JSON: `gaincurate export RUN --trainer {profile.name}`, or "
    advice = f"{'' if rendering.nulls == 'all' else lines}store tool calls and tools as JSON text"
    title = (
        f"{profile.name} renders null for each key of tools that only other rows have, which was not scored"
    )
    return Finding("nulls", "wrong", title, {}, advice)


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
    """JSON, YAML, or Hydra's form of a mapping, which needs no space after a colon."""
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
