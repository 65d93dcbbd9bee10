"""Parses a `--config` file: TOML, YAML or JSON, by its ending.

YAML's older rules make `off`, `no` and `on` booleans, and `--rescore off` is a name here. So only `true` and
`false` are booleans.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gaincurate.errors import InputError

_KINDS = {".toml": "TOML", ".yaml": "YAML", ".yml": "YAML", ".json": "JSON"}
_BOOL = "tag:yaml.org,2002:bool"


def parsed(path: Path) -> dict[str, Any]:
    """What stands in a file, by name.

    Raises:
        InputError: its ending is none of these, it cannot be parsed, or it holds no names with values.
        StorageError: it cannot be read.
    """
    import tomllib

    import yaml

    from gaincurate.core.files import reading

    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"--config {path}: expected a file that ends in .toml, .yaml, .yml or .json.")
    with reading(path):
        text = path.read_bytes()
    parsers: dict[str, Callable[[str], Any]] = {"TOML": tomllib.loads, "YAML": _yaml, "JSON": json.loads}
    try:
        values = parsers[kind](text.decode())
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()).removesuffix(".")
        raise InputError(f"--config {path} is no {kind}: {reason}.", path=str(path)) from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(f"--config {path}: expected options as names with values.", path=str(path))
    return values


def _yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        yaml_implicit_resolvers = {  # noqa: RUF012, as the library has it
            first: [rule for rule in rules if rule[0] != _BOOL]
            for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    Loader.add_implicit_resolver(_BOOL, re.compile("true|false", re.IGNORECASE), list("tTfF"))
    return yaml.load(text, Loader=Loader)
