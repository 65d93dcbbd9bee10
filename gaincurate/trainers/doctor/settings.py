"""A trainer's settings as one flat mapping: takes what was said, yields values by dotted key.

What is not said has the trainer's default. Keys are compared with `-` as `_`, as command lines do. Knows no
trainer and no file format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gaincurate.schedule.driver import NAMES

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_ENVIRONMENT = re.compile(r"\$\{oc\.env:GAINCURATE_([A-Z]+)\}")
_PERHAPS = re.compile(
    rf"\$\((?!(?:cd|pwd|basename|dirname|realpath)\.)|`|\$\{{?(?:oc\.env:)?(?:[\d@*]|GAINCURATE_|(?:{'|'.join(NAMES)})(?!\w))",
    re.IGNORECASE,
)
_DEPTH = 8  # references to references
_MOST = 10_000_000  # of a batch: rules try each size up to it
_UNCOUNTED = "by which nothing can be counted"
_SUMS = re.compile(r"\$\(\([^$]*\)\)")


class NotKnown(Exception):
    """A value of which nothing can be said here, mostly one that a shell or a resolver would fill in."""

    def __init__(self, key: str, value: str, why: str = "which is not known before it runs") -> None:
        super().__init__(f"{key} is {value:.200}, {why}: what follows from it is not judged")


def normal(key: str) -> str:
    """A key as it is compared: `--rollout-batch-size` and `rollout_batch_size` are one."""
    return key.replace("-", "_")


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings, and mappings in lists, as dotted keys; an empty mapping stays as it is."""
    settings: dict[str, Any] = {}
    for key, value in tree.items():
        name = normal(f"{prefix}{key}")
        if isinstance(value, Mapping) and value:
            settings |= flat(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for index, item in enumerate(value):
                settings |= flat(item, f"{name}.{index}.")
        else:
            settings[name] = value
    return settings


def scalar(text: str) -> Any:
    """A word of a launch line as the value that it stands for."""
    word = text.strip()
    if word in ("true", "True"):
        return True
    if word in ("false", "False"):
        return False
    if word in ("null", "None", "none", "~"):
        return None if word != "none" else "none"
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    if word.startswith("[") and word.endswith("]"):
        inner = [part.strip().strip("'\"") for part in word[1:-1].split(",")]
        # No setting that is asked for here has lists in lists.
        return [part if part.startswith("[") else scalar(part) for part in inner if part]
    return text


class Settings:
    """What a trainer would run with.

    Args:
        given: what was read, by dotted key.
        defaults: the trainer's values for what is not there.
    """

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.given = {normal(key): value for key, value in given.items()}
        self.asked: set[str] = set()
        """The keys that rules asked for."""
        self.defaults = {normal(key): value for key, value in defaults.items()}

    def __getitem__(self, key: str) -> Any:
        """The value of a key; None where neither the file nor the defaults have it.

        Raises:
            NotKnown: it depends on something that is only there when it runs.
        """
        value = self._resolved(normal(key), _DEPTH)
        if isinstance(value, str) and "$" in _SUMS.sub("", value) and not self.follows(value):
            raise NotKnown(key, value)
        return value

    @staticmethod
    def follows(value: Any, names: tuple[str, ...] = NAMES) -> bool:
        """Whether a value changes with the round, because the driver fills in a part of it."""
        return any(f"{{{name}}}" in str(value) for name in names)

    def number(self, key: str) -> float | None:
        """A key's value where it is a number, also one in quotes.

        Raises:
            NotKnown: as for any value, and for one that nothing can be counted by.
        """
        value = self[key]
        if isinstance(value, str):
            value = scalar(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if not abs(value) < 2**63:  # NaN too
            raise NotKnown(key, shown(value), _UNCOUNTED)
        return value

    def count(self, key: str) -> int | None:
        """A number of things, 0 or more.

        Raises:
            NotKnown: as `number`, and for a fraction, a negative number and one that no batch has.
        """
        value = self.number(key)
        if value is not None and (not 0 <= value <= _MOST or value != int(value)):
            raise NotKnown(key, shown(value), _UNCOUNTED)
        return None if value is None else int(value)

    def place(self, key: str) -> Any:
        """A path, or the first of several; variables that no round fills in are as good as any fixed text.

        Raises:
            NotKnown: it may change with the round: a place of the script, or a variable named as what the
                driver fills in.
        """
        value = self._resolved(normal(key), _DEPTH)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, str) and _PERHAPS.search(value) and not self.follows(value):
            raise NotKnown(key, value)
        return value

    def known(self, key: str) -> Any:
        """A key's value, or None where it is only known when it runs."""
        try:
            return self[key]
        except NotKnown:
            return None

    def is_set(self, key: str) -> bool:
        """Whether a key has a value other than false or nothing, known or not."""
        try:
            return bool(self[key])
        except NotKnown:
            return True

    def is_given(self, key: str) -> bool:
        """Whether the file says anything of a key."""
        self.asked.add(normal(key))
        return normal(key) in self.given

    def told(self, key: str) -> str:
        """A key and its value for a reader, and whether it is the default."""
        value = self._resolved(normal(key), _DEPTH)
        return f"{key} is {shown(value)}" + ("" if self.is_given(key) else " by default")

    def below(self, prefix: str) -> Iterator[str]:
        """The given keys under a prefix."""
        keys = [key for key in self.given if key.startswith(normal(prefix))]
        self.asked.update(keys)
        return iter(keys)

    def _resolved(self, key: str, depth: int) -> Any:
        self.asked.add(key)
        value = self.given.get(key, self.defaults.get(key))
        if not isinstance(value, str) or not depth:
            return value
        value = _ENVIRONMENT.sub(lambda name: f"{{{name[1].lower()}}}", value)
        if (whole := _REFERENCE.fullmatch(value)) and self._has(whole[1]):
            return self._resolved(normal(whole[1]), depth - 1)

        def fill(name: re.Match[str]) -> str:
            return str(self._resolved(normal(name[1]), depth - 1)) if self._has(name[1]) else name[0]

        return _REFERENCE.sub(fill, value)

    def _has(self, key: str) -> bool:
        return normal(key) in self.given or normal(key) in self.defaults


class Resolved(Settings):
    """What a running trainer has resolved its settings to, so that nothing is a default or unknown.

    Args:
        lookup: takes a key of the trainer's, yields its value or None.
    """

    def __init__(self, lookup: Callable[[str], Any]) -> None:
        super().__init__({}, {})
        self._lookup = lookup

    def is_given(self, key: str) -> bool:
        """Whether anything is said of a key: the trainer has settled all of them."""
        return True

    def _resolved(self, key: str, depth: int) -> Any:
        value = self._lookup(key)
        # a list of the trainer's own kind (OmegaConf's, say) is shown and compared as any other
        return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def shown(value: Any) -> str:
    """A value as configurations write it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(shown, value)) + "]"
    return str(value)
