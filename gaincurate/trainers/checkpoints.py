"""Finds a trainer's newest complete checkpoint, and keeps its files in the run's folder while it is scored.

Weights are never read, because a look at a large checkpoint must be cheap. Trainers delete old checkpoints,
so the files to score are first linked or copied, and adapters are merged. This folder remains until its
scoring is done, so that a killed scoring can continue with it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import glob
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from gaincurate.core.artifact import Json
from gaincurate.core.foreign import json_file
from gaincurate.core.process import command_lock, last_line, run_command
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.errors import GaincurateError, InputError, ModelError, TrainerError, storage_error
from gaincurate.schedule.checkpoints import INDEX, Finder, weight_names, whole, why_not_whole
from gaincurate.schedule.observations import Note
from gaincurate.schedule.run import Run
from gaincurate.trainers.markers import unreadable
from gaincurate.trainers.profile import Layout, layout_of

ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
RECORD = ".held.json"
_SMALL = {".json", ".jinja", ".txt", ".model", ".tiktoken"}
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
_ADAPTER = "-adapter"  # suffix of a held adapter's folder; the merged model has the name without it
_PICKLED = "is pickled, which can run code: let it be saved as safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that a trainer wrote, and its state.

    `state` is `model` or `adapter` if it can be scored, `writing` if files are still missing, and `refused`
    if it can never be scored; `why` has the reason. `folder` has the weights, without a configuration if
    `bare`. `base` is the base model next to an adapter. `only_resumed` marks a state for resuming only.
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
    """Steps and folders of a trainer's checkpoints below its output root; the root may be a checkpoint."""
    names = [name for pattern in layout.folders for name in glob(pattern, root_dir=root)]
    of_model = ("config.json", "*.safetensors", "*.distcp")
    for path in {root, *(root / name for name in names)}:
        number = re.fullmatch(layout.step, path.name)
        if number and path.is_dir() and (not layout.any_name or _has_any(path, *of_model)):
            yield int(number[1]), path


def look(path: Path, step: int, layout: Layout) -> Checkpoint:
    """The state of a checkpoint's folder; raises OSError if it is deleted meanwhile."""
    tokenizer = path / layout.tokenizer if layout.tokenizer else None
    if (why := layout.unfinished(path, step)) is not None:
        return Checkpoint(path, step, "writing", path, why)
    folders = [path / name for name in layout.weights]
    folder = next((each for each in folders if _has_any(each, INDEX, "model*.safetensors")), None)
    for adapter in (path / name for name in layout.adapters):
        # A model next to an adapter is only the base model: verl's merger writes both.
        if (adapter / ADAPTER).is_file() and (folder is None or adapter != folder):
            weights, pickled = adapter / ADAPTER_WEIGHTS, adapter / "adapter_model.bin"
            if pickled.is_file() and not weights.is_file():
                return Checkpoint(path, step, "refused", adapter, f"{pickled} {_PICKLED}")
            why = unreadable(adapter / ADAPTER) or ("" if whole(weights) else f"{weights} is not finished")
            state: Literal["writing", "adapter"] = "writing" if why else "adapter"
            return Checkpoint(path, step, state, adapter, why, tokenizer=tokenizer, base=folder)
    if folder is not None:
        why = why_not_whole(folder)
        bare = not (folder / "config.json").is_file()
        return Checkpoint(path, step, "writing" if why else "model", folder, why or "", bare, tokenizer)
    for each in folders:
        if files := sorted(each.glob("pytorch_model*.bin")):
            return Checkpoint(path, step, "refused", path, f"{files[0]} {_PICKLED} ({layout.setting})")
    for shards in layout.sharded:
        if parts := sorted(path.glob(shards.files)):
            how = f"let the trainer save Hugging Face weights ({layout.setting})"
            if shards.convert is not None:
                command = shards.convert.replace("{checkpoint}", shlex.quote(str(path)))
                how = f"convert them with `{command}`, or {how}"
            why = f"the weights of {path} are sharded ({parts[0].relative_to(path)}): {how}"
            return Checkpoint(path, step, "refused", path, why, only_resumed=shards.apart)
    why = f"{path} has no weights; the trainer saves them with {layout.setting}"
    return Checkpoint(path, step, "writing", path, why)


def owner(folder: Path, layout: Layout) -> Checkpoint | None:
    """The checkpoint that a folder is, or is a part of; None if it is not this trainer's or was deleted."""
    for path in (folder, *list(folder.parents)[:4]):
        number = re.fullmatch(layout.step, path.name)
        inside = {path / name for name in (".", *layout.weights, *layout.adapters)}
        if number and path.is_dir() and folder in inside:
            with suppress(OSError):
                return look(path, int(number[1]), layout)
    return None


def _has_any(path: Path, *kinds: str) -> bool:
    """Whether a folder has files that match one of the patterns."""
    return any(any(path.glob(kind)) for kind in kinds)


def find(root: Path, layout: Layout, *, since: float = 0.0) -> tuple[Checkpoint | None, str]:
    """The checkpoint to score, the one with the highest step, or None; and why a newer one was not taken.

    Incomplete checkpoints are skipped, and so are states for resuming if the trainer also exports models. A
    complete one that cannot be scored, such as a sharded one, is not replaced by an older one. `root` is the
    trainer's output root or a checkpoint. Files created before `since` (seconds since 1970) are ignored.
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
    """The checkpoints below a root, newest first; within a step, those that can be scored come first."""
    for number, same in groupby(sorted(checkpoints(root, layout), reverse=True), lambda each: each[0]):
        of_step = []
        for _, path in same:
            try:
                checkpoint = look(path, number, layout)
                if path.is_dir() and _put_there(checkpoint) >= since:
                    of_step.append(checkpoint)
            except OSError as error:
                if path.is_dir():
                    raise storage_error(path, error, "read") from error
        yield from sorted(of_step, key=lambda each: (not each.usable, each.only_resumed, str(each.path)))


def _put_there(checkpoint: Checkpoint) -> float:
    """When its files were created, in seconds since 1970: st_ctime, because copies keep the other times."""
    files = list(checkpoint.folder.glob("*.safetensors")) or [checkpoint.path]
    return max(file.stat().st_ctime for file in files)


def small_files(folder: Path) -> dict[str, Path]:
    """The paths of a folder's configuration, tokenizer and templates, by their names in the folder."""
    names = sorted([*glob("*", root_dir=folder), *glob("additional_chat_templates/*.jinja", root_dir=folder)])
    names = [name for name in names if Path(name).suffix in _SMALL and (folder / name).is_file()]
    return {name: folder / name for name in names if name not in ("trainer_state.json", INDEX)}


def see_mergeable(adapter: Path) -> dict[str, Any]:
    """An adapter's configuration; raises ModelError if it is not LoRA, has no scale, or peft is missing."""
    try:
        config: dict[str, Any] = json_file(adapter / ADAPTER)
        kind = config["peft_type"]
    except (ValueError, LookupError, TypeError, OSError) as error:
        raise ModelError(f"{adapter / ADAPTER} is no adapter's configuration.") from error
    if kind != "LORA":
        raise ModelError(f"{adapter} is a {kind} adapter; only LoRA can be merged: let the trainer merge it.")
    if not config.get("lora_alpha"):
        raise ModelError(
            f"{adapter / ADAPTER} has lora_alpha {config.get('lora_alpha')}, with which nothing would be "
            "merged; set it to the alpha that the adapter was trained with."
        )
    if importlib.util.find_spec("peft") is None:
        raise ModelError(
            f"{adapter} has only an adapter, and peft, which merges it for scoring, is not installed: "
            "`pip install 'gaincurate[peft]'`, or let the trainer save the merged model."
        )
    return config


def hold(checkpoint: Checkpoint, into: Path, model: Path | None = None) -> None:
    """Link or copy a checkpoint's files into the folder `into`, unless it has them already.

    A configuration or tokenizer that the checkpoint lacks is taken from `model`. A record of the files is
    written last: without it, the folder is not complete. Raises InputError if `model` has no configuration,
    TrainerError if the checkpoint was deleted, and StorageError if the file system refuses.
    """
    begun = False
    try:
        files = _files(checkpoint, model)
        record: Json = {
            "checkpoint": str(checkpoint.folder),
            "base": checkpoint.base and str(checkpoint.base),
            "files": {name: _stamp(file) for name, file in files.items()},
        }
        if (into / RECORD).exists() and read_sealed(into / RECORD) == record and not changed(into):
            return
        _delete(into)
        begun = True
        into.mkdir(parents=True)
        for name, file in files.items():
            _link(file, into / name)
        write_sealed(into / RECORD, record)
    except OSError as error:
        if begun:
            _delete(into)
        if not isinstance(error, FileNotFoundError):
            raise storage_error(into, error) from error
        raise TrainerError(
            f"{checkpoint.path} was deleted before it could be held. Run this again, and let the trainer "
            "keep more than one (save_total_limit and the like)."
        ) from error


def _delete(folder: Path) -> None:
    """Delete a held folder, its record first, so that a kill leaves no record without its files."""
    with suppress(OSError):
        (folder / RECORD).unlink()
    shutil.rmtree(folder, ignore_errors=True)


def changed(held: Path) -> list[str]:
    """The names of held files that have changed or disappeared."""
    stamps = read_sealed(held / RECORD)["files"]
    return [name for name in stamps if not (held / name).exists() or _stamp(held / name) != stamps[name]]


def see_unchanged(held: Path) -> None:
    """Delete held files that have changed, and raise TrainerError, because their scores mix two models."""
    if names := changed(held):
        checkpoint = read_sealed(held / RECORD)["checkpoint"]
        _delete(held)
        raise TrainerError(
            f"{checkpoint} was written again in place while it was scored ({names[0]}), so its scores mix "
            "two models. Let the trainer write each checkpoint to a folder of its own, and run this again."
        )


def _files(checkpoint: Checkpoint, model: Path | None) -> Json:
    """The files that scoring needs, by name; raises InputError if `model` has no configuration for them."""
    folder, adapter = checkpoint.folder, checkpoint.state == "adapter"
    weights = [*(weight_names(folder) or ()), *([INDEX] if (folder / INDEX).is_file() else ())]
    names = [ADAPTER, ADAPTER_WEIGHTS] if adapter else weights
    files = {name: folder / name for name in names} | small_files(folder)
    if checkpoint.tokenizer is not None:
        files = small_files(checkpoint.tokenizer) | files
    if adapter:
        return files
    small = small_files(model) if model is not None else {}
    if checkpoint.bare and "config.json" not in small:
        raise InputError(
            f"{folder} has weights without a config.json, and the model that the run began with "
            f"({model or 'not known'}) is no folder to take it from; start the run with --model FOLDER."
        )
    if not any(name in files for name in _TOKENIZER):
        files = {name: path for name, path in small.items() if name != "config.json"} | files
    return files | ({"config.json": small["config.json"]} if checkpoint.bare else {})


def _link(path: Path, to: Path) -> None:
    """Link a file, or copy it if the file system cannot link it."""
    to.parent.mkdir(exist_ok=True)
    path = path.resolve(strict=True)
    try:
        os.link(path, to)
    except OSError:  # another file system, or one that has no links
        shutil.copy2(path, to)


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def remembered_trainer(run: Run, trainer: str | None, *, keep: bool = True) -> str | None:
    """The given trainer, which is stored with the run if `keep`; without one the stored one, or None."""
    path = run.folder / "trainer.json"
    if trainer is None:
        return str(read_sealed(path)["trainer"]) if path.exists() else None
    layout_of(trainer)  # raises InputError if its checkpoints are not known
    if keep:
        write_sealed(path, {"trainer": trainer})
    return trainer


class TrainerFinder(Finder):
    """A `Finder` for one trainer's checkpoints. `note` is called with messages for the user."""

    def __init__(self, layout: Layout, note: Note = lambda text: None) -> None:
        self._layout, self._note = layout, note

    def newest(self, output: Path, since: float) -> Path | None:
        """The newest complete checkpoint below a folder that was created at `since` or later, or None."""
        checkpoint, _ = self._newest(output, since)
        return checkpoint.folder if checkpoint else None

    def _newest(self, root: Path, since: float = 0.0) -> tuple[Checkpoint | None, str]:
        checkpoint, why = find(root, self._layout, since=since)
        if checkpoint is not None and why:
            self._note(f"a newer checkpoint than {checkpoint.path} is passed over: {why}")
        return checkpoint, why

    def why_none(self, output: Path) -> str:
        """Why there is no new checkpoint."""
        return find(output, self._layout)[1] or "every checkpoint below it is from an earlier attempt"

    def why_incomplete(self, checkpoint: Path) -> str | None:
        """Why the next round cannot begin with this checkpoint; None if it can."""
        theirs = owner(checkpoint, self._layout)
        if theirs is None:
            return super().why_incomplete(checkpoint)
        return None if theirs.usable else theirs.why

    def chosen(self, run: Run, root: Path) -> str:
        """The checkpoint of a round that was trained by hand: the held one, or else the newest.

        `root` is the trainer's output root or a checkpoint. Raises InputError if there is none.
        """
        root = root.resolve()
        for before in _holds(run):
            if Path(before) != root and root in Path(before).parents:
                self._note(f"round {run.round}: continues with {before}, which is still held")
                return before
        checkpoint, why = self._newest(root)
        if checkpoint is None:
            raise InputError(f"--checkpoint {root}: {why}.", path=str(root))
        return str(checkpoint.folder)

    @contextmanager
    def held(self, run: Run, checkpoint: str) -> Iterator[str]:
        """Yield a folder with a checkpoint's files, for `gaincurate score`; it is deleted if no error occurs.

        Raises InputError if the checkpoint cannot be used, TrainerError if it changed while it was scored.
        """
        into = _holds(run).get(checkpoint)
        if into is None or Path(checkpoint).is_dir():
            folder = Path(checkpoint)
            theirs = owner(folder, self._layout) or Checkpoint(folder, -1, "model", folder)
            if not theirs.usable:
                raise InputError(f"the checkpoint {folder} cannot be used: {theirs.why}.", path=checkpoint)
            into = self._hold(run, theirs)
        yield str(self._merged(run, into) if into.name.endswith(_ADAPTER) else into)
        see_unchanged(into)
        for each in into.parent.glob("*"):
            _delete(each)
        shutil.rmtree(into.parent, ignore_errors=True)

    def _hold(self, run: Run, checkpoint: Checkpoint) -> Path:
        """Hold a checkpoint for the newest round, delete all other held ones, and return the folder."""
        place = _place(run)
        into = model = place / checkpoint.path.name
        if checkpoint.state == "adapter":
            see_mergeable(checkpoint.folder)
            into = model.with_name(f"{model.name}{_ADAPTER}")
        for other in (*place.parent.glob("*"), *place.glob("*")):
            if other not in (place, into, model):
                _delete(other)
        hold(checkpoint, into, Path(run.config.model) if run.config.model else None)
        return into

    def _merged(self, run: Run, adapter: Path) -> Path:
        """The folder of a held adapter's merged model, which is made unless it exists."""
        model = adapter.with_name(adapter.name.removesuffix(_ADAPTER))
        record = read_sealed(adapter / RECORD)
        if (model / RECORD).exists() and read_sealed(model / RECORD).get("merged") == record:
            return model
        command = [sys.executable, "-m", "gaincurate.trainers.lora", str(adapter), "--out", str(model)]
        command += ["--base", record["base"]] if record["base"] else []
        self._note(f"merging the adapter {record['checkpoint']} into its base model")
        log = run.round_folder(run.round) / "merging.log"
        try:
            with command_lock(run.folder, "scoring.lock") as lock:
                _delete(model)  # under the lock: a merge whose parent was killed may still be writing
                seconds = run_command(command, environment={"HF_HUB_OFFLINE": "1"}, log=log, lock=lock)
        except TrainerError as error:
            why = (last_line(log) or "it wrote nothing").removeprefix("error: ")
            raise GaincurateError(f"the adapter was not merged: {why} (log: {log}).", log=str(log)) from error
        run.log(what="merging", round=run.round, seconds=seconds, checkpoint=record["checkpoint"])
        write_sealed(model / RECORD, {"merged": record})
        return model


def _place(run: Run) -> Path:
    """The folder for the newest round's checkpoint, which is below it under its own name, as in scores."""
    return run.folder / "held" / f"{run.round:05d}"


def _holds(run: Run) -> dict[str, Path]:
    """The newest round's held folders by the path of their checkpoint; of merged models, the adapter's."""
    records = {path.parent: read_sealed(path) for path in sorted(_place(run).glob(f"[!.]*/{RECORD}"))}
    return {record["checkpoint"]: folder for folder, record in records.items() if "checkpoint" in record}
