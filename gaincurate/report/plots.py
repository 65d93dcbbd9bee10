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
Panel = tuple[str, Sequence[tuple[str, Estimate]]]
"""A panel's name, and its rows from above: (name of the row, estimate)."""
Points = Sequence[tuple[Any, ...]]
"""Of a curve: x, y, and the ends of the interval of y or None twice."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A panel of `lines`: its points, and those of the dashed line that they are held against."""

    name: str
    points: Points
    against: Points = ()


def _layer(mark: str, rows: Sequence[Spec], style: Spec, **channels: Spec) -> Spec:
    """Marks of rows; those with `words` show them under a pointer."""
    spoken = any("words" in row for row in rows)
    words = {"description": {"field": "words", "type": "nominal"}} if spoken else {}
    kind = {"type": mark, "aria": spoken, **style}
    return {"data": {"values": list(rows)}, "mark": kind, "encoding": {**channels, **words}}


def _number(field: str, **options: Any) -> Spec:
    return {"field": field, "type": "quantitative", **options}


def _scale(*ends: float) -> Spec:
    return {"domain": list(ends), "nice": False, "zero": False}


def intervals(panels: Sequence[Panel], *, middle: float = 0.0, title: str) -> Spec:
    """Estimates with their intervals as dots and lines, one panel beside the other, the same rows in each.

    Args:
        panels: the first one has every row.
        middle: where "nothing" is: 0 for correlations, 1 for ratios.
        title: of the axis.
    """
    every = [end for _, rows in panels for _, e in rows for end in (e.value, e.low, e.high)]
    ends = [middle, *(end for end in every if end is not None)]
    pad = 0.06 * ((max(ends) - min(ends)) or 1)
    names = [name for name, _ in panels[0][1]]
    label_of = {name: line(name) for name in names}
    order, drawn = list(label_of.values()), []
    width = 360 if len(panels) == 1 else 150 if len(panels) < 5 else 125
    for index, (panel, estimates) in enumerate(panels):
        axis = None if index else {"ticks": False, "domain": False, "labelLimit": 240, "labelColor": INK}
        y = {"field": "row", "type": "nominal", "scale": {"domain": order}, "title": None, "axis": axis}
        scale = _scale(min(ends) - pad, max(ends) + pad)
        x: Spec = {"scale": scale, "title": None if index else title, "axis": {"tickCount": 4}}
        rows = [
            {
                "row": label_of[name],
                "value": e.value,
                "low": e.low,
                "high": e.high,
                "words": f"{label_of[name]}, {panel}: {number(e.value) if middle else signed(e.value)}",
            }
            for name, e in estimates
            if e.value is not None
        ]
        lines = [{key: value for key, value in row.items() if key != "words"} for row in rows]
        layers = [
            _layer("rule", [{"x": middle}], {"color": MUTED, "strokeDash": [3, 2]}, x=_number("x", **x)),
            _layer(
                "rule",
                lines,
                {"color": MARK, "strokeWidth": 2},
                x=_number("low", **x),
                x2={"field": "high"},
                y=y,
            ),
            _layer("circle", rows, {"color": MARK, "size": 46, "opacity": 1}, x=_number("value", **x), y=y),
        ]
        height = (24 if len(order) <= 12 else 17) * len(order)
        drawn.append(
            {
                "layer": layers,
                "title": {"text": line(panel), "limit": 1.2 * width},
                "width": width,
                "height": height,
            }
        )
    return {"hconcat": drawn, "spacing": 18}


def lines(
    curves: Sequence[Curve],
    titles: tuple[str, str],
    *,
    columns: int = 3,
    x: Sequence[float],
    alike: bool = True,
) -> Spec:
    """A panel for each curve, with the band of its intervals and the dashed line it is held against.

    Args:
        curves: the panels.
        titles: of both axes.
        columns: panels in a row.
        x: the ends of the horizontal axis.
        alike: whether all panels have one vertical axis, or each its own.
    """
    panels = []
    spans = [[value for point in [*c.points, *c.against] for value in point[1:]] for c in curves]
    ends = [[value for value in span if value is not None] for span in spans]
    for place, curve in enumerate(curves):
        name = line(curve.name)
        values = [value for span in ends for value in span] if alike else ends[place]
        pad = 0.04 * ((max(values) - min(values)) or 1)
        low = min(values) - pad if min(values) < 0 else max(0.0, min(values) - pad)
        first, below = place % columns == 0 or not alike, place >= len(curves) - columns
        x_axis = {"tickCount": 3, "labelExpr": SHORT, "grid": False}
        y_axis = {"tickCount": 4, "labels": first, "ticks": first, "labelExpr": SHORT}
        y: Spec = {
            "scale": _scale(low, max(values) + pad),
            "title": titles[1] if first else None,
            "axis": y_axis,
        }
        across = _number("x", scale=_scale(*x), title=titles[0] if below else None, axis=x_axis)
        rows = [
            {"x": p[0], "y": p[1], "words": f"{name}: {number(p[1])} at {number(p[0])}"} for p in curve.points
        ]
        band = [{"x": p[0], "low": p[2], "high": p[3]} for p in curve.points if p[2] is not None]
        plain = [{"x": p[0], "y": p[1]} for p in curve.points]
        dashed = {"color": MUTED, "strokeWidth": 2, "strokeDash": [4, 3]}
        layers = [
            _layer(
                "line", [{"x": p[0], "y": p[1]} for p in curve.against], dashed, x=across, y=_number("y", **y)
            ),
            _layer(
                "area",
                band,
                {"color": MARK, "opacity": 0.18},
                x=across,
                y=_number("low", **y),
                y2={"field": "high"},
            ),
            _layer("line", plain, {"color": MARK, "strokeWidth": 2}, x=across, y=_number("y", **y)),
            _layer("circle", rows, {"color": MARK, "size": 26, "opacity": 1}, x=across, y=_number("y", **y)),
        ]
        drawn = [layer for layer in layers if layer["data"]["values"]]
        panels.append({"layer": drawn, "title": {"text": name, "limit": 220}, "width": 220, "height": 120})
    return {"concat": panels, "columns": columns, "spacing": 20}


def bars(rows: Sequence[tuple[str, Mapping[str, float]]], colours: Mapping[str, str], title: str) -> Spec:
    """A bar for each row, made of parts one behind the other.

    Args:
        rows: (name, value of each part).
        colours: of the parts, in their order.
        title: of the axis.
    """
    names, parts = [line(name) for name, _ in rows], list(colours)
    values = [
        {
            "row": name,
            "part": part,
            "place": parts.index(part),
            "value": value,
            "words": f"{name}, {part}: {number(value)} {title}",
        }
        for name, (_, by_part) in zip(names, rows, strict=True)
        for part, value in by_part.items()
        if value
    ]
    legend = {"orient": "top", "title": None} if len(parts) > 1 else None
    scale = {"domain": parts, "range": list(colours.values())}
    axis = {"ticks": False, "domain": False, "labelLimit": 240}
    drawn = _layer(
        "bar",
        values,
        {"size": 14},
        x=_number("value", title=title, stack=True, axis={"tickCount": 4, "labelExpr": SHORT}),
        y={"field": "row", "type": "nominal", "scale": {"domain": names}, "title": None, "axis": axis},
        color={"field": "part", "type": "nominal", "scale": scale, "legend": legend},
        order=_number("place"),
    )
    return {**drawn, "width": 300, "height": 24 * len(names)}


def histogram(edges: Sequence[float], counts: Sequence[int], median: float) -> Spec:
    """Bars for the bins of a column, with a line at the median."""
    rows = [
        {"low": low, "high": high, "rows": n, "words": f"{number(low)} to {number(high)}: {count(n)} rows"}
        for (low, high), n in zip(pairwise(edges), counts, strict=True)
    ]
    axis, scale = {"grid": False, "tickCount": 5}, {"zero": False, "nice": False}
    across = _number("low", bin="binned", title=None, axis=axis, scale=scale)
    up = _number("rows", title="rows", axis={"tickCount": 3, "labelExpr": SHORT})
    mark = [{"low": median, "words": f"median {number(median)}"}]
    layers = [
        _layer("bar", rows, {"color": MARK, "binSpacing": 0}, x=across, x2={"field": "high"}, y=up),
        _layer("rule", mark, {"color": INK, "strokeWidth": 1.5}, x=_number("low")),
    ]
    return {"layer": layers, "width": 300, "height": 120}


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
        scale={"type": "log", **_scale(x[0], x[-1])},
        axis={"grid": False, "labelExpr": SHORT},
    )
    up = _number("y0", title=line(name), scale=_scale(y[0], y[-1]), axis={"grid": False, "tickCount": 5})
    if points:
        # Squares and not circles: those of one colour become one shape, with a fifth of the bytes.
        square = {"color": MARK, "width": 3, "height": 3, "fillOpacity": 0.55}
        rows = [{"x0": length, "y0": value} for length, value in points]
        layers = [_layer("rect", rows, square, x=across, y=up)]
    else:
        most = max((n for column in counts for n in column), default=0)
        tiles = [
            # By the square root: a bin with a hundredth of the fullest bin's rows must still be seen. In
            # steps: all tiles of one strength become one shape.
            {"x0": x0, "x1": x1, "y0": y0, "y1": y1, "strength": 0.06 + 0.07 * round(12 * (n / most) ** 0.5)}
            for (x0, x1), column in zip(pairwise(x), counts, strict=True)
            for (y0, y1), n in zip(pairwise(y), column, strict=True)
            if n
        ]
        strength = _number("strength", scale=None, legend=None)
        ends = {"x2": {"field": "x1"}, "y2": {"field": "y1"}}
        layers = [_layer("rect", tiles, {"color": MARK}, x=across, y=up, fillOpacity=strength, **ends)]
    medians = [
        ((low * high) ** 0.5, band)
        for (low, high), band in zip(pairwise(x), bands, strict=True)
        if band.median is not None
    ]
    for quartile, dash, width in (("low", [4, 3], 1.2), ("median", [1, 0], 2.0), ("high", [4, 3], 1.2)):
        rows = [{"x0": place, "y0": getattr(band, quartile)} for place, band in medians]
        style = {"color": INK, "strokeDash": dash, "strokeWidth": width}
        layers.append(_layer("line", rows, style, x=across, y=up))
    return {"layer": layers, "width": 420, "height": 260}
