"""The command line in-process, as a user meets it: exit code, stdout, stderr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gaincurate.cli import options
from gaincurate.cli.app import app


def run(*arguments: object) -> Result:
    """Run `gaincurate ARGUMENTS`."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def read_options(*arguments: object) -> dict[str, Any]:
    """The options that a command would run with, by their names in a `--config` file; it does not run."""
    values_read: dict[str, Any] = {}
    reads = options._call

    def recording(function: Any, model: Any, whole: bool, markers: Any, *names: Any) -> Any:
        made: Any = reads(lambda **read: None, model, whole, markers, *names)

        def call(ctx: Any, **values: Any) -> None:
            made(ctx, **values)
            for name in values.keys() & markers:
                if values[name] not in (None, [], ()):
                    plain = json.loads(json.dumps(values[name], default=str))
                    values_read[options._key(name, markers[name])] = plain

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(options, "_call", recording)
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
