"""The command line in-process, as a user meets it: exit code, stdout, stderr."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gaincurate.cli import options
from gaincurate.cli.app import app
from gaincurate.core.options import Option


def run(*arguments: object) -> Result:
    """Run `gaincurate ARGUMENTS`."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def read_options(*arguments: object) -> dict[str, Any]:
    """The options that a command would run with, by their names in a `--config` file; it does not run."""
    values_read: dict[str, Any] = {}
    build, read = options._build, options._read

    def silent(function: Any, *more: Any) -> Any:
        return build(functools.wraps(function)(lambda **_: None), *more)

    def recording(name: str, marker: Option, value: Any) -> Any:
        made = read(name, marker, value)
        if value not in (None, [], ()):
            values_read[options._long(name, marker)[2:].replace("-", "_")] = json.loads(
                json.dumps(value, default=str)
            )
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(options, "_build", silent)
        patch.setattr(options, "_read", recording)
        result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    return values_read


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a scored set but the log of how it was made."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "execution.jsonl"
    }
