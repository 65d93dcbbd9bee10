"""The state of a trainer's checkpoints, and a search for the newest complete one.

By the trainer's layout, from names, small JSON files and safetensors headers. Weights are never read: a look
at a large checkpoint must cost nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gaincurate.errors import read_error
from gaincurate.schedule.checkpoints import INDEX, whole, why_not_whole
from gaincurate.trainers.markers import unreadable
from gaincurate.trainers.profile import Layout, Sharded

ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_SMALL = {".json", ".jinja", ".txt", ".model", ".tiktoken"}
_OTHERS = {"trainer_state.json", INDEX}
_TEMPLATES = "additional_chat_templates"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that a trainer wrote, and its state.

    `state` is `model` or `adapter` where it can be scored (an adapter after merging), `writing` where
    something is still missing, `refused` where it never can be scored as it is. `why` says what is wrong.
    `folder` has the weights. With `bare` it has no configuration. `base` is the base model next to an
    adapter. `only_resumed` marks resume states, which some trainers save apart from exported models.
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
    paths = {root, *(path for pattern in layout.folders for path in _below(root, pattern))}
    for path in paths:
        number = re.fullmatch(layout.step, path.name)
        if number and path.is_dir() and (not layout.any_name or _anything(path)):
            yield int(number[1]), path


def look(path: Path, step: int, layout: Layout) -> Checkpoint:
    """The state of a checkpoint's folder; OSError if it was deleted while it was looked at."""
    tokenizer = path / layout.tokenizer if layout.tokenizer else None
    if (why := layout.unfinished(path, step)) is not None:
        return Checkpoint(path, step, "writing", path, why)
    folders = [path / name for name in layout.weights]
    kinds = (INDEX, "model*.safetensors")
    folder = next((each for each in folders if any(any(each.glob(kind)) for kind in kinds)), None)
    for adapter in (path / name for name in layout.adapters):
        # A model next to an adapter is the base model alone, as verl's merger leaves it.
        if (adapter / ADAPTER).is_file() and (folder is None or adapter != folder):
            return _adapter(path, step, adapter, tokenizer, folder)
    if folder is not None:
        why = why_not_whole(folder)
        bare = not (folder / "config.json").is_file()
        return Checkpoint(path, step, "writing" if why else "model", folder, why or "", bare, tokenizer)
    for weights in folders:
        if pickled := sorted(weights.glob("pytorch_model*.bin")):
            why = f"{pickled[0]} is pickled, which can run code: let it be saved as safetensors"
            return Checkpoint(path, step, "refused", path, f"{why} ({layout.setting})")
    for shards in layout.sharded:
        if (first := next(iter(sorted(path.glob(shards.files))), None)) is not None:
            why = _sharded(path, first, shards, layout)
            return Checkpoint(path, step, "refused", path, why, only_resumed=shards.apart)
    how = f"; {layout.trainer} saves them with {layout.setting}" if layout.setting else ""
    return Checkpoint(path, step, "writing", path, f"{path} has no weights{how}")


def _adapter(path: Path, step: int, folder: Path, tokenizer: Path | None, base: Path | None) -> Checkpoint:
    weights, pickled = folder / ADAPTER_WEIGHTS, folder / "adapter_model.bin"
    if pickled.is_file() and not weights.is_file():
        why = f"{pickled} is pickled, which can run code: let it be saved as safetensors"
        return Checkpoint(path, step, "refused", folder, why)
    why = unreadable(folder / ADAPTER) or ("" if whole(weights) else f"{weights} is not finished")
    state: Literal["writing", "adapter"] = "writing" if why else "adapter"
    return Checkpoint(path, step, state, folder, why, tokenizer=tokenizer, base=base)


def _sharded(path: Path, first: Path, shards: Sharded, layout: Layout) -> str:
    how = f"let {layout.trainer} save Hugging Face weights ({layout.setting})"
    if shards.convert is not None:
        how = f"convert them with `{shards.command(path)}`, or {how}"
    return f"the weights of {path} are sharded ({first.relative_to(path)}): {how}"


def owner(folder: Path, layout: Layout) -> Checkpoint | None:
    """The checkpoint that a folder is or lies in; None where it is none of this trainer's, or was deleted."""
    for path in (folder, *list(folder.parents)[:4]):
        number = re.fullmatch(layout.step, path.name)
        inside = {path / name for name in (".", *layout.weights, *layout.adapters)}
        if number and path.is_dir() and folder in inside:
            with suppress(OSError):
                return look(path, int(number[1]), layout)
    return None


def _below(root: Path, pattern: str) -> list[Path]:
    """Matches of a glob, though folders are deleted while it goes on."""
    for _ in range(3):
        with suppress(FileNotFoundError):
            return list(root.glob(pattern))
    return []


def _anything(path: Path) -> bool:
    """Return whether a folder has files of a model."""
    kinds = ("config.json", "*.safetensors", "*.distcp")
    return any(next(path.glob(kind), None) is not None for kind in kinds)


def find(root: Path, layout: Layout, *, since: float = 0.0) -> tuple[Checkpoint | None, str]:
    """The newest complete checkpoint by step that can be scored, and the reason if it is not the newest.

    A complete checkpoint that cannot be scored (sharded, for example) is not replaced by an older one. Resume
    states are skipped if the trainer also exports models.

    Args:
        root: the trainer's output root, or a checkpoint.
        layout: the trainer's.
        since: leave out files from before this time (seconds since 1970).

    Returns:
        The checkpoint or None, and a sentence without its full stop; "" where the checkpoint is the newest.
    """
    passed, resumed = "", ""
    for checkpoint in _looked(root, layout, since):
        if checkpoint.usable:
            return checkpoint, passed
        if checkpoint.only_resumed:
            resumed = resumed or checkpoint.why
        elif checkpoint.state == "refused":
            return None, checkpoint.why
        else:
            passed = passed or checkpoint.why
    if not root.is_dir():
        return None, f"{root} is no folder"
    return None, passed or resumed or f"there is no {layout.folders[0]} below {root}"


def _looked(root: Path, layout: Layout, since: float) -> Iterator[Checkpoint]:
    """The checkpoints that are there, newest first; of one step, those that can be scored first."""
    paths: dict[int, list[Path]] = {}
    for number, path in checkpoints(root, layout):
        paths.setdefault(number, []).append(path)
    for number in sorted(paths, reverse=True):
        of_step = []
        for path in paths[number]:
            try:
                checkpoint = look(path, number, layout)
                if path.is_dir() and _put_there(checkpoint) >= since:
                    of_step.append(checkpoint)
            except OSError as error:
                if path.is_dir():
                    raise read_error(path, error) from error
        yield from sorted(
            of_step,
            key=lambda checkpoint: (not checkpoint.usable, checkpoint.only_resumed, str(checkpoint.path)),
        )


def _put_there(checkpoint: Checkpoint) -> float:
    """When its files were created: a copy preserves the other times, but not the file system's own."""
    files = list(checkpoint.folder.glob("*.safetensors")) or [checkpoint.path]
    return max(file.stat().st_ctime for file in files)


def small_files(folder: Path) -> dict[str, Path]:
    """Configuration, tokenizer and templates of a folder, by their names in it."""
    if not folder.is_dir():
        return {}
    shown = [path for path in folder.iterdir() if not path.name.startswith(".")]
    paths = [path for path in shown if path.suffix in _SMALL and path.name not in _OTHERS]
    if (folder / _TEMPLATES).is_dir():
        paths += (folder / _TEMPLATES).glob("*.jinja")
    return {str(path.relative_to(folder)): path for path in sorted(paths) if path.is_file()}
