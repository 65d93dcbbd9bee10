"""The report as one HTML file: the document, its pictures and the advice, filled into the templates.

The same document gives the same page.

Everything drawn is binned, or has one mark per column, so no picture grows with the number of rows. A
strength is an opacity and not a scale of colours, because that reads the same in light and dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TypeVar, cast

import altair as alt
import jinja2
from markupsafe import Markup

from gaincurate.core.stats import Bin, Estimate
from gaincurate.report.document import (
    ENDS,
    QUANTILES,
    Against,
    Calibration,
    Cell,
    Distribution,
    Document,
    Foresight,
    LengthProfile,
    Lift,
    Predictions,
    Relation,
    Scatter,
    Tenths,
)
from gaincurate.report.formatting import (
    count,
    interval,
    labels,
    number,
    share,
    short,
    signed,
    spoken,
)
from gaincurate.report.html import environment
from gaincurate.report.run_pictures import rounds
from gaincurate.report.svg import (
    INK,
    MARK,
    MINUS,
    MUTED,
    NOTHING,
    PAPER,
    PLUS,
    SHORT,
    Row,
    chart,
    draw,
    intervals,
)
from gaincurate.report.verdict_text import alike, answer, mostly_groups, next_steps, together

CONTROLS = (
    ("overall", "overall"),
    ("given_length", "given length"),
    ("within_length_bins", "within like length"),
    ("within_groups", "within groups"),
    ("given_length_within_groups", "given length, within groups"),
    ("within_length_bins_and_groups", "within both"),
)
"""The fields of `Relation` that are shown, with the names that a reader sees."""
_MEDIAN = QUANTILES.index(0.5)  # its neighbours are the quartiles
T = TypeVar("T", Relation, Lift, Tenths)


def to_html(document: Document, explore: str | None = None) -> str:
    """The whole page.

    Args:
        document: its texts come from data; each is escaped, and characters without a shape are written out.
        explore: the page of every prompt beside this one, to link to.
    """
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            document=document,
            explore=explore,
            # What is worth a trial comes first; the rest stays in the set's order.
            verdicts=alike(document),
            pictures=pictures(document),
            mostly_groups=mostly_groups(document),
            steps=next_steps(document),
            relations=by_target(document.relations),
            lifts=by_target(document.lifts),
            tenths=by_target(document.tenths),
        )
    )


@cache
def _templates() -> jinja2.Environment:
    templates = environment("gaincurate.report", controls=controls, groups=by_group)
    templates.globals.update(answer=answer, together=together, levels=QUANTILES)
    return templates


@dataclass(frozen=True, slots=True)
class Pictures:
    """Every picture of a report; a list is as long as the document's list of the same figures.

    An empty text stands where there is nothing to draw.
    """

    distributions: list[Markup]
    scatters: list[Markup]
    matrix: Markup
    relations: dict[str, Markup]
    lifts: dict[str, Markup]
    tenths: dict[str, Markup]
    groups: dict[str, Markup]
    profiles: list[Markup]
    calibrations: list[Markup]
    against: list[Markup]
    rounds: dict[str, Markup]
    foresight: list[Markup]


def pictures(document: Document) -> Pictures:
    """Draw all of them."""
    about = document.about
    predictions = document.run.predictions if document.run else None
    return Pictures(
        distributions=[_distribution(figure) for figure in document.distributions],
        scatters=[_scatter(figure) for figure in document.scatters],
        matrix=_matrix(document),
        relations={
            t: _relations(t, rows, about.length_column) for t, rows in by_target(document.relations).items()
        },
        lifts={t: _lifts(t, rows) for t, rows in by_target(document.lifts).items()},
        tenths={t: _tenths(t, rows) for t, rows in by_target(document.tenths).items()},
        groups={outcome.name: _groups(document, outcome.name) for outcome in document.outcomes},
        profiles=[_profile(figure) for figure in document.profiles],
        calibrations=[_calibration(figure) for figure in document.calibrations],
        against=[_against(other) for other in document.against],
        rounds=rounds(document.run) if document.run else {},
        foresight=[_foresight(predictions, of) for of in predictions.found] if predictions else [],
    )


def by_target(figures: Iterable[T]) -> dict[str, list[T]]:
    """Figures of one target together, in the document's order."""
    by_name: dict[str, list[T]] = {}
    for figure in figures:
        by_name.setdefault(figure.target, []).append(figure)
    return by_name


def by_group(relations: Iterable[Relation]) -> list[tuple[str, int, list[Estimate]]]:
    """Groups in their order, each with the most rows that a relation has there and every relation's estimate.

    Relations are of different rows, so one may lack a group that another has.
    """
    by_relation: list[dict[str, Estimate]] = [
        {estimate.group: estimate.correlation for estimate in relation.groups} for relation in relations
    ]
    names = dict.fromkeys(name for groups in sorted(by_relation, key=len, reverse=True) for name in groups)
    missing = Estimate(None, None, None, 0)
    each = [(name, [groups.get(name, missing) for groups in by_relation]) for name in names]
    return [(name, max(estimate.rows for estimate in estimates), estimates) for name, estimates in each]


def controls(relation: Relation) -> list[tuple[str, Estimate]]:
    """What is shown of a relation, with the reader's name for each; those without groups leave two out."""
    shown = [(name, cast("Estimate | None", getattr(relation, field))) for field, name in CONTROLS]
    return [(name, estimate) for name, estimate in shown if estimate is not None]


def _distribution(figure: Distribution) -> Markup:
    """Bars for the bins of a column, with a line at the median."""
    if not figure.quantiles:
        return NOTHING
    low, median, high = (number(figure.quantiles[_MEDIAN + i]) for i in (-1, 0, 1))
    sentence = (
        f"Histogram of {figure.column}: {count(figure.rows)} rows, median {median}, middle half from {low} "
        f"to {high}."
    )
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
    mark = chart([{"low": figure.quantiles[_MEDIAN], "words": f"median {median}"}])
    line = mark.mark_rule(color=INK, strokeWidth=1.5)
    layers = alt.layer(bars, line.encode(x="low:Q", description="words:N"))
    return draw(layers.properties(width=300, height=120), sentence)


def _scatter(figure: Scatter) -> Markup:
    """Rows over question length (log axis) and a signal, or tiles where they are many; quartiles as lines."""
    if not figure.counts:
        return NOTHING
    bands = [band.median for band in figure.bands if band.median is not None]
    sentence = f"{figure.signal} against question tokens: rank correlation {spoken(figure.correlation)}."
    if len(bands) > 1:
        sentence += f" The median of short questions is {number(bands[0])}, of long ones {number(bands[-1])}."
    axis = alt.Axis(grid=False, tickCount=5)
    x_scale = alt.Scale(type="log", nice=False, domain=[figure.x_edges[0], figure.x_edges[-1]])
    y_scale = alt.Scale(zero=False, nice=False, domain=[figure.y_edges[0], figure.y_edges[-1]])
    x = alt.X("x0:Q", title="question tokens", scale=x_scale, axis=alt.Axis(grid=False, labelExpr=SHORT))
    y = alt.Y("y0:Q", title=short(figure.signal), scale=y_scale, axis=axis)
    if figure.points:
        tiles = chart([{"x0": length, "y0": value} for length, value in figure.points])
        # Squares and not circles: those of one colour become one shape, with a fifth of the bytes.
        tiles = tiles.mark_rect(aria=False, color=MARK, width=3, height=3)
        tiles = tiles.encode(x=x, y=y, fillOpacity=alt.value(0.55))
    else:
        strength = alt.FillOpacity("strength:Q", scale=None, legend=None)
        tiles = chart(_tiles(figure)).mark_rect(aria=False, color=MARK)
        tiles = tiles.encode(x=x, x2="x1:Q", y=y, y2="y1:Q", fillOpacity=strength)
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
    medians = [((low * high) ** 0.5, band) for (low, high), band in bins if band.median is not None]
    lines = []
    for name, dash, width in (("low", [4, 3], 1.2), ("median", [1, 0], 2.0), ("high", [4, 3], 1.2)):
        line = chart([{"x0": x, "y0": getattr(band, name)} for x, band in medians])
        line = line.mark_line(aria=False, color=INK, strokeDash=dash, strokeWidth=width)
        lines.append(line.encode(x="x0:Q", y="y0:Q"))
    return lines


def _matrix(document: Document) -> Markup:
    names = [column.name for column in document.columns]
    defined = [cell for cell in document.matrix if cell.correlation.value is not None]
    if len(names) < 2 or not defined:
        return NOTHING
    strongest = max(defined, key=lambda cell: abs(cell.correlation.value or 0))
    sentence = (
        f"Rank correlations of {len(names)} columns with each other. The strongest: {strongest.first} and "
        f"{strongest.second}, {signed(strongest.correlation.value)}."
    )
    return _heat_map(names, document.matrix, sentence)


def _heat_map(columns: Sequence[str], cells: Sequence[Cell], sentence: str) -> Markup:
    """The matrix of correlations: colour says the sign, its strength the size; the number stands in it."""
    names = labels(columns, 24)
    correlations = {frozenset((cell.first, cell.second)): cell.correlation for cell in cells}
    pairs = [(i, j) for i in range(len(columns)) for j in range(i)]
    rows = [
        _tile(names[i], names[j], correlations.get(frozenset((columns[i], columns[j])))) for i, j in pairs
    ]
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


def _relations(target: str, relations: list[Relation], length: str) -> Markup:
    rows = [(relation.signal, controls(relation)) for relation in relations]
    panels = [
        (name, [(signal, estimates[i][1]) for signal, estimates in rows])
        for i, (name, _) in enumerate(rows[0][1])
    ]
    # The control stands below the signals; it is what the other panels hold fast.
    panels[0][1].append((length, relations[0].length))
    parts = [
        f"{signal} {signed(estimates[0][1].value)} overall, {signed(estimates[1][1].value)} given length"
        for signal, estimates in rows
    ]
    sentence = f"Rank correlations with {target}, with 95 % intervals: {'; '.join(parts)}."
    return intervals(panels, sentence, title="rank correlation")


def _lifts(target: str, lifts: list[Lift]) -> Markup:
    panels = [(end, [(x.column, x.ratio) for x in lifts if x.end == end]) for end in ENDS]
    parts = "; ".join(f"{x.column}, {x.end} {number(x.ratio.value)}" for x in lifts)
    sentence = (
        f"Mean {target} of the prompts at each end, divided by that of all: {parts}. Random picks have 1."
    )
    return intervals(panels, sentence, middle=1.0, title="times the mean of all prompts")


def _tenths(target: str, figures: list[Tenths]) -> Markup:
    """A panel for each column: the mean of each of its tenths with its interval, and the mean of all."""
    ends = [e for f in figures for t in f.tenths for e in (t.value, t.low, t.high) if e is not None]
    scale = alt.Scale(domain=[min(0.0, *ends), max(0.25, *ends)], nice=False)
    panels = []
    for figure, name in zip(figures, labels([figure.column for figure in figures], 26), strict=True):
        rows = [
            {
                "tenth": k + 1,
                "value": t.value,
                "low": t.low,
                "high": t.high,
                "words": f"{name}, tenth {k + 1}: {number(t.value)}",
            }
            for k, t in enumerate(figure.tenths)
        ]
        y: Row = {"scale": scale, "title": None, "axis": alt.Axis(tickCount=4)}
        x = alt.X("tenth:O", title=None, axis=alt.Axis(labelAngle=0, ticks=False))
        line = chart([{"middle": figure.mean}]).mark_rule(aria=False, color=MUTED, strokeDash=[3, 2])
        span = chart(rows).mark_rule(aria=False, color=MARK, strokeWidth=1.5)
        dots = chart(rows).mark_circle(color=MARK, size=34, opacity=1)
        layers = alt.layer(
            line.encode(y=alt.Y("middle:Q", **y)),
            span.encode(x=x, y=alt.Y("low:Q", **y), y2="high:Q"),
            dots.encode(x=x, y=alt.Y("value:Q", **y), description="words:N"),
        )
        panels.append(layers.properties(title=alt.TitleParams(name, anchor="start"), width=190, height=110))
    parts = "; ".join(
        f"{f.column} {number(f.tenths[0].value)} in its lowest, {number(f.tenths[-1].value)} in its highest"
        for f in figures
    )
    return draw(
        alt.concat(*panels, columns=4, spacing=22), f"Mean {target} by the tenth of each column: {parts}."
    )


_RATES = ("never", "to ¼", "to ½", "to ¾", "below 1", "always")
_PANELS = 12


def _groups(document: Document, outcome: str) -> Markup:
    """A panel for each of the largest groups: the share of its prompts by how often they were right."""
    rates = [rate for rate in document.group_rates if rate.outcome == outcome and rate.counts][:_PANELS]
    if not rates:
        return NOTHING
    panels = []
    for rate, name in zip(rates, labels([rate.group for rate in rates], 26), strict=True):
        rows = [
            {
                "rate": label,
                "share": n / rate.prompts,
                "colour": MARK if 0 < k < len(_RATES) - 1 else MINUS,
                "words": f"{name}, {label}: {count(n)} of {count(rate.prompts)} prompts",
            }
            for k, (label, n) in enumerate(zip(_RATES, rate.counts, strict=True))
        ]
        axis = alt.Axis(tickCount=3, format="%")
        bars = (
            chart(rows)
            .mark_bar()
            .encode(
                x=alt.X("rate:N", sort=None, title=None, axis=alt.Axis(labelAngle=-40, ticks=False)),
                y=alt.Y("share:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=axis),
                color=alt.Color("colour:N", scale=None),
                description="words:N",
            )
        )
        title = alt.TitleParams(f"{name} ({count(rate.prompts)})", anchor="start")
        panels.append(bars.properties(title=title, width=190, height=90))
    parts = "; ".join(f"{rate.group} mean {share(rate.mean)}" for rate in rates)
    return draw(
        alt.concat(*panels, columns=4, spacing=18), f"Pass rates in each of {len(rates)} groups: {parts}."
    )


def _profile(figure: LengthProfile) -> Markup:
    """Correlations with each target inside bins of like length, short questions first, with intervals."""
    bins = [b for b in figure.bins if any(target.value is not None for target in b.targets)]
    if not bins or not figure.targets:
        return NOTHING
    parts = []
    for k, target in enumerate(figure.targets):
        values = [b.targets[k].value for b in bins]
        defined = [value for value in values if value is not None]
        if defined:
            parts.append(f"with {target} from {signed(min(defined))} to {signed(max(defined))}")
    sentence = (
        f"Rank correlation of {figure.signal} inside {len(bins)} bins of like length: {'; '.join(parts)}."
    )
    names = [f"{count(b.low)} to {count(b.high)}" for b in figure.bins]
    panels = [
        (title, [(name, b.targets[k]) for name, b in zip(names, figure.bins, strict=True)])
        for k, title in enumerate(labels(figure.targets, 24))
    ]
    return intervals(panels, sentence, title="rank correlation")


def _calibration(figure: Calibration) -> Markup:
    if not figure.bins:
        return NOTHING
    sentence = (
        f"Predicted failure rates ({figure.column}) against observed ones ({figure.outcome}) in "
        f"{len(figure.bins)} bins; mean squared difference {number(figure.brier.value)}."
    )
    return _reliability(figure.bins, sentence)


def _foresight(predictions: Predictions, foresight: Foresight) -> Markup:
    if not foresight.bins:
        return NOTHING
    what, end = ("failure rate", 1.0) if predictions.target == "difficulty" else ("p (1 - p)", 0.25)
    sentence = (
        f"Predicted {what} against the observed one in round {foresight.round}, {foresight.of}: "
        f"{len(foresight.bins)} bins, mean squared difference {number(foresight.brier.value)}."
    )
    return _reliability(foresight.bins, sentence, what, end)


def _reliability(bins: Sequence[Bin], sentence: str, what: str = "failure rate", end: float = 1.0) -> Markup:
    """Observed over predicted values from 0 to `end`; the same on the dashed line."""
    most = max(b.count for b in bins)
    rows = [
        {
            "predicted": b.predicted,
            "observed": b.observed,
            "size": 20 + 220 * b.count / most,
            "words": f"predicted {share(b.predicted)}, was {share(b.observed)}, {count(b.count)} prompts",
        }
        for b in bins
    ]
    end = max(end, *(b.observed for b in bins))
    scale = alt.Scale(domain=[0, end], nice=False)
    x = alt.X("predicted:Q", title=f"predicted {what}", scale=scale, axis=alt.Axis(tickCount=5))
    y = alt.Y("observed:Q", title=f"observed {what}", scale=scale, axis=alt.Axis(tickCount=5))
    even = chart([{"predicted": 0, "observed": 0}, {"predicted": end, "observed": end}])
    dots = chart(rows)
    layers = [
        even.mark_line(aria=False, color=MUTED, strokeDash=[3, 3], strokeWidth=1).encode(x=x, y=y),
        dots.mark_line(aria=False, color=MARK, strokeWidth=1.5).encode(x=x, y=y),
        dots.mark_circle(color=MARK, opacity=1).encode(
            x=x, y=y, size=alt.Size("size:Q", scale=None), description="words:N"
        ),
    ]
    return draw(alt.layer(*layers).properties(width=300, height=300), sentence)


def _against(other: Against) -> Markup:
    rows = [(stability.signal, stability.correlation) for stability in other.signals]
    if not any(estimate.value is not None for _, estimate in rows):
        return NOTHING
    parts = "; ".join(f"{name} {signed(estimate.value, 3)}" for name, estimate in rows)
    sentence = f"Rank correlation of each signal with itself in {other.folder}: {parts}."
    return intervals([("", rows)], sentence, middle=1.0, title="rank correlation between the two sets")
