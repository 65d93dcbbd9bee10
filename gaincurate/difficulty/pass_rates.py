"""Observed pass rates: takes files of rollouts or of rates, yields wins and losses by id, policy by policy.

Reads a run's or a trainer's outcomes, where each round is a policy of its own, and tables (.parquet, .arrow,
.jsonl, or a folder of the first two) with `gc_id` and `reward`, or `wins` and `losses`, or `pass_rate` and
`samples`; a column `model` tells policies apart. Knows nothing of predictions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq

from gaincurate.difficulty.quality import Target, pass_variance
from gaincurate.errors import InputError, OutcomeError
from gaincurate.files import digest_files, reading
from gaincurate.schedule.lines import Key, Line, Rules, newest_attempts, read_lines
from gaincurate.schedule.noise import Floats
from gaincurate.schedule.run import RUN, Run
from gaincurate.schema import ID
from gaincurate.shards import open_table

Tallies = dict[str, tuple[float, float]]
"""Wins and losses by id."""
_LONGEST_LINE = 1 << 26
_WANTED = (
    "gc_id and one of: reward (a row for each rollout), wins and losses, pass_rate (and samples, of how many "
    "rollouts)"
)


@dataclass(frozen=True, slots=True)
class PassRates:
    """What one policy did. `wins[i]` and `losses[i]` belong to `ids[i]`, each id once, sorted.

    `counted` says that wins + losses are rollouts; else their sum is 1 and how many stand behind a rate is
    not known. `round` is the run's round, where there is one. `source` names the file, its hash and the range
    of its rewards.
    """

    name: str
    ids: list[str]
    wins: Floats
    losses: Floats
    counted: bool = True
    round: int | None = None
    source: dict[str, Any] | None = None

    @property
    def failure(self) -> Floats:
        """The failure rate d in [0, 1] of each prompt, `[prompts]`: 0 where every rollout succeeded."""
        rates: Floats = self.losses / (self.wins + self.losses)
        return rates

    def observed(self, target: Target) -> Floats:
        """Of each prompt what is aimed at, `[prompts]`: its failure rate, or p (1 - p) without bias.

        Raises:
            InputError: p (1 - p) is asked for and how many rollouts stand behind a rate is not known.
        """
        if target == "difficulty":
            return self.failure
        if not self.counted:
            raise InputError(
                f"{self.name}: p (1 - p) cannot be told from rates of unknown numbers of rollouts; give the "
                "file a column samples, or wins and losses."
            )
        return pass_variance(self.wins, self.losses)

    def with_rollouts(self, fewest: int) -> PassRates:
        """The prompts that have so many rollouts."""
        kept = np.flatnonzero(self.wins + self.losses >= fewest)
        if not self.counted or len(kept) == len(self.ids):
            return self
        ids = [self.ids[i] for i in kept.tolist()]
        return replace(self, ids=ids, wins=self.wins[kept], losses=self.losses[kept])


def read_pass_rates(path: Path, rules: Rules | None = None, *, option: str = "--outcomes") -> list[PassRates]:
    """Every policy in a file or folder, in order of rounds or names.

    Args:
        path: see the module.
        rules: the range of rewards. Default: a run's own, else 0 to 1.
        option: what the user typed before the path, for the sentences of errors.

    Raises:
        InputError: nothing there, other columns, a value that is no rate, or no prompt that was judged.
        OutcomeError: an outcome line that cannot be used, with its number.
        StorageError: it cannot be read.
    """
    try:
        return _read(path, rules)
    except InputError as error:
        said = str(error)  # its first word: a path may hold it too
        said = option + said.removeprefix("--outcomes") if said.startswith("--outcomes") else said
        raise type(error)(said, **error.data) from error


def _read(path: Path, rules: Rules | None) -> list[PassRates]:
    if not path.exists():
        raise InputError(f"--outcomes {path} does not exist.", path=str(path))
    own = rules or Rules()
    if path.is_dir() and (path / RUN).exists():
        run = Run(path)
        own = rules or Rules(run.config.reward_low, run.config.reward_high)
        paths = [run.outcomes(round_) for round_ in range(int(run.state["round"]) + 1)]
        paths = [file for file in paths if file.exists()]
        found = _of_lines([line for file in paths for line in _lines(file, own)], path)
    elif path.is_dir():
        paths = sorted([*path.rglob("*.arrow"), *path.rglob("*.parquet")])
        if not paths:
            raise InputError(f"--outcomes {path} has no .arrow or .parquet file and is no run.")
        tables = [_table(file) for file in paths]
        found = _of_table(pa.concat_tables(tables, promote_options="default"), path, own)
    else:
        paths = [path]
        if path.suffix == ".jsonl" and _has_rounds(path):
            found = _of_lines(_lines(path, own), path)
        else:
            found = _of_table(_table(path), path, own)
    if not found:
        raise InputError(f"--outcomes {path} has no rollout that could be judged.", path=str(path))
    source = {"file": path.name, "hash": digest_files(paths), "reward_range": [own.low, own.high]}
    return [replace(rates, source=source) for rates in found]


def pooled(rates: Sequence[PassRates]) -> PassRates:
    """Several files about one policy as one.

    Raises:
        InputError: rates of unknown numbers of rollouts say different things about a prompt.
    """
    tallies: Tallies = {}
    counted = all(one.counted for one in rates)
    for one in rates:
        for gc_id, wins, losses in zip(one.ids, one.wins.tolist(), one.losses.tolist(), strict=True):
            if gc_id in tallies and not counted:
                raise InputError(
                    f"--outcomes: {gc_id!r} has two rates, and of how many rollouts is not said; give the "
                    "files a column samples."
                )
            before = tallies.get(gc_id, (0.0, 0.0))
            tallies[gc_id] = (before[0] + wins, before[1] + losses)
    found = _made(rates[0].name, tallies, counted)
    return replace(found, source={"files": [one.source for one in rates]})


def _made(name: str, tallies: Tallies, counted: bool = True, round_: int | None = None) -> PassRates:
    ids = sorted(gc_id for gc_id, (wins, losses) in tallies.items() if wins + losses > 0)
    table = np.array([tallies[gc_id] for gc_id in ids], float).reshape(-1, 2)
    return PassRates(name, ids, table[:, 0], table[:, 1], counted, round_)


def _has_rounds(path: Path) -> bool:
    """Whether a file is a trainer's outcomes: its first line with an id names a round, or one steers."""
    with reading(path), path.open("rb") as file:
        for text in file:
            try:
                entry = json.loads(text)
            except ValueError:
                return False
            if isinstance(entry, dict) and ID in entry:
                return "round" in entry
            if isinstance(entry, dict) and ("attempt" in entry or "resume_from_step" in entry):
                return True
    return False


def _lines(path: Path, rules: Rules) -> list[Line]:
    """A file's lines that count, of whatever round, without what was taken back or said twice."""
    with reading(path):
        whole, _, _ = path.read_bytes().rpartition(b"\n")
    ids, newest = set[str](), 0
    for text in whole.split(b"\n"):
        try:
            entry = json.loads(text)
            ids.add(entry[ID])
            newest = max(newest, int(entry["round"]))
        except (ValueError, LookupError, TypeError):
            continue  # what is wrong with it is said below
    # Every id passes: whether a prompt is in a scored set is asked later.
    lines, _ = read_lines(whole, path, newest, frozenset(ids), lambda _: ids, rules)
    found: list[Line] = []
    for round_ in sorted({line.round for line in lines}):
        kept, _ = newest_attempts([line for line in lines if line.round == round_])
        known = set[Key]()
        found += [line for line in kept if line.is_new(known)]
    return found


def _of_lines(lines: Iterable[Line], path: Path) -> list[PassRates]:
    rounds: dict[int, Tallies] = {}
    for line in lines:
        if line.success is not None:
            _add(rounds.setdefault(line.round, {}), line.gc_id, line.success)
    return [_made(f"{path.name}, round {round_}", rounds[round_], round_=round_) for round_ in sorted(rounds)]


def _add(tallies: Tallies, gc_id: str, success: float, weight: float = 1.0) -> None:
    wins, losses = tallies.get(gc_id, (0.0, 0.0))
    tallies[gc_id] = (wins + success * weight, losses + (1 - success) * weight)


def _table(path: Path) -> pa.Table:
    readers = {".parquet": pq.read_table, ".arrow": open_table, ".jsonl": _json_table}
    if path.suffix not in readers:
        raise InputError(
            f"--outcomes {path}: expected .jsonl, .parquet or .arrow, a folder of them, or a run.",
            path=str(path),
        )
    try:
        with reading(path):
            return readers[path.suffix](path)
    except pa.ArrowException as error:
        raise InputError(f"--outcomes {path} cannot be read: {' '.join(str(error).split())}.") from error


def _json_table(path: Path) -> pa.Table:
    # A line must fit into a block; completions can be long.
    return pj.read_json(path, pj.ReadOptions(block_size=_LONGEST_LINE))


def _of_table(table: pa.Table, path: Path, rules: Rules) -> list[PassRates]:
    names = set(table.column_names)
    if ID not in names or not (names >= {"wins", "losses"} or names & {"pass_rate", "reward"}):
        raise InputError(
            f"--outcomes {path} has the columns {', '.join(table.column_names)}; needed are {_WANTED}.",
            path=str(path),
        )
    if "model" not in names:
        return [found] if (found := _one(table, path.name, path, rules)).ids else []
    made = []
    for model in sorted(set(table.column("model").cast(pa.string()).drop_null().to_pylist())):
        rows = table.filter(pc.equal(table.column("model").cast(pa.string()), model))
        made.append(_one(rows, model, path, rules))
    return [found for found in made if found.ids]


def _one(table: pa.Table, name: str, path: Path, rules: Rules) -> PassRates:
    """One policy's rows."""
    ids = table.column(ID).cast(pa.string()).to_pylist()
    names, tallies = set(table.column_names), Tallies()
    if names >= {"wins", "losses"}:
        wins, losses = _numbers(table, "wins"), _numbers(table, "losses")
        for gc_id, won, lost in zip(ids, wins, losses, strict=True):
            _check(gc_id, "wins", won, path, high=math.inf)
            _check(gc_id, "losses", lost, path, high=math.inf)
            if won + lost > 0:
                _add(tallies, gc_id, won / (won + lost), won + lost)
        return _made(name, tallies)
    column = "reward" if "reward" in names else "pass_rate"
    low, high = (rules.low, rules.high) if column == "reward" else (0.0, 1.0)
    counted = column == "reward" or "samples" in names
    weights = _numbers(table, "samples") if column != "reward" and counted else [1.0] * len(ids)
    for gc_id, value, weight in zip(ids, _numbers(table, column), weights, strict=True):
        if math.isnan(value) or weight == 0:
            continue  # could not be judged
        _check(gc_id, column, value, path, low, high)
        _check(gc_id, "samples", weight, path, high=math.inf)
        if not counted and gc_id in tallies:
            raise InputError(
                f"--outcomes {path}: {gc_id!r} stands there twice, and it has no column samples."
            )
        _add(tallies, gc_id, (value - low) / (high - low), weight)
    return _made(name, tallies, counted)


def _numbers(table: pa.Table, name: str) -> list[float]:
    """A column as numbers; null becomes NaN."""
    column = table.column(name)
    if not (
        pa.types.is_integer(column.type)
        or pa.types.is_floating(column.type)
        or pa.types.is_boolean(column.type)
        or pa.types.is_null(column.type)
    ):
        raise InputError(f"--outcomes: the column {name} has type {column.type}, not numbers.")
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return [math.nan if value is None else float(value) for value in column.to_pylist()]


def _check(
    gc_id: str | None, name: str, value: float, path: Path, low: float = 0.0, high: float = 1.0
) -> None:
    if gc_id is None:
        raise InputError(f"--outcomes {path}: a row has no gc_id.")
    if not (low <= value <= high and math.isfinite(value)):
        raise OutcomeError(
            f"--outcomes {path}: {name} of {gc_id!r} is {value:g}, outside {low:g} to {high:g}.", gc_id=gc_id
        )
