"""The exact file that a trainer reads, of a scored set or of a run's round.

Names and nesting are the trainer's, and the id stands where the trainer carries it back. Other source columns
go along, without the nulls that Arrow adds in lines of JSON; one whose name the trainer needs or reserves is
renamed with a note.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gaincurate.core.artifact import IDENTITY, MANIFEST, RUN
from gaincurate.core.files import temporary_folder, write_atomic, write_lines, write_stream
from gaincurate.core.prompts import as_parquet
from gaincurate.core.rng import CONTROLS, Ints, permutation
from gaincurate.core.schema import ID, PREFIX
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.store import Remote, located
from gaincurate.core.where import Mask
from gaincurate.errors import InputError, OutputError, storage_error
from gaincurate.hygiene.checks import LeftOut, leave_out
from gaincurate.hygiene.options import HygieneOptions
from gaincurate.schedule.run import Order, Run, build, refuse_group_sizes
from gaincurate.schedule.selection import first_of_groups, matching, part_of
from gaincurate.trainers.columns import ViewOptions, chat_type
from gaincurate.trainers.profile import Launch, profile_of, system_file
from gaincurate.trainers.view import View

FORMAT = 1
_METADATA = b"gaincurate"
PART = "{split}"
"""What stands in `--out` for a part's name."""
_CONTROL = "random"
_CHUNK = 2048  # rows in memory at once, and in a row group


@dataclass(frozen=True, slots=True)
class Pick:
    """Which rows, in which order: `by` a score, or of a run's `round`; `limit` takes the first ones."""

    by: str | None = None
    ascending: bool = False
    round: int | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows of a scored set to take, beside those that `Drop` leaves out, and the files they go into.

    `where` is a condition, which `rollouts` gives pass rates to. `per_group` takes so many rows of each group
    by `group_column`, the first in the order. `parts` are names and shares, see `selection.part_of`. `random`
    writes a control beside the rows for which `where` holds: so many rows, or as many ("same"), drawn
    uniformly under `seed` from all rows that `Drop` leaves.
    """

    where: str | None = None
    rollouts: Path | None = None
    per_group: int | None = None
    group_column: str | None = None
    parts: dict[str, float] = field(default_factory=dict)
    random: int | Literal["same"] | None = None
    seed: int | None = None

    @property
    def given(self) -> str | None:
        """The first option that was given."""
        options = {"--where": self.where, "--per-group": self.per_group, "--split": self.parts or None}
        return next((name for name, value in options.items() if value is not None), None)

    def check(self, out: Path) -> None:
        """Refuse options that do nothing without another.

        Raises:
            InputError: one is missing.
        """
        if self.rollouts is not None and self.where is None:
            raise InputError(f"--rollouts {self.rollouts} goes with --where.")
        if self.random is not None and (self.where is None or self.parts):
            raise InputError(
                f"--random {self.random} writes a control beside the rows of --where: give --where, and no "
                "--split."
            )
        if self.seed is not None and self.random is None:
            raise InputError(f"--seed {self.seed} goes with --random N.")
        if (self.per_group is None) != (self.group_column is None):
            raise InputError("--per-group N and --group-column NAME go together.")
        if bool(self.parts) != (PART in str(out)):
            raise InputError(
                f"--out {out}: with --split its name has {PART} where the parts' names go, as in "
                f"data/{PART}.parquet."
                if self.parts
                else f"--out {out}: {PART} is for --split NAME=SHARE,..."
            )


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
    file: Path | None = None
    others: tuple[Exported, ...] = ()
    """The other parts, with `--split`, or the random control."""


def export(
    source: str | Path,
    trainer: str,
    out: str | Path,
    options: ViewOptions = ViewOptions(),  # noqa: B008, it is frozen
    pick: Pick = Pick(),
    *,
    drop: Drop | None = None,
    choice: Choice | None = None,
    overwrite: bool = False,
    note: Callable[[str], None] = lambda sentence: None,
) -> Exported:
    """Write the view of a scored set, or of a run's round, that a trainer reads.

    Args:
        source: a finished scored set or a run.
        trainer: one of `TRAINERS`.
        out: the file to write; its suffix says which format. With parts, `{split}` is their names.
        options: what goes into the columns.
        pick: which rows.
        drop: rows of a scored set to leave out, before `limit` counts.
        choice: rows of a scored set to take, before `limit` counts.
        overwrite: replace what is there.
        note: hears how many rows are left out and why, before anything is written.

    Returns:
        What was written, of the first part where there are several.

    Raises:
        InputError: an option that does not go with the source or the trainer, no row that is left, or a
            prompt that the trainer cannot read; that file is not written.
        OutputError: the source is no finished set and no run, or a file is there already.
        StorageError: the file system refused.
    """
    choice, source, out = choice or Choice(), located(source), Path(out)
    choice.check(out)
    files = {name: Path(str(out).replace(PART, name)) for name in choice.parts} or {"": out}
    listed = None if drop is None else drop.file or _beside(trainer, Path(str(out).replace(PART, "all")))
    if choice.random is not None:
        files[_CONTROL] = _control_file(trainer, out)
    for file in files.values():
        _check_file(trainer, file, listed, overwrite)
    for_sets = "--drop" if drop is not None else choice.given
    if for_sets is not None and (source / RUN).exists():
        raise InputError(f"{for_sets} is for a scored set; {source} is a run, whose plan says which rows.")
    with _opened(source, pick) as (scored, rows, facts):
        left_out = None if drop is None else leave_out(scored, drop.options)
        if drop is not None and left_out is not None:
            facts = {**facts, "drop": asdict(drop.options), "dropped": left_out.counts}
        chosen: Mapping[str, Ints | None] = {"": rows}
        if left_out is not None or choice.given is not None:
            chosen, counts = _chosen(scored, rows, left_out, choice, pick.limit, note)
            note(counts)
            facts = {
                **facts,
                "chosen": {**asdict(choice), "rollouts": choice.rollouts and str(choice.rollouts)},
            }
        bare = options.bare or bool(facts.get("bare"))
        options = ViewOptions(**{**asdict(options), "bare": bare})
        facts = {
            "format": FORMAT,
            **facts,
            "manifest": scored.manifest_hash,
            "trainer": trainer,
            "read": profile_of(trainer).version,
            "options": asdict(options),
            "pick": asdict(pick),
        }
        written, sizes = [], _group_sizes(trainer, facts)
        for name, file in files.items():
            more, limit = ({"part": name}, None) if name else ({}, pick.limit)
            written.append(_write(scored, chosen[name], trainer, file, options, limit, facts | more, sizes))
        if left_out is not None and listed is not None:
            write_lines(listed, left_out.lines(scored))
    dropped = {} if left_out is None else left_out.counts
    return replace(written[0], dropped=dropped, dropped_file=listed, others=tuple(written[1:]))


def _group_sizes(trainer: str, facts: Mapping[str, Any]) -> list[int] | None:
    """The group sizes of a run's round, for a trainer that reads them; None where its plan has none."""
    if "run" not in facts:
        return None
    run = Run(facts["run"])
    if profile_of(trainer).group_size is None:
        refuse_group_sizes(run, trainer)
    return run.rollouts(facts["round"])


def _chosen(
    scored: ScoredSet,
    rows: Ints | None,
    left_out: LeftOut | None,
    choice: Choice,
    limit: int | None,
    note: Callable[[str], None],
) -> tuple[dict[str, Ints], str]:
    """The rows of each part in their order, and a sentence with how many are left out and why."""
    left: Ints = np.arange(len(scored)) if rows is None else rows
    reasons, rows_before = list[str](), len(left)

    def keep(stay: Mask, why: str) -> None:
        nonlocal left
        if gone := int((~stay).sum()):
            reasons.append(f"{gone:,} {why}")
        left = left[stay]

    if left_out is not None:
        keep(left_out.kept[left], "by --drop")
    everything = left
    if choice.where is not None:
        matches = matching(scored, choice.where, choice.rollouts)
        if matches.warning is not None:
            note(matches.warning)
        unknown = int(matches.unknown[left].sum())
        keep(matches.rows[left], f"by --where ({unknown:,} of them for want of a value)")
    if choice.per_group is not None and choice.group_column is not None:
        stay = first_of_groups(scored, choice.group_column, choice.per_group, left)
        keep(stay, f"over --per-group {choice.per_group}")
    if limit is not None:
        keep(np.arange(len(left)) < limit, f"after --limit {limit}")
    parts = {"": left}
    if choice.parts:
        places = part_of(scored.column(ID).take(pa.array(left)).to_pylist(), choice.parts)
        parts = {name: left[places == place] for place, name in enumerate(choice.parts)}
    of_parts = ", ".join(f"{name} {len(of_part):,}" for name, of_part in parts.items() if name)
    sentence = f"{len(left):,} of {rows_before:,} rows are taken"
    sentence += f" ({of_parts})" if of_parts else ""
    sentence += f", left out are {', '.join(reasons)}" if reasons else ""
    if choice.random is not None and len(left):
        size, seed = len(left) if choice.random == "same" else choice.random, choice.seed or 0
        if size > len(everything):
            raise InputError(
                f"--random {size:,}: there are {len(everything):,} rows to draw from; give that many at most."
            )
        places = permutation(seed, 0, CONTROLS, len(everything))[:size]  # the same in any order of the rows
        parts[_CONTROL] = everything[np.isin(everything, np.sort(everything)[places])]
        sentence += (
            f". The random control has {size:,} rows beside the {len(left):,} of --where, drawn uniformly "
            f"from {len(everything):,} with seed {seed}"
        )
    if empty := [name for name, of_part in parts.items() if not len(of_part)]:
        raise InputError(f"no row is left{' for ' * bool(empty[0])}{empty[0]}: {sentence}.")
    return parts, sentence


def _write(
    scored: ScoredSet,
    rows: Ints | None,
    trainer: str,
    out: Path,
    options: ViewOptions,
    limit: int | None,
    facts: dict[str, Any],
    sizes: list[int] | None,
) -> Exported:
    """Write one file."""
    identity = scored.identity
    chat = chat_type(scored, identity, bare=options.bare)
    view = View(trainer, scored.schema, identity, chat, options, sizes)
    notes, count = list(view.notes), 0
    metadata = {_METADATA: json.dumps(facts, ensure_ascii=False).encode()}
    schema = view.schema.with_metadata(metadata)
    with _making(out) as file, _writer(out, file, schema) as write:
        for table in _tables(scored, rows, limit):
            write(view, table, count)
            count += table.num_rows
    if view.parts.system is not None and view.profile.system_file:
        write_atomic(system_file(out), view.parts.system.encode(), named=True)
    if view.without_answer:
        notes.append(_without_answer(scored, view, count))
    if view.open_ended:
        notes.append(
            f"warning: {view.open_ended:,} prompts end with words of the assistant; scoring went on from "
            f"there, and {trainer} renders them as a finished turn"
        )
    notes += view.differences()
    return Exported(view, count, facts, view.profile.launch(out.resolve(), view), notes, file=out)


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
    beside = out.absolute().parent if profile_of(trainer).reads_folder else out
    return beside.with_name(f"{beside.stem if beside == out else beside.name}.dropped.jsonl")


def _control_file(trainer: str, out: Path) -> Path:
    """Where the random control is written: not in a folder whose every file is read."""
    folder = out.absolute().parent
    if profile_of(trainer).reads_folder:
        return folder.with_name(f"{folder.name}.{_CONTROL}") / out.name
    return out.with_name(f"{out.stem}.{_CONTROL}{out.suffix}")


def _check_file(trainer: str, out: Path, listed: Path | None, overwrite: bool) -> None:
    profile = profile_of(trainer)
    suffixes = profile.suffixes
    if out.suffix not in suffixes:
        raise InputError(
            f"--out {out}: for {trainer} the file's name must end in {' or '.join(suffixes)}; that says what "
            "is written."
        )
    if set(str(out.resolve())) & set(profile.refused_in_path):
        marks = " and ".join(repr(mark) for mark in profile.refused_in_path)
        raise InputError(f"--out {out}: {trainer} cuts names at {marks}; give one without.")
    if out.is_dir():
        raise OutputError(f"--out {out} is a folder; give the name of a file.", path=str(out))
    if listed == out:
        raise InputError(f"--dropped {listed} is the file that the trainer reads; give another.")
    others = [(out, "--out")] + ([(system_file(out), "--out")] if profile.system_file else [])
    others += [(listed, "--dropped")] if listed else []
    for path, option in others:
        if path.exists() and not overwrite:
            raise OutputError(
                f"{path} is there already; give another {option}, or --overwrite to replace it.",
                path=str(path),
            )
    if profile.reads_folder and out.parent.is_dir():
        beside = sorted(p.name for p in out.parent.iterdir() if p != out and not p.name.startswith("."))
        if beside:
            raise OutputError(
                f"{out.parent} holds {beside[0]!r}, and {trainer} reads the folder of a file and not "
                "the file; "
                "give an --out in a folder of its own.",
                path=str(out.parent),
            )


@contextmanager
def _opened(source: Path, pick: Pick) -> Iterator[tuple[ScoredSet, Ints | None, dict[str, Any]]]:
    """The set of a source, the rows to take in their order (None for all of them), and facts."""
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
    local = not isinstance(located(source), Remote)
    if local and not (source / MANIFEST).exists() and not (source / IDENTITY).exists():
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
    with temporary_folder() as folder:
        missing = build(folder / "order.arrow", scored, pick.by, ascending=pick.ascending)
        order = Order(folder / "order.arrow")
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
    with write_stream(out, named=True) as file:
        yield file


@contextmanager
def _writer(out: Path, file: BinaryIO, schema: pa.Schema) -> Iterator[Callable[[View, pa.Table, int], None]]:
    """Writes the view of rows into a file, by the file's suffix."""
    if out.suffix == ".jsonl":
        yield lambda view, table, first: _write_lines(file, view.lines(table, first))
        return
    with as_parquet(out):
        writer = pq.ParquetWriter(file, schema)

    def write(view: View, table: pa.Table, first: int) -> None:
        with as_parquet(out):
            writer.write_table(view.table(table, first), row_group_size=_CHUNK)

    with writer:
        yield write


def _write_lines(file: BinaryIO, rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        try:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        except (TypeError, ValueError) as error:
            name = next((name for name, value in row.items() if not _holds(value)), "?")
            raise InputError(
                f"row {row[ID]}: column {name!r} holds what lines of JSON cannot ({error}); give an --out "
                "that ends in .parquet.",
                gc_id=row[ID],
                column=name,
            ) from error


def _holds(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
