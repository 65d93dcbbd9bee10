"""A document as parts of paragraphs, tables and pictures, which a terminal and a page show alike.

`report` and `compare` say what stands in their parts, and nothing here knows what either is about.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gaincurate.core.stats import Estimate
from gaincurate.report.formatting import count, number, seconds, share
from gaincurate.report.formatting import signed as with_sign

Spec = dict[str, Any]
"""A picture in Vega-Lite's grammar; `html.draw` makes a drawing of it."""


class Figure(NamedTuple):
    """A number, the ends of its 95 % interval and half the width of it, as texts."""

    value: str
    between: str = ""
    half: str = ""


Cell = Sequence[str]
"""A text or a `Figure`."""


class Heading(str):
    """The title of what follows in a part."""

    __slots__ = ()


class Legend(str):
    """A paragraph about the pictures that follow, which the terminal leaves out."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a caption, of which the first column has the names.

    Columns with the heads `left` hold words, and that with the head `text` a text of the data. A page shows
    what is `detail` on demand, and the terminal leaves it out.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left: Collection[str] = ()
    text: str = ""
    detail: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, a sentence that describes it, and the words above. A `wide` one has a row for itself."""

    spec: Spec
    sentence: str
    title: str = ""
    note: str = ""
    wide: bool = False


Block = str | Table | Picture | Sequence[Picture] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """A part by its name in links; the terminal leaves out one that is `detail`."""

    name: str
    title: str
    blocks: Sequence[Block]
    detail: bool = False


def records(caption: str, rows: Iterable[Any], columns: str, **more: Any) -> Table:
    """A table of values of the document: a row each, its columns the names of their fields or keys."""
    names = columns.split()
    values = [
        row if isinstance(row, Mapping) else {name: getattr(row, name) for name in names} for row in rows
    ]
    cells = [[cell(name, row[name]) for name in names] for row in values]
    return Table(caption, [name.replace("_", " ") for name in names], cells, **more)


def cell(name: str, value: Any) -> Cell:
    """A field's value as text, by what it is."""
    if isinstance(value, str):
        return value
    if isinstance(value, Estimate):
        return figure(value, signed=name not in _UNSIGNED)
    if name in _SHARES:
        return share(value)
    if name.endswith("seconds"):
        return seconds(value)
    return count(value) if isinstance(value, int) else number(value)


def figure(estimate: Estimate, *, signed: bool = True) -> Figure:
    """A correlation, or a figure without a sign, with its interval."""
    low, high, text = estimate.low, estimate.high, with_sign if signed else number
    if low is None or high is None or low == high:  # nothing varied
        return Figure(text(estimate.value))
    half = (high - low) / 2
    width = f"±{half:.2f}" if half >= 0.005 else f"±{half:.1g}"
    return Figure(text(estimate.value), f"{text(low)} to {text(high)}", width)


_UNSIGNED = {"ratio", "accuracy", "brier", "ceiling", "mean_variance"}
_SHARES = {
    "accuracy", "effective", "always", "never", "teaches", "share", "explained", "eta_squared", "by_chance",
    "pass_rate", "level", "replayed",
}  # fmt: skip
