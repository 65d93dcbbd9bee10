"""Conditions over a set's columns, as `--where` takes them: `0.2 < pass_rate < 0.8 and source != 'web'`.

The language is Python's grammar for comparisons. Only a short list of its nodes is accepted, and no text is
executed: the functions below evaluate a condition on whole Arrow columns. `eval` and numexpr execute their
input, DuckDB and Polars are tens of megabytes, and pyarrow's expressions have no text form.

Null and NaN are missing values. A comparison with a missing value is neither true nor false, as in SQL, and
only rows for which the whole condition is true stay. `x is None` tests for a missing value. Numbers are
compared as float64.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from gaincurate.core.columns import as_texts, is_text
from gaincurate.core.foreign import is_utf8
from gaincurate.core.options import near
from gaincurate.errors import InputError

EXAMPLE = "0.2 < pass_rate < 0.8 and source != 'web'"
_COMPARISONS: dict[type[ast.cmpop], Callable[..., Any]] = {
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
}
_NODES = (
    ast.BoolOp, ast.boolop, ast.UnaryOp, ast.Not, ast.USub, ast.UAdd, ast.Compare, ast.cmpop,
    ast.Constant, ast.List, ast.Tuple, ast.Set, ast.expr_context,
)  # fmt: skip
"""The words of a condition, in addition to the names of columns."""
_TAKES = "it takes columns, numbers, texts, comparisons, in, is None, and, or, not and brackets"
_LARGEST = 1e308
_SHOWN = 12  # columns in a sentence
_LONGEST = 60  # characters of a part of a condition in one

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Values:
    """A column, or one value for all rows, of the kind `number`, `text` or `truth`."""

    kind: str
    data: Any
    name: str = ""

    def __str__(self) -> str:
        return f"column {self.name!r} of {self.kind}s" if self.name else f"the {self.kind} {self.data!r}"


class Condition:
    """The condition of an option `--where`: the columns that it needs, and the rows for which it holds.

    Raises `InputError` if the condition cannot be parsed, has an unsupported part, or names no column.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if not text.strip():
            self._refuse(f"it is empty; write a condition, such as {EXAMPLE!r}, or leave --where out")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a text's "\d"
                self._tree = ast.parse(text.strip(), mode="eval").body
            names = list(self._names(self._tree))
        except SyntaxError as error:
            self._refuse(f"{error.msg}; write it as in {EXAMPLE!r}, and equal as ==")
        except (ValueError, RecursionError, MemoryError) as error:
            self._refuse(f"it cannot be read ({error})")
        self.names = tuple(dict.fromkeys(names))
        """The columns that it needs, by dotted name."""
        if not self.names:
            self._refuse("it names no column")

    def check(self, there: Iterable[str]) -> None:
        """Check that all columns of the condition exist.

        Raises:
            InputError: one does not exist; the error has similar names, or some of the columns.
        """
        columns = sorted(there)
        for name in self.names:
            if name not in columns:
                more = " and more" if columns[_SHOWN:] else ""
                hint = near(name, columns) or f"; there is {', '.join(columns[:_SHOWN])}{more}"
                self._refuse(f"there is no column {name!r}{hint}")

    def holds(self, columns: Mapping[str, pa.ChunkedArray]) -> tuple[Mask, Mask]:
        """The rows for which it is true, and those for which it is neither true nor false, both `[rows]`.

        Raises `InputError` if it compares values of two kinds, or of a kind without comparison.
        """
        truth = self._truth(self._tree, columns)
        return np.asarray(pc.fill_null(truth, False)), np.asarray(pc.is_null(truth))

    def _names(self, node: ast.AST) -> Iterator[str]:
        name = _column_name(node)
        if name is not None:
            yield name
        elif isinstance(node, _NODES):
            for child in ast.iter_child_nodes(node):
                yield from self._names(child)
        else:
            self._refuse(f"{self._written(node)} is no part of a condition; {_TAKES}")

    def _truth(self, node: ast.expr, columns: Mapping[str, pa.ChunkedArray]) -> Any:
        """True, false or null by row."""
        if isinstance(node, ast.BoolOp):
            join = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
            return reduce(join, [self._truth(value, columns) for value in node.values])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return pc.invert(self._truth(node.operand, columns))
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            pairs = zip(sides, node.ops, sides[1:], strict=False)  # a < b < c is a < b and b < c
            return reduce(pc.and_kleene, [self._comparison(*pair, columns) for pair in pairs])
        values = self._values(node, columns)
        if values.kind != "truth" or not values.name:
            self._refuse(f"{values} is no condition by itself; compare it")
        return values.data

    def _comparison(
        self, left: ast.expr, by: ast.cmpop, right: ast.expr, columns: Mapping[str, pa.ChunkedArray]
    ) -> Any:
        if isinstance(by, (ast.Is, ast.IsNot)):
            name = _column_name(left)
            if name is None or not (isinstance(right, ast.Constant) and right.value is None):
                self._refuse("is stands between a column and None")
            nulls = columns[name].is_null(nan_is_null=True)
            return nulls if isinstance(by, ast.Is) else pc.invert(nulls)
        values = self._values(left, columns)
        if isinstance(by, (ast.In, ast.NotIn)):
            if not isinstance(right, (ast.List, ast.Tuple, ast.Set)) or not right.elts:
                self._refuse("in stands before a list of values, as in source in ['a', 'b']")
            equal = [self._compared(values, self._values(each, columns), pc.equal) for each in right.elts]
            among = reduce(pc.or_kleene, equal)
            return among if isinstance(by, ast.In) else pc.invert(among)
        return self._compared(values, self._values(right, columns), _COMPARISONS[type(by)])

    def _compared(self, left: _Values, right: _Values, compare: Callable[..., Any]) -> Any:
        if not (left.name or right.name):
            self._refuse(f"neither {left} nor {right} is a column")
        if left.kind != right.kind:
            self._refuse(f"{left} cannot be compared with {right}")
        if left.kind == "truth" and compare not in (pc.equal, pc.not_equal):
            self._refuse(f"{left} has no order")
        return compare(left.data, right.data)

    def _values(self, node: ast.expr, columns: Mapping[str, pa.ChunkedArray]) -> _Values:
        name = _column_name(node)
        if name is not None:
            return self._column(name, columns[name])
        try:
            value = ast.literal_eval(node)
        except (ValueError, TypeError, RecursionError):
            value = ...
        if value is None:
            self._refuse("nothing equals None; write is None or is not None")
        if isinstance(value, bool):
            return _Values("truth", value)
        if isinstance(value, (int, float)) and abs(value) < _LARGEST:
            return _Values("number", float(value))
        if isinstance(value, str):
            if not is_utf8(value):
                self._refuse("a text in it holds half of a surrogate pair")
            return _Values("text", value)
        self._refuse(f"{self._written(node)} cannot stand there; {_TAKES}")

    def _column(self, name: str, column: pa.ChunkedArray) -> _Values:
        kind = column.type
        if is_text(kind):
            return _Values("text", as_texts(column), name)
        if pt.is_boolean(kind):
            return _Values("truth", column, name)
        if pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind):
            numbers = column.cast(pa.float64(), safe=False)
            return _Values("number", pc.if_else(pc.is_nan(numbers), None, numbers), name)
        self._refuse(f"column {name!r} holds {kind}, and numbers, texts and truths are compared")

    def _written(self, node: ast.AST) -> str:
        return str(ast.get_source_segment(self.text.strip(), node))[:_LONGEST]

    def _refuse(self, why: str) -> NoReturn:
        raise InputError(f"--where {self.text!r}: {why}.")


def _column_name(node: ast.AST) -> str | None:
    """The column that a node stands for: a name, a dotted one, or `column('any name')`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        outer = _column_name(node.value)
        return None if outer is None else f"{outer}.{node.attr}"
    match node:
        case ast.Call(ast.Name("column"), [ast.Constant(str(name))], []):
            return name
    return None
