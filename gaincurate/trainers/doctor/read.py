"""The settings that a trainer would get from YAML, TOML or JSON files, a script, and flags; later ones win.

No part of a script is run: only its assignments, arrays and the trainer's own command are read. A variable
that a condition, a loop or another command sets stays unknown, and a note says so. A resolved configuration
or the flags themselves are always read in full.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product, takewhile
from pathlib import Path
from typing import Any

from gaincurate.core.foreign import LARGEST_CONFIG, json_value, read_bytes, text_of, toml_value, yaml_value
from gaincurate.errors import InputError, reason_of
from gaincurate.schedule.driver import NAMES
from gaincurate.trainers.doctor.settings import flat, normal, scalar

_ASSIGNS = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)
_PAIR = re.compile(r"[+~]{0,2}([A-Za-z_][\w./@:-]*)=(.*)", re.DOTALL)
_IN_BRACKETS = r"(?:[^()]++|\((?:[^()]++|\((?:[^()]++|\([^()]*+\))*+\))*+\))*+"
_USED = re.compile(r"\$\{(\w+)(?:\[[@*]\]|:?-([^{}]*)|:?\?[^{}]*)?\}|\$(\w+)")
_POSITION = re.compile(r"\$\{?\d+\}?")
_NAME = re.compile(r"(?<![{\w])[A-Za-z_]\w*(?![}\w])")
_SUM = re.compile(rf"\$\(\(({_IN_BRACKETS})\)\)")
_NUMBERS = re.compile(r"(?!.*\*\*)[-+*() \d]{1,99}")
_SUBSTITUTION = re.compile(rf"\$\({_IN_BRACKETS}\)")
_FIXED = re.compile(r"\$\(\s*(cd|pwd|basename|dirname|realpath)\b")  # its result is the same in every round
_GIVEN = re.compile(rf"\$\{{?(?:[1-9@*]|GAINCURATE_|(?:{'|'.join(NAMES)})(?!\w))")
_PIECE = re.compile(r"\\\n|\\.|(?<!\S)#[^\n]*|'[^']*'|\"(?:\\.|[^\"\\])*\"|\n", re.DOTALL)
_HERE = re.compile(r"(?<!<)<<-?[ \t]*['\"\\]?([A-Za-z_]\w*)['\"]?([^\n]*\n)(?:[^\n]*\n)*?[ \t]*\1(?=\n|\Z)")
_HIDDEN, _SHOWN = str.maketrans("()", "\x01\x02"), str.maketrans("\x01\x02", "()")
_BEGINS, _ENDS = {"if", "for", "while", "until", "case", "{"}, {"fi", "done", "esac", "}"}
_BETWEEN = {";", ";;", "&", "&&", "|", "||", "(", ")", "()", "then", "do", "else", "elif"}
_SOURCES = {".", "source", "eval"}
_NOT_READ = "give the resolved configuration, or the flags after `--`"
_NOT_A_TRAINER = {"gaincurate", "cd", "mkdir", "export", "echo"}
_REDIRECTS = re.compile(r"(?:\d*|&)(?:>>?|<)(?:&\d)?")
_KINDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    **dict.fromkeys((".yaml", ".yml"), ("YAML", yaml_value)),
    ".json": ("JSON", json_value),
    ".toml": ("TOML", toml_value),
}
_MISSING = (
    "{}, which is not here: what it sets is taken as the trainer's default; give it with one more --config "
    "before this one"
)
COMMAND = "command line"  # the source of flags


@dataclass
class Read:
    """The settings that were read, and their sources."""

    given: dict[str, Any] = field(default_factory=dict)  # by dotted key; later values replace earlier ones
    sources: dict[str, str] = field(default_factory=dict)  # by key: the file that sets it, or `COMMAND`
    words: list[str] = field(default_factory=list)  # of the commands
    shell: str = ""  # the script around the command
    notes: list[str] = field(default_factory=list)  # sentences on parts that were not read
    sections: set[str] = field(default_factory=set)  # first parts of the keys, from files read in full
    files: list[str] = field(default_factory=list)  # files that the command names


def read_settings(sources: Sequence[str], markers: Sequence[str], command: Sequence[str] = ()) -> Read:
    """Read files and scripts (`-` is YAML on standard input), then a command or only its flags.

    `markers` names the trainer's entry points. Raises InputError if a file is missing or has no settings.
    """
    read = Read()
    for source in sources:
        _read_file(source, markers, read)
    if command:
        _merge(COMMAND, launched([list(command)], markers), markers, read)
    return read


def _read_file(source: str, markers: Sequence[str], read: Read) -> None:
    if source == "-" or Path(source).suffix.lower() in _KINDS:
        notes, tree = len(read.notes), _inherited(source, read, ())
        read.sections |= set(tree) if len(read.notes) == notes else set()
        read.given |= flat(tree)
        return
    text = _text(source)
    try:
        script = read_script(text, markers)
    except ValueError as error:
        why = str(error).lower()
        raise InputError(f"--config {source}: the script cannot be read: {why}.") from error
    script.notes = [f"{source}: {note}" for note in script.notes]
    _merge(source, script, markers, read)
    read.shell += text


def _merge(source: str, command: Read, markers: Sequence[str], read: Read) -> None:
    """Add a command's settings, after those of the files that it names, to the settings read so far."""
    if main := command.given.pop("config_name", None):  # Hydra's two halves of a file's name
        folder = command.given.pop("config_path", ".")
        command.files.append(f"{folder}/{str(main).removesuffix('.yaml')}.yaml")
    if not command.given and not command.files:
        raise InputError(
            f"{source}: there is no setting in it; expected YAML, JSON or TOML, or a command with key=value "
            f"or --key value. Loops, functions and `sh -c` are not read: {_NOT_READ}."
        )
    read.notes += command.notes
    for file in command.files:
        places = (Path(file), Path(source).parent / file)
        path = next((path for path in places if path.is_file() and path.suffix.lower() in _KINDS), None)
        if path is not None:
            _read_file(str(path), markers, read)
        else:
            read.notes.append(_MISSING.format(f"the launch line names {file}"))
    read.given |= command.given
    read.sources |= dict.fromkeys(command.given, source)
    read.words += command.words


def read_script(text: str, markers: Sequence[str]) -> Read:
    """The settings of a script's commands; raises ValueError for an open quote or a very long variable."""
    skipped: list[str] = []
    read = launched(list(_commands(text, skipped)), markers)
    if names := ", ".join(f"`{name}`" for name in dict.fromkeys(skipped)):
        read.notes.append(f"variables that {names} may set are not read: {_NOT_READ}")
    return read


def launched(commands: Sequence[Sequence[str]], markers: Sequence[str]) -> Read:
    """The settings of the commands that name an entry point, or of all commands if none does."""
    read = Read()
    inner = [words[words.index("--") + 1 :] if "--" in words else words for words in commands]
    others = [words for words in inner if words and words[0].rsplit("/", 1)[-1] not in _NOT_A_TRAINER]

    def enters(words: Sequence[str]) -> bool:
        """Whether a word names an entry point: a program, or part of the name of a module or a script."""
        pairs = product(words, markers)
        return any(w.rsplit("/", 1)[-1] == m or (("." in m or "_" in m) and m in w) for w, m in pairs)

    for words in list(filter(enters, others)) or others:
        read.words += words
        _take(words, read)
    return read


def _take(words: Sequence[str], read: Read) -> None:
    """Read `--key value ...`, `--key=value`, `key=value`, `~key` and `@ file`, without redirections."""
    key, values = "", list[str]()
    for before, word in pairwise(["", *words, "--"]):
        is_target = word != "--" and before.endswith(("<", ">")) and _REDIRECTS.fullmatch(before)
        if is_target or _REDIRECTS.match(word):
            continue
        pair = _PAIR.fullmatch(word)
        is_next = word.endswith(".py") or word == "-m"  # the script that a launcher starts
        if key and not pair and not word.startswith(("--", "@", "+", "~", "$@")) and not (values and is_next):
            values.append(word)
            continue
        if key:
            _flag(key, values, read)
        key, values = "", []
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            key = normal(key)
            if equals:
                _flag(key, [value], read)
                key = ""
        elif pair:
            read.given[normal(pair[1])] = None if word.startswith("~") else scalar(pair[2])
        elif word.startswith("~"):
            read.given[normal(word[1:])] = None
        elif word == "@":
            key = "config"
        elif word.startswith("@") and not word.startswith("@["):
            read.files.append(word[1:])


def _flag(key: str, values: Sequence[str], read: Read) -> None:
    if key in ("config", "config_file") and values:
        read.files.append(values[0])
    elif not values:
        read.given[key.removeprefix("no_")] = not key.startswith("no_")
    else:
        scalars = [scalar(value) for value in values]
        read.given[key] = scalars[0] if len(scalars) == 1 else scalars


def _commands(text: str, skipped: list[str]) -> Iterator[list[str]]:
    """A script's commands as words with variables replaced; `skipped` gets the first word of unread parts."""
    variables = {f"GAINCURATE_{name.upper()}": [f"{{{name}}}"] for name in NAMES}  # an array has several
    words, array, depth = list[str](), list[str](), 0
    name = ""  # of the array whose values are being read

    def value(use: re.Match[str]) -> str:
        variable = use[1] or use[3]
        if variable.isdigit():
            return f"${{{variable}}}"  # the driver gives it, so its default does not apply
        if variable in variables:
            return " ".join(variables[variable])
        return use[0] if use[2] is None else _USED.sub(value, use[2])

    def total(expansion: re.Match[str]) -> str:
        """An arithmetic expression as a number if all its parts are known, else with the known parts."""
        numbers = _NAME.sub(lambda part: " ".join(variables.get(part[0], [part[0]])), expansion[1])
        try:
            return str(eval(numbers)) if _NUMBERS.fullmatch(numbers) else f"$(({numbers}))"
        except (SyntaxError, TypeError):
            return f"$(({numbers}))"

    def filled(token: str) -> list[str]:
        whole = _USED.fullmatch(token)
        if whole and (several := variables.get(whole[1] or whole[3])) is not None:
            return several
        return [_SUM.sub(total, _USED.sub(value, token).translate(_SHOWN))]

    def assign(variable: str, values: list[str]) -> None:
        if sum(map(len, values)) > LARGEST_CONFIG:
            raise ValueError(f"the variable {variable} has more than {LARGEST_CONFIG:,} characters")
        variables[variable] = values
        if depth:  # inside a condition or a loop, the value is not known
            del variables[variable]

    for token, following in pairwise([*_tokens(text), ";", ";"]):
        begun = _ASSIGNS.fullmatch(token)
        if name and token == ")":
            assign(name, array)
            name = ""
        elif name:
            array = [*array, *(filled(token) if token not in ("(", ";") else ())]
        elif begun and not begun[3] and following == "(":
            name, array = begun[1], variables.get(begun[1], []) if begun[2] else []
        elif not words and token in _BEGINS | _ENDS:
            depth = max(0, depth + (1 if token in _BEGINS else -1))
            skipped += [token] if token in _BEGINS else []
        elif token not in _BETWEEN:
            words += filled(token)
        else:
            words = words[1:] if words and words[0] in ("export", "exec", "time") else words
            assigned = list(takewhile(_ASSIGNS.fullmatch, words))
            if words and len(assigned) == len(words):
                for variable, _, text_ in (word.partition("=") for word in assigned):
                    is_place = variable in NAMES and _POSITION.fullmatch(text_)
                    assign(variable, [f"{{{variable}}}" if is_place else text_])
                yield assigned  # a line of Hydra's overrides looks like assignments
            elif words:
                words = words[len(assigned) :]
                skipped += [words[0]] if words[0] in _SOURCES else []
                yield words
            words = []


def _tokens(text: str) -> list[str]:
    """A script's words, without comments and here-documents; `;` ends a line, a substitution is one word."""

    def line(piece: re.Match[str]) -> str:
        return {"\\\n": " ", "\n": " ; ", "#": ""}.get(piece[0] if piece[0][0] != "#" else "#", piece[0])

    def hidden(substitution: re.Match[str]) -> str:
        if not substitution[0].startswith("$(("):
            fixed = _FIXED.match(substitution[0])
            name = fixed[1] if fixed and not _GIVEN.search(substitution[0]) else ""
            return f"$({name}...)".translate(_HIDDEN)
        return "$" + re.sub(r"\$\{(\w+)\}|\$|\s", r"\1", substitution[0]).translate(_HIDDEN)

    text = _PIECE.sub(line, _SUBSTITUTION.sub(hidden, _HERE.sub(r"\2", text)))
    lexer = shlex.shlex(text, posix=True, punctuation_chars="();|&")
    lexer.whitespace_split = True
    lexer.commenters = ""
    return list(lexer)


def _inherited(source: str, read: Read, below: tuple[str, ...]) -> dict[str, Any]:
    """A file's tree, merged over the YAML files beside it that its `defaults` name, as in NeMo-RL."""
    kind, parse = _KINDS.get(Path(source).suffix.lower(), _KINDS[".yaml"])
    try:
        tree = parse(_text(source))
    except ValueError as error:
        why = " ".join(str(error).split())
        raise InputError(f"--config {source}: this is no {kind}: {why}.", path=source) from error
    if not isinstance(tree, dict):
        raise InputError(f"--config {source}: this is no {kind} with keys and values.", path=source)
    if not (tree or below):
        raise InputError(f"--config {source}: there is no setting in it.")
    named = tree.pop("defaults", None)
    names = map(str, named if isinstance(named, list) else [named])
    whole: dict[str, Any] = {}
    for parent in (name for name in names if name.endswith((".yaml", ".yml"))):  # Hydra's have no suffix
        path = os.path.normpath(Path(source).parent / parent)
        if path in below:
            raise InputError(f"--config {source}: its `defaults` lead back to {path}.", path=source)
        if Path(path).is_file():
            whole = _over(whole, _inherited(path, read, (*below, path)))
        else:
            read.notes.append(_MISSING.format(f"the `defaults` of {source} name {parent}"))
    read.sources |= dict.fromkeys(flat(tree), source)
    return _over(whole, tree)


def _over(base: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """Merge `tree` over `base`. A mapping with `_override_`, or another value, replaces the one in `base`."""
    merged = dict(base)
    for key, value in tree.items():
        if isinstance(value, dict):
            there = merged.get(key) if not value.get("_override_") else {}
            value = {name: part for name, part in value.items() if name != "_override_"}
            value = _over(there, value) if isinstance(there, dict) else value
        merged[key] = value
    return merged


def _text(source: str) -> str:
    try:
        if source == "-":
            return text_of(sys.stdin.buffer.read(LARGEST_CONFIG + 1))
        return text_of(read_bytes(Path(source), LARGEST_CONFIG))
    except FileNotFoundError as error:
        raise InputError(f"--config {source}: there is no such file.", path=source) from error
    except (OSError, ValueError) as error:
        why = reason_of(error) if isinstance(error, OSError) else str(error)
        raise InputError(f"--config {source}: it cannot be read: {why}.", path=source) from error
