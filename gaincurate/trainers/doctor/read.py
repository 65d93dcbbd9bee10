"""Configuration files: takes a path or `-`, yields a trainer's settings by dotted key.

YAML, JSON and TOML by their names, anything else by what it looks like: a mapping, or a launch line. Files
that a launch line names are read too where they are there. Knows no trainer's settings.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gaincurate.errors import InputError, reason_of
from gaincurate.trainers.doctor.launch import read_launch
from gaincurate.trainers.doctor.settings import flat

_KINDS = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml"}
_NAMES = {"yaml": "YAML", "json": "JSON", "toml": "TOML"}


@dataclass
class Read:
    """What was read."""

    given: dict[str, Any] = field(default_factory=dict)
    """Settings by dotted key, later ones over earlier ones."""
    launched: bool = False
    """Whether it was a launch line."""
    words: list[str] = field(default_factory=list)
    """The launch line's words."""
    notes: list[str] = field(default_factory=list)
    """What a person should know of the reading."""


def read_settings(sources: Sequence[str], markers: Sequence[str]) -> Read:
    """Read configuration files and launch lines; later ones win.

    Args:
        sources: paths; `-` is standard input.
        markers: what the trainer's own commands have in them.

    Raises:
        InputError: a file that is not there, or that says nothing a trainer could be set with.
    """
    found = Read()
    for source in sources:
        _read_one(source, markers, found)
    return found


def _read_one(source: str, markers: Sequence[str], found: Read) -> None:
    text = _text(source)
    kind = _KINDS.get(Path(source).suffix.lower())
    tree = _parsed(source, text, kind) if kind else _mapping(text)
    if tree is not None:
        if not tree:
            raise InputError(f"--config {source}: there is no setting in it.")
        found.given |= flat(tree)
        return
    try:
        launched = read_launch(text, markers)
    except ValueError as error:
        raise InputError(
            f"--config {source}: this is no launch line that a shell would take ({str(error).lower()})."
        ) from error
    if name := launched.given.pop("config_name", None):  # Hydra's two halves of a file's name
        folder = launched.given.pop("config_path", ".")
        launched.files.append(f"{folder}/{str(name).removesuffix('.yaml')}.yaml")
    if not launched.given and not launched.files:
        raise InputError(
            f"--config {source}: there is no setting in it; expected YAML, JSON or TOML, or a launch line "
            "with key=value or --key value."
        )
    for name in launched.files:
        _follow(source, name, markers, found)
    found.given |= launched.given
    found.words += launched.words
    found.launched = True


def _follow(source: str, name: str, markers: Sequence[str], found: Read) -> None:
    """Read a file that a launch line names, before the line's own settings."""
    beside = Path(name) if source == "-" else Path(source).parent / name
    path = next((path for path in (Path(name), beside) if path.is_file()), None)
    if path is None or path.suffix.lower() not in _KINDS:
        found.notes.append(
            f"the launch line names {name}, which is not here: what it sets is taken as the trainer's "
            "default; give it with one more --config before this one"
        )
        return
    _read_one(str(path), markers, found)


def _text(source: str) -> str:
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"--config {source}: there is no such file.", path=source) from error
    except OSError as error:
        raise InputError(f"--config {source}: it cannot be read: {reason_of(error)}.", path=source) from error
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"--config {source}: this is no text in UTF-8.", path=source) from error


def _parsed(source: str, text: str, kind: str) -> dict[str, Any]:
    try:
        tree = _parse(text, kind)
    except ValueError as error:
        first = " ".join(str(error).split())
        raise InputError(f"--config {source}: this is no {_NAMES[kind]}: {first}.", path=source) from error
    if not isinstance(tree, dict):
        raise InputError(
            f"--config {source}: this is no configuration: expected keys and values, found "
            f"{'nothing' if tree is None else type(tree).__name__}.",
            path=source,
        )
    return tree


def _mapping(text: str) -> dict[str, Any] | None:
    """Text without a telling name as a mapping, where it is one."""
    for kind in ("json", "toml", "yaml"):
        try:
            tree = _parse(text, kind)
        except ValueError:
            continue
        if isinstance(tree, dict) and tree:
            return tree
    return None


def _parse(text: str, kind: str) -> Any:
    """Parse text.

    Raises:
        ValueError: it is not of that kind.
    """
    if kind == "json":
        return json.loads(text)
    if kind == "toml":
        return tomllib.loads(text)
    import yaml

    try:
        return yaml.load(text, Loader=yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
