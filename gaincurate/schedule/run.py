"""A run's folder: its facts, the states and plans of its rounds, its orders and its log.

Nothing is overwritten that a killed process would need. A round exists once its plan does, and states name
their order by its digest, so a kill between two writes loses nothing. The state of the newest round is in
that round's folder alone. The run's own `state.json` is there before round 0 and after the last round.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from gaincurate.core.artifact import EXECUTION, RUN, Json
from gaincurate.core.files import append_line, log_lines, make_folder, reading, remove_temporaries
from gaincurate.core.locks import acquire
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.core.store import CACHE, Remote, located
from gaincurate.errors import InputError, LockedError, OutputError, StorageError, storage_error
from gaincurate.schedule import groups
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.ordering import Order
from gaincurate.schedule.strata import Strata

FORMAT = 1
BASE = "base"
"""The name of the scored set that a run began with, among the sets that orders and plans name."""
STATE, PLAN = "state.json", "plan.json"
GIVEN, MADE = "references.jsonl", "rollouts.json"
"""In a folder of references: what a person says they did, and which policy the run rolled out."""
_LOCK = "lock"
_LARGE = 1 << 20  # bytes of a state; those of older rounds keep their rows alone
ROLLOUTS = "gc_rollouts"
"""The column of a round's rows with the group sizes of a plan that has them."""
GROUPS = "groups.arrow"
"""The group of each row, in a run with `--stratify` or `--where`."""
ORDER, _NEXT, _SAVED_ORDERS = "order.arrow", "order-next.arrow", "orders"


class Orders:
    """The orders in a run's folder."""

    def __init__(self, folder: Path) -> None:
        self.current = folder / ORDER
        """The order in use."""
        self.next = folder / _NEXT
        """Where an order is written that is to take the place of the one in use."""
        self._folder = folder / _SAVED_ORDERS

    def find(self, digest: str) -> Order:
        """The order with this content: in use, about to be, or saved.

        Raises:
            OutputError: there is none.
        """
        for path in (self.current, self.next, self._saved(digest)):
            if path.exists() and (order := Order(path)).digest == digest:
                return order
        raise OutputError(
            f"{self.current} is missing or is not the order that the run's state goes with; restore it.",
            path=str(self.current),
        )

    def settle(self, digest: str) -> None:
        """Put the order of the newest state in its place; a kill can come before that."""
        if self.next.exists():
            if Order(self.next).digest == digest:
                self.next.replace(self.current)
            else:
                self.next.unlink()
        copy = self._saved(digest)
        if copy.exists() and Order(self.current).digest != digest:
            same_file(copy, self.next)
            self.next.replace(self.current)

    def keep(self) -> None:
        """Keep the order in use under a name of its own, for a trainer that may go back to it."""
        copy = self._saved(Order(self.current).digest)
        if not copy.exists():
            make_folder(copy.parent)
            beside = copy.with_suffix(".tmp")
            same_file(self.current, beside)
            beside.replace(copy)

    def forget_all_but(self, digests: set[str]) -> None:
        """Delete the saved ones that nothing can go back to any more."""
        for path in self._folder.glob("*.arrow"):
            if path.stem not in digests:
                path.unlink(missing_ok=True)

    def _saved(self, digest: str) -> Path:
        return self._folder / f"{digest}.arrow"


def same_file(source: Path, goal: Path) -> None:
    """A second name for a file, or a copy where the file system has no such names."""
    goal.unlink(missing_ok=True)
    try:
        os.link(source, goal)
    except OSError:
        try:
            shutil.copyfile(source, goal)
        except OSError as error:
            raise storage_error(goal, error) from error


def round_name(round_: int) -> str:
    """`00000`, ..."""
    return f"{round_:05d}"


def newest_round(folder: Path) -> int:
    """The number of the newest round in a run's folder, the last one with a plan; -1 before round 0."""
    rounds = folder / "rounds"
    names = os.listdir(rounds) if rounds.exists() else []
    numbers = sorted((int(name) for name in names if name.isdigit()), reverse=True)
    return next((number for number in numbers if (rounds / round_name(number) / PLAN).exists()), -1)


class Run:
    """A run that was started.

    Args:
        folder: the run's folder.
        scored: its scored set, where that is open already.

    Raises:
        OutputError: no run, one of another format, a damaged file, or its scored set is gone or another.
    """

    def __init__(self, folder: str | Path, scored: ScoredSet | None = None) -> None:
        self.folder = Path(folder)
        path = self.folder / RUN
        with reading(path):
            if not path.exists():
                raise OutputError(
                    f"{folder} is no run: it has no {RUN}. `gaincurate schedule start DIR --run {folder} "
                    "--strategy S --budget N --rounds R` opens one.",
                    path=str(folder),
                )
        self.facts = read_sealed(path)
        if self.facts["format"] != FORMAT:
            raise OutputError(
                f"{folder} has format {self.facts['format']}, this version reads {FORMAT}; use the "
                "gaincurate version that opened it."
            )
        try:
            self.config = ScheduleConfig(**self.facts["config"])
        except ValidationError as error:
            raise OutputError(
                f"{folder} was opened with options that this version does not have; use the gaincurate "
                "version that opened it.",
                path=str(path),
            ) from error
        self.orders = Orders(self.folder)
        self._scored = scored
        self._ids: dict[int, list[str]] = {}
        self._strata: Strata | None = None

    @property
    def scored(self) -> ScoredSet:
        """The scored set that the run was opened with.

        Raises:
            OutputError: it is gone, or its manifest is another one.
        """
        if self._scored is None:
            where = self.facts["scores"]
            folder, cache = located(where["folder"]), None
            if isinstance(folder, Remote):
                if CACHE not in os.environ:
                    cache = Path(where["cache"])
            else:
                relative = self.folder / where["relative"]
                folder = relative if os.path.exists(relative) else folder  # whatever the name
                if not os.path.exists(folder):
                    raise OutputError(
                        f"the scored set of {self.folder} is gone: it is neither at {relative} nor at "
                        f"{folder}. Put it back; run and set may also be moved together.",
                        path=str(folder),
                    )
            scored = ScoredSet(folder, verify=False, cache=cache)
            if scored.manifest_hash != where["manifest"]:
                raise OutputError(
                    f"{folder} is not the scored set that {self.folder} was opened with: its manifest has "
                    "another hash. Put that set back, or start a new run.",
                    path=str(folder),
                )
            self._scored = scored
        return self._scored

    @property
    def prompts(self) -> int:
        """How many prompts it draws from: the set's rows, or those for which `where` holds."""
        return int(self.facts["kept"] if "kept" in self.facts else self.facts["rows"])

    @property
    def strata(self) -> Strata | None:
        """The groups that it keeps the shares of, by row; None where there are none.

        Raises:
            OutputError: their file is missing or damaged.
        """
        if self._strata is None and (self.config.stratify != "none" or self.config.where is not None):
            self._strata = groups.read(self.folder / GROUPS, self.config.group_weights)
        return self._strata

    @property
    def round(self) -> int:
        """The number of the newest round; -1 before round 0."""
        return newest_round(self.folder)

    @property
    def state(self) -> Json:
        """The state that the newest round was planned with, or the one after the last round.

        Raises:
            OutputError: it is damaged.
        """
        newest, path = self.round, self.folder / STATE
        if newest < 0 or path.exists():
            state = read_sealed(path)
            if newest < 0 or state["finished"]:
                return state
        return self.state_of(newest)

    def state_of(self, round_: int) -> Json:
        """The state that a round was planned with; of older rounds a large selector state is not kept."""
        return read_sealed(self.round_folder(round_) / STATE)

    def round_folder(self, round_: int) -> Path:
        """A round's own folder."""
        return self.folder / "rounds" / round_name(round_)

    def references_folder(self, round_: int) -> Path:
        """Where all lies that a strategy learns from references before it draws a round."""
        return self.folder / "difficulty" / round_name(round_)

    def plan(self, round_: int) -> Json:
        """A round's plan."""
        plan = read_sealed(self.round_folder(round_) / PLAN)
        self._ids[round_] = plan["ids"]
        return plan

    def newest(self) -> int:
        """The newest round.

        Raises:
            InputError: there is none yet.
        """
        round_ = self.round
        if round_ < 0:
            raise InputError(
                f"{self.folder} has no round yet: its strategy waits for something first (dots for what "
                "references do). "
                f"`gaincurate schedule next {shlex.quote(str(self.folder))}` plans round 0, or says what it "
                "needs for it."
            )
        return round_

    def ids(self, round_: int) -> list[str]:
        """The ids of a round's prompts, as planned."""
        if round_ not in self._ids:
            self.plan(round_)
        return self._ids[round_]

    def rows(self, round_: int) -> list[int]:
        """Their rows in the scored set."""
        rows: list[int] = self.state_of(round_)["rows"]
        return rows

    def rollouts(self, round_: int) -> list[int] | None:
        """The group size of each of a round's prompts, in its order; None where the trainer's size holds."""
        sizes: list[int] | None = self.plan(round_).get("rollouts")
        return sizes

    def outcomes(self, round_: int) -> Path:
        """Where a round's outcomes go."""
        return self.round_folder(round_) / "outcomes.jsonl"

    def data(self, round_: int) -> Path:
        """A round's training rows."""
        return self.round_folder(round_) / "data.parquet"

    def set_folder(self, name: str) -> Path:
        """The folder of a scored set by the name that plans give it."""
        return self.scored.folder if name == BASE else self.folder / name

    def forget_ids(self) -> None:
        """Read the ids of rounds again: what they were may have changed."""
        self._ids.clear()

    def commit(self, state: Json, plan: Json | None = None) -> None:
        """Write a planned round, whose data must be there already; without a plan the run's own state.

        Raises:
            StorageError: the file system refused.
        """
        if plan is None:
            write_sealed(self.folder / STATE, state)
        else:
            folder = self.round_folder(plan["round"])
            write_sealed(folder / STATE, state)
            write_sealed(folder / PLAN, plan)
        self.orders.settle(state["order"])
        before = self.round_folder(state["round"] - 1) / STATE
        if before.exists() and before.stat().st_size > _LARGE:  # a posterior for each prompt seen, say
            with suppress(StorageError):  # a full disk: the round is complete, and the large state stays
                write_sealed(before, {**read_sealed(before), "selector": None})

    def log(self, **facts: object) -> None:
        """Append to `execution.jsonl`, where times and attempts are."""
        append_line(self.folder / EXECUTION, facts)

    def executions(self) -> list[Json]:
        """What was logged. Lines that are unfinished or damaged are left out."""
        return log_lines(self.folder / EXECUTION)


@contextmanager
def making(folder: Path) -> Iterator[Path]:
    """A folder to make a run in, which becomes `folder` at the end, whole; on an error nothing does.

    Raises:
        OutputError: there is something in `folder`.
        LockedError: another process starts the same run.
        StorageError: the file system refused.
    """
    folder = folder.absolute()
    refuse_taken(folder)
    beside = folder.with_name(f".{folder.name}.starting")
    with working_on(beside):
        try:
            for path in beside.iterdir():  # of a start that was killed
                if path.name != _LOCK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            yield beside
            refuse_taken(folder)
            try:
                beside.replace(folder)
            except OSError as error:
                raise storage_error(folder, error) from error
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise


def refuse_group_sizes(run: Run, trainer: str) -> None:
    """Refuse plans with group sizes for a trainer that has one size for all prompts.

    Raises:
        InputError: the newest plan has group sizes.
    """
    if run.round >= 0 and run.rollouts(run.round) is not None:
        raise InputError(
            f"the plans of {run.folder} give each prompt a group size, and {trainer} has one size for all "
            "prompts. Start a run without group_sizes, or train with verl or a loop of your own."
        )


def refuse_taken(folder: Path) -> None:
    """See that a run may be started in a folder: a new or empty one.

    Raises:
        OutputError: it holds a run, or something else.
    """
    if (folder / RUN).exists():
        opened = (folder / "rounds" / round_name(0) / PLAN).exists()  # written last
        what = "" if opened else ", whose round 0 waits for outcomes of its references"
        how = "" if opened else " --reference-outcomes FILE"
        raise OutputError(
            f"{folder} is a run already{what}; go on with `gaincurate schedule next`{how} or `run`, or give "
            "another --run.",
            path=str(folder),
        )
    with reading(folder):
        if os.path.lexists(folder) and not folder.is_dir():
            raise OutputError(f"--run {folder} is no folder; give the name of a folder.", path=str(folder))
        if folder.exists() and folder.samefile(Path.cwd()):  # a whole run takes its place in one step
            raise OutputError(
                f"--run {folder} is the working folder. Give the name of another, or go up first.",
                path=str(folder),
            )
        others = [path.name for path in folder.iterdir()] if folder.exists() else []
    if others:
        raise OutputError(
            f"--run {folder} already holds {min(others)!r} and is no run; give a new or empty folder.",
            path=str(folder),
        )


@contextmanager
def working_on(folder: Path) -> Iterator[None]:
    """Hold the right to change a run.

    Raises:
        LockedError: another process has it.
        StorageError: the folder cannot be made, or has no locks.
    """
    descriptor = acquire(folder / _LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if descriptor is None:
        raise LockedError(
            f"another process is at work on {folder}; wait for it, or stop it and run this again.",
            path=str(folder),
        )
    try:
        remove_temporaries(folder)
        yield
    finally:
        os.close(descriptor)


def names_of(run: Run, round_: int, checkpoint: str) -> dict[str, str]:
    """What the names in braces stand for in a round; absolute paths."""
    folder = run.round_folder(round_).resolve()
    return {
        "data": str(run.data(round_).resolve()),
        "round": str(round_),
        "checkpoint": checkpoint,
        "outcomes": str(run.outcomes(round_).resolve()),
        "output": str(folder / "output"),
    }
