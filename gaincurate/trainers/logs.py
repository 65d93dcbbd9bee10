"""Takes outcomes from a trainer's logs, for runs in which no code reports them.

A log is a table of completions from TRL (Parquet), whose rows are joined by id or else by the prompt's
messages, or has lines as in `outcomes.jsonl`.
"""

from __future__ import annotations

import glob
import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from gaincurate.core.arrow import read_parquet
from gaincurate.core.artifact import Json
from gaincurate.core.files import append_lines, digest_bytes, digest_file, drop_half_line, json_lines, reading
from gaincurate.core.foreign import open_regular
from gaincurate.core.outcomes import check_line, read_file
from gaincurate.core.prompts import prompts_of
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.difficulty.pass_rates import prompt_key
from gaincurate.errors import OutcomeError
from gaincurate.schedule.observations import Note, silent
from gaincurate.schedule.run import Run

TAKEN = "logs.json"  # in a round's folder: the logs that were taken for it, by path, with their size and hash
_TRL = frozenset({"step", "prompt", "completion", "advantage"})
_LINE = ("gc_id", "reward", "round", "sample", "step", "correct", "attempt", "tokens")
_PATTERNS = ("completions_*.parquet", "outcomes*.jsonl")  # names of logs in a folder: TRL's, and of lines


def find_files(path: Path) -> list[Path]:
    """The logs at a file, a folder or a glob, sorted; raises OutcomeError for none, or for both kinds."""
    places = [path] if path.exists() else [Path(name) for name in glob.glob(str(path), recursive=True)]
    files: set[Path] = set()
    for place in places:
        by_kind = [{*place.rglob(pattern)} for pattern in _PATTERNS] if place.is_dir() else [{place}]
        if all(by_kind) and place.is_dir():
            names = ", ".join(sorted(str(min(group)) for group in by_kind))
            raise OutcomeError(
                f"--outcomes {place} holds logs of two kinds ({names}), so rollouts could count twice; name "
                "the files of one kind."
            )
        files.update(*by_kind)
    if not files:
        kinds = ", ".join(_PATTERNS)
        raise OutcomeError(f"--outcomes {path}: there is no such file, and none like {kinds} below it.")
    return sorted(files)


def _trl_rows(path: Path, asked: str | None) -> tuple[list[Json], list[str]]:
    """The rows of a table of completions with the reward as `reward`; every row as text without its step."""

    def refuse(why: str) -> OutcomeError:
        return OutcomeError(f"{path} is no complete TRL table; is it being written? ({why}.)", path=str(path))

    table = read_parquet(path, refuse)
    if missing := _TRL - set(table.column_names):
        raise refuse(f"it has no column {min(missing)!r}")
    kinds = {field.name: field.type for field in table.schema if field.name not in (*_TRL, "gc_id")}
    numbers = [n for n, kind in kinds.items() if pa.types.is_floating(kind) or pa.types.is_integer(kind)]
    column = next((name for name in (asked, "reward") if name in numbers), None)
    if column is None:
        if asked is not None or len(numbers) != 1:
            other = f", and {asked!r} is not one of them" if asked is not None else ""
            raise OutcomeError(
                f"{path} has {len(numbers)} columns that could be the reward ({', '.join(numbers) or 'none'})"
                f"{other}; name it with --reward-column. With several reward functions, log_extra('reward', "
                "...) in one of them puts the sum into the table.",
                path=str(path),
            )
        (column,) = numbers
    rows = table.to_pylist()
    texts = [json.dumps(row | {"step": None}, sort_keys=True, default=str) for row in rows]
    for row, reward in zip(rows, table.column(column).to_pylist(), strict=True):
        row["reward"] = None if reward != reward else reward  # NaN was not judged
    return rows, texts


def overlap(before: Sequence[str], rows: Sequence[str]) -> int:
    """How many first rows are the last ones of `before`: TRL logs a generation as long as it trains on it."""
    sizes = range(min(len(before), len(rows)), 0, -1)
    return next((size for size in sizes if before[len(before) - size :] == rows[:size]), 0)


def take_logs(run: Run, paths: Sequence[Path], reward_column: str | None = None, note: Note = silent) -> int:
    """Append the newest round's outcomes and return their number; the caller must hold `working_on`.

    `paths` are files, folders or globs. `reward_column` names the reward if a log has several numbers. `note`
    is called with a summary and the rows that could not be joined. Raises OutcomeError, and appends nothing,
    if a file is missing, unknown or damaged, none of its rows can be joined, or a reward is outside the run's
    range. Raises StorageError if the file system refuses.
    """
    round_ = run.round
    taking = _Taking(run, round_, reward_column)
    for path in paths:
        if not sum(taking.take(file) for file in find_files(path)):
            why = "; ".join(taking.reasons()) or "it has no rows"
            raise OutcomeError(
                f"--outcomes {path}: nothing there belongs to round {round_}: {why}. Give its logs.",
                path=str(path),
            )
    lines = taking.lines()
    try:
        json.dumps(lines, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise OutcomeError("an outcome holds half of a surrogate pair, which no file can hold.") from error
    count = sum("gc_id" in line for line in lines)
    note(f"{count:,} outcomes for round {round_} from {taking.rows:,} rows")
    if taking.redone is not None:
        note(f"step {taking.redone} was trained again: from that step, the new outcomes count")
    if taking.from_elsewhere:
        note(
            f"warning: round {round_} has outcomes of another writer; if the logs have the same rollouts, "
            "they count twice"
        )
    for reason in taking.reasons():
        note(f"left out: {reason}")
    if lines:
        append_lines(run.outcomes(round_), lines)
    write_sealed(run.round_folder(round_) / TAKEN, {"files": taking.files})
    return count


class _Taking:
    """Collects the outcomes of all files before any are written."""

    def __init__(self, run: Run, round_: int, reward_column: str | None) -> None:
        self._run, self._round, self._reward = run, round_, reward_column
        self._ids = frozenset(run.ids(round_))
        self._earlier = [_taken(run, earlier) for earlier in range(round_)]
        self.files = _taken(run, round_)
        self.from_elsewhere = drop_half_line(run.outcomes(round_)) and not self.files
        self.redone: int | None = None  # the first step that was trained again
        self.rows = 0
        self._fresh: list[Json] = []
        self._all: list[Json] = []  # the round's outcomes in tables, including those taken before
        self._left_out: dict[str, list[str]] = {}  # by reason
        self._window: list[str] = []  # the last table's rows

    def take(self, path: Path) -> bool:
        """Read one file, and return whether it has outcomes of the round."""
        with reading(path):
            now: Json = {"bytes": path.stat().st_size, "hash": digest_file(path)}
        place, is_table, shared = str(path.resolve()), path.suffix == ".parquet", 0
        rows = list[Json]()
        if is_table:
            rows, texts = _trl_rows(path, self._reward)
            shared, self._window = overlap(self._window, texts), texts
        for earlier, files in enumerate(self._earlier):
            if now["hash"] in (file["hash"] for file in files.values()):
                self._left_out.setdefault(f"the file was taken for round {earlier}", []).append(path.name)
                return False
        if is_table:
            numbered = list(enumerate(rows, 1))[shared:]
            joined = self._take_rows(path.name, numbered, self.files.get(place), now)
        else:
            joined = self._take_lines(path, place)
        self.files[place] = now
        return joined > 0 or shared > 0

    def _take_rows(self, name: str, rows: list[tuple[int, Json]], before: Json | None, now: Json) -> int:
        """Take a table's rows, and return how many are of the round; `before` and `now` are its records."""
        counts: Counter[tuple[str, int | None]] = Counter()
        lines: list[Json] = []
        for number, row in rows:
            where = f"{name}, row {number}"
            gc_id, why = self._find(row.get("gc_id"), row["prompt"])
            if gc_id is None:
                self._left_out.setdefault(why, []).append(where)
                continue
            line = {"gc_id": gc_id, "round": self._round, "reward": row["reward"], "step": row["step"]}
            check_line(line, where, self._round, self._run.rules)
            lines.append({"sample": counts[gc_id, line["step"]], **line})
            counts[gc_id, line["step"]] += 1
        self.rows += len(rows)
        self._all += lines
        if before != now:
            self._fresh += lines
            steps = [line["step"] for line in lines] if before is not None else []
            self.redone = min([*steps, *([] if self.redone is None else [self.redone])], default=None)
        return len(lines)

    def _take_lines(self, path: Path, place: str) -> int:
        """Take the lines that were added to a file of outcomes, of any attempt; return how many there are."""
        records = [files[place] for files in (*self._earlier, self.files) if place in files]
        since = max((record["bytes"] for record in records if _begins(path, record)), default=0)
        mark, joined = digest_bytes(place.encode())[:8], 0
        lines = read_file(path, self._round, self._run.ids, self._run.rules)
        attempts = {line.number: line.attempt for line in lines}
        for number, entry in json_lines(path, since):
            if entry is None:  # `read_file` refuses it
                continue
            if "gc_id" in entry:
                # The attempt is counted within this file, because the round may have lines of other files.
                named = {"sample": f"{mark}:{number}", "attempt": attempts.get(number, 1)}
                entry = named | {key: entry[key] for key in _LINE if key in entry}
                joined += 1
            self._fresh.append(entry)
        self.rows += joined
        return joined or since

    @cached_property
    def _by_messages(self) -> dict[str, list[str]]:
        table = self._run.scored.take(self._run.rows(self._round))
        prompts = prompts_of(table, self._run.scored.identity, bare=self._run.config.bare)
        by_messages: dict[str, list[str]] = {}
        for gc_id, prompt in zip(self._run.ids(self._round), prompts, strict=True):
            by_messages.setdefault(prompt_key(prompt), []).append(gc_id)
        return by_messages

    def _find(self, logged: Any, messages: Any) -> tuple[str | None, str]:
        """The id of a row's prompt, or None and the reason: no prompt matches, or several do."""
        if logged is not None:
            if isinstance(logged, str) and logged in self._ids:
                return logged, ""
            return None, f"the id is not among the prompts of round {self._round}"
        turns = messages if isinstance(messages, list) else []
        all_turns = all(isinstance(turn, dict) for turn in turns)
        ids = self._by_messages.get(prompt_key(turns), []) if all_turns else []
        if len(ids) > 1:
            return None, "several prompts of the round have these messages, and there is no id"
        return (ids[0], "") if ids else (None, f"the prompt is not in round {self._round}")

    def lines(self) -> list[Json]:
        """The lines to append: the new ones, and all lines from the first step that was trained again."""
        if self.redone is None:
            return self._fresh
        before = [line for line in self._fresh if line.get("step", -1) < self.redone]
        later = [line for line in self._all if line.get("step", -1) >= self.redone]
        return [*before, {"resume_from_step": self.redone - 1}, *later]

    def reasons(self) -> list[str]:
        """The reasons why rows and files are left out, with their counts."""
        return [f"{why} ({len(all_):,} times, first {all_[0]})" for why, all_ in self._left_out.items()]


def _taken(run: Run, round_: int) -> Json:
    """The records of the files that were taken for a round, by path."""
    path = run.round_folder(round_) / TAKEN
    return dict(read_sealed(path)["files"]) if path.exists() else {}


def _begins(path: Path, record: Json) -> bool:
    """Whether a file begins with the bytes of a recorded file."""
    with reading(path), open_regular(path) as file:
        return digest_bytes(file.read(record["bytes"])) == str(record["hash"])
