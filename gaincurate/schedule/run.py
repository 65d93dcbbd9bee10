"""A run's folder: its facts, the states and plans of its rounds, its orders and its log.

Nothing is overwritten that a killed process would need. A round exists once its plan does, and states name
their order by its digest, so a kill between two writes loses nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ValidationError

from gaincurate.core.artifact import EXECUTION, RUN, Json
from gaincurate.core.files import (
    append_line,
    fitting_lines,
    json_bytes,
    make_folder,
    reading,
    remove_temporaries,
    write_atomic,
    write_json,
)
from gaincurate.core.foreign import Malformed, json_file, see_depth, see_fits
from gaincurate.core.locks import acquire
from gaincurate.core.manifest import Document
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.store import CACHE, Remote, located
from gaincurate.errors import InputError, LockedError, OutputError, StorageError, storage_error
from gaincurate.schedule import groups
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.documents import Facts, Logged, Plan, State
from gaincurate.schedule.ordering import Order
from gaincurate.schedule.strata import Strata

FORMAT = 1
BASE = "base"
"""The name of the scored set that a run began with, among the sets that orders and plans name."""
STATE, PLAN = "state.json", "plan.json"
GIVEN, MADE = "references.jsonl", "rollouts.json"
"""In a folder of references: what a person says they did, and which policy the run rolled out."""
_LOCK = "lock"
_RESTORE = "restore it from a copy"
_LARGE = 1 << 20  # bytes of a state; those of older rounds keep their rows alone
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
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
        self.facts = read_json(path, Document)
        if self.facts.get("format") != FORMAT:
            raise OutputError(
                f"{folder} has format {self.facts.get('format')}, this version reads {FORMAT}; use the "
                "gaincurate version that opened it."
            )
        fitting(path, self.facts, Facts)
        try:
            self.config = ScheduleConfig(**self.facts["config"])
        except (ValidationError, KeyError, TypeError) as error:
            raise _damaged(path) from error
        if not self.config.reward_low < self.config.reward_high:
            raise _damaged(path, "its range of rewards is empty")
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
                    cache = Path(self._named("cache"))
            else:
                relative = self.folder / self._named("relative")
                folder = relative if os.path.exists(relative) else folder  # whatever the name
                if not os.path.exists(folder):
                    raise OutputError(
                        f"the scored set of {self.folder} is gone: it is neither at {relative} nor at "
                        f"{folder}. Put it back; run and set may also be moved together.",
                        path=str(folder),
                    )
            scored = ScoredSet(folder, verify=False, cache=cache)
            if scored.manifest_hash != self.facts["scores"]["manifest"]:
                raise OutputError(
                    f"{folder} is not the scored set that {self.folder} was opened with: its manifest has "
                    "another hash. Put that set back, or start a new run.",
                    path=str(folder),
                )
            self._scored = scored
        return self._scored

    def _named(self, name: str) -> str:
        value = self.facts["scores"].get(name)
        if value is None:
            raise _damaged(self.folder / RUN, f"its scores have no {name}")
        return str(value)

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
            self._strata = groups.read(self.folder / GROUPS, self.facts["rows"], self.config.group_weights)
        return self._strata

    @property
    def state(self) -> Json:
        """The newest state.

        Raises:
            OutputError: it is damaged.
        """
        path = self.folder / STATE
        copy = self._state(path) if path.exists() else {"round": 0}
        newest = int(copy["round"])
        while (self.round_folder(newest + 1) / PLAN).exists():
            newest += 1
        if newest == copy["round"] and path.exists():
            return copy
        return self.state_of(newest)  # killed before the copy was written

    def state_of(self, round_: int) -> Json:
        """The state that a round was planned with; of older rounds a large selector state is not kept."""
        path = self.round_folder(round_) / STATE
        return self._state(path, round_)

    def _state(self, path: Path, round_: int | None = None) -> Json:
        state = read_json(path, State)
        if round_ is not None and state["round"] != round_:
            raise _damaged(path, f"it is of round {state['round']}")
        try:
            self.see_rows(state)
        except Malformed as why:
            raise _damaged(path, str(why)) from why
        if state["round"] >= 0 and not (self.round_folder(state["round"]) / PLAN).exists():
            raise _damaged(path, f"its round {state['round']} has no plan")
        return state

    def see_rows(self, state: Json) -> None:
        """See that a state has rows, of the scored set.

        Raises:
            Malformed: it has not.
        """
        if max(state["rows"], default=0) >= self.facts["rows"]:
            raise Malformed(f"row {max(state['rows'])} is none of the set's {self.facts['rows']:,}")
        if state["round"] >= 0 and not state["rows"]:
            raise Malformed(f"its round {state['round']} has no rows")

    def round_folder(self, round_: int) -> Path:
        """A round's own folder."""
        return self.folder / "rounds" / round_name(round_)

    def references_folder(self, round_: int) -> Path:
        """Where all lies that a strategy learns from references before it draws a round."""
        return self.folder / "difficulty" / round_name(round_)

    def plan(self, round_: int) -> Json:
        """A round's plan."""
        path = self.round_folder(round_) / PLAN
        plan = read_json(path, Plan)
        if plan["round"] != round_:
            raise _damaged(path, f"it is of round {plan['round']}")
        return plan

    def newest(self) -> int:
        """The newest round.

        Raises:
            InputError: there is none yet.
        """
        round_ = int(self.state["round"])
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
            self._ids[round_] = self.plan(round_)["ids"]
        return self._ids[round_]

    def rows(self, round_: int) -> list[int]:
        """Their rows in the scored set."""
        rows: list[int] = self.state_of(round_)["rows"]
        return rows

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

    def commit(self, state: Json, plan: Json | None) -> None:
        """Write a planned round, or with no plan the run's last state. Its data must be there already.

        Raises:
            OutputError: one of the two would not be read again; nothing is written.
            StorageError: the file system refused.
        """
        data = _readable(STATE, state, State)
        if plan is not None:
            planned = _readable(PLAN, plan, Plan)
            folder = self.round_folder(plan["round"])
            write_atomic(folder / STATE, data)
            write_atomic(folder / PLAN, planned)
        else:
            write_atomic(self.folder / STATE, data)
        try:
            if plan is not None:
                write_atomic(self.folder / STATE, data)
            self.orders.settle(state["order"])
            before = self.round_folder(int(state["round"]) - 1) / STATE
            if before.exists() and before.stat().st_size > _LARGE:  # a posterior for each prompt seen, say
                write_json(before, {**read_json(before, State), "selector": None})
        except StorageError as error:
            if error.data.get("errno") not in _FULL:  # it is complete, and readers do without the rest
                raise

    def log(self, **facts: object) -> None:
        """Append to `execution.jsonl`, where times and attempts are."""
        append_line(self.folder / EXECUTION, facts)

    def executions(self) -> list[Json]:
        """What was logged. Lines that are unfinished or damaged are left out."""
        return list(fitting_lines(self.folder / EXECUTION, Logged))


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


def read_json(path: Path, model: type[BaseModel] | None = None, remedy: str = _RESTORE) -> Json:
    """A JSON object of ours.

    Args:
        path: the file.
        model: what it has to say; None where nothing of it is checked.
        remedy: what to do where it is damaged.

    Raises:
        OutputError: it is missing or damaged.
        StorageError: it cannot be read.
    """
    try:
        with reading(path):
            value: Json = json_file(path)
    except ValueError as error:
        raise _damaged(path, remedy=remedy) from error
    return value if model is None else fitting(path, value, model, remedy)


def fitting(path: Path, value: Json, model: type[BaseModel], remedy: str = _RESTORE) -> Json:
    """The same value, after it was seen to say what the model says.

    Raises:
        OutputError: it does not.
    """
    try:
        see_fits(model, value)
    except Malformed as why:
        raise _damaged(path, str(why), remedy) from why
    return value


def _readable(name: str, value: Json, model: type[BaseModel]) -> bytes:
    """A file of a round, seen to be one that can be read again: what came from elsewhere is in it.

    Raises:
        OutputError: it cannot.
    """
    try:
        see_fits(model, value)
        data = json_bytes(value, nan=False)
        see_depth(value)
    except Malformed as why:
        raise OutputError(f"nothing was written, because {name} could not be read again: {why}.") from why
    except (TypeError, ValueError, RecursionError) as error:  # of a strategy of the user's own
        raise OutputError(
            f"nothing was written, because {name} would be no JSON: {error}. What does the strategy's "
            "state_dict give?"
        ) from error
    return data


def _damaged(path: Path, why: str = "", remedy: str = _RESTORE) -> OutputError:
    reason = f": {why}" if why else ""
    return OutputError(f"{path} is damaged{reason}; {remedy}.", path=str(path))


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
