"""A session in which a trainer follows a run live: it takes rows, reports outcomes, and plans the next round.

A session's state is in the run's files, so other processes of the trainer may also report, and a checkpoint
only needs the place that `save` returns.
"""

from __future__ import annotations

import fcntl
import math
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from gaincurate.core.artifact import RUN, Json
from gaincurate.core.files import append_lines, reading
from gaincurate.core.process import command_lock
from gaincurate.core.prompts import plain_rows
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.errors import InputError, OutcomeError, OutputError
from gaincurate.schedule.checkpoints import AS_IT_IS, Held, return_to, saved_place, take_back
from gaincurate.schedule.observations import Note, checked_lines, logged
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.run import Run, refuse_group_sizes, working_on
from gaincurate.schedule.strategies.dots import see_live

PLACE = "gaincurate_state.json"  # the file in a checkpoint's folder with the position in the run
RESUME = "resume from another checkpoint"  # advice in the error for a damaged file
ROUND = "gc_round"  # the key of a row's round, so that its outcomes can name the round


def place_beside(checkpoint: str | Path) -> Json:
    """The place that was saved in a checkpoint's folder.

    Raises:
        OutputError: the folder has none, or it is damaged.
    """
    path = Path(checkpoint) / PLACE
    if not path.exists():
        raise OutputError(
            f"{checkpoint} has no {PLACE}: it was not saved by a trainer that followed a run. Resume "
            "from one that has it, or start again with a new run.",
            path=str(path),
        )
    return read_sealed(path, RESUME)


class RunSession(AbstractContextManager["RunSession"]):
    """A run that one trainer follows. In a `with` block, or from `open` to `close`, it locks out all others.

    `position` counts the round's prompts that `take` returned. `checkpoint` is the newest one that the
    trainer saved, for re-scorings, and `held` provides the folder that is scored.

    Args:
        run: the run's folder.
        note: called with messages for the user.
        checkpoints: whether `checkpoint` is current at every round's end, to roll out references with.
        ahead: sentences on why a trainer may ask for prompts before outcomes are in, for the error.

    Raises:
        OutputError: the folder has no run.
        InputError: the run cannot be followed live.
    """

    def __init__(
        self, run: str | Path, note: Note = logged, *, checkpoints: bool = False, ahead: str = ""
    ) -> None:
        self.run = Run(run)
        see_live(self.run, checkpoints)
        self.note = note
        self.ahead = ahead
        self.position = 0
        self.checkpoint: str | None = None
        self.held: Held = AS_IT_IS
        self._rows: tuple[int, list[Json]] = (-1, [])
        self._state: Json | None = None
        self._lock: int | None = None
        self._held = ExitStack()
        self._since = time.monotonic()

    def __enter__(self) -> RunSession:
        self.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def open(self) -> None:
        """Lock other trainers out until `close` or the end of this process; a second call locks nothing new.

        Raises:
            LockedError: another trainer uses the run.
        """
        if self._lock is None:
            self._lock = self._held.enter_context(command_lock(self.run.folder))
        self._forget()
        if self.round < 0:
            self.turn()
        self._since = time.monotonic()

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # a loader's forked worker may share the open file
            self._lock = None
        self._held.close()

    @property
    def budget(self) -> int:
        """Prompts in a round."""
        return self.run.config.budget

    @property
    def rounds(self) -> int:
        """Rounds in the run."""
        return self.run.config.rounds

    @property
    def state(self) -> Json:
        """The run's newest state; it is read once while the run is locked."""
        if self._lock is None or self._state is None:
            self._state = self.run.state
        return self._state

    def _forget(self) -> None:
        """Drop everything that was read, because it may have changed."""
        self._state, self._rows = None, (-1, [])
        self.run.forget_ids()

    @property
    def round(self) -> int:
        """The newest round, from 0; -1 before the first is planned."""
        return int(self.state["round"])

    @property
    def finished(self) -> bool:
        """Whether all rounds are done."""
        return bool(self.state["finished"])

    @property
    def ids(self) -> list[str]:
        """The ids of the newest round's prompts, `[budget]`, in its order."""
        return self.run.ids(self.round)

    def rows(self, round_: int | None = None) -> list[Json]:
        """The training rows of a round (default: the newest), `[budget]`, each with `gc_round`.

        If the plan has group sizes, `gc_rollouts` is the row's number of rollouts.
        """
        round_ = self.round if round_ is None else round_
        if self._rows[0] != round_:
            rows = plain_rows(self.run.data(round_))
            self._rows = (round_, [{**row, ROUND: round_} for row in rows])
        return self._rows[1]

    def take(self, count: int) -> list[Json]:
        """The next prompts to train on; plans the next round when all prompts of this one were taken.

        Args:
            count: the number of prompts; a divisor of the budget, so that no batch lies in two rounds.

        Returns:
            `[count]` rows; empty if the run is finished.

        Raises:
            InputError: a batch would lie in two rounds, or the position is no multiple of `count`.
            OutcomeError: the round's outcomes are not all in, so the next round cannot be planned yet.
        """
        if self.finished:
            return []
        if self.budget % count:
            raise InputError(
                f"the trainer takes {count:,} prompts a step and a round of {self.run.folder} has "
                f"{self.budget:,}, no multiple: a batch would lie in two rounds. Start the run with "
                f"--align-to {count} and a --budget that is a multiple."
            )
        if self.position % count:
            raise InputError(
                f"the trainer takes {count:,} prompts a step and the checkpoint was saved after "
                f"{self.position:,} of the round's {self.budget:,}, no multiple: resume with its batch size."
            )
        if self.position >= self.budget and not self.turn():
            return []
        rows = self.rows()[self.position : self.position + count]
        self.position += count
        return rows

    def report(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append one outcome per rollout: `gc_id`, `reward`, and the other keys of `outcomes.jsonl`.

        A line without `round` belongs to the newest round.

        Raises:
            OutcomeError: the run cannot use a line, for example because its reward is outside the run's
                range; nothing is written.
            StorageError: the file system refused.
        """
        newest = self.round
        append_lines(self.run.outcomes(newest), checked_lines(self.run, lines, newest))

    @property
    def rescoring_due(self) -> bool:
        """Whether the next `turn` scores with a checkpoint."""
        return self.run.rescores_after(self.round)

    def turn(self, checkpoint: str | Path | None = None) -> bool:
        """Take the round's outcomes, score again if that is due, and plan the next round.

        Args:
            checkpoint: the checkpoint of the round's training; default: `self.checkpoint`.

        Returns:
            Whether there is a next round.

        Raises:
            OutcomeError: the outcomes cannot be used; nothing is changed.
            LockedError: another process uses the run.
        """
        if checkpoint is not None:
            self.checkpoint = str(Path(checkpoint).resolve())
        before, seconds = self.round, time.monotonic() - self._since
        with working_on(self.run.folder):
            if self.rescoring_due:
                self.run.keep_order()
            try:
                has_next = advance(self.run, self.checkpoint, self.note, self.held) is not None
            except OutcomeError as error:
                raise self._advised(error) from error
            if before >= 0:
                self.run.log(what="training", round=before, seconds=seconds, ended_well=True, live=True)
        self._state, self.position, self._since = None, 0, time.monotonic()
        return has_next

    def _advised(self, error: OutcomeError) -> OutcomeError:
        """The error with `ahead`, and the --min-coverage with which the run would continue."""
        line_is_wrong = "ids" not in error.data and self.run.outcomes(self.round).exists()
        if not self.ahead or line_is_wrong:
            return error
        absent: list[str] = error.data.get("ids", self.ids)  # type: ignore[assignment]
        share = math.floor((1 - len(absent) / self.budget) * 10_000) / 10_000
        coverage = f" A run started with --min-coverage {share:g} continues here; later outcomes are late."
        return OutcomeError(f"{error} {self.ahead}{coverage if share > 0 else ''}", **error.data)

    def save(self, step: int, **more: Any) -> Json:
        """The place in the run, to be saved with a checkpoint; plain values.

        Args:
            step: the trainer's step.
            **more: further values of the adapter, or `position` if it was another one at that step.
        """
        return {**saved_place(self.run, step), "position": self.position, **more}

    def save_beside(self, checkpoint: str | Path, step: int, **more: Any) -> None:
        """Write the place into a checkpoint's folder, atomically.

        Raises:
            StorageError: the file system refused.
        """
        write_sealed(Path(checkpoint) / PLACE, self.save(step, **more))

    def restore(self, saved: Json, where: str = "the checkpoint") -> None:
        """Return the run to its state at `save`.

        Args:
            saved: from `save`.
            where: its source, for error messages.

        Raises:
            OutputError: the place is another run's, or in a history that was undone.
            LockedError: another process uses the run.
        """
        with working_on(self.run.folder):
            undone = return_to(self.run, saved, where)
        if undone:
            self.note(
                f"warning: went back to round {saved['round']} with {where}; later rounds ({undone}) "
                f"are in {self.run.folder / 'undone'}"
            )
        self._forget()
        self.position = saved["position"]

    def begin_anew(self) -> None:
        """Void the outcomes of round 0, for a trainer that starts without a checkpoint.

        Raises:
            OutputError: the run has gone on to later rounds.
        """
        if self.round or self.finished:
            raise OutputError(
                f"{self.run.folder} is at round {self.round} and the trainer begins at step 0: resume "
                f"from its last checkpoint, or start a new run with the options in {self.run.folder / RUN}.",
                round=self.round,
            )
        with working_on(self.run.folder):
            take_back(self.run, 0, -1)
        self._forget()
        self.position, self.checkpoint = 0, None

    def metrics(self) -> dict[str, float]:
        """Metrics of the newest round's plan, and of the last round's outcomes, for the trainer's logs."""
        plan = self.run.plan(self.round)
        values: dict[str, Any] = {"round": plan["round"], **plan["metrics"]}
        names = ("accuracy", "effective", "all_wrong", "all_right", "concentration", "drift")
        values |= {name: plan["inputs"].get(name) for name in names}
        return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


_FOLLOWED: dict[Path, tuple[tuple[int, int], RunSession]] = {}
"""The sessions of this process by folder, with the run file's inode and time, which identify the run."""


def followed(run: str | Path, note: Note = logged, *, checkpoints: bool = False) -> RunSession:
    """This process's only `RunSession` of a run, for parts of a trainer that cannot pass it to each other."""
    path = Path(run).resolve()
    with reading(path):
        stat = (path / RUN).stat() if (path / RUN).exists() else None
    birth = (stat.st_ino, stat.st_mtime_ns) if stat else (0, 0)
    before, live = _FOLLOWED.get(path, (birth, None))
    if live is None or before != birth:
        if live is not None:  # another run was started in the folder
            live.close()
        live = RunSession(path, note, checkpoints=checkpoints)
        _FOLLOWED[path] = (birth, live)
    return live


def open_run(run: Any, where: str, trainer: str, ahead: str) -> RunSession:
    """Open the run for a trainer with one group size and without re-scoring, and lock other trainers out.

    `run` is the folder from the setting `where`, or None; `ahead` is that of `RunSession`. Raises InputError
    for None or another kind of run, OutputError if the folder has no run, LockedError if it is in use.
    """
    if not run:
        raise InputError(f"no run to follow is given: set its folder by {where}.")
    live = RunSession(str(run), ahead=ahead)
    refuse_rescoring(live.run, trainer)
    refuse_group_sizes(live.run, trainer)
    live.open()
    return live


def refuse_rescoring(run: Run, trainer: str) -> None:
    """Raise InputError for a run that scores again, because the trainer provides no checkpoint for it."""
    if run.config.rescore.what != "off":
        raise InputError(
            f"{run.folder} scores again at checkpoints (--rescore {run.config.rescore.what}), which is not "
            f"done live with {trainer}. Start it without --rescore, or train by `gaincurate schedule run`."
        )


def reward_of(stored: float) -> float:
    """A reward as its function returned it, from the trainer's float32, in which 1.1 would be above 1.1."""
    return float(f"{stored:.7g}")
