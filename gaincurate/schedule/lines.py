"""The lines of a round's `outcomes.jsonl`: takes bytes, yields checked lines.

Those that were taken back are left out. Knows nothing of what they add up to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaincurate.errors import OutcomeError

Key = tuple[str, int, int, int | None, Any]
"""What makes two lines the same: id, round, attempt, step, sample."""


@dataclass(frozen=True, slots=True)
class Rules:
    """`low` and `high` are the range of rewards; `coverage` the least share of a round's prompts that must
    have come back.
    """

    low: float = 0.0
    high: float = 1.0
    coverage: float = 1.0


@dataclass(frozen=True, slots=True)
class Line:
    """One rollout; `success` in [0, 1], None where it could not be judged."""

    number: int
    gc_id: str
    round: int
    success: float | None
    sample: Any
    step: int | None
    attempt: int
    tokens: int

    def is_new(self, known: set[Key]) -> bool:
        """Whether no line with this key came before; without a sample every line counts."""
        key = (self.gc_id, self.round, self.attempt, self.step, self.sample)
        if self.sample is not None and key in known:
            return False
        known.add(key)
        return True


def read_lines(
    whole: bytes,
    path: Path,
    round_: int,
    ids: frozenset[str],
    ids_of: Callable[[int], Collection[str]],
    rules: Rules,
    before: int = 0,
) -> tuple[list[Line], int]:
    """The lines of a file, in order, and how many a `resume_from_step` voids.

    Args:
        whole: the file without an unfinished last line.
        path: for sentences.
        round_: the round that the file belongs to.
        ids: of its prompts.
        ids_of: those of an earlier round.
        rules: range of rewards.
        before: lines of the file that were taken before these; then the first line that steers ends them.

    Raises:
        OutcomeError: a line that cannot be used, with its number.
    """
    lines: list[Line] = []
    void, attempt = 0, 1
    for number, text in enumerate(whole.split(b"\n") if whole else [], before + 1):
        if not text.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise OutcomeError(f"{where} is broken: it is no JSON.", path=str(path), line=number) from error
        if not isinstance(entry, dict):
            raise OutcomeError(f"{where} is no JSON object.", path=str(path), line=number)
        steers = "gc_id" not in entry and ("resume_from_step" in entry or "attempt" in entry)
        if steers and before:
            break
        if steers and "resume_from_step" in entry:
            step = _integer(entry, "resume_from_step", where)
            left = [n for n in lines if n.round != round_ or n.step is None or n.step <= (step or 0)]
            void += len(lines) - len(left)
            lines = left
        elif steers:
            attempt = _integer(entry, "attempt", where) or 1
        else:
            lines.append(_checked(entry, number, where, attempt, round_, ids, ids_of, rules))
    return lines, void


def _checked(
    entry: dict[str, Any],
    number: int,
    where: str,
    attempt: int,
    round_: int,
    ids: frozenset[str],
    ids_of: Callable[[int], Collection[str]],
    rules: Rules,
) -> Line:
    gc_id, found = entry.get("gc_id"), _integer(entry, "round", where)
    if not isinstance(gc_id, str):
        raise OutcomeError(f"{where}: gc_id is {_short(gc_id)}, not a text.", line=number)
    if found is None:
        raise OutcomeError(f"{where} has no round.", line=number)
    if not 0 <= found <= round_:
        raise OutcomeError(
            f"{where}: round {found} is not planned yet; the newest is {round_}.", line=number, round=found
        )
    if gc_id not in (ids if found == round_ else ids_of(found)):
        raise OutcomeError(
            f"{where}: {gc_id!r} is not among the prompts of round {found}.", line=number, gc_id=gc_id
        )
    return Line(
        number,
        gc_id,
        found,
        success_of(entry, where, rules),
        _plain(entry.get("sample")),
        _integer(entry, "step", where),
        _integer(entry, "attempt", where) or attempt,
        _integer(entry, "tokens", where) or 0,
    )


def success_of(entry: Mapping[str, Any], where: str, rules: Rules) -> float | None:
    """`correct` where the line has it, else the reward as a share of its range; None for one not judged.

    Raises:
        OutcomeError: the reward or `correct` is missing, no number or out of its range.
    """
    if "reward" not in entry:
        raise OutcomeError(f"{where} has no reward (null stands for one that could not be judged).")
    reward, correct = entry["reward"], entry.get("correct")
    if reward is not None:
        number = _number(reward, "reward", where)
        if not rules.low <= number <= rules.high:
            raise OutcomeError(
                f"{where}: reward {number:g} of {entry['gc_id']!r} is outside {rules.low:g} to "
                f"{rules.high:g}; give the trainer's range to `schedule start` (--reward-range LO,HI).",
                gc_id=entry["gc_id"],
            )
        reward = (number - rules.low) / (rules.high - rules.low)
    if correct is None:
        return None if reward is None else float(reward)
    found = _number(correct, "correct", where)
    if not 0 <= found <= 1:
        raise OutcomeError(f"{where}: correct is {found:g}, not true, false or a number from 0 to 1.")
    return found


def _number(value: Any, name: str, where: str) -> float:
    try:
        number = float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise OutcomeError(f"{where}: {name} is {_short(value)}, not a number.")
    return number


def _integer(entry: dict[str, Any], name: str, where: str) -> int | None:
    value = entry.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise OutcomeError(f"{where}: {name} is {_short(value)}, not a whole number.")
    return value


def _plain(value: Any) -> Any:
    """A sample's name as something that can be compared."""
    return json.dumps(value, sort_keys=True) if isinstance(value, (list, dict)) else value


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def newest_attempts(lines: list[Line]) -> tuple[list[Line], int]:
    """A round's lines without what a later attempt did again, and how many those are.

    One with steps takes the place of earlier attempts' lines from its first step on; one without, of all.
    """
    border = math.inf
    dropped: set[int] = set()
    newest = max((line.attempt for line in lines), default=1)
    for attempt in sorted({line.attempt for line in lines}, reverse=True):
        steps = []
        for line in lines:
            if line.attempt != attempt:
                continue
            if attempt != newest and (line.step is None or line.step >= border):
                dropped.add(line.number)
            steps.append(-math.inf if line.step is None else line.step)
        border = min(border, *steps)
    return [line for line in lines if line.number not in dropped], len(dropped)
