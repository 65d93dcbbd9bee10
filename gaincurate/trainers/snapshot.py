"""Holds a checkpoint while it is scored, by hard links or copies in the run. Adapters are merged first.

Trainers delete old checkpoints while they run, so what is scored must be the run's own. The held folder
stays, by round, until its scoring is done: a killed scoring goes on with it, though the trainer has deleted
the checkpoint since.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gaincurate.core.artifact import Json
from gaincurate.core.process import command_lock, last_line, run_command
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.errors import GaincurateError, InputError, TrainerError, storage_error
from gaincurate.schedule.checkpoints import INDEX, Finder, weight_names
from gaincurate.schedule.observations import Note
from gaincurate.schedule.run import Run
from gaincurate.trainers.checkpoints import ADAPTER, ADAPTER_WEIGHTS, Checkpoint, find, owner, small_files
from gaincurate.trainers.lora import see_mergeable
from gaincurate.trainers.profile import Layout, layout_of

RECORD = ".held.json"
_TRAINER = "trainer.json"
_ADAPTER = "-adapter"  # ends the name of a held folder whose merged model takes the name without it
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def hold(checkpoint: Checkpoint, into: Path, model: Path | None = None) -> None:
    """Link a checkpoint's files into a folder; nothing is done where it holds them already.

    Across file systems they are copied. `model` has the configuration and the tokenizer, for what the
    checkpoint has not.

    Raises:
        InputError: the configuration is neither in the checkpoint nor in the model's folder.
        TrainerError: it was deleted meanwhile.
        StorageError: the file system refused.
    """
    making = into.with_name(f".{into.name}.making")
    try:
        files = _files(checkpoint, model)
        record: Json = {
            "checkpoint": str(checkpoint.folder),
            "step": checkpoint.step,
            "base": checkpoint.base and str(checkpoint.base),
            "files": {name: _stamp(file) for name, file in files.items()},
        }
        if _record(into) == record and not changed(into):
            return
        for old in (making, into):
            shutil.rmtree(old, ignore_errors=True)
        making.mkdir(parents=True)
        for name, file in files.items():
            _link(file, making / name)
        write_sealed(making / RECORD, record)
        making.replace(into)
    except FileNotFoundError as error:
        shutil.rmtree(making, ignore_errors=True)
        raise TrainerError(
            f"{checkpoint.path} was deleted before it could be held. Run this again, and let the trainer "
            "keep more than one (save_total_limit and the like)."
        ) from error
    except OSError as error:
        shutil.rmtree(making, ignore_errors=True)
        raise storage_error(into, error) from error


def _record(held: Path) -> Json | None:
    """Of what a folder holds; None where it holds nothing."""
    return read_sealed(held / RECORD) if (held / RECORD).exists() else None


def changed(held: Path) -> list[str]:
    """The names of held files that are no longer what was held."""
    stamps = read_sealed(held / RECORD)["files"]
    return [name for name in stamps if not (held / name).exists() or _stamp(held / name) != stamps[name]]


def source(held: Path) -> str | None:
    """The checkpoint that a folder holds; None where it holds none."""
    return (_record(held) or {}).get("checkpoint")


def see_unchanged(held: Path) -> None:
    """Refuse held files that changed, and delete them."""
    if names := changed(held):
        checkpoint = source(held)
        shutil.rmtree(held, ignore_errors=True)
        raise TrainerError(
            f"{checkpoint} was written again in place while it was scored ({names[0]}), so its scores mix "
            "two models. Let the trainer write each checkpoint to a folder of its own, and run this again."
        )


def _files(checkpoint: Checkpoint, model: Path | None) -> Json:
    """Names and sources of what scoring needs."""
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
    """Link a file, or copy it where there can be no link."""
    to.parent.mkdir(exist_ok=True)
    path = path.resolve(strict=True)
    try:
        os.link(path, to)
    except OSError:  # another file system, or one without links
        shutil.copy2(path, to)


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def remembered_trainer(run: Run, trainer: str | None, *, keep: bool = True) -> str | None:
    """The given trainer, which the run remembers if `keep` is true, or the remembered one, or None."""
    path = run.folder / _TRAINER
    if trainer is not None:
        name = layout_of(trainer).trainer
        if keep:
            write_sealed(path, {"trainer": name})
        return name
    return str(read_sealed(path)["trainer"]) if path.exists() else None


class TrainerFinder(Finder):
    """A `Finder` for one trainer's checkpoints; `note` is called with messages for the user."""

    def __init__(self, layout: Layout, note: Note = lambda text: None) -> None:
        self._layout, self._note = layout, note

    def newest(self, output: Path, since: float) -> Path | None:
        """The newest complete checkpoint below a folder, put there at `since` or later."""
        checkpoint = self._newest(output, since)[0]
        return checkpoint.folder if checkpoint else None

    def _newest(self, root: Path, since: float = 0.0) -> tuple[Checkpoint | None, str]:
        checkpoint, why = find(root, self._layout, since=since)
        if checkpoint is not None and why:
            self._note(f"a newer checkpoint than {checkpoint.path} is passed over: {why}")
        return checkpoint, why

    def why_none(self, output: Path) -> str:
        """Why there is none."""
        return find(output, self._layout)[1] or "what is there was there before"

    def why_incomplete(self, checkpoint: Path) -> str | None:
        """Why the next round cannot begin with this checkpoint; None where it can."""
        theirs = owner(checkpoint, self._layout)
        if theirs is None:
            return super().why_incomplete(checkpoint)
        return None if theirs.usable else theirs.why

    def chosen(self, run: Run, root: Path) -> str:
        """The checkpoint of a round that was trained by hand: one that is held already, else the newest.

        `root` is the trainer's output root, or a checkpoint.

        Raises:
            InputError: there is none.
        """
        root = root.resolve()
        for folder in _holds(run):
            before = source(folder)
            if before is not None and Path(before) != root and root in Path(before).parents:
                self._note(f"round {run.round}: goes on with {before}, which is held since the last time")
                return before
        checkpoint, why = self._newest(root)
        if checkpoint is None:
            raise InputError(f"--checkpoint {root}: {why}.", path=str(root))
        return str(checkpoint.folder)

    @contextmanager
    def held(self, run: Run, checkpoint: str) -> Iterator[str]:
        """Yield a folder that `gaincurate score` reads and nobody changes; it remains after an error."""
        into = next((folder for folder in _holds(run) if source(folder) == checkpoint), None)
        if into is None or Path(checkpoint).is_dir():
            folder = Path(checkpoint)
            theirs = owner(folder, self._layout) or Checkpoint(folder, -1, "model", folder)
            if not theirs.usable:
                raise InputError(f"the checkpoint {folder} cannot be used: {theirs.why}.", path=checkpoint)
            into = self._hold(run, theirs)
        yield str(self._merged(run, into) if into.name.endswith(_ADAPTER) else into)
        see_unchanged(into)
        shutil.rmtree(into.parent, ignore_errors=True)

    def _hold(self, run: Run, checkpoint: Checkpoint) -> Path:
        """Hold a checkpoint for the newest round; where."""
        place = _place(run)
        into = model = place / checkpoint.path.name
        if checkpoint.state == "adapter":
            see_mergeable(checkpoint.folder)
            into = model.with_name(f"{model.name}{_ADAPTER}")
        for other in (*place.parent.glob("*"), *place.glob("*")):
            if other not in (place, into, model):  # of earlier rounds, of others, and what kills left
                shutil.rmtree(other, ignore_errors=True)
        hold(checkpoint, into, Path(run.config.model) if run.config.model else None)
        return into

    def _merged(self, run: Run, adapter: Path) -> Path:
        """A held adapter's merged model, merged now unless that was done."""
        model = adapter.with_name(adapter.name.removesuffix(_ADAPTER))
        record = read_sealed(adapter / RECORD)
        if (_record(model) or {}).get("merged") == record:
            return model
        making = model.with_name(f".{model.name}.merging")
        for old in (making, model):
            shutil.rmtree(old, ignore_errors=True)
        command = [sys.executable, "-m", "gaincurate.trainers.lora", str(adapter), "--out", str(making)]
        if record["base"] is not None:
            command += ["--base", record["base"]]
        self._note(f"merging the adapter {record['checkpoint']} into its base model")
        log = run.round_folder(run.round) / "merging.log"
        try:
            with command_lock(run.folder, "scoring.lock") as lock:
                seconds = run_command(command, environment={"HF_HUB_OFFLINE": "1"}, log=log, lock=lock)
        except TrainerError as error:
            why = (last_line(log) or "it said nothing").removeprefix("error: ")
            raise GaincurateError(
                f"the adapter could not be merged: {why} (log: {log}).", log=str(log)
            ) from error
        run.log(what="merging", round=run.round, seconds=seconds, checkpoint=record["checkpoint"])
        write_sealed(making / RECORD, {"checkpoint": record["checkpoint"], "files": {}, "merged": record})
        try:
            making.replace(model)
        except OSError as error:
            raise storage_error(model, error) from error
        return model


def _place(run: Run) -> Path:
    """Where the newest round's checkpoint is held; its own name is below it, and so in the scores."""
    return run.folder / "held" / f"{run.round:05d}"


def _holds(run: Run) -> list[Path]:
    """The folders there, adapters before what was merged from them."""
    folders = {path.parent for path in _place(run).glob(f"[!.]*/{RECORD}")}
    return sorted(folders, key=lambda folder: (not folder.name.endswith(_ADAPTER), folder.name))
