"""The columns of a report: signals, length, levels and groups of a scored set, as arrays.

Only the columns that are needed are read. Levels and groups are found by name, or named by the user. A
dotted name goes into a struct (`extra_info.level`), and texts such as "Level 3" or "hard" are read as
numbers. What was found by name and what was left out is said in notes, because a reader cannot see it
otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from gaincurate.core.columns import NO_GROUP, can_group, coded, fields, is_text, read_column
from gaincurate.core.options import near
from gaincurate.core.schema import PREFIX
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.stats import Floats
from gaincurate.errors import InputError
from gaincurate.report.document import Column

LENGTH = "gc_question_tokens"
_COUNTS = ("gc_prompt_tokens", "gc_prefix_tokens", LENGTH)
_GROUPS = (
    "data_source", "source", "dataset", "task", "task_name", "task_type", "domain", "ability",
    "category", "subject", "topic", "type",
)  # fmt: skip
_LEVELS = ("difficulty", "level", "grade", "hardness", "complexity", "rating")
_RATES = ("solve_rate", "pass_rate", "success_rate", "correct_rate", "failure_rate")
_MOST_GROUPS = 1000
_MEANINGS = {
    "gc_angle": "gc_angle_intra plus gc_angle_inter; GAIN-RL teaches the highest first",
    "gc_angle_intra": "how far the question's tokens point one way (mean cosine, own pairs included)",
    "gc_angle_inter": "how far the question's tokens point where the tokens before them do (mean cosine)",
    "gc_angle_intra_offdiag": "gc_angle_intra without a token's pair with itself",
    "gc_nll": "mean negative log-likelihood of the question's tokens",
    "gc_entropy": "mean entropy of the next token over the question",
    "gc_last_entropy": "entropy of the next token behind the whole prompt",
    "gc_difficulty": "failure rate, 0 to 1: observed where it was, else predicted",
}
_NUMBER = re.compile(r"(?<![\d.])(?:(?<!\w)-)?\d+(?:\.\d+)?")  # the dash of "level-3" is no minus
_WORDS = {
    word: float(place)
    for place, words in enumerate(
        ["trivial", "very easy", "easy", "medium moderate intermediate normal", "hard difficult", "very hard"]
    )
    for word in ([words] if words.startswith("very") else words.split())
}
_INFINITE = 1e100  # sums of squares of larger numbers would be
_MOST_TEXTS = 1000  # of a scale in words or of levels
_PARSED = 0.95  # of the rows, at least, for a column of texts to be one of levels


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of the rows: `names` by falling size, `codes` each row's place among them, `[rows]`."""

    column: str
    names: list[str]
    codes: np.ndarray


@dataclass
class Table:
    """The columns of numbers of a report, in order; `values[name]` is `[rows]`, NaN where there is none."""

    rows: int
    columns: list[Column] = field(default_factory=list)
    values: dict[str, Floats] = field(default_factory=dict)
    groups: Groups | None = None
    group_how: str = ""
    notes: list[str] = field(default_factory=list)

    def add(self, column: Column, values: Floats) -> None:
        """One more column, unless it has no value at all."""
        if np.isnan(values).all():
            self.notes.append(f"{column.name} has no value in any row and was left out.")
            return
        self.columns.append(column)
        self.values[column.name] = values

    def names(self, *roles: str) -> list[str]:
        """The columns with one of these roles."""
        return [column.name for column in self.columns if column.role in roles]


def read_table(scored: ScoredSet, *, group_column: str | None = None, columns: Sequence[str] = ()) -> Table:
    """Read what a report needs of a set.

    Args:
        scored: the set.
        group_column: the column of groups; found by name where it is not given.
        columns: more columns to take for levels.

    Raises:
        InputError: the set has no rows; a named column is not there, or is not what it is named for.
    """
    if not len(scored):
        raise InputError(f"{scored.folder} has no rows: there is nothing to report on.")
    table = Table(len(scored))
    _add_signals(scored, table)
    meaning, made = "tokens of the question", "counted when the set was scored"
    table.add(Column(LENGTH, "length", meaning, made), numbers(scored.column(LENGTH)))
    _add_levels(scored, table, columns)
    _add_groups(scored, table, group_column)
    return table


def _add_signals(scored: ScoredSet, table: Table) -> None:
    computed = scored.computed_columns()
    for name, kind in fields(scored.schema):
        if not name.startswith(PREFIX) or name in _COUNTS or not is_number(kind):
            continue
        how = computed[name].get("how") if name in computed else None
        facts = how if isinstance(how, dict) else {}
        made = str(facts.get("made_by", "computed")) if name in computed else "scored"
        meaning = str(facts.get("meaning", _MEANINGS.get(name, "a column of scores")))
        table.add(Column(name, "signal", meaning, made), numbers(read_column(scored, name)))


def _add_levels(scored: ScoredSet, table: Table, named: Sequence[str]) -> None:
    there = {name: kind for name, kind in fields(scored.schema) if not name.startswith(PREFIX)}
    for name in named:
        _need(scored, there, "--columns", name)
        if not _add_level(scored, table, name, there[name]):
            raise InputError(
                f"--columns {name}: it holds {there[name]}, and no numbers can be read in it.", column=name
            )
    other = []
    for name, kind in there.items():
        last = name.rpartition(".")[2].lower()
        if name in named or not (is_number(kind) or is_text(kind)):
            continue
        likely = any(last == word or last.endswith("_" + word) for word in (*_LEVELS, *_RATES))
        if likely:
            if _add_level(scored, table, name, kind):
                table.notes.append(f"{name} was taken for a level by its name.")
            else:
                table.notes.append(f"{name} is named like a level, but no numbers can be read in it.")
        elif is_number(kind):
            other.append(name)
    if other:
        table.notes.append(f"Not looked at: {_listed(other)}; --columns takes them in.")


def _add_level(scored: ScoredSet, table: Table, name: str, kind: pa.DataType) -> bool:
    if is_number(kind):
        values = numbers(read_column(scored, name))
        table.add(Column(name, "difficulty", "as in the source", "source"), values)
        return True
    if not is_text(kind):
        return False
    if (read := levels(read_column(scored, name))) is None:
        return False
    table.add(Column(name, "difficulty", f"read from {read[1]}", "source"), read[0])
    return True


def _need(scored: ScoredSet, there: dict[str, pa.DataType], option: str, name: str) -> None:
    if name not in there:
        raise InputError(
            f"{option} {name}: {scored.folder} has no such column; it has {_listed(list(there))}"
            f"{near(name, there)}.",
            column=name,
        )


def _listed(names: list[str], most: int = 8) -> str:
    shown = ", ".join(name if len(name) <= 60 else name[:57] + "..." for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _add_groups(scored: ScoredSet, table: Table, named: str | None) -> None:
    there = {name: kind for name, kind in fields(scored.schema) if not name.startswith(PREFIX)}
    if named is not None:
        table.groups, table.group_how = _named_groups(scored, there, named), "named by --group-column"
        return
    table.groups, others = likely_groups(scored)
    if table.groups is None:
        table.group_how = (
            "no column looks like a source or a task with two groups or more; --group-column names one"
        )
    else:
        more = f" ({_listed(others)})" if others else ""
        table.group_how = f"found by its name; --group-column names another{more}"


def likely_groups(scored: ScoredSet) -> tuple[Groups | None, list[str]]:
    """The groups by a column that is named like a source or a task, and other columns that are.

    It has two groups or more, and on average three rows in each.
    """
    there = {name: kind for name, kind in fields(scored.schema) if not name.startswith(PREFIX)}
    by_name: dict[str, list[str]] = {}
    for name in there:
        by_name.setdefault(name.rpartition(".")[2].lower(), []).append(name)
    likely = [name for word in _GROUPS for name in by_name.get(word, []) if can_group(there[name])]
    for place, name in enumerate(likely):
        groups = _groups(scored, name)
        if groups is not None and 2 <= len(groups.names) <= max(2, len(scored) // 3):
            return groups, likely[place + 1 :]
    return None, []


def _named_groups(scored: ScoredSet, there: dict[str, pa.DataType], name: str) -> Groups:
    _need(scored, there, "--group-column", name)
    if not can_group(there[name]):
        raise InputError(f"--group-column {name}: it holds {there[name]}, not names.", column=name)
    groups = _groups(scored, name)
    if groups is None or len(groups.names) < 2:
        many = f"more than {_MOST_GROUPS:,} groups" if groups is None else "one group only"
        raise InputError(f"--group-column {name}: it has {many}; name another column.", column=name)
    return groups


def _groups(scored: ScoredSet, name: str) -> Groups | None:
    names, codes = coded(read_column(scored, name), _MOST_GROUPS)
    if names is None or codes is None:
        return None
    if (codes < 0).any():
        codes = np.where(codes < 0, len(names), codes)
        names = [*names, NO_GROUP]
    sizes = np.bincount(codes, minlength=len(names))
    order = np.argsort(-sizes, kind="stable")
    places = np.empty(len(names), np.int32)
    places[order] = np.arange(len(names))
    return Groups(name, [names[place] for place in order], places[codes])


def is_number(kind: pa.DataType) -> bool:
    """Whether a column holds numbers; true and false count as 1 and 0."""
    return bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_boolean(kind) or pt.is_decimal(kind))


def numbers(column: pa.ChunkedArray) -> Floats:
    """A column of numbers as `[rows]`, NaN for null and infinite (beyond 1e100)."""
    if pt.is_boolean(column.type):
        column = column.cast(pa.int8())
    parts = [_floats(chunk) for chunk in column.chunks]
    values = np.concatenate(parts) if parts else np.zeros(0)
    values[np.abs(values) > _INFINITE] = np.nan
    return values


def _floats(chunk: pa.Array) -> Floats:
    # Halves have no cast of their own in older versions; numpy has.
    # Integers beyond 2^53 are rounded, which is no reason to refuse them.
    plain = chunk if pt.is_floating(chunk.type) else chunk.cast(pa.float64(), safe=False)
    values: Floats = plain.to_numpy(zero_copy_only=False).astype(np.float64)
    return values


def levels(column: pa.ChunkedArray) -> tuple[Floats, str] | None:
    """Texts such as "Level 3" or "hard" as numbers, and what was read; None where too few of them are one.

    Every text of the column must be read the same way: its only number, or its place among easy, medium and
    hard. Up to one row in twenty may be unreadable, which is NaN then, as is null.
    """
    texts, codes = coded(column, _MOST_TEXTS)
    if texts is None or codes is None:
        return None
    for how, number_of in (("the number in its texts", _number_in), ("its words, from easy to hard", _word)):
        read = [number_of(text) for text in texts]
        table = np.array([*(np.nan if value is None else value for value in read), np.nan])
        values: Floats = table[codes]
        present = int((codes >= 0).sum())
        if present and np.count_nonzero(np.isfinite(values)) >= _PARSED * present:
            return values, how
    return None


def _number_in(text: str) -> float | None:
    numbers = [float(number) for number in _NUMBER.findall(text)]
    return numbers[0] if len(numbers) == 1 and abs(numbers[0]) <= _INFINITE else None


def _word(text: str) -> float | None:
    return _WORDS.get(" ".join(text.lower().replace("_", " ").replace("-", " ").split()))
