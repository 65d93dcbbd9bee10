"""Conditions against an oracle that goes row by row through Python values with SQL's three truths."""

from __future__ import annotations

import ast
import math
import operator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gaincurate.core.columns import coded
from gaincurate.core.where import Condition
from gaincurate.errors import InputError

BY = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip


def absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def truth(node: Any, row: dict[str, Any]) -> bool | None:
    """True, False or None of one row."""
    match node:
        case ast.BoolOp(op, values):
            each = [truth(value, row) for value in values]
            decides = isinstance(op, ast.Or)
            return decides if decides in each else None if None in each else not decides
        case ast.UnaryOp(ast.Not(), operand):
            inner = truth(operand, row)
            return None if inner is None else not inner
        case ast.Compare(left, ops, others):
            sides = [left, *others]
            parts = [compared(*each, row) for each in zip(sides, ops, others, strict=False)]
            return False if False in parts else None if None in parts else True
        case _:
            value: bool | None = literal(node, row)
            return value


def literal(node: Any, row: dict[str, Any]) -> Any:
    return row[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)


def compared(left: Any, by: ast.cmpop, right: Any, row: dict[str, Any]) -> bool | None:
    value = literal(left, row)
    if isinstance(by, ast.Is | ast.IsNot):
        return absent(value) == isinstance(by, ast.Is)
    if isinstance(by, ast.In | ast.NotIn):
        items = [literal(each, row) for each in right.elts]
        inside = None if absent(value) else value in items
        return inside if inside is None or isinstance(by, ast.In) else not inside
    other = literal(right, row)
    return None if absent(value) or absent(other) else bool(BY[type(by)](value, other))


NUMBERS = st.none() | st.floats(-2, 2, width=16) | st.just(math.nan)
TEXTS = st.none() | st.sampled_from(["", "a", "b", "é\n"])
ROW = st.fixed_dictionaries(
    {"x": NUMBERS, "n": st.none() | st.integers(-2, 2), "s": TEXTS, "t": TEXTS, "yes": st.none() | st.booleans()}
)  # fmt: skip
KINDS = {
    "x": pa.float32(), "n": pa.int8(), "s": pa.string(), "t": pa.dictionary(pa.int8(), pa.string()), "yes": pa.bool_(),
}  # fmt: skip
ORDER, EQUAL = st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), st.sampled_from(["==", "!="])
NUMBER = st.sampled_from(["x", "n"]) | st.floats(-2, 2, width=16).map(repr) | st.integers(-2, 2).map(repr)
TEXT = st.sampled_from(["s", "t"]) | st.sampled_from(["", "a", "b", "é\n"]).map(repr)
COMPARISONS = (
    st.tuples(st.sampled_from(["x", "n"]), ORDER, NUMBER)
    | st.tuples(NUMBER, ORDER, st.sampled_from(["x", "n"]), ORDER, NUMBER)
    | st.tuples(st.sampled_from(["s", "t"]), ORDER, TEXT)
    | st.tuples(st.just("yes"), EQUAL, st.sampled_from(["True", "False", "yes"]))
    | st.tuples(st.sampled_from(["x", "s", "yes"]), st.sampled_from(["is", "is not"]), st.just("None"))
    | st.tuples(st.just("s"), st.sampled_from(["in", "not in"]), st.sampled_from(["['a', 'b']", "('',)"]))
    | st.tuples(st.just("n"), st.sampled_from(["in", "not in"]), st.sampled_from(["{1, 2.0}", "[-1]"]))
    | st.tuples(st.just("yes"))
).map(" ".join)
CONDITIONS = st.recursive(
    COMPARISONS,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda p: f"({' '.join(p)})")
        | inner.map(lambda text: f"(not {text})")
    ),
    max_leaves=6,
)


@given(text=CONDITIONS, rows=st.lists(ROW, min_size=1, max_size=6), cut=st.integers(0, 6))
@example(text="not x > 0", rows=[{"x": math.nan, "n": None, "s": None, "t": None, "yes": None}], cut=0)
def test_it_holds_where_python_holds_row_by_row(text: str, rows: list[dict[str, Any]], cut: int) -> None:
    columns = {
        name: pa.chunked_array([[row[name] for row in part] for part in (rows[:cut], rows[cut:])], kind)
        for name, kind in KINDS.items()
    }
    condition = Condition(text)
    true, unknown = condition.holds(columns)
    tree = ast.parse(text, mode="eval").body
    expected = [truth(tree, row) for row in rows]
    assert true.tolist() == [each is True for each in expected]
    assert unknown.tolist() == [each is None for each in expected]
    assert set(condition.names) <= set(KINDS)


def holds(text: str, **columns: pa.Array) -> list[bool]:
    condition = Condition(text)
    true, _ = condition.holds({name: pa.chunked_array([value]) for name, value in columns.items()})
    return [bool(each) for each in true]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1, 2**63, None], pa.uint64()), [True, False, False]),
        (pa.array([1.0, 3.0, math.nan], pa.float16()), [True, False, False]),
        (pa.array([1, 3, None]).cast(pa.decimal128(24, 2)), [True, False, False]),
    ],
)
def test_numbers_of_any_width(values: pa.Array, expected: list[bool]) -> None:
    assert holds("x < 2", x=values) == expected


def test_names_are_dotted_or_anything_in_column() -> None:
    condition = Condition("extra.level == 3 and column('data-source') == 'a' and extra.level < 4")
    assert condition.names == ("extra.level", "data-source")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 3", "and equal as ==."),
        ("x > 1 AND n > 2", "invalid syntax; write it as in"),
        ("x + 1 > 2", "x + 1 is no part of a condition; it takes columns, numbers"),
        ("__import__('os').system('true')", "is no part of a condition"),
        ("column(x) == 1", "column(x) is no part of a condition"),
        ("f'{x}' == 'a'", "is no part of a condition"),
        ("1 < 2", "it names no column"),
        ("", "it is empty; write a condition, such as"),
        ("x == None", "nothing equals None; write is None or is not None"),
        ("x is 3", "is stands between a column and None"),
        ("'a' in s", "in stands before a list of values"),
        ("x == 'a'", "column 'x' of numbers cannot be compared with the text 'a'"),
        ("s in ['a', 3]", "column 's' of texts cannot be compared with the number 3.0"),
        ("yes < True", "column 'yes' of truths has no order"),
        ("x", "column 'x' of numbers is no condition by itself; compare it"),
        ("1 < 2 < x", "neither the number 1.0 nor the number 2.0 is a column"),
        ("x < 1e999", "1e999 cannot stand there"),
        ("x < (1, 2)", "(1, 2) cannot stand there"),
        ("x < (n < 2)", "n < 2 cannot stand there"),
        ("day > 3", "column 'day' holds date32[day], and numbers, texts and truths are compared"),
        ("x > " + "1" * 400, "cannot stand there"),
        ("not " * 5_000 + "yes", "it cannot be read"),
        ("x > " + "-" * 900 + "1", "--- cannot stand there"),
        ("x < 0x" + "f" * 5_000, "fff cannot stand there"),
        ("s == '\\ud800'", "a text in it holds half of a surrogate pair"),
    ],
)
def test_what_is_no_condition_is_one_sentence(text: str, sentence: str) -> None:
    columns = {
        "x": pa.array([1.0]), "n": pa.array([1]), "s": pa.array(["a"]), "yes": pa.array([True]),
        "day": pa.array([1], pa.date32()),
    }  # fmt: skip
    with pytest.raises(InputError) as raised:
        Condition(text).holds({name: pa.chunked_array([value]) for name, value in columns.items()})
    assert sentence in str(raised.value)
    assert str(raised.value).startswith("--where ")
    assert str(raised.value).endswith(".")


def test_an_unknown_name_is_said_with_near_ones() -> None:
    there = ["gc_angle", "source", *(f"column_{i}" for i in range(20))]
    Condition("gc_angle > 1").check(there)
    with pytest.raises(InputError, match=r"no column 'gc_angel'; similar: gc_angle\."):
        Condition("gc_angel > 1").check(there)
    with pytest.raises(InputError, match=r"no column 'zzz'; there is column_0, .* and more\."):
        Condition("zzz > 1").check(there)


def test_no_rows() -> None:
    true, unknown = Condition("x > 1").holds({"x": pa.chunked_array([], pa.float64())})
    assert (true.dtype, len(true), len(unknown)) == (np.dtype(bool), 0, 0)


def test_texts_of_every_layout_are_compared_and_counted() -> None:
    """polars writes its categories as a dictionary of views, which Arrow itself cannot decode."""
    plain, kinds = pa.array(["a", None, "b", "a"]), (pa.string(), pa.large_string(), pa.string_view())
    coded_texts = plain.dictionary_encode()
    views = pa.DictionaryArray.from_arrays(coded_texts.indices, pa.array(["a", "b"], pa.string_view()))
    for array in (*map(plain.cast, kinds), coded_texts, views):
        column = pa.chunked_array([array, array.slice(0, 0)])
        holds, _ = Condition("x == 'a'").holds({"x": column})
        assert holds.tolist() == [True, False, False, True]
        assert coded(column, 1) == (None, None)
        names, places = coded(column, 2)
        assert names == ["a", "b"]
        assert places is not None
        assert places.tolist() == [0, -1, 1, 0]
