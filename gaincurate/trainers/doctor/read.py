"""Settings as a trainer would get them: from YAML, TOML or JSON files and from launch lines, later ones
over earlier.

A launch line is read as a shell would split it, without running anything.
"""

from __future__ import annotations

import ast
import operator
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from gaincurate.core.foreign import (
    DEEPEST,
    LARGEST_CONFIG,
    json_value,
    read_bytes,
    text_of,
    toml_value,
    yaml_value,
)
from gaincurate.errors import InputError, reason_of
from gaincurate.schedule.driver import NAMES
from gaincurate.trainers.doctor.settings import flat, normal, scalar

_ENDS = {";", ";;", "&", "&&", "|", "||", "then", "do", "else", "fi", "done", "(", ")", "{", "}"}
_ASSIGNS = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_PAIR = re.compile(r"[+~]{0,2}([A-Za-z_][\w./@:-]*)=(.*)", re.DOTALL)
_USED = re.compile(r"\$(?:(\w+)|\{(\w+)(?:\[[@*]\])?)")
_POSITION = re.compile(r"\$(?:\d|\{\d[^}]*\})")
_FIXED = re.compile(r"\s*(cd|pwd|basename|dirname|realpath)\b")
_GIVEN = re.compile(rf"\$\{{?(?:[1-9@*]|GAINCURATE_|(?:{'|'.join(NAMES)})(?!\w))")
_OPEN, _CLOSE, _DOLLAR = "\x01", "\x02", "\x03"
_SHELLS = {"sh", "bash", "dash", "zsh"}
_FILES = ("config", "config_file")
_LARGEST = 1 << 24  # bytes of a launch script
_LONGEST = 1 << 20  # characters of a launch script with its variables filled in
_LONGEST_SUM = 1000
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


@dataclass
class Launched:
    """What a launch line says."""

    given: dict[str, Any] = field(default_factory=dict)
    """Settings by key."""
    files: list[str] = field(default_factory=list)
    """Configuration files that it names."""
    words: list[str] = field(default_factory=list)
    """All words of the commands that were read."""


def read_launch(text: str, markers: Sequence[str]) -> Launched:
    """The settings in shell text.

    Args:
        text: a line or a script.
        markers: what the trainer's own commands have in them; without any, every command is read.

    Raises:
        ValueError: a quote that nothing ends, or too long a text.
    """
    if len(text) > LARGEST_CONFIG:
        raise ValueError(f"it has more than {LARGEST_CONFIG:,} characters")
    commands = [_behind_dashes(words) for words in _commands(text, {})]
    commands = [words for words in commands if words and words[0].rsplit("/", 1)[-1] != "gaincurate"]
    own = [words for words in commands if any(_calls(word, mark) for word in words for mark in markers)]
    found = Launched()
    for words in own or commands:
        found.words += words
        _take(words, found)
    return found


def _calls(word: str, mark: str) -> bool:
    """Whether a word names a program, or a module or script where the mark looks like one."""
    return word.rsplit("/", 1)[-1] == mark or (("." in mark or "_" in mark) and mark in word)


def _behind_dashes(words: list[str]) -> list[str]:
    """What follows the last bare `--`: the command that another command starts."""
    for index in range(len(words) - 1, -1, -1):
        if words[index] == "--":
            return words[index + 1 :]
    return words


def _take(words: Sequence[str], found: Launched) -> None:
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word.startswith("@") and not word[1:].startswith("["):
            if word == "@" and index < len(words):
                word, index = "@" + words[index], index + 1
            found.files.append(word[1:])
        elif word.startswith("--") and len(word) > 2:
            key, equals, value = word[2:].partition("=")
            values = [value] if equals else []
            while not equals and index < len(words) and _is_value(words[index]):
                values.append(words[index])
                index += 1
            _flag(normal(key), values, found)
        elif (pair := _PAIR.fullmatch(word)) and not word.startswith("-"):
            found.given[normal(pair[1])] = None if word.startswith("~") else scalar(pair[2])
        elif word.startswith("~"):
            found.given[normal(word[1:])] = None


def _is_value(word: str) -> bool:
    return not (word.startswith(("--", "@", "+", "~")) or _PAIR.fullmatch(word))


def _flag(key: str, values: Sequence[str], found: Launched) -> None:
    if key in _FILES and values:
        found.files.append(values[0])
    elif not values:
        negated = key.startswith("no_")
        found.given[key.removeprefix("no_") if negated else key] = not negated
    else:
        read = [scalar(value) for value in values]
        found.given[key] = read[0] if len(read) == 1 else read


def _commands(text: str, variables: dict[str, list[str]], depth: int = 0) -> Iterator[list[str]]:
    """The commands of a script as words, with its own variables filled in."""
    if depth > DEEPEST:
        raise ValueError(f"shells stand more than {DEEPEST} deep inside each other")
    known = {f"GAINCURATE_{name.upper()}": [f"{{{name}}}"] for name in NAMES} | variables
    words: list[str] = []
    tokens = _tokens(text)
    index = size = 0
    while index < len(tokens):
        token = tokens[index]
        index += 1
        if token.endswith("=") and index < len(tokens) and tokens[index] == "(" and _ASSIGNS.fullmatch(token):
            end = tokens.index(")", index) if ")" in tokens[index:] else len(tokens)
            inside = [part for part in tokens[index + 1 : end] if part != ";"]
            array: list[str] = []
            for part in inside:
                new = _expanded(part, known)
                array += new
                size = _size(size, new)
            known[token[:-1]] = array
            index = end + 1
        elif token in _ENDS:
            yield from _command(words, known, depth)
            words = []
        else:
            new = _expanded(token, known)
            words += new
            size = _size(size, new)
    yield from _command(words, known, depth)


def _size(size: int, words: list[str]) -> int:
    """The characters read so far, with more words: variables in variables can make any number of them."""
    size += sum(len(word) + 1 for word in words)
    if size > _LONGEST:
        raise ValueError(f"with its variables filled in it has more than {_LONGEST:,} characters")
    return size


def _command(words: list[str], known: dict[str, list[str]], depth: int) -> Iterator[list[str]]:
    """One command: assignments are kept, a shell's script is read in turn."""
    begin = 0
    while begin < len(words) and words[begin] in ("export", "exec", "set", "time", "if", "while"):
        begin += 1
    assigned = []
    while begin < len(words) and (found := _ASSIGNS.fullmatch(words[begin])):
        value = f"{{{found[1]}}}" if found[1] in NAMES and _POSITION.fullmatch(found[2]) else found[2]
        assigned.append((found[1], value))
        begin += 1
    words = words[begin:]
    if not words:
        known.update({name: [value] for name, value in assigned})
    by_shell = False
    for word, following in pairwise(words):
        if word in ("-c", "-ec", "-lc") and by_shell:
            yield from _commands(following, known, depth + 1)
            return
        by_shell = by_shell or word.rsplit("/", 1)[-1] in _SHELLS
    if words or assigned:
        yield [*words] if words else [f"{name}={value}" for name, value in assigned]


def _expanded(token: str, known: dict[str, list[str]]) -> list[str]:
    """A word with the variables that the script itself sets; an array alone gives several."""
    whole = _USED.fullmatch(token.removesuffix("}"))
    name = whole and (whole[1] or whole[2])
    if name and name in known and token.endswith("}") == bool(whole and whole[2]):
        return known[name]
    token = _filled(token, known).replace(_OPEN, "(").replace(_CLOSE, ")").replace(_DOLLAR, "$")
    return [_sums(token, lambda inside: _sum(inside, known))]


def _filled(text: str, known: dict[str, list[str]]) -> str:
    """Text with the script's variables, or what stands behind `:-` for those that nobody sets."""
    found, end = "", 0
    while use := _USED.search(text, end):
        found += text[end : use.start()]
        _size(len(found), [])
        end, rest = use.end(), ""
        if use[2]:
            close = _closed(text, use.start() + 2, "{}")
            if close is None:
                found += use[0]
                continue
            end, rest = close, text[use.end() : close - 1]
        name = use[1] or use[2]
        default = re.fullmatch(r":?([-=])(.*)", rest, re.DOTALL)
        if use[2] and name.isdigit():
            found += f"${{{name}}}"  # the driver gives it, whatever else it would be
        elif name in known and (default or not rest):
            found += " ".join(known[name])
        elif default:
            value = _filled(default[2], known)
            found += value
            if default[1] == "=":
                known[name] = [value]
        else:
            found += text[use.start() : end]
    return found + text[end:]


def _closed(text: str, begin: int, pair: str) -> int | None:
    """Where the bracket that is open at `begin` is closed, behind it; None where it is not.

    One that holds others too deep counts as open, so that a text of open ones is not read for each.
    """
    depth = 1
    for index in range(begin, len(text)):
        depth += {pair[0]: 1, pair[1]: -1}.get(text[index], 0)
        if not depth:
            return index + 1
        if depth > DEEPEST:
            break
    return None


def _sum(text: str, known: dict[str, list[str]]) -> str:
    """A shell's sum where all of it is known, else the sum itself with what is known in it."""

    def first(found: re.Match[str]) -> str:
        words = known.get(found[1], [found[1]])
        return words[0] if words else "0"  # of an empty array, as in a shell

    filled = re.sub(r"(?<![{\w])([A-Za-z_]\w*)(?![}\w])", first, text)
    try:
        if len(filled) > _LONGEST_SUM:
            raise ValueError("too long")
        return str(_value(ast.parse(filled.strip(), mode="eval").body))
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return f"$(({filled}))"


def _value(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return int(_OPERATORS[type(node.op)](_value(node.left), _value(node.right)))
    raise ValueError("not a sum of numbers")


def _tokens(text: str) -> list[str]:
    text = _output_hidden(_sums(text, _hidden))
    lexer = shlex.shlex(_one_line(text), posix=True, punctuation_chars="();|&")
    lexer.whitespace_split = True
    lexer.commenters = ""
    return list(lexer)


def _sums(text: str, change: Callable[[str], str]) -> str:
    """Text with each `$((...))` changed; brackets in it may nest."""
    found, end = [], 0
    while (begin := text.find("$((", end)) >= 0:
        close = _closed(text, begin + 2, "()")
        if close is None:
            break
        found += [text[end:begin], change(text[begin + 3 : close - 2])]
        end = close
    return "".join([*found, text[end:]])


def _hidden(inside: str) -> str:
    """A sum as one word that has no brackets."""
    inside = re.sub(r"\s+", "", inside).replace("(", _OPEN).replace(")", _CLOSE).replace("$", "")
    return f"{_DOLLAR}{_OPEN}{_OPEN}{inside}{_CLOSE}{_CLOSE}"


def _output_hidden(text: str) -> str:
    """What a command prints, `$(...)`, as one word that has neither brackets nor the command's words.

    The name of one that says the same in every round stays (`settings.place` knows it).
    """
    found, end = "", 0
    while (begin := text.find("$(", end)) >= 0:
        close = _closed(text, begin + 2, "()")
        if close is None:
            break
        fixed = _FIXED.match(text, begin + 2, close - 1)
        name = fixed[1] if fixed and not _GIVEN.search(text, begin + 2, close - 1) else ""
        found += f"{text[end:begin]}{_DOLLAR}{_OPEN}{name}...{_CLOSE}"
        end = close
    return found + text[end:]


def _one_line(text: str) -> str:
    """Newlines as `;`, but for those in quotes and those behind a backslash; without comments."""
    found, quote, index = [], "", 0
    while index < len(text):
        character = text[index]
        if character == "\\" and quote != "'" and index + 1 < len(text):
            following = text[index + 1]
            found.append("" if following == "\n" else character + following)
            index += 2
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "#" and (index == 0 or text[index - 1].isspace()):
            while index < len(text) and text[index] != "\n":
                index += 1
            continue
        elif character == "\n":
            character = " ; "
        found.append(character)
        index += 1
    return "".join(found)


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
    shell: str = ""
    """The shell text that the launch line was in."""
    notes: list[str] = field(default_factory=list)
    """What a person should know of the reading."""
    sections: set[str] = field(default_factory=set)
    """The first parts of the keys that files set; none where a file that they begin with is not here."""


def read_settings(sources: Sequence[str], markers: Sequence[str], inherits: bool = False) -> Read:
    """Read configuration files and launch lines; later ones win.

    Args:
        sources: paths; `-` is standard input.
        markers: what the trainer's own commands have in them.
        inherits: whether a file begins with those that its `defaults` names.

    Raises:
        InputError: a file that is not there, or that says nothing a trainer could be set with.
    """
    found = Read()
    for source in sources:
        _read_one(source, markers, found, inherits)
    return found


def _read_one(source: str, markers: Sequence[str], found: Read, inherits: bool) -> None:
    text = _text(source)
    kind = _KINDS.get(Path(source).suffix.lower())
    tree = _parsed(source, text, kind) if kind else _mapping(text)
    if tree is not None:
        if not tree:
            raise InputError(f"--config {source}: there is no setting in it.")
        known = len(found.notes)
        if inherits:
            tree = _inherited(source, tree, found, (), {})
        found.sections |= set(tree) if len(found.notes) == known else set()
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
        _follow(source, name, markers, found, inherits)
    found.given |= launched.given
    found.words += launched.words
    found.launched = True
    found.shell += text


def _inherited(
    source: str, tree: dict[str, Any], found: Read, below: tuple[str, ...], known: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """A file's tree over those that its `defaults` names, beside it; later ones over earlier ones.

    `known` has the files that were read: a few that name each other often would be read without end.
    """
    named = tree.pop("defaults", None) or []
    whole: dict[str, Any] = {}
    if not isinstance(named, str | list):
        raise InputError(
            f"--config {source}: its `defaults` are {named!r:.60}, not names of files.", path=source
        )
    names = [named] if isinstance(named, str) else named
    if len(names) > DEEPEST:
        raise InputError(f"--config {source}: its `defaults` name more than {DEEPEST} files.", path=source)
    for name in names:
        path = str(name) if source == "-" else os.path.normpath(Path(source).parent / str(name))
        if path in below:
            raise InputError(f"--config {source}: its `defaults` lead back to {path}.", path=source)
        if not Path(path).is_file():
            found.notes.append(
                f"the `defaults` of {source} name {name}, which is not here: what it sets is taken as the "
                "trainer's default; give it with one more --config before this one"
            )
            continue
        if len(below) >= DEEPEST:
            raise InputError(f"--config {source}: its `defaults` go on over more than {DEEPEST} files.")
        if path not in known:
            parent = _parsed(path, _text(path), "yaml")
            known[path] = _inherited(path, parent, found, (*below, path), known)
        whole = _over(whole, known[path])
    return _over(whole, tree)


def _over(base: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """Mappings into each other. A mapping with `_override_`, and all else, takes the other's place."""
    found = dict(base)
    for key, value in tree.items():
        if not isinstance(value, dict):
            found[key] = value
            continue
        new = {name: one for name, one in value.items() if name != "_override_"}
        there = found.get(key)
        found[key] = new if value.get("_override_") or not isinstance(there, dict) else _over(there, new)
    return found


def _follow(source: str, name: str, markers: Sequence[str], found: Read, inherits: bool) -> None:
    """Read a file that a launch line names, before the line's own settings."""
    beside = Path(name) if source == "-" else Path(source).parent / name
    path = next((path for path in (Path(name), beside) if path.is_file()), None)
    if path is None or path.suffix.lower() not in _KINDS:
        found.notes.append(
            f"the launch line names {name}, which is not here: what it sets is taken as the trainer's "
            "default; give it with one more --config before this one"
        )
        return
    _read_one(str(path), markers, found, inherits)


def _text(source: str) -> str:
    try:
        data = sys.stdin.buffer.read(_LARGEST + 1) if source == "-" else read_bytes(Path(source), _LARGEST)
    except FileNotFoundError as error:
        raise InputError(f"--config {source}: there is no such file.", path=source) from error
    except OSError as error:
        raise InputError(f"--config {source}: it cannot be read: {reason_of(error)}.", path=source) from error
    if len(data) > _LARGEST:  # of standard input
        raise InputError(f"--config {source}: it has more than {_LARGEST:,} bytes.", path=source)
    try:
        return text_of(data)
    except ValueError as error:
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
        # A launch line with JSON in it can be read as YAML, with a key that is most of the line.
        if isinstance(tree, dict) and tree and not any(re.search(r"\s", str(key)) for key in tree):
            return tree
    return None


def _parse(text: str, kind: str) -> Any:
    """Parse text.

    Raises:
        ValueError: it is not of that kind, or longer than any configuration.
    """
    if len(text) > LARGEST_CONFIG:
        raise ValueError(f"it has more than {LARGEST_CONFIG:,} characters")
    parsers: dict[str, Callable[[str], Any]] = {"json": json_value, "toml": toml_value}
    return parsers.get(kind, yaml_value)(text)
