"""A document as parts of paragraphs, tables and pictures, which a terminal and a page show alike.

`report` and `compare` define the contents of their parts. Numbers and foreign texts are plain text and never
markup. Invisible characters are written out, because some of them change how their neighbours look. The page
escapes all texts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gaincurate.core.stats import Estimate

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"  # for a missing number

# Control characters except tab and line feed, marks that turn the direction of text, separators that end a
# line, lone surrogates and the byte order mark.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
_PAIRS = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_UNSIGNED = {"accuracy", "brier", "ceiling", "mean_variance", "highest_tenth", "middle_tenth", "lowest_tenth"}
_SHARES = {
    "accuracy", "effective", "always", "never", "teaches", "share", "explained", "eta_squared", "by_chance",
    "pass_rate", "level", "replayed",
}  # fmt: skip

Spec = dict[str, Any]  # a picture in Vega-Lite's grammar, of which `html.draw` makes a drawing


class FigureText(NamedTuple):
    """A number, the ends of its 95 % interval and half the width of it, as texts."""

    value: str
    between: str = ""
    half: str = ""


Cell = str | FigureText


class Heading(str):
    """The title of what follows in a part."""


class Legend(str):
    """A paragraph about the pictures that follow, which the terminal leaves out."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a caption, of which the first column has the names.

    Columns with the heads `left` hold words, and the one with the head `text` holds texts of the data. A page
    shows a `detail` table on demand, and the terminal leaves it out.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left: Collection[str] = ()
    text: str = ""
    detail: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, a sentence that describes it, and the words above. A `wide` picture has its own row."""

    spec: Spec
    sentence: str
    title: str = ""
    note: str = ""
    wide: bool = False


Block = str | Table | Picture | Sequence[Picture] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """A part, with its name in links; the terminal leaves out a `detail` part."""

    name: str
    title: str
    blocks: Sequence[Block]
    detail: bool = False


def records(caption: str, rows: Sequence[Any], columns: str = "", **more: Any) -> Table:
    """A table with a row for each value of the document, a dataclass or a mapping.

    `columns` are names of its fields or keys, separated by spaces. Default: the keys of the first row.
    """
    names = columns.split() or list(rows[0])
    cells = [
        [cell(name, row[name] if isinstance(row, Mapping) else getattr(row, name)) for name in names]
        for row in rows
    ]
    return Table(caption, [name.replace("_", " ") for name in names], cells, **more)


def cell(name: str, value: Any) -> Cell:
    """A field's value as text, formatted by its name and type."""
    if isinstance(value, str):
        return value
    if isinstance(value, Estimate):
        return figure(value, number if name in _UNSIGNED else signed)
    if name in _SHARES:
        return share(value)
    if name.endswith("seconds"):
        return seconds(value)
    return count(value) if isinstance(value, int) else number(value)


def figure(estimate: Estimate, text: Callable[[float | None], str]) -> FigureText:
    """A figure with its interval; `text` writes its numbers."""
    low, high = estimate.low, estimate.high
    if low is None or high is None or low == high:  # nothing varied
        return FigureText(text(estimate.value))
    half = (high - low) / 2
    width = f"±{half:.2f}" if half >= 0.005 else f"±{half:.1g}"
    return FigureText(text(estimate.value), f"{text(low)} to {text(high)}", width)


def shown(text: str) -> str:
    """A data set's text, with each invisible character written out: a backslash and `u202e`."""
    whole = _PAIRS.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
    return _UNSEEN.sub(lambda unseen: f"\\u{ord(unseen[0]):04x}", whole)


def line(text: str) -> str:
    """One line, for a label in a picture."""
    return " ".join(shown(text).split())


def number(value: float | None) -> str:
    """Three significant digits, thousands grouped, a true minus sign.

    With an exponent if the value is below 1e-5 or at least 1e9 in size.
    """
    if not value:
        return NONE if value is None else "0"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    if places > 7 or abs(value) >= 10**9:
        return f"{value:.2e}".replace("-", MINUS)
    return f"{value:,.{places}f}".replace("-", MINUS)


def typeset(text: str) -> str:
    """A sentence with true minus signs before its numbers."""
    return re.sub(r"(?<![\w.,-])-(?=\d)", MINUS, text)


def count(value: int | None) -> str:
    """A count with thousands grouped."""
    return NONE if value is None else f"{value:,}".replace("-", MINUS)


def signed(value: float | None, places: int = 2) -> str:
    """A correlation, `+0.12`, with a true minus sign."""
    if value is None:
        return NONE
    rounded = f"{value:+.{places}f}"
    return f"{0:.{places}f}" if float(rounded) == 0 else rounded.replace("-", MINUS)


def share(value: float | None) -> str:
    """A share from 0 to 1 as a percentage; only exact shares are shown as 0 % and 100 %."""
    if value is None:
        return NONE
    percent = 100 * value
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    fine = not 10 <= percent <= 90 and percent != round(percent)
    return f"{percent:.1f} %" if fine else f"{percent:.0f} %"


def seconds(value: float | None) -> str:
    """A duration: `12 s`, `3 min 20 s`, `2 h 05 min`."""
    if value is None:
        return NONE
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def plain(value: object) -> str:
    """A setting's value as text: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def listed(names: Sequence[str]) -> str:
    """`a, b and c`; empty without names."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
