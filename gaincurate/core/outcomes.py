"""The one reader of a round's `outcomes.jsonl`: checked lines, and each prompt's successes.

One line per rollout: {"gc_id", "reward", "round", "sample"?, "step"?, "correct"?, "attempt"?, "tokens"?}.
Other keys are ignored. Two lines steer: {"resume_from_step": s} voids this round's lines after step s, and
{"attempt": k} numbers the lines after it. The file only grows, also while it is read: a trainer that trains
a step again adds a line that says so and never rewrites lines. So an unfinished last line is skipped, and a
byte offset always refers to the same lines.

Every reader raises OutcomeError for an invalid line, with its number, and StorageError if the file cannot be
read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from gaincurate.core.files import json_lines, log_lines, reading
from gaincurate.core.foreign import is_utf8, read_bytes
from gaincurate.errors import OutcomeError

_BEYOND = 2**53  # a double holds no more of them one by one
_WHOLE_NUMBERS = frozenset({"round", "step", "attempt", "tokens"})

Key = tuple[str, int, int, int | None, Any]  # of a line: id, round, attempt, step, sample
IdsOf = Callable[[int], Collection[str]]  # the ids of a round's prompts, by the round's number


@dataclass(frozen=True, slots=True)
class Rules:
    """The range of rewards, and the least share of a round's prompts that must have come back."""

    low: float = 0.0
    high: float = 1.0
    coverage: float = 1.0


@dataclass(frozen=True, slots=True)
class Line:
    """One rollout; `success` in [0, 1] and `reward` as it was given, None where it could not be judged."""

    number: int
    gc_id: str
    round: int
    success: float | None
    reward: float | None
    sample: Any
    step: int | None
    attempt: int
    tokens: int

    def is_new(self, seen: set[Key]) -> bool:
        """Whether no line with this key came before; without a sample every line counts."""
        key = (self.gc_id, self.round, self.attempt, self.step, self.sample)
        if self.sample is not None and key in seen:
            return False
        seen.add(key)
        return True


def read_lines(
    data: bytes, path: Path, round_: int | None, ids_of: IdsOf | None, rules: Rules, since: int = 0
) -> tuple[list[Line], int]:
    """The lines of a file, or of a beginning of it, in order, and how many a `resume_from_step` voids.

    The file belongs to a round, by default to the newest in it. Without `ids_of` any prompt is accepted. The
    first `since` bytes were read before; if there are any, reading stops at the first line that steers.
    """
    entries = list[Line | int]()  # an integer is a step that training went back to
    attempt, newest = 1, 0
    planned: dict[int, frozenset[str]] = {}  # each round's ids, looked up once
    for number, entry in json_lines(data, since):
        where = f"{path}, line {number}"
        if entry is None:
            raise OutcomeError(f"{where} is broken: it is no JSON object.", path=str(path), line=number)
        if "gc_id" not in entry and ("resume_from_step" in entry or "attempt" in entry):
            if since:
                break
            if "resume_from_step" in entry:
                entries.append(_integer(entry, "resume_from_step", where) or 0)
            else:
                attempt = _integer(entry, "attempt", where) or 1
            continue
        line = check_line(entry, where, round_, rules, number=number, attempt=attempt)
        if ids_of is None:
            if not is_utf8(line.gc_id):
                raise OutcomeError(f"{where}: the gc_id {line.gc_id!r} holds half of a surrogate pair.")
        else:
            if line.round not in planned:
                planned[line.round] = frozenset(ids_of(line.round))
            if line.gc_id not in planned[line.round]:
                raise OutcomeError(
                    f"{where}: {line.gc_id!r} is not among the prompts of round {line.round}.",
                    line=number,
                    gc_id=line.gc_id,
                )
        entries.append(line)
        newest = max(newest, line.round)
    of_file = newest if round_ is None else round_
    valid, void, border = list[Line](), 0, math.inf  # the earliest step that later entries went back to
    for each in reversed(entries):
        if isinstance(each, int):
            border = min(border, each)
        elif each.round == of_file and each.step is not None and each.step > border:
            void += 1
        else:
            valid.append(each)
    return valid[::-1], void


def check_line(
    entry: dict[str, Any], where: str, round_: int | None, rules: Rules, *, number: int = 0, attempt: int = 1
) -> Line:
    """The line of a JSON object.

    `where` is the place of the object, as errors name it, `round_` the newest round (None accepts any) and
    `attempt` the attempt of an object without one. Raises `OutcomeError` if a key is missing or its value is
    of the wrong type or out of range.
    """
    gc_id, of_round, sample = entry.get("gc_id"), entry.get("round"), entry.get("sample")
    for name in _WHOLE_NUMBERS.intersection(entry):
        _integer(entry, name, where)
    tokens = entry.get("tokens") or 0
    why = None
    if gc_id is None:
        why = " has no gc_id."
    elif not isinstance(gc_id, str):
        why = f": gc_id is {_short(gc_id)}, not a text."
    elif of_round is None:
        why = " has no round."
    elif of_round < 0:
        why = f": there is no round {of_round}."
    elif round_ is not None and of_round > round_:
        why = f": round {of_round} is not planned yet; the newest is {round_}."
    elif tokens < 0:
        why = f": tokens is {tokens}, which counts nothing."
    elif "reward" not in entry:
        why = " has no reward (null stands for one that could not be judged)."
    if why is not None:
        raise OutcomeError(f"{where}{why}", line=number)
    return Line(
        number,
        entry["gc_id"],
        entry["round"],
        _success_of(entry, where, rules),
        entry["reward"],
        json.dumps(sample, sort_keys=True) if isinstance(sample, (list, dict)) else sample,  # comparable
        entry.get("step"),
        entry.get("attempt") or attempt,
        tokens,
    )


def read_file(path: Path, round_: int | None, ids_of: IdsOf | None, rules: Rules) -> list[Line]:
    """The lines of a round's file that are not voided; none if the file is missing. See `read_lines`."""
    with reading(path):
        data = read_bytes(path) if path.exists() else b""
    return read_lines(data, path, round_, ids_of, rules)[0]


def attempt_to_report(path: Path, round_: int, *, new: bool) -> int:
    """The attempt at a round, from 1, under which to report outcomes.

    With `new` it is the next one if the newest attempt in the file (which need not exist) has outcomes.
    """
    begun, reported = 1, 0
    for entry in log_lines(path):
        attempt = entry.get("attempt") or begun
        attempt = attempt if isinstance(attempt, int) else begun  # `read_lines` refuses it
        if "gc_id" not in entry:
            begun = attempt
        elif entry.get("round") == round_:
            reported = max(reported, attempt)
    return max(begun, reported + 1 if new else reported)


def has_rounds(path: Path) -> bool:
    """Whether a file is a trainer's outcomes: its first line with an id names a round, or one steers."""
    for _, entry in json_lines(path):
        if entry is None or "gc_id" in entry:
            return entry is not None and "round" in entry
        if "attempt" in entry or "resume_from_step" in entry:
            return True
    return False


def read_any_round(path: Path, rules: Rules) -> list[Line]:
    """The valid lines of a file, of all rounds and prompts, without those taken back or repeated."""
    seen, lines = set[Key](), sorted(read_file(path, None, None, rules), key=lambda line: line.round)
    of_rounds = (newest_attempts(list(same))[0] for _, same in groupby(lines, key=lambda line: line.round))
    return [line for of_round in of_rounds for line in of_round if line.is_new(seen)]


def earliest_return(data: bytes) -> int | None:
    """The earliest step that lines of outcomes went back to; None without such a line."""
    steps = (entry.get("resume_from_step") for _, entry in json_lines(data) if entry is not None)
    return min((step for step in steps if isinstance(step, int)), default=None)


def _success_of(entry: Mapping[str, Any], where: str, rules: Rules) -> float | None:
    """`correct` if the line has it, else the reward as a share of its range; None if it was not judged."""
    success, reward, correct = None, entry["reward"], entry.get("correct")
    if reward is not None:
        reward = _number(reward, "reward", where)
        if not rules.low <= reward <= rules.high:
            raise OutcomeError(
                f"{where}: reward {reward:g} of {entry['gc_id']!r} is outside {rules.low:g} to "
                f"{rules.high:g}; give the trainer's range to `schedule start` (--reward-range LO,HI).",
                gc_id=entry["gc_id"],
                reward=reward,
            )
        success = (reward - rules.low) / (rules.high - rules.low)
    if correct is None:
        return success
    share = _number(correct, "correct", where)
    if not 0 <= share <= 1:
        raise OutcomeError(f"{where}: correct is {share:g}, not true, false or a number from 0 to 1.")
    return share


def _number(value: Any, name: str, where: str) -> float:
    with suppress(OverflowError):
        if isinstance(value, (int, float)) and math.isfinite(value):
            return float(value)
    raise OutcomeError(f"{where}: {name} is {_short(value)}, not a number.")


def _integer(entry: dict[str, Any], name: str, where: str) -> int | None:
    value = entry.get(name)
    if value is not None and (type(value) is not int or abs(value) >= _BEYOND):
        raise OutcomeError(f"{where}: {name} is {_short(value)}, not a whole number below 2^53.")
    return value


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)  # of a table it may be a date
    return text if len(text) <= 40 else text[:37] + "..."


def newest_attempts(lines: list[Line]) -> tuple[list[Line], int]:
    """A round's lines without those that a later attempt repeated, and the number of repeated lines.

    An attempt with steps replaces earlier attempts' lines from its first step on; one without replaces all.
    """
    begins: dict[int, float] = {}  # each attempt's first step
    for line in lines:
        step = -math.inf if line.step is None else line.step
        begins[line.attempt] = min(step, begins.get(line.attempt, step))
    border, borders = math.inf, dict[int, float]()  # the first step that later attempts did again
    for attempt in sorted(begins, reverse=True):
        borders[attempt] = border
        border = min(border, begins[attempt])
    valid = []
    for line in lines:
        border = borders[line.attempt]
        if border == math.inf or (line.step is not None and line.step < border):
            valid.append(line)
    return valid, len(lines) - len(valid)


@dataclass(slots=True)
class Tally:
    """The rollouts of one prompt."""

    successes: list[float] = field(default_factory=list)  # in [0, 1], of the rollouts that could be judged
    unjudged: int = 0  # rollouts that could not
    tokens: int = 0  # of the completions of the rollouts whose lines have them
    with_tokens: int = 0  # how many those are
    rewards: set[float] = field(default_factory=set)  # distinct ones; `correct` where a line has no other

    def add(self, success: float | None, tokens: int = 0, reward: float | None = None) -> None:
        """One more rollout; a success of None could not be judged."""
        self.tokens += tokens
        self.with_tokens += tokens > 0
        if success is None:
            self.unjudged += 1
        else:
            self.successes.append(success)
            self.rewards.add(success if reward is None else reward)

    @property
    def group_size(self) -> int:
        """The number of judged rollouts; 0 for a single fraction, which is the mean of a group."""
        lone = len(self.successes) == 1 and not self.unjudged
        return 0 if lone and 0 < self.successes[0] < 1 else len(self.successes)

    @property
    def differs(self) -> bool:
        """Whether the rollouts have different rewards; otherwise GRPO's advantages are all 0."""
        return len(self.rewards) > 1 or (bool(self.successes) and self.group_size == 0)

    @property
    def mean(self) -> float | None:
        """Mean success; None where nothing could be judged."""
        return math.fsum(self.successes) / len(self.successes) if self.successes else None


@dataclass(frozen=True)
class Outcomes:
    """A round's outcomes."""

    tallies: dict[str, Tally]  # by id, in the round's order
    repeated: int  # lines with the key of an earlier one
    void: int  # lines that a resumed or repeated attempt took back
    cut: bool  # whether the last line is unfinished
    tokens: int  # the sum of the lines' own, where they have them
    size: int  # bytes of the file that were read
    earlier: list[Line] = field(default_factory=list)  # lines of earlier rounds

    @cached_property
    def accuracy(self) -> float | None:
        """Acc_t: the mean over prompts of each one's mean success; None where nothing could be judged."""
        means = [mean for tally in self.tallies.values() if (mean := tally.mean) is not None]
        return math.fsum(means) / len(means) if means else None

    def shares(self) -> dict[str, float | None]:
        """Of the judged prompts, those whose rewards differ (`effective`), `all_wrong` and `all_right` ones.

        The remaining prompts are those whose rollouts all got one reward in between.
        """
        judged, counts = 0, {"effective": 0, "all_wrong": 0, "all_right": 0}
        for tally in self.tallies.values():
            judged += bool(tally.successes)
            if tally.differs:
                counts["effective"] += 1
            elif tally.mean in (0, 1):
                counts["all_right" if tally.mean else "all_wrong"] += 1
        return {name: count / judged if judged else None for name, count in counts.items()}

    @property
    def rollouts(self) -> int:
        """Lines that count in this round."""
        return sum(len(tally.successes) for tally in self.tallies.values()) + self.unjudged

    @property
    def unjudged(self) -> int:
        """Of those, the ones without a reward."""
        return sum(tally.unjudged for tally in self.tallies.values())


def read_outcomes(path: Path, round_: int, ids_of: IdsOf, rules: Rules) -> Outcomes:
    """Read and check a round's file; `ids_of` gives the ids of a round's prompts.

    Raises `OutcomeError` if the file is missing, a line is invalid, or an id or a round was not planned.
    """
    with reading(path):
        if not path.exists():
            raise OutcomeError(
                f"round {round_} has no outcomes: {path} is not there. The trainer writes it, one line for "
                'each rollout: {"gc_id": ..., "reward": ..., "round": ' + str(round_) + "}.",
                path=str(path),
            )
        data = read_bytes(path)
    size = data.rfind(b"\n") + 1
    lines, void = read_lines(data, path, round_, ids_of, rules)
    of_round, earlier = list[Line](), list[Line]()
    for line in lines:
        (earlier if line.round < round_ else of_round).append(line)
    counting, replaced = newest_attempts(of_round)
    tallies = {gc_id: Tally() for gc_id in ids_of(round_)}
    seen, repeated, tokens = set[Key](), 0, 0
    for line in counting:
        if line.is_new(seen):
            tokens += line.tokens
            tallies[line.gc_id].add(line.success, line.tokens, line.reward)
        else:
            repeated += 1
    return Outcomes(tallies, repeated, void + replaced, bool(data[size:].strip()), tokens, size, earlier)


def split_lines(
    path: Path, since: int, round_: int, ids_of: IdsOf, rules: Rules
) -> tuple[list[Line], list[Line], int]:
    """The lines before and after the size `since` at which a file was taken, and its size now.

    After a steering line, training repeats steps whose outcomes were taken before, so lines after it are left
    out.
    """
    with reading(path):
        data = read_bytes(path)
    old, _ = read_lines(data[:since], path, round_, ids_of, rules)
    new, _ = read_lines(data, path, round_, ids_of, rules, since)
    return old, new, max(data.rfind(b"\n") + 1, since)


def check_coverage(outcomes: Outcomes, round_: int, path: Path, rules: Rules) -> None:
    """Raise `OutcomeError` if too few prompts have an outcome, or no outcome could be judged."""
    absent = [i for i, tally in outcomes.tallies.items() if not tally.successes and not tally.unjudged]
    count, size = len(outcomes.tallies) - len(absent), len(outcomes.tallies)
    if count < math.ceil(rules.coverage * size - 1e-9):
        void = f" It has {outcomes.void:,} lines that a later attempt replaced." if outcomes.void else ""
        raise OutcomeError(
            f"round {round_} has outcomes for {count:,} of its {size:,} prompts and {rules.coverage:.0%} of "
            f"them are needed (--min-coverage); {path} lacks {', '.join(absent[:5])}.{void}",
            path=str(path),
            ids=absent,
        )
    if outcomes.accuracy is None:
        raise OutcomeError(
            f"round {round_}: not one of the {outcomes.rollouts:,} rollouts in {path} could be judged "
            "(reward null), so there is no accuracy. Is the reward function at work?",
            path=str(path),
        )
