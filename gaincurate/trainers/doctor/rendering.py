"""Compares a trainer's arguments of the chat template with those of the scored set.

Tools, pictures and nulls are what `export` warns of, because they are in the rows and not in the settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from gaincurate.core.foreign import yaml_value
from gaincurate.trainers.doctor.findings import Context, Finding
from gaincurate.trainers.doctor.settings import NotKnown, Settings, flat, shown
from gaincurate.trainers.profile import Profile, Rendering


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


def adds_text(rendering: Rendering, settings: Settings, context: Context) -> bool:
    """Whether a trainer adds text to the prompts that the doctor does not know."""
    if not set(rendering.media).isdisjoint(context.columns or ()):
        return True
    return any(settings.is_set(key) and settings.known(key) != "default" for key in rendering.adds)


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
