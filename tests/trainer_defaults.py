"""Reads the defaults of trainers' settings from their own sources, and stores them for the doctor's rules.

    python tests/trainer_defaults.py FOLDER...            compare defaults.json with the sources
    python tests/trainer_defaults.py --write FOLDER...    store what the sources say

A folder holds unpacked wheels (`pip download --no-deps verl==0.9.1`, unzipped) or checkouts of the commits that
defaults.json names. A trainer whose files are in no folder is left as it is. Nothing of a trainer is imported:
YAML is parsed, and arguments, dataclasses and pydantic models are read from the syntax tree. The keys are those
of defaults.json; a key that the source does not set has the value null, or that under `code` in defaults.json,
which is set by code.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

import gaincurate.trainers
from gaincurate.trainers.doctor.settings import flat, normal

STORED = Path(gaincurate.trainers.__file__).with_name("defaults.json")
CALLS = {"int": int, "float": float, "Path": str, "os": SimpleNamespace(path=SimpleNamespace(expanduser=str))}
"""The calls in defaults that are evaluated, a path as its text."""
Classes = dict[str, ast.ClassDef]


def value_of(node: ast.expr | None) -> Any:
    """A literal, also in arithmetic and `CALLS`; None for all else."""
    if node is None:
        return None
    try:
        return eval(compile(ast.Expression(node), "default", "eval"), {"__builtins__": CALLS})
    except Exception:  # a name or a call
        return None


def arguments(trees: Iterable[ast.Module]) -> dict[str, Any]:
    """The defaults of all `add_argument` calls."""
    read: dict[str, Any] = {}
    for call in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument" and call.args:
            given = {keyword.arg: value_of(keyword.value) for keyword in call.keywords}
            name = next((str(value_of(word)) for word in call.args if "--" in str(value_of(word))), "")
            switch = {"store_true": False, "store_false": True}.get(str(given.get("action")))
            read[normal(name.removeprefix("--"))] = given.get("default", switch)
    return read


def fields(classes: Classes, name: str) -> dict[str, ast.AnnAssign]:
    """The fields of a class, those of its bases first."""
    bases = [ast.unparse(base).rpartition(".")[2] for base in classes[name].bases]
    found = {key: line for base in bases if base in classes for key, line in fields(classes, base).items()}
    lines = [node for node in classes[name].body if isinstance(node, ast.AnnAssign)]
    return found | {node.target.id: node for node in lines if isinstance(node.target, ast.Name)}


def default_node(line: ast.AnnAssign) -> ast.expr | None:
    """The default of a field, also in `field(default=...)` and `Field(...)`."""
    call = line.value
    if not isinstance(call, ast.Call) or ast.unparse(call.func).rpartition(".")[2].lower() != "field":
        return call
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    factory, positional = given.get("default_factory"), call.args[0] if call.args else None
    if isinstance(factory, ast.Lambda):
        return factory.body
    return given.get("default", positional) if factory is None else ast.Call(factory, [], [])


def find(classes: Classes, name: str, path: list[str]) -> Any:
    """The default at a dotted path below a class; None where there is none."""
    line = fields(classes, name).get(path[0])
    if line is None:
        return None
    node, rest = default_node(line), path[1:]
    if not rest:
        return value_of(node)
    rest = rest[1:] if rest[0].isdigit() else rest
    made = [ast.unparse(node.func).rpartition(".")[2]] if isinstance(node, ast.Call) else []
    named = [*made, *re.findall(r"\w+", ast.unparse(line.annotation))]
    kinds = [*named, *(alias for word in named for alias in ALIASES.get(word, ()))]
    kind = next((kind for kind in kinds if kind in classes), None)
    return None if kind is None else find(classes, kind, rest)


ALIASES: dict[str, list[str]] = {}
"""The classes of a type alias such as `Sampler = A | B`, in its order."""


def of_classes(trees: Iterable[ast.Module], roots: list[str], keys: Iterable[str]) -> dict[str, Any]:
    """The defaults at these keys below the root classes."""
    classes: Classes = {}
    ALIASES.clear()
    for node in (node for tree in trees for node in tree.body):
        if isinstance(node, ast.ClassDef):
            classes[node.name] = node
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            ALIASES[ast.unparse(target)] = re.findall(r"\w+", ast.unparse(node.value))
    read: dict[str, Any] = {}
    for key in keys:
        values = [find(classes, root, key.split(".")) for root in roots]
        read[key] = next((value for value in values if value is not None), None)
    return read


def defaults_in(facts: dict[str, Any], folders: list[Path]) -> dict[str, Any] | None:
    """What the sources of a trainer say of its keys; None where a file is in no folder."""
    paths = [next((f / name for f in folders if (f / name).is_file()), None) for name in facts["files"]]
    if not all(paths):
        return None
    texts = [path.read_text() for path in paths if path is not None]
    if facts["files"][0].endswith(".yaml"):
        read = flat(yaml.safe_load(texts[0]))
    elif facts["classes"]:
        read = of_classes(map(ast.parse, texts), facts["classes"], facts["defaults"])
    else:
        read = arguments(map(ast.parse, texts))
    code: dict[str, Any] = facts.get("code", {})
    return {key: read.get(normal(key)) for key in facts["defaults"]} | code


def differences(folders: list[Path], write: bool = False) -> tuple[list[str], list[str]]:
    """The trainers whose sources are there, and a sentence for each default that they set otherwise."""
    stored = json.loads(STORED.read_text())
    seen, told = list[str](), list[str]()
    for trainer, facts in stored.items():
        read = defaults_in(facts, folders)
        if read is None:
            continue
        seen.append(trainer)
        for key, value in read.items():
            if value != facts["defaults"][key]:
                told.append(f"{trainer} {key}: {facts['defaults'][key]!r} is stored, {value!r} in the source")
        facts["defaults"] = read
    if write:
        STORED.write_text(json.dumps(stored, indent=2) + "\n")
    return seen, told


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("folders", nargs="+", type=Path)
    options = parser.parse_args()
    trainers, sentences = differences(options.folders, options.write)
    print(*sentences, f"read: {', '.join(trainers)}", sep="\n")
    raise SystemExit(bool(sentences) and not options.write)
