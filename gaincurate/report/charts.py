"""Charts of columns and correlations: takes figures of the document, yields inline SVG pictures.

Everything drawn is binned, or one mark for each column: no picture grows with the number of rows. A strength
is an opacity and not a scale of colours: it reads the same in light and dark. Knows nothing of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import altair as alt
from markupsafe import Markup

from gaincurate.report.drawing import INK, MARK, MINUS, PAPER, PLUS, SHORT, Row, chart, draw, intervals
from gaincurate.report.figures import Cell, Distribution, LengthProfile, Scatter
from gaincurate.report.words import count, interval, labels, number, short, signed
from gaincurate.stats import Estimate


def histogram(figure: Distribution, sentence: str) -> Markup:
    """Bars for the bins of a column, with a line at the median."""
    rows = [
        {"low": low, "high": high, "rows": n, "words": f"{number(low)} to {number(high)}: {count(n)} rows"}
        for (low, high), n in zip(pairwise(figure.histogram.edges), figure.histogram.counts, strict=True)
    ]
    axis, scale = alt.Axis(grid=False, tickCount=5), alt.Scale(zero=False, nice=False)
    bars = chart(rows).mark_bar(color=MARK, binSpacing=0)
    bars = bars.encode(
        x=alt.X("low:Q", bin="binned", title=None, axis=axis, scale=scale),
        x2="high:Q",
        y=alt.Y("rows:Q", title="rows", axis=alt.Axis(tickCount=3, labelExpr=SHORT)),
        description="words:N",
    )
    median = figure.quantiles[len(figure.quantiles) // 2]
    line = chart([{"low": median, "words": f"median {number(median)}"}]).mark_rule(color=INK, strokeWidth=1.5)
    layers = alt.layer(bars, line.encode(x="low:Q", description="words:N"))
    return draw(layers.properties(width=300, height=120), sentence)


def density(figure: Scatter, sentence: str) -> Markup:
    """Rows over question length (log axis) and a signal, darker where there are more; quartiles as lines."""
    axis = alt.Axis(grid=False, tickCount=5)
    x_scale = alt.Scale(type="log", nice=False, domain=[figure.x_edges[0], figure.x_edges[-1]])
    y_scale = alt.Scale(zero=False, nice=False, domain=[figure.y_edges[0], figure.y_edges[-1]])
    tiles = chart(_tiles(figure)).mark_rect(aria=False, color=MARK)
    tiles = tiles.encode(
        x=alt.X("x0:Q", title="question tokens", scale=x_scale, axis=alt.Axis(grid=False, labelExpr=SHORT)),
        x2="x1:Q",
        y=alt.Y("y0:Q", title=short(figure.signal), scale=y_scale, axis=axis),
        y2="y1:Q",
        fillOpacity=alt.FillOpacity("strength:Q", scale=None, legend=None),
    )
    return draw(alt.layer(tiles, *_bands(figure)).properties(width=420, height=260), sentence)


def _tiles(figure: Scatter) -> list[Row]:
    most = max((n for column in figure.counts for n in column), default=0)
    return [
        # By the square root: a bin with a hundredth of the fullest bin's rows must still be seen. In steps:
        # all tiles of one strength become one shape.
        {"x0": x0, "x1": x1, "y0": y0, "y1": y1, "strength": 0.06 + 0.07 * round(12 * (n / most) ** 0.5)}
        for (x0, x1), column in zip(pairwise(figure.x_edges), figure.counts, strict=True)
        for (y0, y1), n in zip(pairwise(figure.y_edges), column, strict=True)
        if n
    ]


def _bands(figure: Scatter) -> list[alt.Chart]:
    """The median and the quartiles of the signal, length bin by length bin."""
    bins = zip(pairwise(figure.x_edges), figure.bands, strict=True)
    known = [((low * high) ** 0.5, band) for (low, high), band in bins if band.median is not None]
    lines = []
    for name, dash, width in (("low", [4, 3], 1.2), ("median", [1, 0], 2.0), ("high", [4, 3], 1.2)):
        line = chart([{"x0": x, "y0": getattr(band, name)} for x, band in known])
        line = line.mark_line(aria=False, color=INK, strokeDash=dash, strokeWidth=width)
        lines.append(line.encode(x="x0:Q", y="y0:Q"))
    return lines


def heat_map(columns: Sequence[str], cells: Sequence[Cell], sentence: str) -> Markup:
    """The matrix of correlations: colour says the sign, its strength the size; the number stands in it."""
    names = labels(columns, 24)
    known = {frozenset((cell.first, cell.second)): cell.correlation for cell in cells}
    pairs = [(i, j) for i in range(len(columns)) for j in range(i)]
    rows = [_tile(names[i], names[j], known.get(frozenset((columns[i], columns[j])))) for i, j in pairs]
    plain: Row = {"title": None, "sort": None}
    axis: Row = {"ticks": False, "domain": False, "grid": False, "labelLimit": 180}
    base = chart(rows).encode(
        x=alt.X("across:N", axis=alt.Axis(orient="bottom", labelAngle=-40, **axis), **plain),
        y=alt.Y("down:N", axis=alt.Axis(**axis), **plain),
    )
    tiles = base.mark_rect(stroke=PAPER, strokeWidth=2).encode(
        color=alt.Color("colour:N", scale=None),
        fillOpacity=alt.FillOpacity("strength:Q", scale=None),
        description="words:N",
    )
    text = base.mark_text(aria=False, fontSize=11).encode(text="label:N")
    steps = len(names) - 1
    return draw(alt.layer(tiles, text).properties(width=46 * steps, height=30 * steps), sentence)


def _tile(down: str, across: str, estimate: Estimate | None) -> Row:
    value = None if estimate is None else estimate.value
    between = "" if estimate is None else interval(estimate)
    words = f"{down} and {across}: {signed(value)}" + (f", 95 % interval {between}" if between else "")
    colour, strength = PLUS if (value or 0) >= 0 else MINUS, 0.04 + 0.56 * abs(value or 0)
    row: Row = {"down": down, "across": across, "label": signed(value), "words": words}
    return row | {"colour": colour, "strength": strength}


def by_length(figure: LengthProfile, sentence: str) -> Markup:
    """Correlations with each target inside bins of like length, short questions first, with intervals."""
    names = [f"{count(b.low)} to {count(b.high)}" for b in figure.bins]
    panels = [
        (title, [(name, b.targets[k]) for name, b in zip(names, figure.bins, strict=True)])
        for k, title in enumerate(labels(figure.targets, 24))
    ]
    return intervals(panels, sentence, title="rank correlation")
