"""Outcomes from what a trainer logs of its rollouts, for runs in which nobody reports them.

Rows of a log are joined to the round's prompts by the id where the log has it, and by the prompt's text
where not.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gaincurate.core.files import append_lines, digest_bytes, digest_file, reading
from gaincurate.core.foreign import Malformed, json_value, open_regular, see_text
from gaincurate.core.outcomes import Rules, check_line, read_file
from gaincurate.core.prompts import column_values, prompts_of
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.difficulty.nemo_gym import prompt_key
from gaincurate.errors import OutcomeError
from gaincurate.schedule.observations import Note, rules_of, silent
from gaincurate.schedule.run import Run
from gaincurate.trainers.log_formats import LINES, Entry, format_of, logs, objects, patterns, table_rows

TAKEN = "logs.json"
"""Beside a round's outcomes: the files that were taken for it."""


@dataclass(slots=True)
class LogFile:
    """A file that was taken: its place, size in bytes, hash and kind, and how many rows and lines it gave."""

    path: str
    bytes: int
    hash: str
    format: str
    rows: int = 0
    lines: int = 0

    @classmethod
    def of(cls, path: Path, kind: str) -> LogFile:
        """A file as it is now."""
        with reading(path):
            return cls(
                path=str(path.resolve()), bytes=path.stat().st_size, hash=digest_file(path), format=kind
            )

    def begins(self, path: Path) -> bool:
        """Whether a file is this one with more lines after its own."""
        if self.path != str(path.resolve()) or path.suffix == ".parquet":
            return False
        with reading(path), open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            return self.bytes <= size and digest_bytes(file.read(self.bytes)) == self.hash


def is_cut(path: Path) -> bool:
    """Whether a file with lines ends within one."""
    with reading(path), open_regular(path) as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def taken(run: Run, round_: int) -> list[LogFile]:
    """The files that were taken for a round."""
    path = run.round_folder(round_) / TAKEN
    return [LogFile(**file) for file in read_sealed(path)["files"]] if path.exists() else []


def find_files(path: Path, format_: str | None) -> list[tuple[Path, str]]:
    """The logs that a path names, in the order of their numbers, each with its kind.

    Args:
        path: a file, a folder (logs are looked for in it by name) or a glob.
        format_: a key of `patterns()`; None to see it in the files.

    Raises:
        OutcomeError: there are none, none that is known, or logs of several trainers.
        StorageError: one cannot be read.
    """
    if format_ is not None and format_ not in patterns():
        raise OutcomeError(f"--from {format_}: logs can be those of {', '.join(patterns())}.")
    places = [path] if path.exists() else [Path(name) for name in glob.glob(str(path), recursive=True)]
    files = {file for place in places for file in (_below(place, format_) if place.is_dir() else [place])}
    if not files:
        kinds = ", ".join(patterns().values()) if format_ is None else patterns()[format_]
        raise OutcomeError(f"--outcomes {path}: there is no such file, and none like {kinds} below it.")
    return [(file, format_ or format_of(file)) for file in sorted(files, key=_natural)]


def _below(folder: Path, format_: str | None) -> list[Path]:
    """The logs in a folder, of one kind."""
    if format_ is not None:
        return sorted(folder.rglob(patterns()[format_]))
    kinds = {kind: sorted(folder.rglob(pattern)) for kind, pattern in patterns().items()}
    there = [kind for kind, files in kinds.items() if files]
    if len(there) > 1:
        raise OutcomeError(
            f"--outcomes {folder} holds logs of {' and '.join(there)}; say which with --from, or name files.",
            path=str(folder),
        )
    return kinds[there[0]] if there else []


def _natural(path: Path) -> list[tuple[int, str]]:
    """Numbers in a path by their size: 2.jsonl before 10.jsonl."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path))]


class Unknown(Exception):
    """Why an entry belongs to no prompt of the round."""


class Joiner:
    """Finds the prompts of one round.

    Args:
        run: the run.
        round_: the round.
    """

    def __init__(self, run: Run, round_: int) -> None:
        self._run, self.round = run, round_
        self.ids = frozenset(run.ids(round_))
        self._prompts: list[tuple[str, list[str], Any]] = []
        self._by_messages: dict[str, list[int]] = {}
        self._texts: dict[str, list[int]] = {}

    def find(self, entry: Entry) -> str:
        """The id of the prompt that an entry is of.

        Raises:
            Unknown: there is none, or several could be.
        """
        if entry.gc_id is not None:
            if not isinstance(entry.gc_id, str) or entry.gc_id not in self.ids:
                raise Unknown(f"the id is not among the prompts of round {self.round}")
            return entry.gc_id
        if isinstance(entry.name, str) and entry.name in self.ids:
            return entry.name
        if not self._prompts:
            self._load()
        if entry.messages:
            if not isinstance(entry.messages, list) or not all(isinstance(m, dict) for m in entry.messages):
                raise Unknown("the prompt is neither a text nor messages")
            places = self._by_messages.get(prompt_key(entry.messages), [])
            places = [entry.place] if entry.place in places else places
        elif entry.place is not None:
            places = [entry.place] if entry.place < len(self._prompts) else []
        else:
            places = next((found_places for text in entry.texts if (found_places := self._in_text(text))), [])
        if len(places) > 1:
            same = [place for place in places if _same(self._prompts[place][2], entry.answer)]
            places = same or places
        if not places:
            raise Unknown(f"the prompt is none of round {self.round}")
        if len(places) > 1:
            raise Unknown("several prompts of the round have this text, and there is no id")
        return self._prompts[places[0]][0]

    def _load(self) -> None:
        run, round_ = self._run, self.round
        identity = run.scored.identity
        table = run.scored.take(run.rows(round_))
        prompts = prompts_of(table, identity, bare=run.config.bare)
        answer = identity["source"].get("answer_column")
        answers = column_values(table, answer) if answer else [None] * len(prompts)
        for place, (gc_id, messages) in enumerate(zip(run.ids(round_), prompts, strict=True)):
            contents = [_squeezed(m["content"]) for m in messages if m["content"]]
            self._prompts.append((gc_id, contents, answers[place]))
            self._by_messages.setdefault(prompt_key(messages), []).append(place)

    def _in_text(self, text: str) -> list[int]:
        """The prompts whose messages stand in a text in their order; of these, those with the most words.

        A question that is a part of another stands in that one's text too, so the longest is the one.
        """
        if text not in self._texts:
            squeezed = _squeezed(text)
            sizes = {
                place: sum(map(len, contents))
                for place, (_, contents, _) in enumerate(self._prompts)
                if _stand_in(contents, squeezed)
            }
            most = max(sizes.values(), default=0)
            self._texts[text] = [place for place, size in sizes.items() if size == most]
        return self._texts[text]


def overlap(before: Sequence[str], rows: Sequence[str]) -> int:
    """The most first rows that are the last ones of `before`."""
    sizes = range(min(len(before), len(rows)), 0, -1)
    return next((size for size in sizes if before[-size:] == rows[:size]), 0)


def _stand_in(contents: Sequence[str], text: str) -> bool:
    place = 0
    for content in contents:
        place = text.find(content, place)
        if place < 0:
            return False
        place += len(content)
    return bool(contents)


def _squeezed(text: str) -> str:
    """Without white space: templates trim, and tokenizers do not always give it back as it was."""
    return "".join(text.split())


def _same(answer: Any, logged: Any) -> bool:
    # `export` writes 7.0 as '7'.
    texts = (answer, json.dumps(answer, default=str), str(answer).removesuffix(".0"))
    return logged is not None and logged in texts


Line = dict[str, Any]


def take_logs(
    run: Run,
    paths: Sequence[Path],
    format_: str | None = None,
    reward_column: str | None = None,
    note: Note = silent,
) -> int:
    """Append the newest round's outcomes; call it while holding `working_on`.

    Args:
        run: the run.
        paths: files, folders or globs.
        format_: a key of `patterns()`; None to see it in the files.
        reward_column: which number is the reward, where a log has several.
        note: called with what a person should know, and what could not be joined.

    Returns:
        How many outcomes were appended.

    Raises:
        OutcomeError: no file, an unknown or broken one, one of which nothing joins, a text that no file can
            hold, or a reward outside the run's range; nothing is appended.
        StorageError: the file system refused.
    """
    round_ = run.round
    taking = _Taking(run, round_, reward_column)
    for path in paths:
        joined = [taking.take(file, kind) for file, kind in find_files(path, format_)]
        if not any(joined):
            raise OutcomeError(taking.nothing(path), path=str(path))
    lines = taking.lines()
    for line in lines:
        try:
            see_text(line)
        except Malformed as error:
            whose = f"of {line['gc_id']!r}" if "gc_id" in line else "that steers"
            raise OutcomeError(f"a line {whose} cannot be taken: {error}. Write it without.") from error
    taking.tell(note, lines)
    if lines:
        append_lines(run.outcomes(round_), lines)
    files = [asdict(file) for file in taking.files.values()]
    write_sealed(run.round_folder(round_) / TAKEN, {"files": files})
    return sum("gc_id" in line for line in lines)


class _Taking:
    """What is gathered from the files before anything is written.

    `known` counts the lines of the round by their keys, those that were taken back included, and `rewards`
    has the last one of each.
    """

    def __init__(self, run: Run, round_: int, reward_column: str | None) -> None:
        self._run, self._round, self._reward = run, round_, reward_column
        self._join, self._rules = Joiner(run, round_), rules_of(run.config)
        self._taken_before, self._rewards = _keys(run, round_, self._rules)
        self._earlier = [(r, file) for r in range(round_) for file in taken(run, r)]
        self.files = {file.path: file for file in taken(run, round_)}
        self._elsewhere = 0 if self.files else self._taken_before.total()
        self._fresh: list[Line] = []
        self._all: list[Line] = []
        self._redone: int | None = None
        self._again = self._rows = self._joined = 0
        self._problems: dict[str, list[str]] = {}
        self._passed: Counter[int] = Counter()
        self._window: list[str] = []
        self._loses = ""  # what the trainer of the tables says of rows that are in none

    def take(self, path: Path, kind: str) -> int:
        """Read one file; how many of its rows belong to the round."""
        now = LogFile.of(path, kind)
        rows, fresh, joined = self._rows, len(self._fresh), self._joined
        earlier = next((r for r, file in self._earlier if file.hash == now.hash), None)
        begin = max((f.bytes for _, f in self._earlier if f.bytes < now.bytes and f.begins(path)), default=0)
        table = kind != LINES and logs()[kind].table
        overlap = self._overlap(path) if table else 0
        if earlier is not None:
            self._passed[earlier] += 1
            return 0
        if path.suffix != ".parquet" and is_cut(path):
            self._problems.setdefault("the last line is not finished", []).append(path.name)
        if kind == LINES:
            self._take_lines(path, begin)
        else:
            old = self.files.get(now.path)
            again = old is not None and old.hash != now.hash and not old.begins(path)
            entries = list(logs()[kind].read(path, begin, self._reward))
            self._loses = logs()[kind].loses
            self._again += overlap
            self._joined += overlap
            self._take_entries(entries[overlap:], again and not table)
        self.files[now.path] = replace(now, rows=self._rows - rows, lines=len(self._fresh) - fresh)
        return self._joined - joined

    def _overlap(self, path: Path) -> int:
        """How many rows of a table the table before had.

        A trainer that writes its last generation at every logging step has the same rows in several files
        while it trains on one generation for several steps.
        """
        rows, before = table_rows(path), self._window
        self._window = rows
        return overlap(before, rows)

    def _take_entries(self, entries: Sequence[Entry], again: bool) -> None:
        """Rows of one file; `again` says that the file was taken for this round with other rows."""
        counts: Counter[tuple[str, int | None]] = Counter()
        for entry in entries:
            self._rows += 1
            try:
                gc_id = self._join.find(entry)
            except Unknown as why:
                self._problems.setdefault(str(why), []).append(entry.where)
                continue
            line: Line = {
                "gc_id": gc_id,
                "reward": entry.reward,
                "round": self._round,
                "sample": entry.sample,
            }
            line |= {"step": entry.step} if entry.step is not None else {}
            line |= {"tokens": entry.tokens} if entry.tokens is not None else {}
            # Before anything is written, and before anything is counted by a step that may be a list.
            check_line(line, entry.where, self._round, self._rules)
            self._joined += 1
            if entry.sample is None:
                line["sample"] = counts[gc_id, entry.step]
            counts[gc_id, entry.step] += 1
            self._all.append(line)
            key = _log_key(line)
            another = key in self._rewards and self._rewards[key] != entry.reward
            if entry.step is not None and (again or another):
                self._redone = entry.step if self._redone is None else min(self._redone, entry.step)
            self._add(line, 1)

    def _take_lines(self, path: Path, begin: int) -> None:
        """Lines of our own: checked as a whole, and taken as they are but for a name of those without one.

        A line that steers is taken with the first new line after it: where that one is known, so is it.
        """
        read_file(path, self._round, self._run.ids, self._rules)
        mark = digest_bytes(str(path.resolve()).encode())[:8]
        seen: Counter[str] = Counter()
        steering: list[Line] = []
        for number, line in objects(path, begin):
            if "gc_id" not in line:
                steering.append(line)
                continue
            self._rows += 1
            self._joined += 1
            line = {**line, "sample": line.get("sample", f"{mark}:{number}")}
            self._all.append(line)
            seen[_log_key(line)] += 1
            place = len(self._fresh)
            if self._add(line, seen[_log_key(line)]):
                self._fresh[place:place] = steering
            steering = []

    def _add(self, line: Line, time: int) -> bool:
        """Take a line unless it is known, for the given time in its file; whether it was new."""
        if time <= self._taken_before[_log_key(line)]:
            self._again += 1
            return False
        self._taken_before[_log_key(line)] += 1
        self._rewards[_log_key(line)] = line["reward"]
        self._fresh.append(line)
        return True

    def lines(self) -> list[Line]:
        """What is to be appended: the new lines, and from a step that was done again on, all of them."""
        if self._redone is None:
            return self._fresh
        begin = self._redone
        before = [line for line in self._fresh if line.get("step", begin) < begin]
        later = [line for line in self._all if line.get("step", -1) >= begin]
        return [*before, {"resume_from_step": begin - 1}, *later]

    def nothing(self, path: Path) -> str:
        """The sentence for a path of which nothing joins."""
        why = [f"{text} ({len(rows):,} rows, first {rows[0]})" for text, rows in self._problems.items()]
        why += [f"{_files(count)} taken for round {round_}" for round_, count in self._passed.items()]
        return (
            f"--outcomes {path}: nothing there belongs to round {self._round}: "
            f"{'; '.join(why) or 'it has no rows'}. Give the logs of this round."
        )

    def tell(self, note: Note, lines: Sequence[Line]) -> None:
        """Say what was taken, and what was not and why."""
        new = sum("gc_id" in line for line in lines)
        known_before = f", {self._again:,} known before" if self._again else ""
        note(f"{new:,} outcomes for round {self._round} from {self._rows:,} rows{known_before}")
        if self._redone is not None:
            note(f"step {self._redone} was done again: from there on the new outcomes count")
        if self._elsewhere:
            note(
                f"warning: {self._elsewhere:,} outcomes of round {self._round} were there already, from "
                "another writer; if these are the same rollouts, they count twice"
            )
        for round_, count in self._passed.items():
            note(f"{_files(count)} taken for round {round_}, and left out")
        for text, rows in self._problems.items():
            note(f"warning: {len(rows):,} rows are left out: {text}; the first is {rows[0]}")
        # A stranger's `sample` may hold half of a surrogate pair: it names a line and goes nowhere else.
        keys = (json_value(key, surrogates=True) for key in self._taken_before)
        there = {gc_id for gc_id, round_, *_ in keys if round_ == self._round}
        absent = len(self._join.ids - there)
        if absent and self._loses:
            note(f"warning: {absent:,} prompts of the round have no outcome. {self._loses}")


def _files(count: int) -> str:
    return f"{count:,} file{'s were' if count > 1 else ' was'}"


def _log_key(line: Line) -> str:
    """What makes two lines the same, attempts apart."""
    return json.dumps([line["gc_id"], line["round"], line.get("step"), line.get("sample")], sort_keys=True)


def _keys(run: Run, round_: int, rules: Rules) -> tuple[Counter[str], dict[str, Any]]:
    """The keys of the round's outcomes so far, and the last reward of each."""
    path, counts, rewards = run.outcomes(round_), Counter[str](), dict[str, Any]()
    if not path.exists():
        return counts, rewards
    if is_cut(path):
        raise OutcomeError(
            f"the last line of {path} is not finished, so nothing can be added after it; delete that line, "
            "or wait for its writer.",
            path=str(path),
        )
    read_file(path, round_, run.ids, rules)
    for _, line in objects(path):
        if "gc_id" in line:
            counts[_log_key(line)] += 1
            rewards[_log_key(line)] = line["reward"]
    return counts, rewards
