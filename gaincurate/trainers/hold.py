"""Keeps a checkpoint while it is scored: takes one, yields a folder of hard links that no trainer deletes.

Of configuration, weights, tokenizer and chat template alone. The folder is whole or absent, also after a
kill, and says in `.held.json` what it holds. A link shares its bytes with the trainer's file, so one that is
written again in place changes ours too: sizes and times tell. Knows nothing of runs.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from gaincurate.core.artifact import Json
from gaincurate.errors import InputError, TrainerError, storage_error
from gaincurate.files import write_json
from gaincurate.schedule.checkpoints import weight_names, whole, why_not_whole
from gaincurate.schedule.run import read_json
from gaincurate.trainers.checkpoints import ADAPTER, Checkpoint

RECORD = ".held.json"
_SMALL = {".json", ".jinja", ".txt", ".model", ".tiktoken"}
_OTHERS = {"trainer_state.json", "model.safetensors.index.json"}
_TEMPLATES = "additional_chat_templates"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
_NO_LINKS = {
    errno.EXDEV,
    errno.EPERM,
    errno.EACCES,
    errno.EMLINK,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
}


def hold(
    checkpoint: Checkpoint,
    into: Path,
    *,
    model: Path | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Link a checkpoint's files into a folder; nothing is done where it holds them already.

    Across file systems they are copied.

    Args:
        checkpoint: one that can be scored.
        into: the folder; what else it held is let go.
        model: folder with the configuration and the tokenizer, for what the checkpoint has not.
        note: told where files are copied.

    Raises:
        FileNotFoundError: it was deleted meanwhile.
        InputError: the configuration is neither in the checkpoint nor in the model's folder.
        TrainerError: it was written again meanwhile.
        StorageError: the file system refused.
    """
    files = _files(checkpoint, model)
    record: Json = {"checkpoint": str(checkpoint.folder), "step": checkpoint.step, "files": _stamps(files)}
    if (into / RECORD).exists() and read_json(into / RECORD) == record and not changed(into):
        return
    making = into.with_name(f".{into.name}.making")
    try:
        for old in (making, into):
            shutil.rmtree(old, ignore_errors=True)
        making.mkdir(parents=True)
        copied = sum(_link(source, making / name) for name, source in files.items())
        _verify(checkpoint, making, files, record["files"])
        write_json(making / RECORD, record)
        making.replace(into)
    except FileNotFoundError:
        shutil.rmtree(making, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(making, ignore_errors=True)
        raise storage_error(into, error) from error
    if copied:
        note(f"{checkpoint.path} was copied ({copied / 1e9:.1f} GB): {into} cannot have hard links to it")


def changed(held: Path) -> list[str]:
    """The names of held files that are no longer what was held."""
    found = []
    for name, stamp in read_json(held / RECORD)["files"].items():
        try:
            if _stamp(held / name) != stamp:
                found.append(name)
        except OSError:
            found.append(name)
    return found


def source(held: Path) -> str | None:
    """The checkpoint that a folder holds; None where it holds none."""
    return str(read_json(held / RECORD)["checkpoint"]) if (held / RECORD).exists() else None


def see_unchanged(held: Path) -> None:
    """See that what was scored is what was held; let it go where it is not.

    Raises:
        TrainerError: the trainer wrote into its files meanwhile.
    """
    if names := changed(held):
        checkpoint = source(held)
        shutil.rmtree(held, ignore_errors=True)
        raise TrainerError(
            f"{checkpoint} was written again in place while it was scored ({names[0]}), so its scores are of "
            "no one model. Let the trainer write each checkpoint to a folder of its own, and run this again."
        )


def _files(checkpoint: Checkpoint, model: Path | None) -> Json:
    """Names and sources of what scoring needs."""
    folder = checkpoint.folder
    if checkpoint.state == "adapter":
        names = [ADAPTER, "adapter_model.safetensors"]
    else:
        names = list(weight_names(folder) or [])
        index = "model.safetensors.index.json"
        names += [index] if (folder / index).is_file() else []
    found = {name: folder / name for name in names} | _small(folder)
    if checkpoint.tokenizer is not None:
        found = _small(checkpoint.tokenizer) | found
    if checkpoint.state == "adapter":
        return found
    if checkpoint.bare and (model is None or not (model / "config.json").is_file()):
        raise InputError(
            f"{folder} has weights without a config.json, and the model that the run began with "
            f"({model or 'not known'}) is no folder to take it from; start the run with --model FOLDER."
        )
    if model is not None and model.is_dir():
        small = _small(model)
        if not any(name in found for name in _TOKENIZER):
            found = {name: path for name, path in small.items() if name != "config.json"} | found
        if checkpoint.bare:
            found["config.json"] = model / "config.json"
    return found


def _small(folder: Path) -> Json:
    """Configuration, tokenizer and templates of a folder."""
    if not folder.is_dir():
        return {}
    paths = [path for path in folder.iterdir() if path.suffix in _SMALL and path.name not in _OTHERS]
    if (folder / _TEMPLATES).is_dir():
        paths += (folder / _TEMPLATES).glob("*.jinja")
    return {str(path.relative_to(folder)): path for path in sorted(paths) if path.is_file()}


def _link(path: Path, to: Path) -> int:
    """Link a file, or copy it where there can be no link; the bytes that were copied."""
    to.parent.mkdir(exist_ok=True)
    try:
        os.link(path.resolve(strict=True), to)
        return 0
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    shutil.copy2(path, to)
    return to.stat().st_size


def _verify(checkpoint: Checkpoint, held: Path, files: Json, stamps: Json) -> None:
    """See that what is held is whole and what the trainer had.

    Raises:
        TrainerError: the trainer writes into it.
    """
    now = _stamps({name: held / name for name in files})
    ours = whole(held / "adapter_model.safetensors") if checkpoint.state == "adapter" else None
    why = None if ours else why_not_whole(held)
    wrong = next((name for name in files if now[name] != stamps[name]), None)
    if wrong or why or ours is False:
        raise TrainerError(
            f"{checkpoint.path} is written again in place while it is read ({wrong or why}); run this again "
            "when the trainer is done with it."
        )


def _stamps(files: Json) -> Json:
    return {name: _stamp(path) for name, path in files.items()}


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]
