"""Charts of columns and correlations: takes figures of the document, yields inline SVG pictures.

Everything drawn is binned or one mark per column, so no picture grows with the number of rows. A strength is an
opacity and not a scale of colours: it reads the same in light and dark. Knows nothing of the page around a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
from markupsafe import Markup

from gaincurate.report.drawing import INK, MARK, MINUS, MUTED, PLUS, draw
from gaincurate.report.figures import Cell, Distribution, Estimate, LengthProfile, Scatter
from gaincurate.report.words import count, interval, number, short, signed

Row = dict[str, Any]


def histogram(figure: Distribution, sentence: str) -> Markup:
    """Bars for the bins of a column, with a line at the median."""
    edges = figure.histogram.edges
    rows = [
        {"low": low, "high": high, "rows": n, "words": f"{number(low)} to {number(high)}: {count(n)} rows"}
        for low, high, n in zip(edges[:-1], edges[1:], figure.histogram.counts, strict=True)
    ]
    axis, scale = alt.Axis(grid=False, tickCount=5), alt.Scale(zero=False, nice=False)
    bars = (
        chart(rows)
        .mark_bar(color=MARK, binSpacing=0)
        .encode(
            x=alt.X("low:Q", bin="binned", title=None, axis=axis, scale=scale),
            x2="high:Q",
            y=alt.Y("rows:Q", title="rows", axis=alt.Axis(tickCount=3, format="~s")),
            description="words:N",
        )
    )
    median = figure.quantiles[len(figure.quantiles) // 2]
    line = chart([{"low": median, "words": f"median {number(median)}"}]).mark_rule(color=INK, strokeWidth=1.5)
    return draw(_sized(alt.layer(bars, line.encode(x="low:Q", description="words:N")), 300, 120), sentence)


def density(figure: Scatter, sentence: str) -> Markup:
    """Rows over question length (log axis) and a signal, darker where there are more; the quartiles as lines."""
    most = max((n for column in figure.counts for n in column), default=0) or 1
    rows = [
        {
            **{
                "x0": figure.x_edges[i],
                "x1": figure.x_edges[i + 1],
                "y0": figure.y_edges[j],
                "y1": figure.y_edges[j + 1],
            },
            # By the square root: a bin with a hundredth of the fullest bin's rows must still be seen.
            "strength": 0.06 + 0.84 * (n / most) ** 0.5,
        }
        for i, column in enumerate(figure.counts)
        for j, n in enumerate(column)
        if n
    ]
    x = alt.X(
        "x0:Q",
        title="question tokens",
        scale=alt.Scale(type="log", nice=False, domain=[figure.x_edges[0], figure.x_edges[-1]]),
        axis=alt.Axis(grid=False, tickCount=6, format="~s"),
    )
    y = alt.Y(
        "y0:Q",
        title=short(figure.signal),
        scale=alt.Scale(zero=False, nice=False, domain=[figure.y_edges[0], figure.y_edges[-1]]),
        axis=alt.Axis(grid=False, tickCount=5),
    )
    tiles = (
        chart(rows)
        .mark_rect(color=MARK, aria=False)
        .encode(
            x=x,
            x2="x1:Q",
            y=y,
            y2="y1:Q",
            fillOpacity=alt.FillOpacity("strength:Q", scale=None, legend=None),
        )
    )
    return draw(_sized(alt.layer(tiles, *_bands(figure)), 420, 260), sentence)


def _bands(figure: Scatter) -> list[alt.Chart]:
    """The median and the quartiles of the signal, length bin by length bin."""
    middle = [(a * b) ** 0.5 for a, b in zip(figure.x_edges[:-1], figure.x_edges[1:], strict=True)]
    known = [(x, band) for x, band in zip(middle, figure.bands, strict=True) if band.median is not None]
    lines = []
    for name, dash, width in (("low", [4, 3], 1.2), ("median", [1, 0], 2.0), ("high", [4, 3], 1.2)):
        rows = [{"x0": x, "y0": getattr(band, name)} for x, band in known]
        lines.append(
            chart(rows)
            .mark_line(aria=False, color=INK, strokeDash=dash, strokeWidth=width)
            .encode(x="x0:Q", y="y0:Q")
        )
    return lines


def heat_map(columns: Sequence[str], cells: Sequence[Cell], sentence: str) -> Markup:
    """The matrix of correlations: colour says the sign, strength of colour the size, and the number stands in it."""
    names = [short(name, 24) for name in columns]
    values = {(cell.first, cell.second): cell.correlation for cell in cells}
    rows = []
    for i, first in enumerate(columns):
        for j, second in enumerate(columns[:i]):
            estimate = values.get((second, first)) or values.get((first, second))
            value = None if estimate is None else estimate.value
            rows.append(_tile(names[i], names[j], value, "" if estimate is None else interval(estimate)))
    tiles = chart(rows).encode(
        x=alt.X(
            "across:N",
            sort=names,
            title=None,
            axis=alt.Axis(
                orient="bottom", labelAngle=-40, ticks=False, domain=False, grid=False, labelLimit=160
            ),
        ),
        y=alt.Y(
            "down:N",
            sort=names,
            title=None,
            axis=alt.Axis(ticks=False, domain=False, grid=False, labelLimit=160),
        ),
    )
    rect = tiles.mark_rect(stroke="var(--paper)", strokeWidth=2).encode(
        color=alt.Color("colour:N", scale=None),
        fillOpacity=alt.FillOpacity("strength:Q", scale=None),
        description="words:N",
    )
    text = tiles.mark_text(aria=False, fontSize=11).encode(text="label:N")
    side = 46 * max(1, len(names) - 1)
    return draw(_sized(alt.layer(rect, text), side, 30 * max(1, len(names) - 1)), sentence)


def _tile(down: str, across: str, value: float | None, between: str) -> Row:
    words = f"{down} and {across}: {signed(value)}" + (f", 95 % interval {between}" if between else "")
    return {
        **{"down": down, "across": across, "label": signed(value), "words": words},
        "colour": PLUS if (value or 0) >= 0 else MINUS,
        "strength": 0.04 + 0.56 * abs(value or 0),
    }


def intervals(
    panels: Sequence[tuple[str, Sequence[tuple[str, Estimate]]]],
    sentence: str,
    *,
    middle: float = 0.0,
    title: str,
) -> Markup:
    """Estimates with their intervals as dots and lines, one panel beside the other, the same rows in each.

    Args:
        panels: name of the panel, and (name of the row, estimate) in the order to draw.
        sentence: what the picture shows.
        middle: where "nothing" is: 0 for correlations, 1 for ratios.
        title: of the axis.
    """
    rows = [
        {
            **{"panel": panel, "row": short(name, 32), "value": e.value, "low": e.low, "high": e.high},
            "words": f"{short(name)}, {panel}: {signed(e.value) if middle == 0 else number(e.value)}",
        }
        for panel, estimates in panels
        for name, e in estimates
        if e.value is not None
    ]
    order = [short(name, 32) for name, _ in panels[0][1]]
    return draw(_panels(rows, [panel for panel, _ in panels], order, middle, title), sentence)


def _panels(
    rows: list[Row], panels: list[str], order: list[str], middle: float, title: str
) -> alt.HConcatChart:
    ends = [middle, *(row[key] for row in rows for key in ("value", "low", "high") if row[key] is not None)]
    pad = 0.06 * ((max(ends) - min(ends)) or 1)
    scale = alt.Scale(domain=[min(ends) - pad, max(ends) + pad], nice=False, zero=False)
    x = alt.X("value:Q", title=title, scale=scale, axis=alt.Axis(tickCount=4, grid=True))
    drawn = []
    for index, panel in enumerate(panels):
        axis = alt.Axis(ticks=False, domain=False, labelLimit=220, labelColor=INK) if index == 0 else None
        y = alt.Y("row:N", sort=order, scale=alt.Scale(domain=order), title=None, axis=axis)
        base = chart([row for row in rows if row["panel"] == panel]).encode(y=y)
        zero = chart([{"middle": middle}]).mark_rule(aria=False, color=MUTED, strokeDash=[3, 2])
        zero = zero.encode(x=alt.X("middle:Q", scale=scale, title=title))
        line = base.mark_rule(aria=False, color=MARK, strokeWidth=2).encode(
            x=alt.X("low:Q", scale=scale, title=title), x2="high:Q"
        )
        dot = base.mark_circle(color=MARK, size=46, opacity=1).encode(x=x, description="words:N")
        width = 150 if len(panels) > 1 else 360
        drawn.append(
            alt.layer(zero, line, dot).properties(
                width=width, height=24 * len(order), title=alt.TitleParams(panel)
            )
        )
    return alt.hconcat(*drawn, spacing=18)


def by_length(figure: LengthProfile, sentence: str) -> Markup:
    """Correlations with each target inside bins of like length, with their intervals, short questions first."""
    panels = []
    for k, target in enumerate(figure.targets):
        panels.append(
            (short(target, 32), [(f"{count(b.low)} to {count(b.high)}", b.targets[k]) for b in figure.bins])
        )
    return intervals(panels, sentence, title="rank correlation")


def chart(rows: list[Row]) -> alt.Chart:
    """A chart of rows that are in it, not beside it."""
    return alt.Chart(alt.InlineData(values=rows))


def _sized(chart: alt.LayerChart, width: int, height: int) -> alt.LayerChart:
    return chart.properties(width=width, height=height)
