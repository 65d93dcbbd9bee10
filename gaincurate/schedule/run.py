"""A run's folder: its facts, the states and plans of its rounds, its orders and its log.

Nothing that a killed process would need is overwritten. A round exists once its plan does, and states name
their order by its digest, so a kill between two writes loses nothing. The state of the newest round is only
in that round's folder. The run's own `state.json` exists before round 0 and after the last round.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from pydantic import ValidationError

from gaincurate.core.arrow import read_ipc, write_ipc
from gaincurate.core.artifact import EXECUTION, RUN, Json
from gaincurate.core.files import append_lines, digest_bytes, log_lines, reading, remove_temporaries
from gaincurate.core.locks import acquire
from gaincurate.core.outcomes import Rules
from gaincurate.core.prompts import training_rows
from gaincurate.core.rng import Floats, Ints
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.core.store import CACHE, Remote, located
from gaincurate.errors import InputError, LockedError, OutputError, StorageError
from gaincurate.schedule import groups
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.groups import PromptGroups

FORMAT = 1
BASE = "base"
"""The name of the scored set that a run began with, among the sets that orders and plans name."""
STATE, PLAN, TRAINED = "state.json", "plan.json", "trained.json"
IDS, DATA, GIVEN, MADE = "references.json", "references.parquet", "references.jsonl", "rollouts.json"
"""In a folder of references: ids, rows, outcomes from a user, and the policy of the rollouts."""
_LOCK = "lock"
_DIGEST = b"gaincurate.order"
_LARGE = 1 << 20  # bytes of a state; those of older rounds keep their rows alone
ROLLOUTS = "gc_rollouts"
"""The column of a round's rows with the group sizes of a plan that has them."""
GROUPS = "groups.arrow"
"""The group of each row, in a run with `--stratify` or `--where`."""
ORDER, _NEXT, _SAVED_ORDERS = "order.arrow", "order-next.arrow", "orders"


def damaged(path: Path, why: str = "its bytes do not match the hash in it") -> OutputError:
    """The error for a table of a run's folder."""
    return OutputError(f"{path} is damaged: {why}; restore it, or start a new run.", path=str(path))


def read_table(path: Path) -> pa.Table:
    """A table of a run's folder, mapped. Raises OutputError if it is missing or damaged."""
    return read_ipc(path, lambda why: damaged(path, why))


class Order:
    """The row of the scored set at each rank, in a memory-mapped file `path`; raises as `read_table` does.

    A row is a place in the scored set, counted over its shards. A rank is a place in the order, from 0. The
    file holds a hash of its content, by which a state names its order.
    """

    def __init__(self, path: Path) -> None:
        table = read_table(path)
        try:
            self.rows: Ints = table.column("row").chunk(0).to_numpy()
            """`[N]`: the row at each rank."""
            self.values: Floats = table.column("value").chunk(0).to_numpy()
            """`[N]`: the values that the order sorts by; NaN if the set has none."""
            self.digest = table.schema.metadata[_DIGEST].decode()
        except (LookupError, TypeError, ValueError) as error:
            raise damaged(path) from error
        if self.digest != _digest(self.rows, self.values):
            raise damaged(path)


def _digest(rows: Ints, values: Floats) -> str:
    return digest_bytes(digest_bytes(rows.data).encode() + digest_bytes(values.data).encode())


def build(path: Path, scored: ScoredSet, by: str | None, *, ascending: bool) -> int:
    """Write the order of a set by a number column, or its own order; ties by id, rows without a value last.

    Returns the number of such rows. Raises InputError if there is no such column, or it holds no numbers.
    """
    if by is None:
        write_order(path, np.arange(len(scored)), np.full(len(scored), np.nan))
        return 0
    column = scored.column(by)
    kind = column.type
    if not (pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind) or pt.is_boolean(kind)):
        raise InputError(f"--by {by}: that column holds {kind}, and an order needs numbers.", column=by)
    values = pc.cast(pc.cast(column, pa.int8()) if pt.is_boolean(kind) else column, pa.float64(), safe=False)
    order = sorted_by(values, scored.column(ID), ascending=ascending)
    numbers = np.concatenate([c.to_numpy(zero_copy_only=False) for c in values.chunks] or [np.zeros(0)])
    write_order(path, order, numbers[order])
    return int(np.isnan(numbers).sum())


def sorted_by(values: pa.ChunkedArray, ids: pa.ChunkedArray, *, ascending: bool) -> Ints:
    """The places of rows in an order by values; ties by id, rows without a value last in both directions."""
    # Nulls, then NaN, go last: a prompt without a score must never be trained on first.
    keys = [("value", "ascending" if ascending else "descending"), (ID, "ascending")]
    places = pc.sort_indices(pa.table({"value": values, ID: ids}), sort_keys=keys)
    order: Ints = places.to_numpy().astype(np.int64)
    return order


def write_order(path: Path, rows: Ints, values: Floats) -> None:
    """Write what `Order` reads, `[N]` each."""
    rows, values = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(values, np.float64)
    table = pa.table({"row": rows, "value": values}).replace_schema_metadata({_DIGEST: _digest(rows, values)})
    write_ipc(path, table)


def same_file(source: Path, goal: Path) -> None:
    """Make a hard link to a file, or a copy if the file system has no links."""
    goal.unlink(missing_ok=True)
    try:
        os.link(source, goal)
    except OSError:
        with reading(goal, "write"):
            shutil.copyfile(source, goal)


def newest_round(folder: Path) -> int:
    """The number of the newest round in a run's folder, the last one with a plan; -1 before round 0."""
    rounds = folder / "rounds"
    names = os.listdir(rounds) if rounds.exists() else []
    numbers = sorted((int(name) for name in names if name.isdigit()), reverse=True)
    return next((number for number in numbers if (rounds / f"{number:05d}" / PLAN).exists()), -1)


class Run:
    """A run that was started, in its folder; `scored` is its scored set if that is open already.

    Raises:
        OutputError: no run, one of another format, or a damaged file.
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
            formats = f"has format {self.facts['format']}, this version reads {FORMAT}"
            raise OutputError(f"{folder} {formats}; use the gaincurate version that opened it.")
        try:
            self.config = ScheduleConfig(**self.facts["config"])
        except ValidationError as error:
            why = "was opened with options that this version does not have"
            raise OutputError(f"{folder} {why}; use the gaincurate version that opened it.") from error
        self.rules = Rules(self.config.reward_low, self.config.reward_high, self.config.min_coverage)
        """The rules by which outcomes are read."""
        self.next_order = self.folder / _NEXT
        """The order that will replace the one in use."""
        self._scored = scored
        self._ids: dict[int, list[str]] = {}
        self._strata: PromptGroups | None = None

    @property
    def scored(self) -> ScoredSet:
        """The scored set that the run was opened with. Raises OutputError if it is gone or another one."""
        if self._scored is None:
            where, cache = self.facts["scores"], None
            folder = located(where["folder"])
            if isinstance(folder, Remote):
                cache = None if CACHE in os.environ else Path(where["cache"])
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

    def order(self, digest: str) -> Order:
        """The order with this digest: in use, about to be, or saved. Raises OutputError if there is none."""
        current = self.folder / ORDER
        for path in (current, self.next_order, self.folder / _SAVED_ORDERS / f"{digest}.arrow"):
            if path.exists() and (order := Order(path)).digest == digest:
                return order
        raise OutputError(
            f"{current} is missing or is not the order that the run's state goes with; restore it.",
            path=str(current),
        )

    def settle_order(self, digest: str) -> None:
        """Put the order of the newest state in its place, in case a process was killed before it did."""
        current, saved = self.folder / ORDER, self.folder / _SAVED_ORDERS / f"{digest}.arrow"
        if self.next_order.exists():
            if Order(self.next_order).digest == digest:
                self.next_order.replace(current)
            else:
                self.next_order.unlink()
        if saved.exists() and Order(current).digest != digest:
            same_file(saved, self.next_order)
            self.next_order.replace(current)

    def keep_order(self) -> None:
        """Save the order in use under its digest, for a trainer that may go back to it."""
        saved = self.folder / _SAVED_ORDERS / f"{Order(self.folder / ORDER).digest}.arrow"
        if not saved.exists():
            with reading(saved, "write"):
                saved.parent.mkdir(exist_ok=True)
                same_file(self.folder / ORDER, saved.with_suffix(".tmp"))
                saved.with_suffix(".tmp").replace(saved)

    def forget_orders(self, but: set[str]) -> None:
        """Delete the saved orders except those with these digests, to which a trainer may go back."""
        for path in (self.folder / _SAVED_ORDERS).glob("*.arrow"):
            if path.stem not in but:
                path.unlink(missing_ok=True)

    @property
    def prompts(self) -> int:
        """The number of prompts to draw from: the set's rows, or those for which `where` holds."""
        return int(self.facts.get("kept") or self.facts["rows"])

    @property
    def strata(self) -> PromptGroups | None:
        """The groups whose shares the run keeps, by row; None if there are none."""
        if self._strata is None and (self.config.stratify != "none" or self.config.where is not None):
            self._strata = groups.strata_in(read_table(self.folder / GROUPS), self.config.group_weights)
            if self._strata is None:
                raise damaged(self.folder / GROUPS)
        return self._strata

    @property
    def round(self) -> int:
        """The number of the newest round; -1 before round 0."""
        return newest_round(self.folder)

    @property
    def state(self) -> Json:
        """The state that the newest round was planned with, or the one after the last round."""
        newest, path = newest_round(self.folder), self.folder / STATE
        if newest < 0 or path.exists():
            state = read_sealed(path)
            if newest < 0 or state["finished"]:
                return state
        return read_sealed(self.round_folder(newest) / STATE)

    def state_of(self, round_: int) -> Json:
        """The state that a round was planned with; older rounds do not keep a large selector state."""
        return read_sealed(self.round_folder(round_) / STATE)

    def round_folder(self, round_: int) -> Path:
        """A round's own folder."""
        return self.folder / f"rounds/{round_:05d}"

    def references_folder(self, round_: int) -> Path:
        """The folder of the references that a strategy observes before it draws a round."""
        return self.folder / f"difficulty/{round_:05d}"

    def plan(self, round_: int) -> Json:
        """A round's plan."""
        plan = read_sealed(self.round_folder(round_) / PLAN)
        self._ids[round_] = plan["ids"]
        return plan

    def newest(self) -> int:
        """The newest round. Raises InputError if there is none yet."""
        round_ = self.round
        if round_ < 0:
            raise InputError(
                f"{self.folder} has no round yet: its strategy waits for something first (dots for outcomes "
                "of its references). "
                f"`gaincurate schedule next {shlex.quote(str(self.folder))}` plans round 0, or says what it "
                "needs for it."
            )
        return round_

    def rescores_after(self, round_: int) -> bool:
        """Whether prompts are scored again after a round."""
        again, done = self.config.rescore, round_ + 1
        return again.what != "off" and done % again.every == 0 and done < self.config.rounds

    def ids(self, round_: int) -> list[str]:
        """The ids of a round's prompts, as planned."""
        if round_ not in self._ids:
            self.plan(round_)
        return self._ids[round_]

    def rows(self, round_: int) -> list[int]:
        """Their rows in the scored set."""
        return list(self.state_of(round_)["rows"])

    def rollouts(self, round_: int) -> list[int] | None:
        """The group size of each prompt of a round, in its order; None if the trainer's size applies."""
        sizes: list[int] | None = self.plan(round_).get("rollouts")
        return sizes

    def shown(self, table: pa.Table) -> pa.Table:
        """Rows of the scored set as the trainer reads them."""
        config = self.config
        return training_rows(table, self.scored.identity, bare=config.bare, with_scores=config.with_scores)

    def outcomes(self, round_: int) -> Path:
        """The file of a round's outcomes."""
        return self.round_folder(round_) / "outcomes.jsonl"

    def data(self, round_: int) -> Path:
        """A round's training rows."""
        return self.round_folder(round_) / "data.parquet"

    def set_folder(self, name: str) -> Path:
        """The folder of a scored set by the name that plans give it."""
        return self.scored.folder if name == BASE else self.folder / name

    def forget_ids(self) -> None:
        """Read the ids of rounds again: they may have changed."""
        self._ids.clear()

    def commit(self, state: Json, plan: Json | None = None) -> None:
        """Write a planned round, whose data must exist already; without a plan, write the run's own state."""
        folder = self.folder if plan is None else self.round_folder(plan["round"])
        write_sealed(folder / STATE, state)
        if plan is not None:
            write_sealed(folder / PLAN, plan)
        self.settle_order(state["order"])
        before = self.round_folder(state["round"] - 1) / STATE
        if before.exists() and before.stat().st_size > _LARGE:  # a posterior for each prompt seen, say
            with suppress(StorageError):  # a full disk: the round is complete, and the large state stays
                write_sealed(before, {**read_sealed(before), "selector": None})

    def log(self, **facts: object) -> None:
        """Append a line to `execution.jsonl`, the log of times and attempts."""
        append_lines(self.folder / EXECUTION, [facts])

    def executions(self) -> list[Json]:
        """The entries of the log without unfinished and damaged lines."""
        return log_lines(self.folder / EXECUTION)


@contextmanager
def making(folder: Path) -> Iterator[Path]:
    """Yield a folder to make a run in, and rename it to `folder` at the end; on an error delete it.

    Raises OutputError if `folder` is not empty, LockedError if another process is starting the run.
    """
    folder = folder.absolute()
    _refuse_taken(folder)
    beside = folder.with_name(f".{folder.name}.starting")
    with working_on(beside):
        try:
            for path in beside.iterdir():  # of a start that was killed
                if path.name != _LOCK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            yield beside
            _refuse_taken(folder)
            with reading(folder, "write"):
                beside.replace(folder)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise


def refuse_group_sizes(run: Run, trainer: str) -> None:
    """Raise InputError if plans have group sizes: the trainer has one size for all prompts."""
    if run.round >= 0 and run.rollouts(run.round) is not None:
        raise InputError(
            f"the plans of {run.folder} give each prompt a group size, and {trainer} has one size for all "
            "prompts. Start a run without group_sizes, or train with verl or a loop of your own."
        )


def _refuse_taken(folder: Path) -> None:
    """Raise OutputError unless a run may be started in a folder: a new or empty one."""
    why = None
    with reading(folder):
        if (folder / RUN).exists():
            why = "is a run already; go on with `gaincurate schedule next` or `run`"
        elif os.path.lexists(folder) and not folder.is_dir():
            why = "is no folder"
        elif folder.exists() and folder.samefile(Path.cwd()):  # a whole run takes its place in one step
            why = "is the working folder"
        elif folder.exists() and (others := os.listdir(folder)):
            why = f"already holds {min(others)!r} and is no run"
    if why is not None:
        raise OutputError(f"--run {folder} {why}; give a new or empty folder.", path=str(folder))


@contextmanager
def working_on(folder: Path) -> Iterator[None]:
    """Hold the right to change a run. Raises LockedError if another process has it."""
    descriptor = acquire(folder / _LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if descriptor is None:
        raise LockedError(
            f"another process is at work on {folder}; wait for it, or stop it and run this again.",
            path=str(folder),
        )
    with os.fdopen(descriptor):
        remove_temporaries(folder)
        yield
