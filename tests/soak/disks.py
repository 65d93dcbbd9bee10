"""Disks that are full, at any size up to what a command needs, and calls that fail with EIO, by a preloaded shim.

A shim (`shim.c`) and no small file system, because to mount one needs rights. It sees calls of the C library on
files below the case's folder, in the process and its forks. It does not see files that are mapped, and it does not
refuse a new file on a full disk.
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from soak import child, kills
from soak.kills import JOBS

MODES = {"full": 2, "eio-write": 3, "eio-every": 4, "eio-read": 5}
CLASSES = tuple(MODES)
_COUNT = 1


def preload(out: Path) -> bool:
    """Compile the shim and begin this program again with it; False where there is no compiler."""
    shim = out / "shim.so"
    if os.environ.get("LD_PRELOAD") == str(shim):
        return True
    compiler = shutil.which("cc")
    if compiler is None:
        return False
    out.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("shim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(shim), str(source), "-ldl"], check=True)
    os.environ["LD_PRELOAD"] = str(shim)
    os.execv(sys.executable, [sys.executable, "-m", "soak", *sys.argv[1:]])


def _shim() -> Any:
    library = ctypes.CDLL(None)
    for name in ("soak_writes", "soak_reads", "soak_bytes"):
        getattr(library, name).restype = ctypes.c_long
    library.soak_arm.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_char_p]
    return library


@cache
def needs(name: str, world: Path) -> dict[str, int]:
    """How many bytes, writing calls and reading calls a command takes."""
    folder = world.parent / "work" / f"needs-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world, folder / "box")
    shim = _shim()
    seen = child.start(
        JOBS[name].work, folder / "box", lambda: shim.soak_arm(_COUNT, 0, bytes(folder / "box"))
    ).wait()
    shutil.rmtree(folder)
    if seen.code != 0:
        raise RuntimeError(f"{name}: {seen.stderr}")
    counts = {"full": shim.soak_bytes(), "eio-write": shim.soak_writes(), "eio-read": shim.soak_reads()}
    shim.soak_arm(0, 0, b"")
    return counts | {"eio-every": counts["eio-write"]}


def case(mode: str, seed: int, world: Path, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """One command on a disk that fails at one place; then on a good one to its end."""
    chance = random.Random(f"{mode}:{seed}")
    name = chance.choice(list(JOBS))
    expected, whole = kills.reference(name, world), needs(name, world)[mode]
    at_an_end = mode == "full" and chance.random() < 0.1
    at = chance.choice((0, whole - 1)) if at_an_end else chance.randint(1, max(1, whole))
    if mode == "eio-every":
        at = chance.choice((1, 2, 3, 5, 10, 30, at))
    box = folder / "box"
    shutil.copytree(world, box)
    shim = _shim()
    seen = child.start(JOBS[name].work, box, lambda: shim.soak_arm(MODES[mode], at, bytes(box))).wait()
    shim.soak_arm(0, 0, b"")
    found = child.faults(seen)
    if seen.code == 0:
        # To tidy up may fail too. What is left in .work is gone after the next command, which is seen below.
        left = [one for one in kills.differences(name, expected, box) if "/.work/" not in one]
        found += [f"it succeeded, and {difference}" for difference in left]
    found += kills.finish(name, expected, box)
    facts = {"work": name, "at": at, "of": whole, "code": seen.code, "error": seen.error[:300]}
    return found, facts | ({"stderr": seen.stderr[-3000:]} if found else {})
