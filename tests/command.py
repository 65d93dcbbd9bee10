"""The command line in-process, as a user meets it: exit code, stdout, stderr."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from gaincurate.cli.app import app


def run(*arguments: object) -> Result:
    """Run `gaincurate ARGUMENTS`."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a scored set but the log of how it was made."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "execution.jsonl"
    }
