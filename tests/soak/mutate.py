"""Hostile content, made of good content by a seed: bytes that are damaged, and fields that are not what they were."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VALUES: list[Any] = [
    None, "x", "", -1, 2.5, 10**30, float("inf"), float("nan"), True, [], {}, [1], {"a": 1}, "../x", "\ud800", "a\0b",
    "a" * 5000, json.loads("[" * 70 + "]" * 70),
]  # fmt: skip
_NUMBERS = [
    0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1,
]  # fmt: skip
_PIECES = [
    b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", b'"\\ud800"', b"1e999", b"-0", b"NaN", b"[" * 100, b'{"a":' * 100,
    b"9" * 400, b"\n\n\n", b"\r", b'"', b",", b"{}", b"null", b"../../x", b"\x1b[2J", b"%s%n", b"A" * 10_000, b"\xf0\x9f\x98\x80",
]  # fmt: skip
_BIG: list[Any] = [
    2**63 - 1, 2**63, 2**64, -(2**63), 1e308, -1e308, 5e-324, 1 << 200, "x" * 100_000, [0] * 50_000, "\x1b]0;x\a",
]  # fmt: skip


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of a document, of lists the first two."""
    if before:
        yield before
    keys = value if isinstance(value, dict) else range(min(2, len(value))) if isinstance(value, list) else ()
    for key in keys:
        yield from places(value[key], (*before, key))


def damaged(data: bytes, chance: random.Random) -> bytes:
    """One to six changes of bytes: bits, numbers, pieces that go, come or change places, an early end."""
    made = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        place = chance.randrange(len(made) + 1)
        if chance.random() < 0.3:  # headers and footers are where the lengths are
            place = min(
                len(made), chance.choice((chance.randrange(64), max(0, len(made) - chance.randrange(64))))
            )
        size = chance.choice((1, 2, 4, 8, 16, 100, 1000))
        kind = chance.randrange(8)
        if kind == 0 and place < len(made):
            made[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            made[place : place + size] = chance.randbytes(size)
        elif kind == 2:
            form = chance.choice(("<I", "<Q", ">I", "<H"))
            number = chance.choice(_NUMBERS) & ((1 << 8 * struct.calcsize(form)) - 1)
            made[place : place + struct.calcsize(form)] = struct.pack(form, number)
        elif kind == 3:
            del made[place : place + size]
        elif kind == 4:
            made[place:place] = made[place : place + size]
        elif kind == 5:
            made[place:place] = chance.choice(_PIECES)
        elif kind == 6 and len(made) > 2 * size:
            other = chance.randrange(len(made) - size)
            made[place : place + size] = made[other : other + size]
        elif kind == 7 and chance.random() < 0.5:
            del made[place:]
    return bytes(made)


def retyped(value: Any, chance: random.Random) -> Any:
    """One to three fields dropped, of another type, blown up, or in another's place."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        there = list(places(value))
        if not there or chance.random() < 0.02:
            return chance.choice(VALUES)
        *way, last = chance.choice(there)
        inner = value
        for step in way:
            inner = inner[step]
        kind = chance.random()
        if kind < 0.2:
            del inner[last]
        elif kind < 0.3:
            other: Any = value
            for step in chance.choice(there):
                other = other[step]
            inner[last] = json.loads(json.dumps(other))
        elif kind < 0.4 and isinstance(inner, dict):
            inner[chance.choice(("extra", "", "__class__", "\0", "rows"))] = inner.pop(last)
        elif kind < 0.55:
            inner[last] = chance.choice(_BIG)
        else:
            inner[last] = chance.choice(VALUES)
        value = json.loads(json.dumps(value))
    return value


def refielded(text: str, chance: random.Random, *, lines: bool) -> str:
    """Change fields of a JSON text, or of some lines of JSON."""
    if not lines:
        return json.dumps(retyped(json.loads(text), chance))
    each = text.splitlines()
    for number in chance.sample(range(len(each)), min(len(each), chance.choice((1, 1, 3)))):
        each[number] = json.dumps(retyped(json.loads(each[number]), chance))
    return "".join(f"{line}\n" for line in each)


def fields(path: Path, chance: random.Random) -> None:
    """Change fields of a JSON file."""
    path.write_text(refielded(path.read_text(), chance, lines=path.suffix == ".jsonl"))


def anything(path: Path, chance: random.Random) -> None:
    """Damage the bytes of a file."""
    path.write_bytes(damaged(path.read_bytes(), chance))


def header(path: Path, chance: random.Random) -> None:
    """Change fields of a safetensors header, and keep its length true."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    made = json.dumps(retyped(json.loads(data[8 : 8 + length]), chance)).encode()
    path.write_bytes(len(made).to_bytes(8, "little") + made + data[8 + length :])
