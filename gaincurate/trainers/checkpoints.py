"""What a trainer's checkpoint is, and finding or waiting for the newest complete one.

By the trainer's layout, from names, small JSON files and safetensors headers. Weights are never read: a look
at a large checkpoint must cost nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gaincurate.core.foreign import is_utf8, json_file
from gaincurate.errors import TrainerError, read_error
from gaincurate.schedule.checkpoints import safetensors_header, weight_names, whole, why_not_whole
from gaincurate.trainers.profile import Layout, Sharded

ADAPTER = "adapter_config.json"
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_EVERY = 2.0  # seconds between two looks


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
        if number and path.is_dir() and (not layout.any_name or _anything(path)):
            yield int(number[1]), path


def look(path: Path, step: int, layout: Layout) -> Checkpoint:
    """What a checkpoint's folder is.

    Raises:
        OSError: it was deleted while it was looked at.
    """
    tokenizer = path / layout.tokenizer if layout.tokenizer else None
    if not is_utf8(str(path)):
        return Checkpoint(path, step, "refused", path, f"{path} has a name that is no UTF-8")
    if (why := layout.unfinished(path, step)) is not None:
        return Checkpoint(path, step, "writing", path, why)
    folders = [path / name for name in layout.weights]
    folder = next((weights for weights in folders if _has_weights(weights)), None)
    for adapter in (path / name for name in layout.adapters):
        # A model beside an adapter of its own is the base alone, as a trainer's merger leaves it.
        if (adapter / ADAPTER).is_file() and (folder is None or adapter != folder):
            return _adapter(path, step, adapter, tokenizer, folder)
    if folder is not None:
        why = why_not_whole(folder)
        if not why and _unmerged(folder):
            why = f"{folder} has a model with its LoRA unmerged; let {layout.trainer} save the merged one"
            return Checkpoint(path, step, "refused", path, why)
        bare = not (folder / "config.json").is_file()
        return Checkpoint(path, step, "writing" if why else "model", folder, why or "", bare, tokenizer)
    for weights in folders:
        if pickled := sorted(weights.glob("pytorch_model*.bin")):
            why = f"{pickled[0]} is pickled, which can run code: let it be saved as safetensors"
            return Checkpoint(path, step, "refused", path, f"{why}{layout.save_settings}")
    for shards in layout.sharded:
        if (first := next(iter(sorted(path.glob(shards.files))), None)) is not None:
            why = _sharded(path, first, shards, layout)
            return Checkpoint(path, step, "refused", path, why, only_resumed=shards.apart)
    how = f"; {layout.trainer} saves them with {layout.setting}" if layout.setting else ""
    missing = f"{path} has no weights{how}"
    return Checkpoint(path, step, "writing", path, missing)


def _adapter(path: Path, step: int, folder: Path, tokenizer: Path | None, base: Path | None) -> Checkpoint:
    weights = folder / _ADAPTER_WEIGHTS
    why = ""
    try:
        json_file(folder / ADAPTER)
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
    how = f"let {layout.trainer} save Hugging Face weights{layout.save_settings}"
    if shards.convert is not None:
        how = f"convert them with `{shards.command(path)}`, or {how}"
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
    return [name for name in safetensors_header(file) if name != "__metadata__"]


def _has_weights(folder: Path) -> bool:
    index = folder / "model.safetensors.index.json"
    return index.is_file() or any(folder.glob("model*.safetensors"))


def _anything(path: Path) -> bool:
    """Whether a folder with a number in its name holds something of a model."""
    kinds = ("config.json", "*.safetensors", "*.distcp")
    return any(next(path.glob(kind), None) is not None for kind in kinds)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a look at an output root yielded.

    `checkpoint` is the newest complete one that can be scored; without it `why` says why there is none.
    `passed` are the newer ones that were passed over.
    """

    checkpoint: Checkpoint | None
    why: str = ""
    passed: tuple[Checkpoint, ...] = ()


def find(root: Path, layout: Layout, *, since: float = 0.0) -> SearchResult:
    """The newest complete checkpoint, by its step, or exactly why there is none.

    One that is complete and cannot be scored (sharded, say) is named instead of an older one, which would be
    taken for it; a trainer's resume states are passed over where it exports models beside them.

    Args:
        root: the trainer's output root, or a checkpoint.
        layout: the trainer's.
        since: leave out what was put there before this time (seconds since 1970).

    Raises:
        StorageError: a folder cannot be read.
    """
    every = _looked(root, layout, since)
    passed: list[Checkpoint] = []
    for checkpoint in every:
        if checkpoint.usable:
            return SearchResult(checkpoint, passed=tuple(passed))
        if checkpoint.state == "refused" and not checkpoint.only_resumed:
            older = next((other for other in every if other.usable), None)
            hint = f"; {older.path} is older and can be taken" if older else ""
            return SearchResult(None, checkpoint.why + hint, tuple(passed))
        if not passed or passed[-1].step != checkpoint.step:
            passed.append(checkpoint)
    if passed:
        return SearchResult(None, passed[0].why, tuple(passed))
    if not root.is_dir():
        return SearchResult(None, f"{root} is no folder")
    return SearchResult(None, f"there is no {layout.folders[0]} below {root}")


def wait(
    root: Path,
    layout: Layout,
    timeout: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    note: Callable[[str], None] = lambda why: None,
) -> Checkpoint:
    """Wait until the newest checkpoint is complete.

    Sharded ones are waited for too: they may be converted meanwhile.

    Args:
        root: the trainer's output root, or a checkpoint.
        layout: the trainer's.
        timeout: seconds.
        clock: seconds from any beginning.
        sleep: waits.
        note: called with what is waited for, once each.

    Raises:
        TrainerError: there is none in time.
        StorageError: a folder cannot be read.
    """
    end, before = clock() + timeout, ""
    while True:
        search = find(root, layout)
        writing = [checkpoint.why for checkpoint in search.passed if checkpoint.state == "writing"]
        if search.checkpoint is not None and not writing:
            return search.checkpoint
        why = writing[0] if writing else search.why
        if (left := end - clock()) <= 0:
            older = f" {search.checkpoint.path} is complete: give that." if search.checkpoint else ""
            raise TrainerError(
                f"no complete checkpoint below {root} after {timeout:g} s: {why}.{older}", path=str(root)
            )
        if why != before:
            note(f"waiting: {why}")
            before = why
        sleep(min(_EVERY, left))


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
    """When its files came to be there; copies keep other times, this one is the file system's own."""
    files = list(checkpoint.folder.glob("*.safetensors")) or [checkpoint.path]
    return max(file.stat().st_ctime for file in files)
