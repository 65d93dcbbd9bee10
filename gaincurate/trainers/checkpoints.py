"""What a trainer's checkpoint is: takes a folder, yields a model, an adapter, or why it is neither yet.

Reads names, small JSON files and safetensors headers, by the trainer's layout. Does not wait or convert.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gaincurate.schedule.checkpoints import weight_names, whole, why_not_whole
from gaincurate.trainers.layouts import Layout, Sharded, filled

ADAPTER = "adapter_config.json"
_ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that a trainer wrote, and what it is.

    `state` is `model` or `adapter` where it can be scored (an adapter after merging), `writing` where
    something is still missing, `refused` where it never can be scored as it is. `why` says what is wrong.
    `folder` has the weights. With `bare` there is no configuration beside them. `base` is the model that an
    adapter lies with. One that is `only_resumed` is a series of its own beside those that can be scored.
    """

    path: Path
    step: int
    state: Literal["model", "adapter", "writing", "refused"]
    folder: Path
    why: str = ""
    bare: bool = False
    tokenizer: Path | None = None
    base: Path | None = None
    only_resumed: bool = False

    @property
    def usable(self) -> bool:
        """Whether it can be scored."""
        return self.state in ("model", "adapter")


def checkpoints(root: Path, layout: Layout) -> Iterator[tuple[int, Path]]:
    """Steps and folders of a trainer's checkpoints below its output root, or the root itself if it is one."""
    paths = {root} if re.fullmatch(layout.step, root.name) else set()
    for pattern in layout.folders:
        paths |= set(_below(root, pattern))
    for path in paths:
        number = re.fullmatch(layout.step, path.name)
        if number and path.is_dir() and (layout.trainer != "slime" or _anything(path)):
            yield int(number[1]), path


def look(path: Path, step: int, layout: Layout) -> Checkpoint:
    """What a checkpoint's folder is.

    Raises:
        OSError: it was deleted while it was looked at.
    """
    tokenizer = path / layout.tokenizer if layout.tokenizer else None
    if (why := layout.unfinished(path, step)) is not None:
        return Checkpoint(path, step, "writing", path, why)
    folders = [path / name for name in layout.weights]
    folder = next((one for one in folders if _has_weights(one)), None)
    for found in (path / name for name in layout.adapters):
        # A model beside an adapter of its own is the base alone, as verl's merger leaves it.
        if (found / ADAPTER).is_file() and (folder is None or found != folder):
            return _adapter(path, step, found, tokenizer, folder)
    if folder is not None:
        why = why_not_whole(folder)
        if not why and _unmerged(folder):
            why = f"{folder} has a model with its LoRA unmerged; let {layout.trainer} save the merged one"
            return Checkpoint(path, step, "refused", path, why)
        bare = not (folder / "config.json").is_file()
        return Checkpoint(path, step, "writing" if why else "model", folder, why or "", bare, tokenizer)
    for one in folders:
        if pickled := sorted(one.glob("pytorch_model*.bin")):
            why = f"{pickled[0]} is pickled, which can run code: let it be saved as safetensors"
            return Checkpoint(path, step, "refused", path, f"{why} ({layout.setting})")
    for shards in layout.sharded:
        if (first := next(iter(sorted(path.glob(shards.files))), None)) is not None:
            why = _sharded(path, first, shards, layout)
            return Checkpoint(path, step, "refused", path, why, only_resumed=shards.apart)
    missing = f"{path} has no weights; {layout.trainer} saves them with {layout.setting}"
    return Checkpoint(path, step, "writing", path, missing)


def _adapter(path: Path, step: int, folder: Path, tokenizer: Path | None, base: Path | None) -> Checkpoint:
    weights = folder / _ADAPTER_WEIGHTS
    why = ""
    try:
        json.loads((folder / ADAPTER).read_bytes())
    except ValueError:
        why = f"{folder / ADAPTER} is not finished"
    if not why and (folder / "adapter_model.bin").is_file() and not weights.is_file():
        why = f"{folder / 'adapter_model.bin'} is pickled, which can run code: let it be saved as safetensors"
        return Checkpoint(path, step, "refused", folder, why)
    if not why and not weights.is_file():
        why = f"{folder} has no {weights.name}"
    if not why and not whole(weights):
        why = f"{weights} is not finished"
    state: Literal["writing", "adapter"] = "writing" if why else "adapter"
    return Checkpoint(path, step, state, folder, why, tokenizer=tokenizer, base=base)


def _sharded(path: Path, first: Path, shards: Sharded, layout: Layout) -> str:
    how = f"let {layout.trainer} save Hugging Face weights ({layout.setting})"
    if shards.convert is not None:
        how = f"convert them with `{filled(shards.convert, path)}`, or {how}"
    return f"the weights of {path} are sharded ({first.relative_to(path)}): {how}"


def owner(folder: Path, layout: Layout) -> Checkpoint | None:
    """The checkpoint that a folder is or lies in; None where it is none of this trainer's.

    Raises:
        OSError: it was deleted while it was looked at.
    """
    for path in (folder, *list(folder.parents)[:4]):
        number = re.fullmatch(layout.step, path.name)
        inside = [*layout.weights, *layout.adapters]
        if number and path.is_dir() and any((path / name) == folder for name in (".", *inside)):
            return look(path, int(number[1]), layout)
    return None


def _below(root: Path, pattern: str) -> list[Path]:
    """Matches of a glob, though folders are deleted while it goes on."""
    for _ in range(3):
        try:
            return list(root.glob(pattern))
        except FileNotFoundError:
            continue
    return []


def _unmerged(folder: Path) -> bool:
    """Whether weights have the names that peft gives them around a model."""
    try:
        names = [name for file in weight_names(folder) or [] for name in tensor_names(folder / file)]
    except (OSError, ValueError):
        return False
    return any(".lora_A." in name or name.startswith("base_model.model.") for name in names)


def tensor_names(file: Path) -> list[str]:
    """The names in a whole safetensors file's header."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return [name for name in header if name != "__metadata__"]


def _has_weights(folder: Path) -> bool:
    index = folder / "model.safetensors.index.json"
    return index.is_file() or any(folder.glob("model*.safetensors"))


def _anything(path: Path) -> bool:
    """Whether a folder with a number in its name holds something of a model."""
    kinds = ("config.json", "*.safetensors", "*.distcp")
    return any(next(path.glob(kind), None) is not None for kind in kinds)
