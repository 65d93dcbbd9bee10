"""A scored set or a round of a run as the file that a trainer reads: takes a folder, writes one file.

Rows come in batches and go to disk as they come, so memory does not grow with their number; the file gets its
name when it is whole. Knows nothing of trainers' columns.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gaincurate.core.artifact import IDENTITY, MANIFEST
from gaincurate.errors import InputError, OutputError, storage_error
from gaincurate.files import write_atomic, write_lines, write_stream
from gaincurate.hygiene.examine import LeftOut, leave_out
from gaincurate.hygiene.options import HygieneOptions
from gaincurate.schedule.noise import Ints
from gaincurate.schedule.order import Order, build
from gaincurate.schedule.run import RUN, Run
from gaincurate.schema import ID, PREFIX
from gaincurate.scored_set import ScoredSet
from gaincurate.trainers.names import find_trainer
from gaincurate.trainers.views import View
from gaincurate.trainers.views_launch import Launch, launch, system_file
from gaincurate.trainers.views_parts import ViewOptions, chat_type

FORMAT = 1
_METADATA = b"gaincurate"
_CHUNK = 2048  # rows in memory at once, and in a row group


@dataclass(frozen=True, slots=True)
class Pick:
    """Which rows, in which order: `by` a score, or of a run's `round`; `limit` takes the first ones."""

    by: str | None = None
    ascending: bool = False
    round: int | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """Which rows to leave out, and the file that lists them (None: beside the trainer's file)."""

    options: HygieneOptions
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the view, how many rows, what the file says of itself, and how to start on it.

    `dropped` counts the rows that each check left out, and `dropped_file` lists them.
    """

    view: View
    rows: int
    facts: dict[str, Any]
    launch: Launch
    notes: list[str]
    dropped: dict[str, int] = field(default_factory=dict)
    dropped_file: Path | None = None


def export(
    source: Path,
    trainer: str,
    out: Path,
    options: ViewOptions,
    pick: Pick,
    *,
    drop: Drop | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write the view of a scored set, or of a run's round, that a trainer reads.

    Args:
        source: a finished scored set or a run.
        trainer: one of `TRAINERS`.
        out: the file to write; its suffix says which format.
        options: what goes into the columns.
        pick: which rows.
        drop: rows of a scored set to leave out, before `limit` counts.
        overwrite: replace what is there.

    Raises:
        InputError: an option that does not go with the source or the trainer, or a prompt that the trainer
            cannot read; nothing is written.
        OutputError: the source is no finished set and no run, or the file is there already.
        StorageError: the file system refused.
    """
    listed = None if drop is None else drop.file or _beside(trainer, out)
    _check_file(trainer, out, listed, overwrite)
    if drop is not None and (source / RUN).exists():
        raise InputError(f"--drop is for a scored set; {source} is a run, whose plan says which rows.")
    with _opened(source, pick) as (scored, rows, facts):
        left_out = None
        if drop is not None:
            left_out = leave_out(scored, drop.options)
            rows = _without(rows, left_out)
            facts = {**facts, "drop": asdict(drop.options), "dropped": left_out.counts}
        bare = options.bare or bool(facts.get("bare"))
        options = ViewOptions(**{**asdict(options), "bare": bare})
        identity = scored.identity
        view = View(trainer, scored.schema, identity, chat_type(scored, identity, bare=bare), options)
        facts = {
            "format": FORMAT,
            **facts,
            "manifest": scored.manifest_hash,
            "trainer": trainer,
            "read": view.facts.read,
            "options": asdict(options),
            "pick": asdict(pick),
        }
        notes, count = list(view.notes), 0
        metadata = {_METADATA: json.dumps(facts, ensure_ascii=False).encode()}
        schema = view.schema.with_metadata(metadata)
        with _making(out) as file, _writer(out, file, schema) as write:
            for table in _tables(scored, rows, pick.limit):
                shown = view.table(table, count)
                count += shown.num_rows
                write(shown)
            if left_out is not None and listed is not None:
                write_lines(listed, left_out.lines(scored))
        if view.parts.system is not None and trainer == "nemo-rl":
            write_atomic(system_file(out), view.parts.system.encode())
    if view.without_answer:
        notes.append(_without_answer(scored, view, count))
    if view.open_ended:
        notes.append(
            f"warning: {view.open_ended:,} prompts end with words of the assistant; scoring went on from "
            f"there, and {trainer} renders them as a finished turn"
        )
    counts = {} if left_out is None else left_out.counts
    return Exported(view, count, facts, launch(out, view), notes, counts, listed)


def _without_answer(scored: ScoredSet, view: View, count: int) -> str:
    """A warning and no refusal: a reward function of the user's own may need no answer."""
    answer = view.parts.answer
    if answer is not None:
        return (
            f"warning: column {answer!r} has no answer in {view.without_answer:,} of {count:,} rows, and a "
            "reward function that compares with one cannot judge them"
        )
    columns = ", ".join(name for name in scored.schema.names if not name.startswith(PREFIX))
    return (
        f"warning: {scored.folder} was scored without an answer column, so none of the {count:,} rows has an "
        "answer, and a reward function that compares with one cannot judge them; name the one with the gold "
        f"answers with --answer-column. The columns are: {columns}"
    )


def _beside(trainer: str, out: Path) -> Path:
    """Where the dropped rows are listed: not in a folder whose every file is read."""
    beside = out.parent if trainer == "trinity" else out
    return beside.with_name(f"{beside.stem if beside == out else beside.name}.dropped.jsonl")


def _without(rows: Ints | None, left_out: LeftOut) -> Ints:
    kept: Ints = np.flatnonzero(left_out.kept) if rows is None else rows[left_out.kept[rows]]
    return kept


def _check_file(trainer: str, out: Path, listed: Path | None, overwrite: bool) -> None:
    suffixes = find_trainer(trainer).suffixes
    if out.suffix not in suffixes:
        raise InputError(
            f"--out {out}: for {trainer} the file's name must end in {' or '.join(suffixes)}; that says what "
            "is written."
        )
    if trainer == "openrlhf" and set(str(out.resolve())) & set(",@"):
        raise InputError(f"--out {out}: OpenRLHF cuts names at ',' and '@'; give one without.")
    if out.is_dir():
        raise OutputError(f"--out {out} is a folder; give the name of a file.", path=str(out))
    if listed == out:
        raise InputError(f"--dropped {listed} is the file that the trainer reads; give another.")
    others = [(out, "--out")] + ([(system_file(out), "--out")] if trainer == "nemo-rl" else [])
    others += [(listed, "--dropped")] if listed else []
    for path, option in others:
        if path.exists() and not overwrite:
            raise OutputError(
                f"{path} is there already; give another {option}, or --overwrite to replace it.",
                path=str(path),
            )
    if trainer == "trinity" and out.parent.is_dir():
        beside = sorted(p.name for p in out.parent.iterdir() if p != out and not p.name.startswith("."))
        if beside:
            raise OutputError(
                f"{out.parent} holds {beside[0]!r}, and Trinity reads the folder of a file and not the file; "
                "give an --out in a folder of its own.",
                path=str(out.parent),
            )


@contextmanager
def _opened(source: Path, pick: Pick) -> Iterator[tuple[ScoredSet, Ints | None, dict[str, Any]]]:
    """The set behind a source, the rows to take in their order (None for all of them), and facts."""
    if (source / RUN).exists():
        if pick.by is not None or pick.ascending:
            raise InputError(
                f"--by and --ascending are for a scored set; {source} is a run, whose plan orders."
            )
        run = Run(source)
        newest = run.newest()
        round_ = newest if pick.round is None else pick.round
        if not 0 <= round_ <= newest:
            raise InputError(f"--round {round_} is not planned in {source}; the newest is {newest}.")
        rows = np.asarray(run.rows(round_), np.int64)
        yield run.scored, rows, {"run": str(source), "round": round_, "bare": run.config.bare}
        return
    if not (source / MANIFEST).exists() and not (source / IDENTITY).exists():
        raise OutputError(
            f"{source} is neither a scored set nor a run: it has no {MANIFEST} and no {RUN}. `gaincurate "
            f"score DATA --model M --out {source}` makes a set of your prompts.",
            path=str(source),
        )
    if pick.round is not None:
        raise InputError(f"--round {pick.round} is for a run; {source} is a scored set.")
    if pick.ascending and pick.by is None:
        raise InputError("--ascending goes with --by COLUMN.")
    scored = ScoredSet(source)
    if pick.by is None:
        yield scored, None, {"set": str(source)}
        return
    with tempfile.TemporaryDirectory() as folder:
        missing = build(Path(folder) / "order.arrow", scored, pick.by, ascending=pick.ascending)
        order = Order(Path(folder) / "order.arrow")
        yield scored, order.rows, {"set": str(source), "rows_without_value": missing}


def _tables(scored: ScoredSet, rows: Ints | None, limit: int | None) -> Iterator[pa.Table]:
    """Rows of a set in batches."""
    left = len(scored) if limit is None else min(limit, len(scored))
    if rows is not None:
        chosen = rows[:left]
        for begin in range(0, len(chosen), _CHUNK):
            yield scored.take(chosen[begin : begin + _CHUNK])
        return
    for table in scored.tables():
        for begin in range(0, min(left, table.num_rows), _CHUNK):
            yield table.slice(begin, min(_CHUNK, left - begin))
        left -= table.num_rows
        if left <= 0:
            return


@contextmanager
def _making(out: Path) -> Iterator[BinaryIO]:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(out, error) from error
    with write_stream(out) as file:
        yield file


@contextmanager
def _writer(out: Path, file: BinaryIO, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """What writes tables into a file, by the file's suffix."""
    if out.suffix == ".jsonl":
        yield lambda table: _write_lines(file, table)
        return
    with pq.ParquetWriter(file, schema) as writer:
        yield lambda table: writer.write_table(table, row_group_size=_CHUNK)


def _write_lines(file: BinaryIO, table: pa.Table) -> None:
    ids: Iterable[str] = table.column(ID).to_pylist()
    for gc_id, row in zip(ids, table.to_pylist(), strict=True):
        try:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        except (TypeError, ValueError) as error:
            name = next((name for name, value in row.items() if not _holds(value)), "?")
            raise InputError(
                f"row {gc_id}: column {name!r} holds what lines of JSON cannot ({error}); give an --out that "
                "ends in .parquet.",
                gc_id=gc_id,
                column=name,
            ) from error


def _holds(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
