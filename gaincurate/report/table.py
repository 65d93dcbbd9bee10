"""What a report looks at: takes a scored set, yields its signals, length, levels and groups as arrays.

Only the columns that are needed are read. What is a level and what a group is found by name, or named; what
was found, and what was left out, is said in notes. Knows nothing of pass rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from gaincurate.errors import InputError
from gaincurate.report import fields
from gaincurate.report.document import Column
from gaincurate.report.ranked import Strata
from gaincurate.schema import PREFIX
from gaincurate.scored_set import ScoredSet
from gaincurate.stats import Floats

LENGTH = "gc_question_tokens"
NO_GROUP = "(none)"
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


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of the rows: `names` by falling size, `codes` each row's place among them, `[rows]`."""

    column: str
    names: list[str]
    codes: np.ndarray

    @property
    def strata(self) -> Strata:
        """The same as strata."""
        return Strata(self.codes)


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
    values, _ = fields.numbers(scored.column(LENGTH))
    table.add(Column(LENGTH, "length", "tokens of the question", "counted when the set was scored"), values)
    _add_levels(scored, table, columns)
    _add_groups(scored, table, group_column)
    return table


def _add_signals(scored: ScoredSet, table: Table) -> None:
    computed = scored.computed_columns()
    for name, kind in fields.fields(scored.schema):
        if not name.startswith(PREFIX) or name in _COUNTS or not fields.is_number(kind):
            continue
        how = computed[name].get("how") if name in computed else None
        facts = how if isinstance(how, dict) else {}
        made = str(facts.get("made_by", "computed")) if name in computed else "scored"
        meaning = str(facts.get("meaning", _MEANINGS.get(name, "a column of scores")))
        _add_numbers(scored, table, Column(name, "signal", meaning, made))


def _add_numbers(scored: ScoredSet, table: Table, column: Column) -> None:
    values, infinite = fields.numbers(fields.read_column(scored, column.name))
    if infinite:
        table.notes.append(f"{column.name} is infinite in {infinite:,} rows, which count as missing.")
    table.add(column, values)


def _add_levels(scored: ScoredSet, table: Table, named: Sequence[str]) -> None:
    there = {name: kind for name, kind in fields.fields(scored.schema) if not name.startswith(PREFIX)}
    for name in named:
        if name not in there:
            raise InputError(
                f"--columns {name}: {scored.folder} has no such column; it has {_listed(list(there))}.",
                column=name,
            )
        if not _add_level(scored, table, name, there[name]):
            raise InputError(
                f"--columns {name}: it holds {there[name]}, and no numbers can be read in it.", column=name
            )
    other = []
    for name, kind in there.items():
        last = name.rpartition(".")[2].lower()
        if name in named or not (fields.is_number(kind) or fields.is_text(kind)):
            continue
        if any(last == word or last.endswith("_" + word) for word in (*_LEVELS, *_RATES)):
            if _add_level(scored, table, name, kind):
                table.notes.append(f"{name} was taken for a level by its name.")
            else:
                table.notes.append(f"{name} is named like a level, but no numbers can be read in it.")
        elif fields.is_number(kind):
            other.append(name)
    if other:
        table.notes.append(f"Not looked at: {_listed(other)}; --columns takes them in.")


def _add_level(scored: ScoredSet, table: Table, name: str, kind: pa.DataType) -> bool:
    if fields.is_number(kind):
        _add_numbers(scored, table, Column(name, "difficulty", "as it stands in the source", "source"))
        return True
    if not fields.is_text(kind):
        return False
    found = fields.levels(fields.read_column(scored, name))
    if found is None:
        return False
    if found.unread:
        table.notes.append(f"{name}: {_listed(found.unread)} is no level; its rows count as missing.")
    table.add(Column(name, "difficulty", f"read from {found.how}", "source"), found.values)
    return True


def _listed(names: list[str], most: int = 8) -> str:
    shown = ", ".join(name if len(name) <= 60 else name[:57] + "..." for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _add_groups(scored: ScoredSet, table: Table, named: str | None) -> None:
    there = {name: kind for name, kind in fields.fields(scored.schema) if not name.startswith(PREFIX)}
    if named is not None:
        table.groups, table.group_how = _named_groups(scored, there, named), "named by --group-column"
        return
    by_name: dict[str, list[str]] = {}
    for name in there:
        by_name.setdefault(name.rpartition(".")[2].lower(), []).append(name)
    likely = [name for word in _GROUPS for name in by_name.get(word, [])]
    for place, name in enumerate(likely):
        if not _can_group(there[name]):
            continue
        found = _groups(scored, name)
        if found is not None and 2 <= len(found.names) <= max(2, len(scored) // 3):
            others = [n for n in likely[place + 1 :] if _can_group(there[n])]
            table.groups = found
            table.group_how = "found by its name; --group-column names another" + (
                f" ({_listed(others)})" if others else ""
            )
            return
    table.group_how = (
        "no column looks like a source or a task with two groups or more; --group-column names one"
    )


def _can_group(kind: pa.DataType) -> bool:
    return fields.is_text(kind) or bool(pt.is_integer(kind) or pt.is_boolean(kind))


def _named_groups(scored: ScoredSet, there: dict[str, pa.DataType], name: str) -> Groups:
    if name not in there:
        raise InputError(
            f"--group-column {name}: {scored.folder} has no such column; it has {_listed(list(there))}.",
            column=name,
        )
    if not _can_group(there[name]):
        raise InputError(f"--group-column {name}: it holds {there[name]}, not names.", column=name)
    found = _groups(scored, name)
    if found is None or len(found.names) < 2:
        many = f"more than {_MOST_GROUPS:,} groups" if found is None else "one group only"
        raise InputError(f"--group-column {name}: it has {many}; name another column.", column=name)
    return found


def _groups(scored: ScoredSet, name: str) -> Groups | None:
    names, codes = fields.coded(fields.read_column(scored, name), _MOST_GROUPS)
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
