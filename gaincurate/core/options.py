"""An option: a field with its type, default and bounds, marked with the help text and the panel.

The field of a config is the option of its command, the key of its `--config` file and the keyword of its
Python function. `gaincurate.cli.options` builds the command line from it. This module does not import
pydantic, which takes 80 ms, so that `gaincurate --help` stays fast.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from gaincurate.errors import InputError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

GAIN_RL, POSTERIOR, DOTS = "Strategies gain-rl and length", "Strategy posterior", "Strategy dots"
RESCORING, STRATA = "Re-scoring", "Shares of groups"
SERVER, SAMPLING, VERIFYING, CHECKS = "Server", "Sampling", "Verifying", "Checks of the rows"
CHOICE = "Choice of rows"
MACHINE, RAY, READING, ADVANCED = "Machine", "Ray", "Reading", "Advanced"
PANELS = (
    CHOICE, STRATA, GAIN_RL, POSTERIOR, DOTS, RESCORING, SAMPLING, VERIFYING, CHECKS, SERVER, MACHINE, RAY,
    READING, ADVANCED,
)  # fmt: skip
"""Parts of the help in their order, after the options that most people need."""

Config = TypeVar("Config", bound="BaseModel")


@dataclass(frozen=True, slots=True)
class Option:
    """Marks a field or a parameter as an option: `Annotated[int, Option("Rows to show.")]`."""

    help: str = ""
    panel: str | None = None  # of the help. Default: the options that most people need
    names: tuple[str, ...] = ()  # as `typer.Option` takes them. Default: `--` and the field's name
    alias: str | None = None  # an older spelling, which the help does not show
    metavar: str | None = None  # the placeholder of the value. Default: by its type
    argument: bool = False  # whether it is given by its place
    stores: bool = False  # of a path: whether it may be the URL of an object store
    read: Callable[[str], Any] | None = None  # makes the value of its text, if it is no number, text or path
    shown: str | None = None  # the default as the help shows it, where `read` makes it of a text
    ge: float | None = None  # the least value. A field of a config has `Field(ge=...)` instead
    le: float | None = None


Cache = Annotated[
    Path | None,
    Option(
        "Copies of what lies in object stores. Default: GAINCURATE_CACHE, else ~/.cache/gaincurate.",
        MACHINE,
        metavar="DIR",
    ),
]  # of a command that reads or writes object stores


@dataclass(frozen=True, slots=True)
class Refusal:
    """The refusal of a value by one field of a config."""

    kind: Literal["unknown", "missing", "value"]
    place: tuple[int | str, ...]
    value: Any
    what: str  # pydantic's words, or those of the field's check

    @property
    def name(self) -> str:
        """The field's, with dots and indexes where it is in another one."""
        return re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, self.place)))

    def __str__(self) -> str:
        return f"{self.name} = {self.value!r}: {self.what}" if self.name else self.what


def refusals(error: ValidationError) -> list[Refusal]:
    """Everything that a config refuses, in the order of its fields."""
    kinds: dict[str, Literal["unknown", "missing"]] = {"extra_forbidden": "unknown", "missing": "missing"}
    # Pydantic's own words name a Python class.
    plainer = {"path_type": "Input is no path", "model_type": "Input should be an object"}
    listed = []
    for each in error.errors():
        what = plainer.get(each["type"], each["msg"].removeprefix("Value error, "))
        listed.append(Refusal(kinds.get(each["type"], "value"), each["loc"], each["input"], what))
    return listed


def checked(model: type[Config], values: Mapping[str, Any], *, keywords: bool = False) -> Config:
    """The values, by the names of fields, as a config.

    With `keywords` the values come from a Python call, and errors name keywords instead of options. Raises
    `InputError` if an option is unknown or missing, or a value is invalid.
    """
    from pydantic import ValidationError

    try:
        return model(**values)
    except ValidationError as error:
        raise InputError(_sentence(refusals(error)[0], model, keywords)) from error


def _sentence(refusal: Refusal, model: type[BaseModel], keywords: bool) -> str:
    if not refusal.place:
        return f"{refusal.what}."
    option, kind = (refusal.name, "keyword") if keywords else (_option(model, refusal.place), "option")
    if refusal.kind == "unknown":
        return f"there is no {kind} {refusal.place[-1]!r}{near(str(refusal.place[-1]), model.model_fields)}."
    if refusal.kind == "missing":
        return f"{option} is missing."
    what = refusal.what.removeprefix("Input ")
    value = f" = {refusal.value!r}" if keywords else f" {refusal.value}"
    return f"{option}{value}: {what if what == refusal.what else f'it {what}'}."


def _option(model: Any, place: tuple[int | str, ...]) -> str:
    """The option of a field, which may be a field of a nested config."""
    spelt, field = f"--{place[0]}".replace("_", "-"), model.model_fields.get(place[0])
    if field is None:
        return spelt
    if len(place) > 1 and hasattr(field.annotation, "model_fields"):
        return _option(field.annotation, place[1:])
    names = (name for mark in field.metadata if isinstance(mark, Option) for name in mark.names)
    return next((name for name in names if name.startswith("--")), spelt).partition("/")[0]


def names_of(value: Any) -> Any:
    """Split a text of comma-separated names; return any other value unchanged."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def near(name: str, names: Iterable[str]) -> str:
    """A clause with names similar to a misspelt one; empty if there are none."""
    import difflib

    close = difflib.get_close_matches(name, list(names), n=3, cutoff=0.6)
    return f"; similar: {', '.join(close)}" if close else ""


def without_nan(value: Any) -> Any:
    """The same JSON; a ValueError for NaN: it equals nothing, so no run could continue its set."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise ValueError("it holds NaN or infinity, which JSON does not have") from None
    return value


def json_object(value: str, option: str, example: str) -> dict[str, Any]:
    """The value of an option that takes a JSON object; an InputError if it is not one."""
    from gaincurate.core.foreign import Malformed, json_value

    parsed, why = None, ""
    try:
        parsed = json_value(value)
    except ValueError as error:
        why = f" ({error})" if isinstance(error, Malformed) else ""
    if not isinstance(parsed, dict):
        raise InputError(f"{option} {value!r:.200}: expected a JSON object, such as {example}{why}.")
    return parsed
