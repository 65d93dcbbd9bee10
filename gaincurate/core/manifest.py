"""What the JSON of an `Artifact` has to say before anything uses it.

The models only check (`core.foreign.see_fits`). What is used on is the JSON as it was read, because
identities are compared and hashed as they stand. They name what a reader relies on, and let the rest through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, model_validator


class Document(BaseModel):
    """JSON of ours: no value of it is converted to the type that it should have, and it may say more."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


def _plain_name(name: str) -> str:
    if PurePath(name).name != name or name.startswith(".") or "\0" in name or "\\" in name:
        raise ValueError("it should be the name of a file in this folder")
    return name


FileName = Annotated[str, AfterValidator(_plain_name)]
"""A plain name in the same folder, and no hidden one."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
"""BLAKE2b-128."""


class Entry(Document):
    """A part, as the manifest lists it."""

    file: FileName
    bytes: Count
    hash: Hash


class Manifest(Document):
    """The manifest of a finished folder."""

    rejected: Count = 0
    identity: dict[str, Any]
    shards: Sequence[Entry]

    @model_validator(mode="after")
    def _each_part_once(self) -> Manifest:
        twice = [name for name, times in Counter(entry.file for entry in self.shards).items() if times > 1]
        if twice:
            raise ValueError(f"it lists {twice[0]} twice")
        return self


Seconds = Annotated[FiniteFloat, Field(ge=0, le=1e12)]


class ColumnNote(Document):
    """A computed column, as the file beside it says."""

    manifest: Hash
    """Of the manifest of the set that it was made for."""
    hash: Hash
    how: dict[str, Any] | None = None


def differing_keys(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two identities differ: dotted key, old value, new value (None for a key that is not there)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            name = f"{path}.{key}" if path else key
            if key in old and key in new:
                yield from differing_keys(old[key], new[key], name)
            else:
                yield name, old.get(key), new.get(key)
    elif old != new:
        yield path, old, new
