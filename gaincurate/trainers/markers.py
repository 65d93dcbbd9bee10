"""What marks a trainer's checkpoint complete: takes its folder and step, yields what is missing or None.

Each reads what its trainer writes last, by the versions in `layouts`. A file that cannot be read
to its end is one that is being written. Knows nothing of weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TRACKER, _WEIGHTS_TRACKER = "latest_checkpointed_iteration.txt", "latest_state_dict_iteration.txt"


def trainer_state(path: Path, step: int) -> str | None:
    """TRL: rank 0 writes `trainer_state.json` after everything else."""
    file = path / "trainer_state.json"
    if not file.is_file():
        return f"{path} has no trainer_state.json, which is written last"
    found = _json(file)
    if not isinstance(found, dict) or "global_step" not in found:
        return f"{file} is not finished"
    if found["global_step"] != step:
        return f"{file} is of step {found['global_step']}, not {step}"
    return None


def tracker(name: str) -> Callable[[Path, int], str | None]:
    """verl, SkyRL: a file beside the checkpoints has the newest complete one's step."""

    def unfinished(path: Path, step: int) -> str | None:
        file = path.parent / name
        try:
            newest = int(file.read_text())
        except (OSError, ValueError):
            return f"{path} is not finished: {file} does not say so"
        return None if newest >= step else f"{path} is not finished: {file} has step {newest}"

    return unfinished


def tokenizer_last(path: Path, step: int) -> str | None:
    """OpenRLHF: the tokenizer is saved after the weights. Of its DeepSpeed folders `latest` tells."""
    if not path.name.endswith("_hf"):
        file = path.parent / "latest"
        said = file.read_text().strip() if file.is_file() else None
        number = int(said.removeprefix("global_step")) if said and said[11:].isdigit() else -1
        return None if number >= step else f"{path} is not finished: {file} does not say so"
    return _tokenizer(path)


def renamed(prefix: str) -> Callable[[Path, int], str | None]:
    """NeMo-RL: a checkpoint gets its name when it is complete."""

    def unfinished(path: Path, step: int) -> str | None:
        if path.name.startswith(prefix):
            return f"{path} is not finished: it is not yet renamed to {path.name.removeprefix(prefix)}"
        return None

    return unfinished


def skyrl(path: Path, step: int) -> str | None:
    """SkyRL: exports have the tokenizer last; checkpoints have a tracker."""
    policy = path / "policy"
    if any(policy.glob("*.safetensors*")) or (policy / "config.json").is_file():
        return _tokenizer(policy)
    return tracker("latest_ckpt_global_step.txt")(path, step)


def indexed(path: Path, step: int) -> str | None:
    """slime: `--save-hf` writes the index when all shards have their names; Megatron keeps a tracker."""
    if any(path.glob("*.distcp")):
        return tracker(_TRACKER)(path, step)
    if (path / "model.safetensors").is_file():  # one file needs no index; its header tells
        return None
    return _readable(path / "model.safetensors.index.json")


def prime_rl(path: Path, step: int) -> str | None:
    """prime-rl: a marker file is made when the broadcast is on disk."""
    if (path / "trainer").is_dir() or any((path / name).is_file() for name in ("STABLE", ".finished")):
        return None
    return f"{path} is not finished: it has no STABLE"


def trinity(path: Path, step: int) -> str | None:
    """Trinity: trackers are moved on when all writers are done; `.full_checkpoint` only says which one."""
    name = _TRACKER if (path / ".full_checkpoint").is_file() else _WEIGHTS_TRACKER
    return tracker(name)(path, step)


def areal(path: Path, step: int) -> str | None:
    """AReaL: no marker; the recovery's state comes later than the weights, and so does the tokenizer."""
    for above in path.parents[:2]:
        found = _json(above / "recover_info" / "step_info.json")
        if isinstance(found, dict) and isinstance(found.get("global_step"), int):
            if found["global_step"] >= step:
                return None
            break
    return _tokenizer(path)


def _tokenizer(folder: Path) -> str | None:
    """What a tokenizer's `save_pretrained` has not written: the configuration or, last, the vocabulary."""
    if (why := _readable(folder / "tokenizer_config.json")) is not None:
        return why
    file = folder / "tokenizer.json"
    if not file.is_file():
        others = ("tokenizer.model", "*.tiktoken", "vocab.*", "*.model")
        known = any(next(folder.glob(name), None) is not None for name in others)
        return None if known else f"{folder} has no tokenizer.json, which is written last"
    with file.open(
        "rb"
    ) as stream:  # indented, so only its last brace stands at a line's beginning: no reading
        stream.seek(max(0, file.stat().st_size - 2))
        end = stream.read()
    return None if end == b"\n}" or _json(file) is not None else f"{file} is not finished"


def _readable(file: Path) -> str | None:
    if not file.is_file():
        return f"{file.parent} has no {file.name}, which is written last"
    return None if _json(file) is not None else f"{file} is not finished"


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
