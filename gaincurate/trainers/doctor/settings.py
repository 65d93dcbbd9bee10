"""A trainer's settings over its defaults, as one flat mapping by dotted key; in keys, `-` is written `_`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from gaincurate.schedule.driver import NAMES

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_ENVIRONMENT = re.compile(r"\$\{oc\.env:GAINCURATE_([A-Z]+)\}")
_PERHAPS = re.compile(
    rf"\$\((?!(?:cd|pwd|basename|dirname|realpath)\.)|`|\$\{{?(?:oc\.env:)?(?:[\d@*]|GAINCURATE_|(?:{'|'.join(NAMES)})(?!\w))",
    re.IGNORECASE,
)
_DEPTH = 8  # how many references in a row are followed
_MOST = 10_000_000  # the largest batch: rules try each size up to it
_UNCOUNTED = "by which nothing can be counted"
_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None, "~": None}


class NotKnown(Exception):
    """A value that is not known before the trainer runs, because a shell or a resolver fills it in."""

    def __init__(self, key: str, value: str, why: str = "which is not known before it runs") -> None:
        super().__init__(f"{key} is {value:.200}, {why}: what follows from it is not judged")


def normal(key: str) -> str:
    """A key with `_` for `-`: `rollout-batch-size` and `rollout_batch_size` are the same setting."""
    return key.replace("-", "_")


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists of mappings as one mapping by dotted key; an empty mapping stays a value."""
    settings: dict[str, Any] = {}
    for key, value in tree.items():
        name = normal(f"{prefix}{key}")
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        settings |= flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return settings


def scalar(text: str) -> Any:
    """The value of a word of a launch line."""
    word = text.strip()
    if word in _WORDS:
        return _WORDS[word]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(word)
    if not (word.startswith("[") and word.endswith("]")):
        return text
    inner = [part.strip().strip("'\"") for part in word[1:-1].split(",")]
    # No rule reads a setting with nested lists.
    return [part if part.startswith("[") else scalar(part) for part in inner if part]


def shown(value: Any) -> str:
    """A value as configuration files write it."""
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(shown, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


class Settings:
    """The settings that a trainer would run with: `given` values by dotted key, over its `defaults`.

    `sources` has the file that sets each given key, or the command line.
    """

    def __init__(
        self, given: Mapping[str, Any], defaults: Mapping[str, Any], sources: Mapping[str, str] | None = None
    ) -> None:
        self.given = {normal(key): value for key, value in given.items()}
        self._sources = sources or {}
        self.asked: set[str] = set()  # the keys that rules asked for
        self.defaults = {normal(key): value for key, value in defaults.items()}

    def __getitem__(self, key: str) -> Any:
        """The value of a key, or None; raises NotKnown if it is only known when the trainer runs."""
        value = self._resolved(key)
        if isinstance(value, str) and "$" in value and not self.follows(value):
            raise NotKnown(key, value)
        return value

    @staticmethod
    def follows(value: Any, names: tuple[str, ...] = NAMES) -> bool:
        """Whether a value changes with the round, because it has one of the driver's placeholders."""
        return any(f"{{{name}}}" in str(value) for name in names)

    def number(self, key: str) -> float | None:
        """The number that a key's value is, also in quotes, or None; raises NotKnown for NaN and infinity."""
        value = self[key]
        value = scalar(value) if isinstance(value, str) else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if not abs(value) < 2**63:  # NaN too
            raise NotKnown(key, shown(value), _UNCOUNTED)
        return value

    def count(self, key: str) -> int | None:
        """The count that a key's value is, or None; raises NotKnown for fractions and impossible counts."""
        value = self.number(key)
        if value is not None and (not 0 <= value <= _MOST or value != int(value)):
            raise NotKnown(key, shown(value), _UNCOUNTED)
        return None if value is None else int(value)

    def place(self, key: str) -> Any:
        """A path, or the first of several; a variable that does not depend on the round is fixed text.

        Raises NotKnown if the path may change with the round: it has a positional argument of the script, or
        a variable with the name of one of the driver's placeholders.
        """
        value = self._resolved(key)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, str) and _PERHAPS.search(value) and not self.follows(value):
            raise NotKnown(key, value)
        return value

    def known(self, key: str, unknown: Any = None) -> Any:
        """A key's value, or `unknown` if it is only known when the trainer runs."""
        try:
            return self[key]
        except NotKnown:
            return unknown

    def is_set(self, key: str) -> bool:
        """Whether a key has a true value, or one that is only known when the trainer runs."""
        return bool(self.known(key, unknown=True))

    def is_given(self, key: str) -> bool:
        """Whether the settings have a value for a key, which replaces its default."""
        self.asked.add(normal(key))
        return normal(key) in self.given

    def in_words(self, key: str) -> str:
        """A clause with a key and its value, and whether that is the default."""
        return f"{key} is {shown(self._resolved(key))}" + ("" if self.is_given(key) else " by default")

    def source(self, *keys: str) -> str:
        """The file that sets the first of these keys that is set, or the command line; "" if none is set."""
        return next((self._sources[key] for key in map(normal, keys) if key in self._sources), "")

    def below(self, prefix: str) -> list[str]:
        """The given keys that begin with a prefix."""
        keys = [key for key in self.given if key.startswith(normal(prefix))]
        self.asked.update(keys)
        return keys

    def _resolved(self, key: str, depth: int = _DEPTH) -> Any:
        """The value of a key, in which `${name}` is replaced by that setting's value."""
        key = normal(key)
        self.asked.add(key)
        value = self.given.get(key, self.defaults.get(key))
        if not isinstance(value, str) or not depth:
            return value

        def fill(reference: re.Match[str]) -> Any:
            name = normal(reference[1])
            is_there = name in self.given or name in self.defaults
            return self._resolved(name, depth - 1) if is_there else reference[0]

        value = _ENVIRONMENT.sub(lambda name: f"{{{name[1].lower()}}}", value)
        whole = _REFERENCE.fullmatch(value)
        return fill(whole) if whole else _REFERENCE.sub(lambda reference: str(fill(reference)), value)


class Resolved(Settings):
    """The settings of a running trainer, without defaults; `lookup` returns the value of a key, or None."""

    def __init__(self, lookup: Callable[[str], Any]) -> None:
        super().__init__({}, {})
        self._lookup = lookup

    def is_given(self, key: str) -> bool:
        """True, because a running trainer has a value for every key."""
        return True

    def _resolved(self, key: str, depth: int = _DEPTH) -> Any:
        value = self._lookup(normal(key))
        # A list type of the trainer's, such as OmegaConf's, becomes a plain list.
        return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
