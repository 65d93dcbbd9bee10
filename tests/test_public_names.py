"""The import paths and the options that users' code and configs name still work."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import typer.main

from gaincurate.cli.app import app
from gaincurate.errors import InputError

ROOT = Path(__file__).parent.parent
NAMES = json.loads((ROOT / "tests/public_names.json").read_text())
OURS = ("gaincurate", "gaincurate_kernels")


def defined(module: str) -> set[str]:
    """The names that a module binds, read without importing it: its trainer is not installed here."""
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"{module} is gone"
    assert spec.origin is not None
    names: set[str] = set()
    for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "from_live":
            names |= {str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)}
            names |= {keyword.arg for keyword in node.keywords if keyword.arg}
    return names


def missing(module: str, names: list[str]) -> list[str]:
    """Those of the names that the module does not have."""
    try:
        imported = importlib.import_module(module)
        return [name for name in names if not hasattr(imported, name)]
    except (ModuleNotFoundError, InputError) as error:
        # Ours says which version is wanted.
        absent = error.__cause__ if isinstance(error, InputError) else error
        if not isinstance(absent, ImportError) or str(absent.name).partition(".")[0] in OURS:
            raise
        return [name for name in names if name not in defined(module)]


@pytest.mark.parametrize("module", NAMES["imports"])
def test_every_import_path_of_the_docs_still_works(module: str) -> None:
    assert missing(module, NAMES["imports"][module]) == []


def test_imports_in_the_programs_of_the_docs_work() -> None:
    for page in sorted((ROOT / "docs").rglob("*.py")):
        for node in ast.walk(ast.parse(page.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in OURS:
                assert node.module is not None
                for alias in node.names:
                    submodule = f"{node.module}.{alias.name}"
                    if missing(node.module, [alias.name]):
                        assert importlib.util.find_spec(submodule) is not None, (page, submodule)


def options_of(words: str) -> set[str]:
    """The options of a command."""
    command: Any = typer.main.get_command(app)
    for word in words.split():
        command = command.commands[word]
    params = command.get_params(typer.Context(command))  # commands are built when they are asked
    names = {name for option in params for name in (*option.opts, *option.secondary_opts)}
    return {"--help", *names, *getattr(command, "aliases", ())}


@pytest.mark.parametrize("command", NAMES["options"], ids=lambda words: words or "gaincurate")
def test_every_option_of_the_docs_still_exists(command: str) -> None:
    assert set(NAMES["options"][command]) - options_of(command) == set()
