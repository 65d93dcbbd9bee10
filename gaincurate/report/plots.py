"""Pictures in Vega-Lite's grammar, as plain values: only drawing them needs a plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gaincurate.core.stats import Estimate
from gaincurate.report.document import Scatter
from gaincurate.report.parts import Spec, line

# The CSS variables of style.css, by what they stand for.
INK, MUTED, RULE, MARK = "var(--ink)", "var(--muted)", "var(--rule)", "var(--mark)"
SHORT = "datum.value < 1000 ? datum.label : format(datum.value, '~s')"  # of counts: 0, 500, 1k, 1.5k
_HEAVY = {"color": MARK, "strokeWidth": 2}
_DASHED = {"color": MUTED, "strokeDash": [4, 3]}
Panel = tuple[str, Sequence[tuple[str, Estimate]]]  # its name, and its rows from above with their names
Points = Sequence[tuple[Any, ...]]  # of a curve: x, y, and the ends of the interval of y or None twice


@dataclass(frozen=True, slots=True)
class Curve:
    """A panel of `lines`: its points, and those of the dashed line that they are compared with."""

    name: str
    points: Points
    against: Points = ()


def _layer(mark: str, style: Spec, needs: str | None = None, **channels: Spec) -> Spec:
    """A layer of marks for all rows, or for those that have the field `needs`."""
    layer: Spec = {"mark": {"type": mark, "aria": False, **style}, "encoding": channels}
    return layer if needs is None else {"transform": [{"filter": f"isValid(datum.{needs})"}], **layer}


def _number(field: str, **options: Any) -> Spec:
    return {"field": field, "type": "quantitative", **options}


def _panels(names: Sequence[str], width: float, title: str | None = None) -> Spec:
    """A facet with a panel for the rows of each name, in this order, and a title below all panels."""
    header = {"labelFontSize": 12, "labelColor": INK, "labelLimit": width, "titleOrient": "bottom"}
    header |= {"titleColor": INK, "titleFontWeight": "normal", "titleFontSize": 12}
    return {"field": "panel", "sort": list(names), "title": title, "header": header}


def intervals(panels: Sequence[Panel], *, middle: float = 0.0, title: str) -> Spec:
    """Estimates with their intervals as dots and lines, in panels with the same rows.

    The first panel has every row. `middle` is the value of no effect: 0 for correlations, 1 for ratios.
    """
    rows = [
        {"panel": line(panel), "row": line(name), "value": e.value, "low": e.low, "high": e.high}
        for panel, estimates in panels
        for name, e in estimates
        if e.value is not None
    ]
    order = [line(name) for name, _ in panels[0][1]]
    x: Spec = {"scale": {"zero": False, "padding": 8}, "title": None, "axis": {"tickCount": 4}}
    width = 360 if len(panels) == 1 else 150 if len(panels) < 5 else 125
    names = {"ticks": False, "domain": False, "labelLimit": 240, "labelColor": INK}
    y = {"field": "row", "type": "nominal", "scale": {"domain": order}, "title": None, "axis": names}
    dot = {"color": MARK, "size": 46, "opacity": 1}
    layers = [
        {"data": {"values": [{}]}, **_layer("rule", _DASHED, x={"datum": middle, "type": "quantitative"})},
        _layer("rule", _HEAVY, needs="low", x=_number("low", **x), x2={"field": "high"}, y=y),
        _layer("circle", dot, x=_number("value", **x), y=y),
    ]
    panel = {"layer": layers, "width": width, "height": (24 if len(order) <= 12 else 17) * len(order)}
    column = _panels([line(name) for name, _ in panels], width, title)
    return {"data": {"values": rows}, "facet": {"column": column}, "spec": panel, "spacing": 18}


def lines(
    curves: Sequence[Curve], titles: tuple[str, str], *, x: Sequence[float], alike: bool = True
) -> Spec:
    """A panel for each curve, with the band of its intervals and the dashed line it is compared with.

    `titles` are those of both axes, and `x` the ends of the horizontal one. The vertical one is the same in
    all panels if they are `alike`.
    """
    rows: list[Spec] = []
    for curve in curves:
        name = line(curve.name)
        rows += [{"panel": name, "x": p[0], "against": p[1]} for p in curve.against]
        rows += [{"panel": name, "x": p[0], "y": p[1], "low": p[2], "high": p[3]} for p in curve.points]
    axis = {"tickCount": 3, "labelExpr": SHORT, "grid": False}
    across = _number("x", scale={"domain": list(x), "nice": False}, title=titles[0], axis=axis)
    y: Spec = {"scale": {"zero": False, "padding": 4}, "axis": {"tickCount": 4, "labelExpr": SHORT}}
    y["title"] = titles[1] or None
    low, dot = _number("low", **y), {"color": MARK, "size": 26, "opacity": 1}
    layers = [
        _layer("line", _DASHED | {"strokeWidth": 2}, needs="against", x=across, y=_number("against", **y)),
        _layer("area", {"color": MARK, "opacity": 0.18}, needs="low", x=across, y=low, y2={"field": "high"}),
        _layer("line", _HEAVY, needs="y", x=across, y=_number("y", **y)),
        _layer("circle", dot, "y", x=across, y=_number("y", **y)),
    ]
    facet = {"facet": _panels([line(curve.name) for curve in curves], 220), "columns": 3, "spacing": 20}
    panel = {"layer": layers, "width": 220, "height": 120}
    resolve = {"scale": {"y": "shared" if alike else "independent"}}
    return {"data": {"values": rows}, **facet, "spec": panel, "resolve": resolve}


def cloud(each: Scatter) -> Spec:
    """Rows over question length (log axis) and a signal, as tiles; quartiles as lines."""
    x, y = each.x_edges, each.y_edges
    log = {"type": "log", "domain": [x[0], x[-1]], "nice": False}
    across = _number("x0", title="question tokens", scale=log, axis={"grid": False, "labelExpr": SHORT})
    scale = {"domain": [y[0], y[-1]], "nice": False, "zero": False}
    up = _number("y0", title=line(each.signal), scale=scale, axis={"grid": False, "tickCount": 5})
    most = max(n for column in each.counts for n in column)
    rows = [
        # By the square root, so that a bin with a hundredth of the fullest bin's rows stays visible.
        {"x0": x0, "x1": x1, "y0": y0, "y1": y1, "strength": 0.06 + 0.07 * round(12 * (n / most) ** 0.5)}
        for (x0, x1), column in zip(pairwise(x), each.counts, strict=True)
        for (y0, y1), n in zip(pairwise(y), column, strict=True)
        if n
    ]
    dark = _number("strength", scale=None, legend=None)
    tiles: dict[str, Spec] = {"x2": {"field": "x1"}, "y2": {"field": "y1"}, "fillOpacity": dark}
    middles = [
        {"x0": (low * high) ** 0.5, **dict(zip(_QUARTILES, quartiles, strict=True))}
        for (low, high), quartiles in zip(pairwise(x), each.quartiles, strict=True)
        if quartiles
    ]
    curves = [
        _layer("line", {"color": INK, **dash}, x=across, y=up | {"field": quartile})
        for quartile, dash in _QUARTILES.items()
    ]
    layers = [
        {"data": {"values": rows}, **_layer("rect", {"color": MARK}, None, x=across, y=up, **tiles)},
        {"data": {"values": middles}, "layer": curves},
    ]
    return {"layer": layers, "width": 420, "height": 260}


_THIN: Spec = {"strokeDash": [4, 3], "strokeWidth": 1.2}
_QUARTILES: dict[str, Spec] = {"low": _THIN, "median": {"strokeWidth": 2.0}, "high": _THIN}
