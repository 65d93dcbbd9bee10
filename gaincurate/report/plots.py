"""Pictures in Vega-Lite's grammar, as plain values: no plotting library is needed before one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gaincurate.core.stats import Estimate
from gaincurate.report.formatting import count, line, number, signed
from gaincurate.report.parts import Spec

# The CSS variables of style.css, by what they stand for.
INK, MUTED, RULE = "var(--ink)", "var(--muted)", "var(--rule)"
MARK, MINUS, SOME, PAPER = "var(--mark)", "var(--minus)", "var(--some)", "var(--paper)"
SHORT = "datum.value < 1000 ? datum.label : format(datum.value, '~s')"
"""An axis of counts: 0, 500, 1k, 1.5k."""
_DASHED = {"color": MUTED, "strokeDash": [4, 3]}
Panel = tuple[str, Sequence[tuple[str, Estimate]]]
"""A panel's name, and its rows from above: (name of the row, estimate)."""
Points = Sequence[tuple[Any, ...]]
"""Of a curve: x, y, and the ends of the interval of y or None twice."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A panel of `lines`: its points, and those of the dashed line that they are compared with."""

    name: str
    points: Points
    against: Points = ()


def _layer(mark: str, style: Spec, spoken: bool = False, needs: str | None = None, **channels: Spec) -> Spec:
    """Marks of the rows that have the field `needs`; a pointer shows the field `words` of `spoken` marks."""
    words = {"description": {"field": "words", "type": "nominal"}} if spoken else {}
    layer: Spec = {"mark": {"type": mark, "aria": spoken, **style}, "encoding": {**channels, **words}}
    return layer if needs is None else {"transform": [{"filter": f"isValid(datum.{needs})"}], **layer}


def _number(field: str, **options: Any) -> Spec:
    return {"field": field, "type": "quantitative", **options}


def _names(order: Sequence[str]) -> Spec:
    axis = {"ticks": False, "domain": False, "labelLimit": 240, "labelColor": INK}
    return {"field": "row", "type": "nominal", "scale": {"domain": order}, "title": None, "axis": axis}


def _panels(names: Sequence[str], width: float, title: str | None = None) -> Spec:
    """A facet with a panel for the rows of each name, in this order, and a title below all panels."""
    header = {"labelFontSize": 12, "labelColor": INK, "labelLimit": width, "titleOrient": "bottom"}
    title_style = {"titleColor": INK, "titleFontWeight": "normal", "titleFontSize": 12}
    return {"field": "panel", "sort": list(names), "title": title, "header": {**header, **title_style}}


def intervals(panels: Sequence[Panel], *, middle: float = 0.0, title: str) -> Spec:
    """Estimates with their intervals as dots and lines, in panels with the same rows.

    Args:
        panels: the first one has every row.
        middle: the value of no effect: 0 for correlations, 1 for ratios.
        title: of the axis.
    """
    rows = [
        {"panel": line(panel), "row": line(name), "value": e.value, "low": e.low, "high": e.high}
        | {"words": f"{line(name)}, {panel}: {number(e.value) if middle else signed(e.value)}"}
        for panel, estimates in panels
        for name, e in estimates
        if e.value is not None
    ]
    order = [line(name) for name, _ in panels[0][1]]
    x: Spec = {"scale": {"zero": False, "padding": 8}, "title": None, "axis": {"tickCount": 4}}
    width = 360 if len(panels) == 1 else 150 if len(panels) < 5 else 125
    heavy, y = {"color": MARK, "strokeWidth": 2}, _names(order)
    dot = {"color": MARK, "size": 46, "opacity": 1}
    layers = [
        {"data": {"values": [{}]}, **_layer("rule", _DASHED, x={"datum": middle, "type": "quantitative"})},
        _layer("rule", heavy, needs="low", x=_number("low", **x), x2={"field": "high"}, y=y),
        _layer("circle", dot, True, x=_number("value", **x), y=y),
    ]
    panel = {"layer": layers, "width": width, "height": (24 if len(order) <= 12 else 17) * len(order)}
    column = _panels([line(name) for name, _ in panels], width, title)
    return {"data": {"values": rows}, "facet": {"column": column}, "spec": panel, "spacing": 18}


def lines(
    curves: Sequence[Curve],
    titles: tuple[str, str],
    *,
    columns: int = 3,
    x: Sequence[float],
    alike: bool = True,
) -> Spec:
    """A panel for each curve, with the band of its intervals and the dashed line it is compared with.

    Args:
        curves: the panels.
        titles: of both axes.
        columns: panels in a row.
        x: the ends of the horizontal axis.
        alike: whether all panels have one vertical axis, or each its own.
    """
    rows: list[Spec] = []
    for curve in curves:
        name = line(curve.name)
        rows += [{"panel": name, "x": p[0], "against": p[1]} for p in curve.against]
        rows += [
            {"panel": name, "x": p[0], "y": p[1], "low": p[2], "high": p[3]}
            | {"words": f"{name}: {number(p[1])} at {number(p[0])}"}
            for p in curve.points
        ]
    axis = {"tickCount": 3, "labelExpr": SHORT, "grid": False}
    across = _number("x", scale={"domain": list(x), "nice": False}, title=titles[0], axis=axis)
    y: Spec = {"scale": {"zero": False, "padding": 4}, "axis": {"tickCount": 4, "labelExpr": SHORT}}
    y["title"] = titles[1] or None
    heavy, faint = {"color": MARK, "strokeWidth": 2}, {"color": MARK, "opacity": 0.18}
    low, dot = _number("low", **y), {"color": MARK, "size": 26, "opacity": 1}
    layers = [
        _layer("line", _DASHED | {"strokeWidth": 2}, needs="against", x=across, y=_number("against", **y)),
        _layer("area", faint, needs="low", x=across, y=low, y2={"field": "high"}),
        _layer("line", heavy, needs="y", x=across, y=_number("y", **y)),
        _layer("circle", dot, True, "y", x=across, y=_number("y", **y)),
    ]
    return {
        "data": {"values": rows},
        "facet": _panels([line(curve.name) for curve in curves], 220),
        "columns": columns,
        "spec": {"layer": layers, "width": 220, "height": 120},
        "resolve": {"scale": {"y": "shared" if alike else "independent"}},
        "spacing": 20,
    }


def bars(rows: Sequence[tuple[str, Mapping[str, float]]], colours: Mapping[str, str], title: str) -> Spec:
    """A bar for each row, made of parts one behind the other.

    Args:
        rows: (name, value of each part).
        colours: of the parts, in their order.
        title: of the axis.
    """
    names, parts = [line(name) for name, _ in rows], list(colours)
    values = [
        {"row": name, "part": part, "place": parts.index(part), "value": value}
        | {"words": f"{name}, {part}: {number(value)} {title}"}
        for name, (_, by_part) in zip(names, rows, strict=True)
        for part, value in by_part.items()
        if value
    ]
    legend = {"orient": "top", "title": None} if len(parts) > 1 else None
    scale = {"domain": parts, "range": list(colours.values())}
    drawn = _layer(
        "bar",
        {"size": 14},
        True,
        x=_number("value", title=title, stack=True, axis={"tickCount": 4, "labelExpr": SHORT}),
        y=_names(names),
        color={"field": "part", "type": "nominal", "scale": scale, "legend": legend},
        order=_number("place"),
    )
    return {"data": {"values": values}, **drawn, "width": 300, "height": 24 * len(names)}


def histogram(edges: Sequence[float], counts: Sequence[int], median: float) -> Spec:
    """Bars for the bins of a column, with a line at the median."""
    rows = [
        {"low": low, "high": high, "rows": n, "words": f"{number(low)} to {number(high)}: {count(n)} rows"}
        for (low, high), n in zip(pairwise(edges), counts, strict=True)
    ]
    axis, scale = {"grid": False, "tickCount": 5}, {"zero": False, "nice": False}
    across = _number("low", bin="binned", title=None, axis=axis, scale=scale)
    up = _number("rows", title="rows", axis={"tickCount": 3, "labelExpr": SHORT})
    middle = {"values": [{"low": median, "words": f"median {number(median)}"}]}
    layers = [
        _layer("bar", {"color": MARK, "binSpacing": 0}, True, x=across, x2={"field": "high"}, y=up),
        {"data": middle, **_layer("rule", {"color": INK, "strokeWidth": 1.5}, True, x=_number("low"))},
    ]
    return {"data": {"values": rows}, "layer": layers, "width": 300, "height": 120}


def cloud(
    name: str,
    points: Sequence[Sequence[float]],
    x: Sequence[float],
    y: Sequence[float],
    counts: Any,
    bands: Any,
) -> Spec:
    """Rows over question length (log axis) and a signal, or tiles where they are many; quartiles as lines.

    Args:
        name: of the signal.
        points: (length, signal) of each row; none where they are many.
        x: the edges of the tiles along the length.
        y: the same along the signal.
        counts: rows of each tile, by place along x and along y.
        bands: the quartiles along x.
    """
    across = _number(
        "x0",
        title="question tokens",
        scale={"type": "log", "domain": [x[0], x[-1]], "nice": False},
        axis={"grid": False, "labelExpr": SHORT},
    )
    scale = {"domain": [y[0], y[-1]], "nice": False, "zero": False}
    up = _number("y0", title=line(name), scale=scale, axis={"grid": False, "tickCount": 5})
    # Squares and not circles: those of one colour become one shape, with a fifth of the bytes.
    style: Spec = {"color": MARK, "width": 3, "height": 3, "fillOpacity": 0.55}
    rows, more = [{"x0": length, "y0": value} for length, value in points], dict[str, Spec]()
    if not points:
        most = max((n for column in counts for n in column), default=0)
        rows = [
            # By the square root: a bin with a hundredth of the fullest bin's rows must still be seen. In
            # steps: all tiles of one strength become one shape.
            {"x0": x0, "x1": x1, "y0": y0, "y1": y1, "strength": 0.06 + 0.07 * round(12 * (n / most) ** 0.5)}
            for (x0, x1), column in zip(pairwise(x), counts, strict=True)
            for (y0, y1), n in zip(pairwise(y), column, strict=True)
            if n
        ]
        strength = _number("strength", scale=None, legend=None)
        style, more = {"color": MARK}, {"x2": {"field": "x1"}, "y2": {"field": "y1"}, "fillOpacity": strength}
    medians = [
        {"x0": (low * high) ** 0.5, "low": band.low, "median": band.median, "high": band.high}
        for (low, high), band in zip(pairwise(x), bands, strict=True)
        if band.median is not None
    ]
    quartiles = [
        _layer("line", {"color": INK, **dash}, x=across, y=up | {"field": quartile})
        for quartile, dash in (("low", _THIN), ("median", {"strokeWidth": 2.0}), ("high", _THIN))
    ]
    layers = [
        {"data": {"values": rows}, **_layer("rect", style, False, None, x=across, y=up, **more)},
        {"data": {"values": medians}, "layer": quartiles},
    ]
    return {"layer": layers, "width": 420, "height": 260}


_THIN = {"strokeDash": [4, 3], "strokeWidth": 1.2}
