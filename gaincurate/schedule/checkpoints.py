"""Hugging Face checkpoints on disk: takes a folder that a trainer writes, yields the newest complete one.

Complete: a configuration, safetensors whose headers account for every byte, and a readable
`trainer_state.json` where there is one. Of a trainer that has ended: one that still writes may not be done.
Knows nothing of trainers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

_DEPTH = 3
_INDEX = "model.safetensors.index.json"
_LARGEST_HEADER = 100_000_000  # safetensors' own limit


def newest_checkpoint(folder: Path, since: float = 0.0) -> Path | None:
    """The newest complete checkpoint in a folder or up to three folders below it.

    By the time of its weights; of two at the same time, the one with the larger step.

    Args:
        folder: where to look.
        since: leave out what was there before this time (seconds since 1970), whatever its files say of
            their age: copies keep the times of what they are copies of.
    """
    found = [path for path in _candidates(folder, _DEPTH) if why_incomplete(path) is None]
    return max((path for path in found if _put_there(path) >= since), key=_age, default=None)


def why_none(folder: Path) -> str:
    """Why there is no checkpoint in a folder: what the first one that is not complete lacks."""
    whys = (why_incomplete(path) for path in _candidates(folder, _DEPTH))
    return next((why for why in whys if why is not None), "this attempt wrote none")


def why_incomplete(folder: Path) -> str | None:
    """What a checkpoint lacks; None where it is complete."""
    if not folder.is_dir():
        return f"{folder} is no folder"
    if not (folder / "config.json").is_file() and (folder / "adapter_config.json").is_file():
        return f"{folder} has an adapter alone; let the trainer save the merged model"
    if not (folder / "config.json").is_file():
        return f"{folder} has no config.json"
    index, names = folder / _INDEX, ["model.safetensors"]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        except (ValueError, LookupError, TypeError, AttributeError):
            return f"{index} is not finished"
    for name in names:
        if not (folder / name).is_file():
            return f"{folder} has no {name}"
        if not _whole(folder / name):
            return f"{folder / name} is not finished"
    if (folder / "trainer_state.json").exists() and _state(folder) is None:
        return f"{folder / 'trainer_state.json'} is not finished"
    return None


def _candidates(folder: Path, depth: int) -> list[Path]:
    if not folder.is_dir():
        return []
    known = ("config.json", "adapter_config.json", "model.safetensors", _INDEX)
    found = [folder] if any((folder / name).is_file() for name in known) else []
    if depth:
        for below in sorted(folder.iterdir()):
            if below.is_dir() and not below.is_symlink():
                found += _candidates(below, depth - 1)
    return found


def _state(folder: Path) -> int | None:
    """The step in `trainer_state.json`; None where there is none or it is not finished."""
    try:
        return int(json.loads((folder / "trainer_state.json").read_bytes())["global_step"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _weights(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix == ".safetensors"]


def weights_of(folder: str) -> list[list[object]]:
    """Names, sizes and times of a checkpoint's weight files: what tells it from a later one in its place."""
    found = sorted(_weights(Path(folder)))
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in found]


def _put_there(folder: Path) -> float:
    return max(path.stat().st_ctime for path in _weights(folder))


def _age(folder: Path) -> tuple[int, int]:
    step = _state(folder)
    if step is None:
        number = re.search(r"(\d+)\D*$", folder.name)
        step = int(number[1]) if number else -1
    return max(path.stat().st_mtime_ns for path in _weights(folder)), step


def _whole(path: Path) -> bool:
    """Whether a safetensors file has all the bytes that its header speaks of."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(size - 8, _LARGEST_HEADER):
                return False
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return bool(size == 8 + length + max(ends, default=0))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
