"""Entries of rollout logs, and which trainer's log a file is.

A file's keys or columns decide that and never its name, which users choose. What each trainer logs stands in
its profile. Here is what their readers share.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaincurate.core.arrow import Refuse, parquet_head, read_parquet
from gaincurate.core.files import json_lines
from gaincurate.core.foreign import Malformed, json_value, see_fits
from gaincurate.core.foreign_models import ForeignJson
from gaincurate.difficulty.nemo_gym import TASK, read_rollouts
from gaincurate.errors import OutcomeError
from gaincurate.trainers.profile import LogFormat, profiles

LINES = "lines"
"""The lines of `outcomes.jsonl` themselves."""


def logs() -> dict[str, LogFormat]:
    """The logs that are read here, by trainer."""
    return {name: profile.log for name, profile in profiles().items() if profile.log} | {
        "nemo-gym": LogFormat(files="*rollouts.jsonl", keys=frozenset({TASK}), read=_read_nemo_gym)
    }


def _read_nemo_gym(path: Path, begin: int, reward_column: str | None) -> Iterator[Entry]:
    for rollout in read_rollouts(path, begin, reward_column or "reward"):
        yield Entry(
            f"{path.name}, line {rollout.line}",
            rollout.reward,
            rollout.gc_id,
            sample=rollout.rollout,
            messages=rollout.messages,
            tokens=rollout.tokens,
            place=rollout.task,
        )


def patterns() -> dict[str, str]:
    """The names of each kind of log below a folder; the lines of `outcomes.jsonl` are one more kind."""
    return {name: log.files for name, log in logs().items()} | {LINES: "outcomes*.jsonl"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One rollout as a log has it; what the log lacks is None.

    `where` is for sentences. `texts` are beginnings of the rendered rollout, one of which is the prompt;
    `messages` are the prompt's chat messages. `name` may be the id, if somebody put it there. A reward of
    None could not be judged. `tokens` counts the completion's. `place` is the prompt's row in the
    round's file.
    """

    where: str
    reward: float | None
    gc_id: str | None = None
    step: int | None = None
    sample: str | int | None = None
    texts: tuple[str, ...] = ()
    messages: list[dict[str, Any]] | None = None
    answer: Any = None
    name: str | None = None
    tokens: int | None = None
    place: int | None = None


def format_of(path: Path) -> str:
    """Which kind of log a file is.

    Raises:
        OutcomeError: none that is known.
        StorageError: it cannot be read.
    """
    if path.suffix == ".parquet":
        columns = set(parquet_head(path, no_parquet(path))[0].names)
        for name, log in logs().items():
            if log.table and columns >= log.keys:
                return name
    else:
        first = next(objects(path), (0, {}))[1]
        for name, log in logs().items():
            if not log.table and first.keys() >= log.keys:
                return name
        if "reward" in first or "resume_from_step" in first or "attempt" in first:
            return LINES
    choices = ", ".join(f"{log.files} of {name}" for name, log in logs().items())
    raise OutcomeError(
        f"{path} is none of the logs that are known here: {choices}, or lines with gc_id, reward and round.",
        path=str(path),
    )


def objects(path: Path, begin: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file with lines of JSON and their line numbers, from a byte on.

    A last line without a line break is still being written: it is left out.

    Raises:
        OutcomeError: a line that is no JSON object.
        StorageError: the file cannot be read.
    """
    for number, entry in json_lines(path, begin):
        if entry is None:
            raise OutcomeError(f"{path}, line {number} is broken: it is no JSON object.")
        yield number, entry


def see_row(model: type[ForeignJson], row: dict[str, Any], path: Path, number: int) -> None:
    """See that a row has the types that its reader goes by.

    Raises:
        OutcomeError: it has not; with the line's number.
    """
    try:
        see_fits(model, row)
    except Malformed as why:
        raise OutcomeError(f"{path}, line {number}: {why}.", path=str(path), line=number) from why


def table_rows(path: Path) -> list[str]:
    """A completions table's rows as texts that can be compared, without the step."""
    table = read_parquet(path, no_parquet(path))
    rows: list[dict[str, Any]] = table.select([n for n in table.column_names if n != "step"]).to_pylist()
    return [json.dumps(row, sort_keys=True, default=str) for row in rows]


def no_parquet(path: Path) -> Refuse:
    """How a broken table of a trainer's log is refused."""
    return lambda why: OutcomeError(
        f"{path} is no whole Parquet file; is it still being written? (Arrow says: {why}.)", path=str(path)
    )


def reward_number(value: Any) -> float | None:
    """A reward; one that was not given may be logged as NaN."""
    return None if value is None or value != value else value


def reward_name(row: dict[str, Any], asked: str | None, usual: str, path: Path, number: int) -> str:
    """Which value of a line is its reward: the usual one, or the one that --reward-column names.

    Raises:
        OutcomeError: the line has none of that name. A usual one that is missing was not judged.
    """
    if asked is not None and asked not in row:
        raise OutcomeError(
            f"{path}, line {number} has no {asked!r}, which --reward-column names; it has {', '.join(row)}.",
            path=str(path),
            line=number,
        )
    return usual if asked is None else asked


def single_item(value: Any) -> Any:
    """What a list of one holds; anything else as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def id_in_answer(answer: Any) -> str | None:
    """The id that `export --id-in-answer` put into an answer."""
    if isinstance(answer, str) and answer.startswith('{"gc_id"'):
        try:
            gc_id = json_value(answer).get("gc_id")
        except ValueError:
            return None
        return gc_id if isinstance(gc_id, str) else None
    return None
