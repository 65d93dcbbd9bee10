"""Drives a run through its rounds: a trainer, one process per round (`drive`), or a program's own loop
(`Schedule`).

Each round it runs the command, takes the outcomes, scores again if that is due, and plans the next round.
Each step is on disk before the next begins, so a killed driver resumes. The trainer is a command with
placeholders, so it can be any program. `Schedule` keeps its state in the run's folder only, so a program and
the command line can take turns on the same run.
"""

from __future__ import annotations

import os
import shlex
import shutil
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pyarrow as pa

from gaincurate.core.artifact import Json
from gaincurate.core.files import append_lines, drop_half_line, reading, remove_temporaries
from gaincurate.core.locks import joining
from gaincurate.core.options import checked
from gaincurate.core.outcomes import attempt_to_report
from gaincurate.core.process import check_placeholders, command_lock, fill, run_command, stoppable
from gaincurate.core.progress import View
from gaincurate.core.prompts import read_rows
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.errors import InputError, OutcomeError, StorageError, TrainerError
from gaincurate.schedule.checkpoints import Finder, checkpoint_before, forget_training
from gaincurate.schedule.config import ScheduleConfig, ScheduleOptions
from gaincurate.schedule.observations import checked_lines, logged, status, take_outcomes
from gaincurate.schedule.rounds import advance, write_data
from gaincurate.schedule.rounds import start as open_run
from gaincurate.schedule.run import TRAINED, Run, working_on

NAMES = ("data", "round", "checkpoint", "outcomes", "output")  # the placeholders of a trainer's command
_COMMAND = "command.json"
_CLOCKS = 2.0  # seconds that a file system's clock may be behind
_REPORTING = threading.Lock()


def drive(
    run: Run,
    command: Sequence[str],
    *,
    timeout: float | None = None,
    again: bool = False,
    view: View | None = None,
    finder: Finder | None = None,
) -> None:
    """Run the command, a trainer with placeholders in braces, for each round that is left.

    An empty command repeats that of the last call. `timeout` limits a round's training, in seconds. With
    `again` the newest round is trained again even if its trainer ended well. `finder` finds the trainer's
    checkpoints; by default a checkpoint is any folder with complete weights.

    Raises:
        TrainerError: the trainer failed, hung, or left no checkpoint although one is needed.
        OutcomeError: its outcomes cannot be used.
        LockedError: another process works on the run, or an earlier trainer is still running.
    """
    view, finder = view or View(), finder or Finder()
    wanted = remembered(run, command)
    with stoppable(), working_on(run.folder), command_lock(run.folder) as lock:
        if command:
            again = again or (not run.state["finished"] and _trains_again(run, wanted, view))
            write_sealed(run.folder / _COMMAND, {"command": wanted})
        if again and run.state["finished"]:
            raise InputError(f"{run.folder} is finished: there is no round to --retry.")
        while not (state := run.state)["finished"]:
            round_ = state["round"]
            if round_ < 0:
                advance(run, None, view.note, finder.held)
                continue
            remove_temporaries(run.round_folder(round_))  # of a driver that was killed
            done = run.round_folder(round_) / TRAINED
            _ = run.scored  # before hours are spent: that it is still there
            if again:
                forget_training(run, round_)
                again = False
            if not done.exists():
                if not run.data(round_).exists():  # tidied away, or by a trainer
                    table = run.scored.take(np.array(state["rows"], np.int64))
                    write_data(run, round_, table, run.plan(round_).get("rollouts"))
                    view.note(f"round {round_}: {run.data(round_)} was gone and is written again")
                _train(run, round_, wanted, lock, timeout, view, finder)
            with _pointing_at(run, round_):
                take_outcomes(run, round_)
            advance(run, _checkpoint_after(run, round_, wanted, view, finder), view.note, finder.held)
            view.round_done(round_, read_sealed(done)["seconds"])


def _trains_again(run: Run, command: list[str], view: View) -> bool:
    """Whether a new command trains the newest round again: the last one ended well but left no outcomes."""
    round_, outcomes = run.round, run.outcomes(run.round)
    trained = (run.round_folder(round_) / TRAINED).exists() and (run.folder / _COMMAND).exists()
    if not trained or remembered(run, []) == command or (outcomes.exists() and outcomes.stat().st_size):
        return False
    view.note(f"round {round_} has no outcomes: the new command trains it again")
    return True


def remembered(run: Run, command: Sequence[str]) -> list[str]:
    """The given command, or else that of the last call.

    Raises InputError if there is neither, or it has an unknown placeholder or program.
    """
    path = run.folder / _COMMAND
    if not command and not path.exists():
        raise InputError(
            f"no command: gaincurate schedule run {run.folder} -- python train.py --data {{data}} --model "
            "{checkpoint} --outcomes {outcomes} --output {output}"
        )
    check_placeholders(command, NAMES)
    trainer = list(command) if command else read_sealed(path)["command"]
    if trainer[0].startswith("-"):
        raise InputError(
            f"{trainer[0]} is no option of `schedule run` and no program; the trainer goes after --."
        )
    if "{" not in trainer[0] and shutil.which(trainer[0]) is None:
        raise InputError(f"the trainer {trainer[0]!r} cannot be started: there is no such program.")
    return trainer


def newest_command(run: Run, command: Sequence[str], finder: Finder) -> list[str]:
    """The newest round's command as `drive` runs it; raises as `remembered` and `checkpoint_before` do."""
    if run.state["finished"]:
        raise InputError(f"{run.folder} is finished: no round is left.")
    wanted = remembered(run, command)
    return fill(wanted, _names_of(run, run.newest(), wanted, finder))


def _names_of(run: Run, round_: int, command: Sequence[str], finder: Finder) -> dict[str, str]:
    """The values of the placeholders in a round; paths are absolute."""
    return {
        "data": str(run.data(round_).resolve()),
        "round": str(round_),
        "checkpoint": checkpoint_before(run, round_, command, finder),
        "outcomes": str(run.outcomes(round_).resolve()),
        "output": str(run.round_folder(round_).resolve() / "output"),
    }


def _train(
    run: Run, round_: int, command: list[str], lock: int, timeout: float | None, view: View, finder: Finder
) -> None:
    """Run a round's trainer, and record its end and the checkpoint that it left."""
    folder, names = run.round_folder(round_), _names_of(run, round_, command, finder)
    output, log, counter = Path(names["output"]), folder / "trainer.log", folder / "attempt.json"
    attempt = read_sealed(counter)["attempt"] + 1 if counter.exists() else 1
    write_sealed(counter, {"attempt": attempt})
    (folder / TRAINED).unlink(missing_ok=True)
    if drop_half_line(run.outcomes(round_)):  # an earlier attempt wrote there
        append_lines(run.outcomes(round_), [{"attempt": attempt}])
    filled = fill(command, names)
    environment = {f"GAINCURATE_{name.upper()}": value for name, value in names.items()}
    view.training(round_, attempt, filled)
    with reading(output, "write"):
        output.mkdir(exist_ok=True)
    begun, ended_well = time.time(), False
    try:
        with _pointing_at(run, round_):
            seconds = run_command(
                filled,
                environment={**environment, "GAINCURATE_ATTEMPT": str(attempt)},
                log=log,
                lock=lock,
                timeout=timeout,
                watch=lambda taken: view.waiting(taken, log),
            )
        ended_well = True
    finally:  # what a failed attempt cost was spent too
        facts = {"round": round_, "attempt": attempt, "seconds": max(time.time() - begun, 0.0)}
        with suppress(StorageError):  # a full disk: the round is trained all the same, or failed for a reason
            run.log(what="training", **facts, ended_well=ended_well, command=shlex.join(filled))
    trained = {"seconds": seconds, "ended": time.time(), "checkpoint": None}
    write_sealed(folder / TRAINED, trained)  # first, so that no error of the search costs a training
    if (checkpoint := finder.newest(output, begun - _CLOCKS)) is not None:
        write_sealed(folder / TRAINED, trained | {"checkpoint": str(checkpoint)})


@contextmanager
def _pointing_at(run: Run, round_: int) -> Iterator[None]:
    """Add the round and what to do to an error's sentence."""
    again = f"Nothing is lost: `gaincurate schedule run {shlex.quote(str(run.folder))}` "
    try:
        yield
    except TrainerError as error:
        raise TrainerError(
            f"round {round_}: {error} {again}trains this round again.", **error.data
        ) from error
    except OutcomeError as error:
        raise OutcomeError(
            f"{error} {again}takes them up when they are right, and with --retry trains the round again.",
            **error.data,
        ) from error


def _checkpoint_after(run: Run, round_: int, command: list[str], view: View, finder: Finder) -> str | None:
    """The checkpoint that a round's training left; None if there is none and none is needed."""
    training = read_sealed(run.round_folder(round_) / TRAINED)
    output = (run.round_folder(round_) / "output").resolve()
    since = training["ended"] - training["seconds"] - _CLOCKS
    # Look once more: sharded weights may have been converted since.
    checkpoint = training["checkpoint"] or finder.newest(output, since)
    why = finder.why_incomplete(Path(checkpoint)) if checkpoint else finder.why_none(output)
    if why is None:
        return str(checkpoint)
    if round_ + 1 == run.config.rounds:
        return None
    went_on = run.state["checkpoint"] != run.config.model
    asked = run.rescores_after(round_) or run.config.observes_with_checkpoint
    if went_on or asked or any("{checkpoint}" in part for part in command):
        raise TrainerError(
            f"round {round_}: its trainer ended well but left no complete checkpoint below {output} "
            f"({why}), which the next round, the re-scoring or the rollouts of references begin with. Let "
            "it save one there (config.json and safetensors), then `gaincurate schedule run "
            f"{shlex.quote(str(run.folder))} --retry` trains this round again."
        )
    if round_ == 0:
        view.note(f"round 0 left no checkpoint below {output}; round 1 begins with the same model again")
    return None


class Schedule:
    """A run that was started. Every opening of it trains the newest round from its beginning.

    ::

        schedule = Schedule.start("scored", "run", strategy="uniform", budget=64, rounds=200)
        for round_ in schedule:
            for row in schedule.data().to_pylist():
                rewards = train_on(row["prompt"])
                schedule.report({"gc_id": row["gc_id"], "reward": reward} for reward in rewards)
        print(schedule.status()["rounds"][-1]["accuracy"])

    Args:
        run: its folder.

    Raises:
        OutputError: no run is there.
    """

    def __init__(self, run: str | Path) -> None:
        self._run = Run(run)
        self._attempt = (-1, 0)  # the round that this object reported of last, and its attempt at it
        self._lock: int | None = None

    def __reduce__(self) -> tuple[type[Schedule], tuple[Path]]:
        return Schedule, (self.folder,)

    @classmethod
    def start(
        cls,
        scored: str | Path,
        run: str | Path,
        *,
        strategy: str,
        budget: int,
        rounds: int,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Open a run and write its round 0; options as in `ScheduleConfig`, `rescore` as a mapping too.

        The options of the strategy go into `options`, a mapping.

        Raises:
            InputError: there is no such keyword, or an option does not go with the set or with another one.
            OutputError: the scored set is unfinished or damaged, or the run's folder holds something.
        """
        required = {"scored": scored, "run": run, "strategy": strategy, "budget": budget, "rounds": rounds}
        open_run(checked(ScheduleConfig, {**required, **options}, keywords=True), logged)
        return cls(run)

    def __repr__(self) -> str:
        config, round_ = self._run.config, self.round
        at = f"round {round_} ({round_ + 1}/{config.rounds})" if round_ >= 0 else "no round yet"
        at += ", finished" * self.finished
        return f"Schedule({str(self.folder)!r}: {config.strategy}, {at})"

    def __iter__(self) -> Iterator[int]:
        """The numbers of the rounds that are left; the body trains on `data()` and calls `report`.

        The next round is planned after the body, without a checkpoint: a run that needs one calls `next`.
        A loop that was left early resumes with the same round, as a new attempt at it.
        """
        if self.round < 0:  # it waits for its first references
            self.next()
        while not self.finished:
            self._attempt = (-1, 0)
            yield self.round
            self.next()

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._run.folder

    @property
    def round(self) -> int:
        """The newest round, from 0; -1 if the first waits for its references."""
        return self._run.round

    @property
    def finished(self) -> bool:
        """Whether all rounds are done."""
        return bool(self._run.state["finished"])

    @property
    def ids(self) -> list[str]:
        """The ids of the newest round's prompts, `[budget]`, in its order."""
        return self._run.ids(self._run.newest())

    @property
    def plan(self) -> Json:
        """The newest round's plan."""
        return self._run.plan(self._run.newest())

    def data(self) -> pa.Table:
        """The newest round's training rows, `[budget]`."""
        return read_rows(self._run.data(self._run.newest()))

    def report(self, outcomes: Iterable[Mapping[str, Any]], *, attempt: int | None = None) -> None:
        """Append outcomes of the newest round: `gc_id`, `reward`, and other keys of a line.

        `round` is filled in if a line has none, and so is `attempt`. All calls of one object are one attempt
        at the round. If an earlier process reported a part of the round and ended, the first call begins a
        new attempt, which replaces that part: all of it, or from the first `step` of the new lines on. If
        another process that reported is alive, as in data-parallel training, the calls of both are
        one attempt.

        Args:
            outcomes: lines, one a rollout.
            attempt: the attempt, from 1, to go on with. Default: as above.

        Raises:
            OutcomeError: a prompt that is not in the round, or a reward that is no number or outside the
                run's range; nothing is written.
            StorageError: the file system refused.
        """
        newest = self._run.newest()
        lines = checked_lines(self._run, outcomes, newest)
        path = self._run.outcomes(newest)
        with _REPORTING, ExitStack() as stack:
            if attempt is not None:
                self._attempt = (newest, attempt)
            elif self._attempt[0] != newest and any(line["round"] == newest for line in lines):
                lock = self.folder / "reporting.lock"
                if self._lock is None:
                    with reading(lock, "write"):
                        self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                    weakref.finalize(self, os.close, self._lock)
                if alone := stack.enter_context(joining(lock, self._lock)):
                    drop_half_line(path)
                self._attempt = (newest, attempt_to_report(path, newest, new=alone))
            round_, number = self._attempt
            lines = [{"attempt": number, **line} if line["round"] == round_ else line for line in lines]
            append_lines(path, lines)

    def next(self, checkpoint: str | Path | None = None, references: str | Path | None = None) -> bool:
        """Take the newest round's outcomes and plan the next round.

        Args:
            checkpoint: the checkpoint of the round's training; needed if a re-scoring is due, or if
                references are rolled out with it.
            references: for strategy `dots`, outcomes of the next round's references, or a rollout set.

        Returns:
            Whether there is a next round.

        Raises:
            OutcomeError: the outcomes cannot be used; nothing is changed.
            LockedError: another process is at work on the run.
        """
        left = None if checkpoint is None else str(checkpoint)
        of_references = None if references is None else Path(references)
        with working_on(self.folder):
            return advance(self._run, left, logged, references=of_references) is not None

    def status(self) -> Json:
        """The facts that `gaincurate schedule status --json` prints."""
        return status(self._run)
