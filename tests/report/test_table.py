"""What a set's columns are taken for, and what is said of those that are not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from column_sets import column_set
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError
from gaincurate.report.table import NumericTable, levels, likely_groups, read_table

LENGTHS = np.arange(3, 15)
SCORES = {"gc_angle": np.linspace(0, 1, 12)}


def read(folder: Path, source: dict[str, Any], **options: Any) -> NumericTable:
    return read_table(ScoredSet(column_set(folder / "set", LENGTHS, SCORES, source)), **options)


def texts(*values: str | None) -> pa.Array:
    return pa.array([values[row % len(values)] for row in range(12)])


def test_signals_are_all_scores_and_computed_columns_but_counts_and_embeddings(tmp_path: Path) -> None:
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(24, np.float16)), 2)
    folder = column_set(tmp_path / "set", LENGTHS, {**SCORES, "gc_embedding": embedding})
    scored = ScoredSet(folder)
    scored.add_column("gc_new", ["id00003"], pa.array([1.5]), {"made_by": "me", "meaning": "a test"})
    table = read_table(scored)
    assert table.names("signal") == ["gc_angle", "gc_new"]
    assert table.names("length") == ["gc_question_tokens"]
    assert np.isnan(table.values["gc_new"]).sum() == 11
    new = table.columns[1]
    assert (new.meaning, new.made) == ("a test", "me")
    assert "gc_angle_intra has no value in any row and was left out." in table.notes


@pytest.mark.parametrize(
    ("column", "expected", "how"),
    [
        (texts("Level 1", "Level 5", "Level 3"), [1, 5, 3], "read from the number in its texts"),
        (texts("easy", "Hard", "very-hard"), [2, 4, 5], "read from its words, from easy to hard"),
        (texts("0.5", "-2", None), [0.5, -2, np.nan], "read from the number in its texts"),
        (texts("level-1", "grade_5", "(-3)"), [1, 5, -3], "read from the number in its texts"),
        (pa.array([2**62, 1, None] * 4), [2.0**62, 1, np.nan], "as in the source"),
        (pa.array([True, False, None] * 4), [1, 0, np.nan], "as in the source"),
        (pa.array(["A 7", "B 8", "C 9"] * 4).dictionary_encode(), [7, 8, 9], "read from the number"),
    ],
)
def test_a_level_is_found_by_name_and_read(
    tmp_path: Path, column: pa.Array, expected: list[float], how: str
) -> None:
    table = read(tmp_path, {"problem_level": column})
    assert table.names("difficulty") == ["problem_level"]
    assert table.values["problem_level"].tolist() == pytest.approx(expected * 4, nan_ok=True)
    assert table.columns[-1].meaning.startswith(how)
    assert "problem_level is used as a level because of its name." in table.notes


def test_what_no_number_can_be_read_in_is_said(tmp_path: Path) -> None:
    source = {"difficulty": texts("about 3 of 5", "1 to 2"), "seed": pa.array(range(12)), "words": texts("a")}
    table = read(tmp_path, source)
    assert table.names("difficulty") == []
    assert "difficulty is named like a level, but no numbers can be read from it." in table.notes
    assert "Not used: seed; --columns adds them." in table.notes


def test_one_text_in_twenty_may_be_unreadable() -> None:
    known = ["Level 1", "Level 2"] * 19
    assert levels(pa.chunked_array([[*known, "Level ?", "?"]])) is not None
    assert levels(pa.chunked_array([[*known, *["?"] * 3]])) is None
    found = levels(pa.chunked_array([[*known, f"Level {'9' * 400}"]]))  # beyond what a float holds
    assert found is not None
    assert np.isfinite(found[0][:-1]).all()
    assert np.isnan(found[0][-1])


def test_columns_can_be_named(tmp_path: Path) -> None:
    source = {"seed": pa.array(range(12)), "text": texts("one", "two")}
    assert read(tmp_path, source, columns=["seed"]).names("difficulty") == ["seed"]


def test_a_small_set_may_have_two_groups(tmp_path: Path) -> None:
    folder = column_set(tmp_path / "set", LENGTHS[:3], {}, {"task": ["x", "y", "x"]})
    assert likely_groups(ScoredSet(folder))[0] is not None


def test_infinite_values_count_as_missing(tmp_path: Path) -> None:
    values = np.array([1.0, np.inf, -np.inf, np.nan, *range(8)])
    table = read(tmp_path, {"level": pa.array(values)})
    assert np.isnan(table.values["level"]).sum() == 3


FOUND = "chosen by its name; --group-column names another"
NONE = "no column looks like a source or a task with two groups or more; --group-column names one"


@pytest.mark.parametrize(
    ("source", "named", "names", "how"),
    [
        ({"topic": ["b", "a", "a"], "source": ["only one"]}, None, ["a", "b"], FOUND),
        ({"topic": ["t1", "t2", "t3", "t4"]}, None, ["t1", "t2", "t3", "t4"], FOUND),
        ({"topic": ["t1", "t2", "t3", "t4", "t5"]}, None, None, NONE),  # a group for every two rows
        ({"task": ["x"]}, None, None, NONE),
        ({"kind": ["x", None, "x"]}, "kind", ["x", "(none)"], "named by --group-column"),
    ],
)
def test_groups_are_found_by_name_or_named_largest_first(
    tmp_path: Path, source: dict[str, list[str | None]], named: str | None, names: list[str] | None, how: str
) -> None:
    table = read(tmp_path, {name: texts(*values) for name, values in source.items()}, group_column=named)
    assert table.group_how == how
    assert (None if table.groups is None else table.groups.names) == names
    if table.groups is not None and names is not None:
        column = source[table.groups.column]
        told = [names[code] for code in table.groups.codes]
        assert told == [column[row % len(column)] or "(none)" for row in range(12)]


@pytest.mark.parametrize(
    ("option", "name", "sentence"),
    [
        ("group_column", "same", "it has one group only; name another column."),
        ("group_column", "level", "it holds double, not names."),
        ("columns", "size", "has no such column; it has question, level, same."),
    ],
)
def test_a_column_that_is_not_what_it_is_named_for_is_refused(
    tmp_path: Path, option: str, name: str, sentence: str
) -> None:
    source = {"level": pa.array(np.linspace(0, 1, 12)), "same": texts("x")}
    with pytest.raises(InputError, match=rf"^--{option.replace('_', '-')} {name}: .*{re.escape(sentence)}$"):
        read(tmp_path, source, **{option: [name] if option == "columns" else name})


def test_a_set_without_rows_has_nothing_to_report(tmp_path: Path) -> None:
    folder = column_set(tmp_path / "set", LENGTHS[:0], {})
    with pytest.raises(InputError, match="has no rows: there is nothing to report on"):
        read_table(ScoredSet(folder))


def test_names_with_dots_of_their_own_are_found(tmp_path: Path) -> None:
    inner = pa.array([{"a.level": row, "b": {"c.grade": 2 * row}} for row in range(12)])
    source = {"extra": inner, "x.y": pa.array([{"level": 3 * row} for row in range(12)])}
    table = read(tmp_path, source)
    found = {name: table.values[name].tolist() for name in table.names("difficulty")}
    assert found == {
        "extra.a.level": list(range(12)),
        "extra.b.c.grade": list(range(0, 24, 2)),
        "x.y.level": list(range(0, 36, 3)),
    }
