"""What the live adapters have in common: takes names and rows, yields sentences and places.

Knows no trainer but by the name that it is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.json as pj

from gaincurate.core.arrow import read_parquet, refusing, validate
from gaincurate.errors import InputError, OutcomeError
from gaincurate.schema import ID
from gaincurate.trainers.base import Live


def not_installed(trainer: str, version: str, error: ImportError) -> InputError:
    """For an adapter whose trainer cannot be imported."""
    return InputError(
        f"this adapter is for {trainer} {version} and works inside it alone, and it cannot be imported here "
        f"({error}). Install {trainer} {version}, or use `gaincurate schedule run`, which needs no adapter."
    )


def open_run(run: Any, where: str, trainer: str) -> Live:
    """The run that a trainer is to follow, with the others kept out.

    Args:
        run: the run's folder as it was given, None where it was not.
        where: the setting that gives it.
        trainer: for sentences.

    Raises:
        InputError: none was given, or the run scores anew at checkpoints.
        OutputError: no run is there.
        LockedError: another trainer is at work on it.
    """
    if not run:
        raise InputError(f"which run to follow was not said: give its folder by {where}.")
    live = Live(str(run))
    if live.run.config.rescore.what != "off":
        raise InputError(
            f"{live.run.folder} scores anew at checkpoints (--rescore {live.run.config.rescore.what}), which "
            f"is not done live with {trainer}. Start the run without --rescore, or train it in segments with "
            "`gaincurate schedule run`."
        )
    live.open()
    return live


def check_batch(live: Live, count: int, option: str) -> None:
    """See that no batch lies in two rounds.

    Raises:
        InputError: it would; the run is let go.
    """
    if live.budget % count:
        live.close()
        raise InputError(
            f"{option} {count:,} does not divide the {live.budget:,} prompts of a round of "
            f"{live.run.folder}: a batch would lie in two rounds. Give another number, or start another run."
        )


def ids_in(dataset: Any, file: str | None, where: str) -> list[str]:
    """The ids of a trainer's rows: its own column, or where it dropped that, the file it read them from.

    Args:
        dataset: with `column_names`, a length and columns by name.
        file: what it was read from, `.parquet` or `.jsonl`.
        where: who has the rows, and which setting names the file; for sentences.

    Raises:
        InputError: neither has them, or the file has other rows.
    """
    if ID in dataset.column_names:
        return list(dataset[ID])
    if not file or not Path(file).exists():
        raise InputError(
            f"{where}: the rows there have no {ID}, so the file they came from is needed ({file})."
        )

    def refuse(why: str) -> InputError:
        return InputError(f"{where}: {file} cannot be read: {why}. Give the file again as it was exported.")

    if file.endswith(".parquet"):
        table = read_parquet(Path(file), refuse)
    else:
        with refusing(Path(file), refuse):
            table = pj.read_json(file)
        table = validate(table, Path(file), refuse)
    if len(table) != len(dataset) or ID not in table.column_names:
        raise InputError(
            f"{where}: {file} has {len(table):,} rows with {', '.join(table.column_names)}, and "
            f"{len(dataset):,} rows were read. It must be that very file, whole, with a column {ID}."
        )
    return list(table.column(ID).to_pylist())


def places_of(ids: Iterable[Any]) -> dict[str, int]:
    """Where each id stands."""
    return {str(gc_id): place for place, gc_id in enumerate(ids)}


def place_of(row: Mapping[str, Any], places: Mapping[str, Any], where: str) -> Any:
    """Where a row of the run stands in what the trainer read.

    Raises:
        InputError: it is not there.
    """
    if row[ID] not in places:
        raise InputError(
            f"{row[ID]!r} of the run is not among the {len(places):,} rows that {where}: it was cut or "
            "filtered, or written from another scored set. Write it anew with `gaincurate export`, and let "
            "the trainer filter nothing.",
            gc_id=row[ID],
        )
    return places[row[ID]]


def next_round(live: Live, advice: str) -> bool:
    """`turn`, and where outcomes are missing what would have helped.

    Args:
        live: the run.
        advice: why they may be missing with this trainer, and what to set; whole sentences.

    Returns:
        Whether there is a next round.

    Raises:
        OutcomeError: the outcomes cannot be used; nothing is changed.
    """
    try:
        return live.turn()
    except OutcomeError as error:
        absent: list[str] = error.data.get("ids", live.ids)  # type: ignore[assignment]
        if "ids" not in error.data and live.run.outcomes(live.round).exists():
            raise  # a line that is wrong, not one that is missing
        share = math.floor((1 - len(absent) / live.budget) * 10_000) / 10_000
        enough = (
            f" A run that is started with --min-coverage {share:g} goes on here, and what comes later counts "
            "as late."
            if share > 0
            else ""
        )
        raise OutcomeError(f"{error} {advice}{enough}", **error.data) from error


def reward_of(kept: float) -> float:
    """A reward as its function gave it, where a trainer keeps it in float32: there 1.1 is above 1.1."""
    return float(f"{kept:.7g}")
