"""Pictures: an Altair chart becomes one inline `<svg>` with a sentence that says what it shows.

The drawing is made when the page is written, and not by a script in the reader's browser. So the page needs
no plotting code (0.9 MB for vega, 4.8 MB for plotly), prints, and shows where scripts are forbidden.
Colours are CSS variables, so one picture serves light and dark.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import altair as alt
import vl_convert
from markupsafe import Markup

from gaincurate.core.stats import Estimate
from gaincurate.report.formatting import labels, number, shown, signed

# The CSS variables of style.css, by what they stand for.
INK, MUTED, RULE = "var(--ink)", "var(--muted)", "var(--rule)"
MARK, PLUS, MINUS, PAPER = "var(--mark)", "var(--plus)", "var(--minus)", "var(--paper)"

_AXIS = {
    "domainColor": RULE,
    "gridColor": RULE,
    "tickColor": RULE,
    "labelColor": MUTED,
    "titleColor": INK,
    "labelFontSize": 11,
    "titleFontSize": 12,
    "titleFontWeight": "normal",
    "tickSize": 4,
    "titlePadding": 8,
}
_CONFIG: dict[str, Any] = {
    # This font travels with vl-convert, so that text is measured alike on every machine; where the picture is
    # shown, the page's own font takes its place.
    "font": "Liberation Sans",
    "background": "transparent",
    "view": {"stroke": None},
    "axis": _AXIS,
    "header": {"labelColor": INK, "titleColor": INK, "labelFontSize": 12},
    "legend": {"labelColor": INK, "titleColor": INK, "labelFontSize": 11, "titleFontSize": 12},
    "text": {"color": INK, "fontSize": 11},
    "title": {"color": INK, "fontSize": 12, "fontWeight": "normal"},
}
_SVG = "{http://www.w3.org/2000/svg}"
_PLACES = {"d", "transform", "x", "y", "x1", "x2", "y1", "y2", "width", "height", "stroke-width"}
_NOISE = {
    "role",
    "aria-roledescription",
    "aria-hidden",
    "aria-label",
    "pointer-events",
    "font-family",
    "class",
}
_DEFAULTS = {("opacity", "1"), ("stroke-width", "1"), ("x2", "0"), ("y2", "0"), ("font-weight", "normal")}
_DIGITS = re.compile(r"(\.\d\d)\d+")
Row = dict[str, Any]
Panel = tuple[str, Sequence[tuple[str, Estimate]]]
"""A panel's name, and its rows from above: (name of the row, estimate)."""
NOTHING = Markup("")
"""Where there is nothing to draw."""
SHORT = "format(datum.value, '~s')"
"""An axis of counts: 0, 500, 1k, 1.5k."""


def draw(chart: alt.TopLevelMixin, sentence: str) -> Markup:
    """One `<svg>` element, as wide as its place allows.

    Args:
        chart: its texts must be free of control characters (`words.short`), which XML has no place for.
        sentence: what the picture shows, for those who do not see it; a table with the numbers stands beside.
    """
    spec = {**chart.to_dict(), "config": _CONFIG}
    drawn = ElementTree.fromstring(vl_convert.vegalite_to_svg(spec))
    for element in drawn.iter():
        _tidy(element)
        _join(element)
    for part in drawn:
        part.attrib["aria-hidden"] = "true"  # else the numbers on the axes are read out one by one
    shape = {"class": "plot", "role": "img", "aria-label": shown(sentence)}
    shape["viewBox"] = drawn.attrib["viewBox"]
    shape["style"] = f"--own:{round(float(drawn.attrib['width']))}px"
    drawn.attrib.clear()
    drawn.attrib.update(shape)
    return Markup(ElementTree.tostring(drawn, encoding="unicode"))


def _tidy(element: ElementTree.Element) -> None:
    """To a screen reader the picture is one thing with one sentence; a mark's words are for a pointer."""
    element.tag = element.tag.removeprefix(_SVG)
    spoken = element.attrib.get("aria-label") if element.tag != "g" else None
    for name in list(element.attrib):
        if name in _NOISE or (name, element.attrib[name]) in _DEFAULTS:
            del element.attrib[name]
        elif name in _PLACES:
            element.attrib[name] = _DIGITS.sub(r"\1", element.attrib[name])
    if spoken:
        title = ElementTree.Element("title")
        title.text = spoken
        element.insert(0, title)


def _join(element: ElementTree.Element) -> None:
    """Leave out what is not drawn, and make one shape of tiles that differ in their place alone."""
    shapes: dict[tuple[tuple[str, str], ...], ElementTree.Element] = {}
    for child in list(element):
        if child.get("display") == "none" or child.get("d") == "M0,0h0v0h0Z":
            element.remove(child)
        elif child.get("fill-opacity") is not None and not child.get("aria-label"):
            look = tuple((name, value) for name, value in sorted(child.attrib.items()) if name != "d")
            first = shapes.setdefault(look, child)
            if first is not child:
                first.attrib["d"] += child.attrib["d"]
                element.remove(child)


def chart(rows: list[Row]) -> alt.Chart:
    """A chart of rows that are in it, not beside it."""
    # As a text, which Altair neither checks value by value nor copies with every step.
    return alt.Chart(alt.InlineData(values=json.dumps(rows), format=alt.JsonDataFormat(type="json")))


def intervals(panels: Sequence[Panel], sentence: str, *, middle: float = 0.0, title: str) -> Markup:
    """Estimates with their intervals as dots and lines, one panel beside the other, the same rows in each.

    Args:
        panels: the first one has every row.
        sentence: what the picture shows.
        middle: where "nothing" is: 0 for correlations, 1 for ratios.
        title: of the axis.
    """
    ends = [
        middle,
        *(end for _, rows in panels for _, e in rows for end in (e.value, e.low, e.high) if end is not None),
    ]
    pad = 0.06 * ((max(ends) - min(ends)) or 1)
    scale = alt.Scale(domain=[min(ends) - pad, max(ends) + pad], nice=False, zero=False)
    rows = [name for name, _ in panels[0][1]]
    order = labels(rows, 32)
    label_of = dict(zip(rows, order, strict=True))
    axis = alt.Axis(ticks=False, domain=False, labelLimit=240, labelColor=INK)
    drawn = []
    for index, (panel, estimates) in enumerate(panels):
        y = alt.Y("row:N", scale=alt.Scale(domain=order), title=None, axis=None if index else axis)
        labelled = [(label_of[name], estimate) for name, estimate in estimates]
        layers = _estimates(panel, labelled, middle, y, scale, title if index == 0 else None)
        size = {
            "width": 360 if len(panels) == 1 else 150 if len(panels) < 5 else 125,
            "height": (24 if len(order) <= 12 else 17) * len(order),
        }
        drawn.append(layers.properties(title=alt.TitleParams(panel), **size))
    return draw(alt.hconcat(*drawn, spacing=18), sentence)


def _estimates(
    panel: str,
    estimates: Sequence[tuple[str, Estimate]],
    middle: float,
    y: alt.Y,
    scale: alt.Scale,
    title: str | None,
) -> alt.LayerChart:
    rows = []
    for name, e in estimates:
        if e.value is not None:
            shown = number(e.value) if middle else signed(e.value)
            words = ", ".join(filter(None, (name, panel)))
            row: Row = {"row": name, "value": e.value, "low": e.low, "high": e.high}
            rows.append(row | {"words": f"{words}: {shown}"})
    x: Row = {"scale": scale, "title": title, "axis": alt.Axis(tickCount=4)}
    nothing = chart([{"middle": middle}]).mark_rule(aria=False, color=MUTED, strokeDash=[3, 2])
    line = chart(rows).mark_rule(aria=False, color=MARK, strokeWidth=2)
    dot = chart(rows).mark_circle(color=MARK, size=46, opacity=1)
    layers = alt.layer(
        nothing.encode(x=alt.X("middle:Q", **x)),
        line.encode(x=alt.X("low:Q", **x), x2="high:Q", y=y),
        dot.encode(x=alt.X("value:Q", **x), y=y, description="words:N"),
    )
    assert isinstance(layers, alt.LayerChart)
    return layers
