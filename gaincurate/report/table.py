"""The columns of a report: signals, length, levels and groups of a scored set, as arrays.

Only the columns that are needed are read. Levels and groups are detected by name, or named by the user. A
dotted name reaches into a struct (`extra_info.level`), and texts such as "Level 3" or "hard" are read as
numbers. Notes list the columns that were detected by name or left out.
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
from gaincurate.report.document import ColumnInfo

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
    "trivial": 0.0, "very easy": 1.0, "easy": 2.0, "medium": 3.0, "moderate": 3.0, "intermediate": 3.0,
    "normal": 3.0, "hard": 4.0, "difficult": 4.0, "very hard": 5.0,
}  # fmt: skip
_INFINITE = 1e100  # sums of squares of larger numbers would be
_MOST_TEXTS = 1000  # distinct texts in a column of levels
_PARSED = 0.95  # least share of rows that can be read as numbers in a column of levels


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of the rows: `names` by falling size, `codes` each row's place among them, `[rows]`."""

    column: str
    names: list[str]
    codes: np.ndarray


@dataclass
class NumericTable:
    """The columns of numbers of a report, in order; `values[name]` is `[rows]`, NaN for a missing value."""

    rows: int
    columns: list[ColumnInfo] = field(default_factory=list)
    values: dict[str, Floats] = field(default_factory=dict)
    groups: Groups | None = None
    group_how: str = ""
    notes: list[str] = field(default_factory=list)

    def add(self, column: ColumnInfo, values: Floats) -> None:
        """Add a column, unless it has no value at all."""
        if np.isnan(values).all():
            self.notes.append(f"{column.name} has no value in any row and was left out.")
            return
        self.columns.append(column)
        self.values[column.name] = values

    def names(self, *roles: str) -> list[str]:
        """The columns with one of these roles."""
        return [column.name for column in self.columns if column.role in roles]


def read_table(
    scored: ScoredSet, *, group_column: str | None = None, columns: Sequence[str] = ()
) -> NumericTable:
    """Read the columns that a report needs; for the arguments see `report.build.report`.

    Raises:
        InputError: the set has no rows; a named column does not exist, or holds no levels or groups.
    """
    if not len(scored):
        raise InputError(f"{scored.folder} has no rows: there is nothing to report on.")
    table, computed = NumericTable(len(scored)), scored.computed_columns()
    for name, kind in fields(scored.schema):
        if name.startswith(PREFIX) and name not in _COUNTS and is_number(kind):
            how = computed[name].get("how") if name in computed else None
            facts = how if isinstance(how, dict) else {}
            made = str(facts.get("made_by", "computed")) if name in computed else "scored"
            meaning = str(facts.get("meaning", _MEANINGS.get(name, "a column of scores")))
            table.add(ColumnInfo(name, "signal", meaning, made), numbers(read_column(scored, name)))
    meaning, made = "tokens of the question", "counted when the set was scored"
    table.add(ColumnInfo(LENGTH, "length", meaning, made), numbers(scored.column(LENGTH)))
    _add_levels(scored, table, columns)
    if group_column is not None:
        table.groups, table.group_how = _named_groups(scored, group_column), "named by --group-column"
        return table
    table.groups, others = likely_groups(scored)
    table.group_how = "no column looks like a source or a task with two groups or more; "
    table.group_how += "--group-column names one"
    if table.groups is not None:
        more = f" ({_listed(others)})" if others else ""
        table.group_how = f"chosen by its name; --group-column names another{more}"
    return table


def _add_levels(scored: ScoredSet, table: NumericTable, named: Sequence[str]) -> None:
    other = list[str]()
    named_first = {name: _kind(scored, "--columns", name) for name in named} | _source_columns(scored)
    for name, kind in named_first.items():
        last = name.rpartition(".")[2].lower()
        likely = any(last == word or last.endswith("_" + word) for word in (*_LEVELS, *_RATES))
        if name not in named and not likely:
            other += [name] if is_number(kind) else []
            continue
        read = levels(read_column(scored, name)) if is_text(kind) else None
        if is_number(kind):
            read = numbers(read_column(scored, name)), "as in the source"
        if read is not None:
            table.add(ColumnInfo(name, "difficulty", read[1], "source"), read[0])
            table.notes += [] if name in named else [f"{name} is used as a level because of its name."]
        elif name in named:
            raise InputError(
                f"--columns {name}: it holds {kind}, and no numbers can be read from it.", column=name
            )
        elif is_text(kind):
            table.notes.append(f"{name} is named like a level, but no numbers can be read from it.")
    if other:
        table.notes.append(f"Not used: {_listed(other)}; --columns adds them.")


def _source_columns(scored: ScoredSet) -> dict[str, pa.DataType]:
    """The types of the source's columns, those inside structs too."""
    return {name: kind for name, kind in fields(scored.schema) if not name.startswith(PREFIX)}


def _kind(scored: ScoredSet, option: str, name: str) -> pa.DataType:
    """The type of a column of the source, which an option named."""
    columns = _source_columns(scored)
    if name not in columns:
        raise InputError(
            f"{option} {name}: {scored.folder} has no such column; it has {_listed(list(columns))}"
            f"{near(name, columns)}.",
            column=name,
        )
    return columns[name]


def _listed(names: list[str], most: int = 8) -> str:
    shown = ", ".join(name if len(name) <= 60 else name[:57] + "..." for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def likely_groups(scored: ScoredSet) -> tuple[Groups | None, list[str]]:
    """The groups by a column that is named like a source or a task, and other such columns.

    It has two groups or more, and on average three rows in each.
    """
    groupable = [name for name, kind in _source_columns(scored).items() if can_group(kind)]
    likely = [name for word in _GROUPS for name in groupable if name.rpartition(".")[2].lower() == word]
    for place, name in enumerate(likely):
        groups = _groups(scored, name)
        if groups is not None and 2 <= len(groups.names) <= max(2, len(scored) // 3):
            return groups, likely[place + 1 :]
    return None, []


def _named_groups(scored: ScoredSet, name: str) -> Groups:
    kind = _kind(scored, "--group-column", name)
    if not can_group(kind):
        raise InputError(f"--group-column {name}: it holds {kind}, not names.", column=name)
    groups = _groups(scored, name)
    if groups is None or len(groups.names) < 2:
        many = f"more than {_MOST_GROUPS:,} groups" if groups is None else "one group only"
        raise InputError(f"--group-column {name}: it has {many}; name another column.", column=name)
    return groups


def _groups(scored: ScoredSet, name: str) -> Groups | None:
    """The groups by a column; None where it has too many."""
    names, codes = coded(read_column(scored, name), _MOST_GROUPS)
    if names is None or codes is None:
        return None
    if (codes < 0).any():
        codes = np.where(codes < 0, len(names), codes)
        names = [*names, NO_GROUP]
    order = np.argsort(-np.bincount(codes, minlength=len(names)), kind="stable")
    return Groups(name, [names[place] for place in order], np.argsort(order).astype(np.int32)[codes])


def is_number(kind: pa.DataType) -> bool:
    """Whether a column holds numbers; true and false count as 1 and 0."""
    return bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_boolean(kind) or pt.is_decimal(kind))


def numbers(column: pa.ChunkedArray) -> Floats:
    """A column of numbers as `[rows]`, NaN for null and infinite (beyond 1e100)."""
    if pt.is_boolean(column.type):
        column = column.cast(pa.int8())
    # Integers beyond 2^53 are rounded, which is no reason to refuse them. pyarrow has no cast of halves.
    plain = column if pt.is_floating(column.type) else column.cast(pa.float64(), safe=False)
    values: Floats = plain.to_numpy().astype(np.float64)
    values[np.abs(values) > _INFINITE] = np.nan
    return values


def levels(column: pa.ChunkedArray) -> tuple[Floats, str] | None:
    """Texts such as "Level 3" or "hard" as numbers, and how they were read; None if too few can be read.

    All texts of the column are read in one way: by their only number, or by their place among easy, medium
    and hard. Up to one row in twenty may be unreadable; it is NaN, as is null.
    """
    texts, codes = coded(column, _MOST_TEXTS)
    if texts is None or codes is None:
        return None
    for how, number_of in (("the number in its texts", _number_in), ("its words, from easy to hard", _word)):
        values: Floats = np.array([*map(number_of, texts), np.nan])[codes]
        present = int((codes >= 0).sum())
        if present and np.count_nonzero(np.isfinite(values)) >= _PARSED * present:
            return values, f"read from {how}"
    return None


def _number_in(text: str) -> float:
    numbers = [float(number) for number in _NUMBER.findall(text)]
    return numbers[0] if len(numbers) == 1 and abs(numbers[0]) <= _INFINITE else np.nan


def _word(text: str) -> float:
    return _WORDS.get(" ".join(text.lower().replace("_", " ").replace("-", " ").split()), np.nan)
