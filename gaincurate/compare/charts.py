"""Pictures of a comparison: takes its document, yields inline SVG, each with a sentence that says it.

Every arm has a panel of its own with the baseline in grey behind it: nine curves in one panel cannot be told
apart. Knows nothing of the page around a picture.
"""

from __future__ import annotations

import altair as alt
from markupsafe import Markup

from gaincurate.core.artifact import Json
from gaincurate.report.charts import SHORT, Row, chart, intervals
from gaincurate.report.drawing import MARK, MINUS, MUTED, draw
from gaincurate.report.figures import Estimate
from gaincurate.report.words import count, labels, seconds, signed

NOTHING = Markup("")
Points = list[tuple[float, float, float | None, float | None]]
"""Of a curve: x, y, and the ends of the interval of y."""
PARTS = (("training", MARK), ("references", MINUS), ("scoring", MUTED), ("rescoring", "var(--some)"))
"""What an arm pays for, and the colours."""


def curves(found: Json, over: str) -> Markup:
    """Held-out accuracy over `tokens` or `seconds`, with the intervals of each arm alone."""
    made = {
        arm["arm"]: [(m[over], m["accuracy"], *(m["interval"] or (None, None))) for m in arm["curve"]]
        for arm in found["arms"]
    }
    title = "generated tokens" if over == "tokens" else "seconds"
    ends = ", ".join(f"{name} ends at {100 * points[-1][1]:.1f} %" for name, points in made.items())
    return _multiples(found, made, (title, "held-out accuracy"), f"Held-out accuracy over {title}: {ends}.")


def over_training(found: Json, name: str, title: str) -> Markup:
    """A share that each tenth of the budget has, such as that of effective prompts."""
    budget = found["setting"]["budget_tokens"]
    made: dict[str, Points] = {
        arm["arm"]: [
            (part["until"] * budget, part[name], None, None)
            for part in arm["training"]["parts"]
            if part[name] is not None
        ]
        for arm in found["arms"]
    }
    if not any(made.values()):
        return NOTHING
    ends = ", ".join(f"{arm} from {p[0][1]:.2f} to {p[-1][1]:.2f}" for arm, p in made.items() if p)
    return _multiples(found, made, ("generated tokens", title), f"{title} over training: {ends}.")


def _multiples(found: Json, made: dict[str, Points], titles: tuple[str, str], sentence: str) -> Markup:
    baseline = found["setting"]["baseline"]
    names = dict(zip(made, labels(list(made), 30), strict=True))
    every = [value for points in made.values() for _, *values in points for value in values]
    known = [value for value in every if value is not None]
    pad = 0.04 * ((max(known) - min(known)) or 1)
    y_scale = alt.Scale(domain=[max(0.0, min(known) - pad), max(known) + pad], nice=False, zero=False)
    x_scale = alt.Scale(domain=[0, max(x for points in made.values() for x, *_ in points)], nice=False)
    panels = []
    for place, (arm, points) in enumerate(made.items()):
        first, below = place % 3 == 0, place >= len(made) - 3
        y_axis = alt.Axis(tickCount=4, labels=first, ticks=first)
        y: Row = {"scale": y_scale, "title": titles[1] if first else None, "axis": y_axis}
        x_axis = alt.Axis(tickCount=3, labelExpr=SHORT, grid=False)
        x: Row = {"scale": x_scale, "title": titles[0] if below else None, "axis": x_axis}
        layers = [] if arm == baseline else [_line(made[baseline], MUTED, x, y)]
        layers += [_band(points, x, y), _line(points, MARK, x, y), _dots(points, names[arm], x, y)]
        title = alt.TitleParams(names[arm])
        panels.append(alt.layer(*layers).properties(width=220, height=120, title=title))
    return draw(alt.concat(*panels, columns=3, spacing=20), sentence)


def _line(points: Points, colour: str, x: Row, y: Row) -> alt.Chart:
    dashes = [4, 3] if colour == MUTED else [1, 0]
    line = chart([{"x": p[0], "y": p[1]} for p in points])
    drawn = line.mark_line(aria=False, color=colour, strokeWidth=2, strokeDash=dashes)
    found: alt.Chart = drawn.encode(x=alt.X("x:Q", **x), y=alt.Y("y:Q", **y))
    return found


def _dots(points: Points, name: str, x: Row, y: Row) -> alt.Chart:
    rows = [{"x": p[0], "y": p[1], "words": f"{name}: {p[1]:.3f} at {count(round(p[0]))}"} for p in points]
    dots = chart(rows).mark_circle(color=MARK, size=26, opacity=1)
    found: alt.Chart = dots.encode(x=alt.X("x:Q", **x), y=alt.Y("y:Q", **y), description="words:N")
    return found


def _band(points: Points, x: Row, y: Row) -> alt.Chart:
    rows = [{"x": p[0], "low": p[2], "high": p[3]} for p in points if p[2] is not None]
    band = chart(rows).mark_area(aria=False, color=MARK, opacity=0.18)
    found: alt.Chart = band.encode(x=alt.X("x:Q", **x), y=alt.Y("low:Q", **y), y2="high:Q")
    return found


def final(found: Json) -> Markup:
    """Final differences with the intervals that hold for all arms together, in right answers of 100."""
    panels = []
    for key, name in (
        ("difference", found["setting"]["baseline"]),
        ("against_length", found["setting"]["second"]),
    ):
        rows = [(arm["arm"], _estimate(arm[key], found)) for arm in found["arms"] if arm[key]]
        if rows:
            panels.append((f"against {name}", rows))
    if not panels:
        return NOTHING
    said = ", ".join(f"{name} {signed(e.value, 1)}" for name, e in panels[0][1])
    return intervals(
        panels, f"Right answers of 100 {panels[0][0]}: {said}.", title="right answers of 100, difference"
    )


def _estimate(difference: Json, found: Json) -> Estimate:
    low, high = difference["joint"] or (None, None)
    points = [None if value is None else 100 * value for value in (difference["value"], low, high)]
    return Estimate(points[0], points[1], points[2], found["setting"]["prompts"])


def costs(found: Json) -> Markup:
    """What every arm spent its tokens on."""
    names = labels([arm["arm"] for arm in found["arms"]], 30)
    parts = ["re-scoring" if part == "rescoring" else part for part, _ in PARTS]
    rows = [
        {
            "arm": name,
            "part": said,
            "place": place,
            "value": arm["cost"][part],
            "words": f"{name}, {said}: {count(round(arm['cost'][part]))} tokens",
        }
        for name, arm in zip(names, found["arms"], strict=True)
        for place, (said, (part, _)) in enumerate(zip(parts, PARTS, strict=True))
        if arm["cost"][part]
    ]
    scale = alt.Scale(domain=parts, range=[colour for _, colour in PARTS])
    bars = (
        chart(rows)
        .mark_bar(size=14)
        .encode(
            x=alt.X("value:Q", title="tokens", stack=True, axis=alt.Axis(tickCount=4, labelExpr=SHORT)),
            y=_rows_axis(names),
            color=alt.Color("part:N", scale=scale, legend=alt.Legend(orient="top", title=None)),
            order=alt.Order("place:Q"),
            description="words:N",
        )
    )
    shares = [arm["cost"]["training"] / arm["cost"]["tokens"] for arm in found["arms"]]
    own = ", ".join(f"{name} {100 * share:.0f} %" for name, share in zip(names, shares, strict=True))
    return _bars(bars, len(names), f"The share of its tokens that an arm's own training got: {own}.")


def times(found: Json) -> Markup:
    """Seconds to the last mark."""
    names = labels([arm["arm"] for arm in found["arms"]], 30)
    rows = [
        {"arm": name, "value": arm["cost"]["seconds"], "words": f"{name}: {seconds(arm['cost']['seconds'])}"}
        for name, arm in zip(names, found["arms"], strict=True)
    ]
    bars = (
        chart(rows)
        .mark_bar(size=14, color=MARK)
        .encode(
            x=alt.X("value:Q", title="seconds", axis=alt.Axis(tickCount=4, labelExpr=SHORT)),
            y=_rows_axis(names),
            description="words:N",
        )
    )
    said = ", ".join(f"{row['words']}" for row in rows)
    return _bars(bars, len(names), f"Seconds of an arm with one seed: {said}.")


def _rows_axis(names: list[str]) -> alt.Y:
    axis = alt.Axis(ticks=False, domain=False, labelLimit=240)
    return alt.Y("arm:N", scale=alt.Scale(domain=names), title=None, axis=axis)


def _bars(bars: alt.Chart, rows: int, sentence: str) -> Markup:
    return draw(bars.properties(width=300, height=24 * rows), sentence)
