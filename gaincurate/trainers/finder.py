"""A known trainer's checkpoints in a run: takes the run and a layout, yields what is scored, held or merged.

The held folder is in the run, by round, until its scoring is done: a killed one goes on with it, though the
trainer has deleted the checkpoint since. What the next round begins with stays the trainer's own folder.
Knows nothing of scoring.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gaincurate.core.process import command_lock, last_line, run_command
from gaincurate.errors import GaincurateError, InputError, TrainerError, storage_error
from gaincurate.files import write_json
from gaincurate.schedule.checkpoints import Finder
from gaincurate.schedule.foresight import observes_with_checkpoint
from gaincurate.schedule.rescore import due
from gaincurate.schedule.run import Run, read_json, round_name
from gaincurate.trainers.checkpoints import Checkpoint, owner
from gaincurate.trainers.hold import RECORD, hold, see_unchanged, source
from gaincurate.trainers.layouts import Layout, layout_of
from gaincurate.trainers.merge import see_mergeable
from gaincurate.trainers.watch import find, wait

_TRAINER, _BASE = "trainer.json", ".base.json"
_ADAPTER = "-adapter"  # ends the name of a held folder whose merged model takes the name without it
_TRIES = 5  # checkpoints that may be deleted between finding and holding them
Note = Callable[[str], None]


def remembered_trainer(run: Run, trainer: str | None, *, keep: bool = True) -> str | None:
    """The trainer to go by: the one given, which is kept if asked, or the last one; None where there is none.

    Raises:
        InputError: it is not known.
    """
    path = run.folder / _TRAINER
    if trainer is not None:
        found = layout_of(trainer).trainer
        if keep:
            write_json(path, {"trainer": found})
        return found
    return str(read_json(path)["trainer"]) if path.exists() else None


class TrainerFinder(Finder):
    """A `Finder` for one trainer's checkpoints.

    Args:
        layout: the trainer's.
        note: told what a person should know.
    """

    def __init__(self, layout: Layout, note: Note = lambda text: None) -> None:
        self._layout, self._note = layout, note

    def newest(self, output: Path, since: float) -> Path | None:
        """The newest complete checkpoint below a folder, put there at `since` or later."""
        found = find(output, self._layout, since=since)
        self._tell(found.passed if found.checkpoint else ())
        return found.checkpoint.folder if found.checkpoint else None

    def why_none(self, output: Path) -> str:
        """Why there is none."""
        return find(output, self._layout).why or "what is there was there before"

    def why_incomplete(self, checkpoint: Path) -> str | None:
        """Why the next round cannot begin with this checkpoint; None where it can."""
        found = self._owner(checkpoint)
        if found is None:
            return super().why_incomplete(checkpoint)
        return None if found.usable else found.why

    def chosen(self, run: Run, root: Path, seconds: float | None = None) -> str:
        """The checkpoint of a round that was trained by hand; held already where something is done with it.

        Args:
            run: the run.
            root: the trainer's output root, or a checkpoint.
            seconds: to wait until the newest one is complete. Default: the newest that is.

        Raises:
            TrainerError: there is none in time.
            InputError: there is none.
            ModelError: it is an adapter that cannot be merged.
        """
        round_ = run.state["round"]
        again = due(run.config, round_) or observes_with_checkpoint(run.config)
        root = root.resolve()
        for folder in _holds(run) if again else ():
            before = source(folder)
            if before is not None and Path(before) != root and root in Path(before).parents:
                self._note(f"round {round_}: goes on with {before}, which is held since the last time")
                return before
        for _ in range(_TRIES):
            checkpoint = self._one(root, seconds)
            try:
                if again:
                    self._hold(run, checkpoint)
                return str(checkpoint.folder)
            except FileNotFoundError:
                self._note(f"{checkpoint.path} was deleted while it was looked at")
        raise TrainerError(
            f"the checkpoints below {root} are deleted faster than they can be held; let the trainer keep "
            "more than one (save_total_limit and the like)."
        )

    @contextmanager
    def held(self, run: Run, checkpoint: str) -> Iterator[str]:
        """Within it, a folder that `gaincurate score` reads and that stays as it is; kept on an error."""
        kept = next((folder for folder in _holds(run) if source(folder) == checkpoint), None)
        if kept is None or Path(checkpoint).is_dir():
            kept = self._held_now(run, checkpoint)
        yield str(self._merged(run, kept) if kept.name.endswith(_ADAPTER) else kept)
        see_unchanged(kept)
        shutil.rmtree(kept.parent, ignore_errors=True)

    def _held_now(self, run: Run, checkpoint: str) -> Path:
        folder = Path(checkpoint)
        try:
            found = self._owner(folder) or Checkpoint(folder, -1, "model", folder)
            if not found.usable:
                raise InputError(f"the checkpoint {checkpoint} cannot be used: {found.why}.", path=checkpoint)
            return self._hold(run, found)
        except FileNotFoundError as error:
            raise TrainerError(
                f"{checkpoint} was deleted before it could be held; let the trainer keep the newest one."
            ) from error

    def _one(self, root: Path, seconds: float | None) -> Checkpoint:
        if seconds is not None:
            return wait(root, self._layout, seconds, told=self._note)
        found = find(root, self._layout)
        if found.checkpoint is None:
            raise InputError(f"--checkpoint {root}: {found.why}.", path=str(root))
        self._tell(found.passed)
        return found.checkpoint

    def _hold(self, run: Run, checkpoint: Checkpoint) -> Path:
        """Hold a checkpoint for the newest round; where."""
        place = _place(run)
        into = place / checkpoint.path.name
        keep = {into}
        if checkpoint.state == "adapter":
            see_mergeable(checkpoint.folder)
            into = into.with_name(f"{into.name}{_ADAPTER}")
            keep.add(into)
        for other in (*place.parent.glob("*"), *place.glob("*")):
            if other != place and other not in keep:  # of earlier rounds, of others, and what kills left
                shutil.rmtree(other, ignore_errors=True)
        whole = Path(run.config.model) if run.config.model else None
        hold(checkpoint, into, model=whole, note=self._note)
        if checkpoint.state == "adapter" and checkpoint.base is not None:
            write_json(into / _BASE, {"base": str(checkpoint.base)})
        return into

    def _merged(self, run: Run, adapter: Path) -> Path:
        """A held adapter's merged model, merged now unless that was done."""
        model = adapter.with_name(adapter.name.removesuffix(_ADAPTER))
        record = read_json(adapter / RECORD)
        if (model / RECORD).exists() and read_json(model / RECORD).get("merged") == record:
            return model
        making = model.with_name(f".{model.name}.merging")
        for old in (making, model):
            shutil.rmtree(old, ignore_errors=True)
        command = [sys.executable, "-m", "gaincurate.trainers.merge", str(adapter), "--out", str(making)]
        if (adapter / _BASE).exists():
            command += ["--base", str(read_json(adapter / _BASE)["base"])]
        self._note(f"merging the adapter {record['checkpoint']} into its base model")
        log = run.round_folder(run.state["round"]) / "merging.log"
        try:
            with command_lock(run.folder, "scoring.lock") as lock:
                seconds = run_command(command, environment={"HF_HUB_OFFLINE": "1"}, log=log, lock=lock)
        except TrainerError as error:
            why = (last_line(log) or "it said nothing").removeprefix("error: ")
            raise GaincurateError(
                f"the adapter could not be merged: {why} (log: {log}).", log=str(log)
            ) from error
        run.log(what="merging", round=run.state["round"], seconds=seconds, checkpoint=record["checkpoint"])
        write_json(making / RECORD, {"checkpoint": record["checkpoint"], "files": {}, "merged": record})
        try:
            making.replace(model)
        except OSError as error:
            raise storage_error(model, error) from error
        return model

    def _owner(self, folder: Path) -> Checkpoint | None:
        try:
            return owner(folder, self._layout)
        except OSError:
            return None

    def _tell(self, passed: tuple[Checkpoint, ...]) -> None:
        for one in passed:
            self._note(f"{one.path} is newer and was passed over: {one.why}")


def _place(run: Run) -> Path:
    """Where the newest round's checkpoint is held; its own name is below it, and so in the scores."""
    return run.folder / "held" / round_name(run.state["round"])


def _holds(run: Run) -> list[Path]:
    """The folders there, adapters before what was merged from them."""
    found = [path.parent for path in _place(run).glob(f"*/{RECORD}") if not path.parent.name.startswith(".")]
    return sorted(found, key=lambda folder: (not folder.name.endswith(_ADAPTER), folder.name))
