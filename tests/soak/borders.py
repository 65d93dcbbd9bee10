"""The borders: which good file is made hostile, in which way, and what reads it.

Hostile content is made of good content by a seed: damaged bytes, and fields that are not what they were.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaincurate.core.files import digest_file
from gaincurate.core.sealed import read_sealed, write_sealed
from soak import child

Change = Callable[[Path, random.Random], None]
Work = Sequence[str] | Callable[[], object]


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


def _scoring(data: str = "data.jsonl", model: str = "model", *more: str) -> list[list[str]]:
    return [["score", data, "-m", model, "-o", "new", "--threads", "1", "--shard-rows", "5", *more]]


SET = [
    ["show", "set"],
    ["show", "set", "--json"],
    ["report", "set", "--rollouts", "rollouts"],
    ["hygiene", "set", "--max-prompt-tokens", "20"],
    ["derive", "set", "--signal", "gc_angle", "--length-free", "rank-in-bin", "--name", "gc_new"],
    ["export", "set", "--trainer", "trl", "--out", "new.parquet"],
    ["schedule", "start", "set", "--run", "new", "--strategy", "uniform", "--budget", "3", "--rounds", "2"],
    ["ls", "."],
    *_scoring("data.jsonl", "model", "--out", "set", "--signals", "angle,embedding"),
    ["difficulty", "predict", "set", "--outcomes", "rollouts", "--references", "3", "--out", "new"],
]
ROLLOUTS = [
    ["show", "rollouts"],
    ["report", "set", "--rollouts", "rollouts"],
    ["difficulty", "forecast", "set", "--outcomes", "rollouts", "--group", "2"],
    ["difficulty", "predict", "set", "--outcomes", "rollouts", "--references", "3", "--out", "new"],
    ["schedule", "next", "run", "--outcomes", "rollouts"],
]


def _run(folder: str) -> list[list[str]]:
    return [
        ["schedule", "status", folder],
        ["schedule", "status", folder, "--json"],
        ["schedule", "next", folder],
        ["report", "set", "--run", folder],
        ["export", folder, "--trainer", "trl", "--out", "new.parquet"],
        ["ls", "."],
    ]


OUTCOMES = [
    ["schedule", "next", "run", "--outcomes", "run/rounds/00001/outcomes.jsonl"],
    ["schedule", "next", "run"],
    ["schedule", "status", "run"],
    ["difficulty", "predict", "set", "--outcomes", "run/rounds/00001/outcomes.jsonl", "--out", "new"],
]
EVALUATION = [["hygiene", "set", "--eval", "data.parquet"]]


@dataclass(frozen=True, slots=True)
class Border:
    """Files, how they are changed, and the commands that read them; `{}` is the file."""

    files: Sequence[str]
    changes: Sequence[Change]
    works: Sequence[Work]


def rehashed(path: Path, chance: random.Random) -> None:
    """Damage a part of a set, and let the manifest have its new hash and size, as an author could."""
    anything(path, chance)
    if chance.random() < 0.8:
        folder = path.parent
        if path.parent.name == "columns":
            note = path.with_suffix(".json")
            write_sealed(note, {**read_sealed(note), "hash": digest_file(path)})
            return
        manifest = json.loads((folder / "manifest.json").read_text())
        for entry in manifest["shards"]:
            if entry["file"] == path.name:
                entry |= {"hash": digest_file(path), "bytes": path.stat().st_size}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        shutil.rmtree(folder / "columns", ignore_errors=True)  # they name the manifest's hash


_BYTES, _FIELDS, _BOTH = (anything,), (fields,), (anything, fields, fields)
_SHARDS = [f"set/shard-{k:05}.arrow" for k in range(3)]
_PLANNED = ["run/rounds/00001/plan.json", "run/rounds/00001/state.json"]

BORDERS: dict[str, list[Border]] = {
    "arrow": [
        Border(["data.arrow"], _BYTES, _scoring("data.arrow")),
        Border([*_SHARDS, "set/columns/gc_x.arrow"], (rehashed,), SET),
        Border(["rollouts/shard-00000.arrow", "rollouts/shard-00002.arrow"], (rehashed,), ROLLOUTS),
        Border(["run/order.arrow"], _BYTES, _run("run")),
    ],
    "parquet": [
        Border(["data.parquet"], _BYTES, [*_scoring("data.parquet"), *EVALUATION]),
        Border(["run/rounds/00001/data.parquet", "run/rounds/00000/data.parquet"], _BYTES, _run("run")),
    ],
    "json-rows": [
        Border(["data.jsonl"], _BOTH, _scoring()),
        Border(["data.json"], _BOTH, _scoring("data.json")),
        Border(["data.jsonl"], _BOTH, [["hygiene", "set", "--eval", "data.jsonl"]]),
    ],
    "run": [
        Border(["run/run.json", "run/execution.jsonl", *_PLANNED], _BYTES, _run("run")),
        Border(["referred/run.json", "referred/difficulty/00001/references.json"], _BYTES, _run("referred")),
        Border(["referred/difficulty/00001/references.jsonl"], _BOTH, _run("referred")),
    ],
    "outcomes": [Border(["run/rounds/00001/outcomes.jsonl"], _BOTH, OUTCOMES)],
    "safetensors": [Border(["model/model.safetensors"], (anything, header), _scoring())],
    "gguf": [Border(["tiny.gguf"], _BYTES, _scoring("data.jsonl", "tiny.gguf"))],
}


def case(name: str, seed: int, world: Path, folder: Path) -> tuple[list[str], dict[str, object]]:
    """One hostile file and one command that reads it: what is wrong, and facts."""
    chance = random.Random(f"{name}:{seed}")
    border = chance.choice(BORDERS[name])
    file, change = chance.choice(border.files), chance.choice(border.changes)
    work = chance.choice(border.works)
    shown = work.__name__ if callable(work) else " ".join(work := [part.format(file) for part in work])
    box = folder / "box"
    shutil.copytree(world, box)
    change(box / file, chance)
    outside = beside(folder)
    seen = child.start(work, box).wait()
    found = child.faults(seen)
    if beside(folder) != outside:
        found.append("a file outside its folder")
    facts: dict[str, object] = {"file": file, "change": change.__name__, "work": shown, "code": seen.code}
    facts |= {"error": seen.error[:300], "seconds": round(seen.seconds, 2), "mib": seen.memory}
    if any("traceback" in fault or "exit code" in fault for fault in found):
        facts["stderr"] = seen.stderr[-3000:]
    return found, facts


def beside(folder: Path) -> set[str]:
    """What lies around a box."""
    return {path.name for path in folder.iterdir() if not path.name.startswith("std-")}
