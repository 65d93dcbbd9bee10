"""Writes the file that a trainer reads, from a scored set or a run's round.

The other source columns are copied; JSON lines omit the nulls that Arrow adds. A column whose name the
trainer needs or reserves is renamed, with a note.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gaincurate.core.artifact import RUN
from gaincurate.core.files import make_folder, temporary_folder, write_atomic, write_lines, write_stream
from gaincurate.core.prompts import as_parquet
from gaincurate.core.rng import Ints
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.store import located
from gaincurate.core.where import Mask
from gaincurate.errors import InputError, OutputError
from gaincurate.hygiene.checks import LeftOut, leave_out, lines
from gaincurate.hygiene.options import HygieneOptions
from gaincurate.schedule.observations import matching
from gaincurate.schedule.run import Order, Run, build, refuse_group_sizes
from gaincurate.trainers.columns import ExportView, ViewOptions
from gaincurate.trainers.profile import Launch, Profile, profile_of, system_file

FORMAT = 1
_CHUNK = 2048  # rows in memory at once, and in a row group


@dataclass(frozen=True, slots=True)
class Pick:
    """The rows to export and their order: sorted `by` a score, or those of a run's `round`.

    `limit` takes the first ones. `where` is a condition on a set's rows, with pass rates in `rollouts`.
    """

    by: str | None = None
    ascending: bool = False
    round: int | None = None
    limit: int | None = None
    where: str | None = None
    rollouts: Path | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported file: its view, number of rows, metadata (`facts`) and launch settings.

    `dropped` counts the rows that each hygiene check left out, and `dropped_file` lists them.
    """

    view: ExportView
    rows: int
    facts: dict[str, Any]
    launch: Launch
    notes: list[str]
    dropped: dict[str, int] = field(default_factory=dict)
    dropped_file: Path | None = None


def export(
    source: str | Path,
    trainer: str,
    out: str | Path,
    options: ViewOptions = ViewOptions(),  # noqa: B008, it is frozen
    pick: Pick = Pick(),
    *,
    drop: HygieneOptions | None = None,
    overwrite: bool = False,
    note: Callable[[str], None] = lambda sentence: None,
) -> Exported:
    """Write the file that a trainer reads, from a scored set or a run's round.

    Args:
        source: a finished scored set or a run.
        trainer: one of `TRAINERS`.
        out: the file to write; its suffix determines the format.
        options: the content of the columns.
        pick: the rows and their order.
        drop: the checks whose rows are left out of a scored set, before `where` and `limit`. A file beside
            `out` lists these rows.
        overwrite: replace existing files.
        note: called with the number of rows that are left out and why, before anything is written.

    Raises:
        InputError: an option does not fit the source or the trainer, no row is left, or the trainer cannot
            read a prompt; nothing is written.
        OutputError: the source is neither a finished set nor a run, or a file exists already.
        StorageError: the file system refused.
    """
    source, out, profile = located(source), Path(out), profile_of(trainer)
    if pick.where is None and pick.rollouts is not None:
        raise InputError("--rollouts goes with --where: only its condition uses them.")
    # The list of dropped rows is not written into a folder of which the trainer reads every file.
    beside = out.absolute().parent if profile.reads_folder else out.with_suffix("")
    listed = None if drop is None else beside.with_name(f"{beside.name}.dropped.jsonl")
    _check_file(profile, out, listed, overwrite)
    for_sets = "--drop" if drop is not None else "--where" if pick.where is not None else None
    if for_sets is not None and (source / RUN).exists():
        raise InputError(f"{for_sets} is for a scored set; {source} is a run, whose plan says which rows.")
    scored, rows, facts, sizes = _open(source, profile, pick)
    left_out = None
    if drop is not None:
        left_out = leave_out(scored, drop)
        verifier = drop.verifier and {
            name.removeprefix("verify_"): value for name, value in drop.verifier if name != "answer_column"
        }
        facts |= {"drop": asdict(drop) | {"verifier": verifier}, "dropped": left_out.counts}
    if for_sets is not None:
        rows = _chosen(scored, rows, left_out, pick, note)
    options = replace(options, bare=options.bare or bool(facts.get("bare")))
    facts |= {
        "manifest": scored.manifest_hash,
        "trainer": trainer,
        "read": profile.version,
        "options": asdict(options),
        "pick": {**asdict(pick), "rollouts": pick.rollouts and str(pick.rollouts)},
    }
    view = ExportView(profile, scored, options, sizes)
    _write(view, _tables(scored, rows, pick.limit), out, facts)
    if left_out is not None and listed is not None:
        write_lines(listed, lines(scored, left_out.results))
    launch, notes = profile.launch(out.resolve(), view), list(view.remarks())
    return Exported(view, view.rows, facts, launch, notes, facts.get("dropped", {}), listed)


def _open(
    source: Path, profile: Profile, pick: Pick
) -> tuple[ScoredSet, Ints | None, dict[str, Any], list[int] | None]:
    """The set of a source, the rows to take in order (None: all), metadata of the file, and group sizes."""
    facts: dict[str, Any] = {"format": FORMAT}
    if (source / RUN).exists():
        if pick.by is not None or pick.ascending:
            raise InputError(f"--by and --ascending are for scored sets; {source} is a run, in plan order.")
        run = Run(source)
        newest = run.newest()
        round_ = newest if pick.round is None else pick.round
        if not 0 <= round_ <= newest:
            raise InputError(f"--round {round_} is not planned in {source}; the newest is {newest}.")
        if profile.group_size is None:
            refuse_group_sizes(run, profile.name)
        facts |= {"run": str(source), "round": round_, "bare": run.config.bare}
        return run.scored, np.asarray(run.rows(round_), np.int64), facts, run.rollouts(round_)
    if pick.round is not None:
        raise InputError(f"--round {pick.round} is for a run; {source} is a scored set.")
    if pick.ascending and pick.by is None:
        raise InputError("--ascending goes with --by COLUMN.")
    scored, rows = ScoredSet(source), None
    facts["set"] = str(source)
    if pick.by is not None:
        with temporary_folder() as folder:
            path = folder / "order.arrow"
            facts["rows_without_value"] = build(path, scored, pick.by, ascending=pick.ascending)
            rows = np.array(Order(path).rows)
    return scored, rows, facts, None


def _chosen(
    scored: ScoredSet, rows: Ints | None, left_out: LeftOut | None, pick: Pick, note: Callable[[str], None]
) -> Ints:
    """The rows that --drop, --where and --limit leave, in order; a note counts the others by their reason."""
    left: Ints = np.arange(len(scored)) if rows is None else rows
    reasons, rows_before = list[str](), len(left)

    def keep(stay: Mask, why: str) -> None:
        nonlocal left
        if gone := int((~stay).sum()):
            reasons.append(f"{gone:,} {why}")
        left = left[stay]

    if left_out is not None:
        keep(left_out.remaining[left], "by --drop")
    if pick.where is not None:
        matches, unknown = matching(scored, pick.where, pick.rollouts, note)
        keep(matches[left], f"by --where ({unknown[left].sum():,} of them for want of a value)")
    if pick.limit is not None:
        keep(np.arange(len(left)) < pick.limit, f"after --limit {pick.limit}")
    sentence = f"{len(left):,} of {rows_before:,} rows are taken"
    sentence += f", left out are {', '.join(reasons)}" if reasons else ""
    if not len(left):
        raise InputError(f"no row is left: {sentence}.")
    note(sentence)
    return left


def _write(view: ExportView, tables: Iterable[pa.Table], out: Path, facts: dict[str, Any]) -> None:
    schema = view.schema.with_metadata({b"gaincurate": json.dumps(facts, ensure_ascii=False).encode()})
    make_folder(out.parent)
    is_parquet = out.suffix == ".parquet"
    with (
        write_stream(out) as file,
        as_parquet(out),
        pq.ParquetWriter(file, schema) if is_parquet else nullcontext() as writer,
    ):
        for table in tables:
            if writer is None:
                _write_lines(file, view.lines(table))
            else:
                writer.write_table(view.table(table), row_group_size=_CHUNK)
    if view.system is not None and view.profile.system_file:
        write_atomic(system_file(out), view.system.encode())


def _check_file(profile: Profile, out: Path, listed: Path | None, overwrite: bool) -> None:
    trainer = profile.name
    if out.suffix not in profile.suffixes:
        raise InputError(f"--out {out}: for {trainer} its name must end in {' or '.join(profile.suffixes)}.")
    if set(str(out.resolve())) & set(profile.refused_in_path):
        marks = " and ".join(map(repr, profile.refused_in_path))
        raise InputError(f"--out {out}: {trainer} cuts names at {marks}; give one without.")
    for path in (out, system_file(out) if profile.system_file else None, listed):
        if path is not None and path.exists() and not overwrite:
            raise OutputError(f"{path} exists; give another --out, or --overwrite.", path=str(path))
    if profile.reads_folder and out.parent.is_dir():
        beside = sorted(p.name for p in out.parent.iterdir() if p != out and not p.name.startswith("."))
        if beside:
            raise OutputError(
                f"{out.parent} holds {beside[0]!r}, and {trainer} reads whole folders; use a new folder.",
                path=str(out.parent),
            )


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


def _write_lines(file: BinaryIO, rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        try:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        except (TypeError, ValueError) as error:
            raise InputError(
                f"row {row[ID]} holds a value that JSON cannot ({error}); give an --out in .parquet.",
                gc_id=row[ID],
            ) from error
