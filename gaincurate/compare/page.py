"""A comparison as one HTML file, with its pictures. The same document gives the same page.

Every arm has a panel of its own with the baseline in grey, because nine curves in one panel cannot be told
apart.
"""

from __future__ import annotations

from typing import Any

import altair as alt
from markupsafe import Markup

from gaincurate.compare.verdict_text import reached_at
from gaincurate.core.artifact import Json
from gaincurate.core.stats import Estimate
from gaincurate.report import formatting
from gaincurate.report.formatting import count, labels, seconds, signed
from gaincurate.report.html import environment
from gaincurate.report.svg import MARK, MINUS, MUTED, NOTHING, SHORT, Row, chart, draw, intervals

_TONES = {"better": "yes", "worse": "no"}
Points = list[tuple[float, float, float | None, float | None]]
"""Of a curve: x, y, and the ends of the interval of y."""
PARTS = (("training", MARK), ("references", MINUS), ("scoring", MUTED), ("rescoring", "var(--some)"))
"""What an arm pays for, and the colours."""


def to_html(document: Json) -> str:
    """The whole page.

    Args:
        document: as `document.document` makes it; its texts are escaped.
    """
    return (
        environment("gaincurate.compare")
        .get_template("compare.html.j2")
        .render(
            document=document,
            setting=document["setting"],
            arms=document["arms"],
            pictures=_pictures(document),
            facts=_facts(document["setting"]),
            task_names=sorted(
                {task for arm in document["arms"] for task in (arm["drawn"] or {}).get("tasks") or ()}
            ),
            reached_at=reached_at,
            tone=lambda arm: _TONES.get((arm["difference"] or {}).get("answer", ""), "unknown"),
            points=points,
            span=span,
        )
    )


def points(value: float | None) -> str:
    """A difference of shares as right answers of 100."""
    return formatting.signed(None if value is None else 100 * value, 1)


def span(ends: list[float] | None) -> str:
    """The ends of an interval of `points`; empty where there is none."""
    return "" if ends is None else f"{points(ends[0])} to {points(ends[1])}"


def _pictures(document: Json) -> dict[str, Any]:
    return {
        "tokens": curves(document, "tokens"),
        "seconds": curves(document, "seconds"),
        "final": final(document),
        "effective": over_training(document, "effective", "effective prompts"),
        "reward": over_training(document, "reward", "mean reward"),
        "costs": costs(document),
        "times": times(document),
    }


def _facts(setting: Json) -> dict[str, Any]:
    """What all arms share, by the names of the settings."""
    apart = ("arms", "evaluation", "train", "tune")
    comparison = setting["comparison"]
    plain = {name: value for name, value in comparison.items() if name not in apart and value is not None}
    judged = {name: value for name, value in comparison["evaluation"].items() if value is not None}
    return {
        **plain,
        "model": setting["model"],
        **{f"train.{name}": value for name, value in comparison["train"].items()},
        **{f"evaluation.{name}": value for name, value in judged.items()},
        **{f"manifest of {name}": value for name, value in (setting["sets"] or {}).items()},
    }


def curves(document: Json, over: str) -> Markup:
    """Held-out accuracy over `tokens` or `seconds`, with the intervals of each arm alone."""
    by_arm = {
        arm["arm"]: [(m[over], m["accuracy"], *(m["interval"] or (None, None))) for m in arm["curve"]]
        for arm in document["arms"]
    }
    title = "generated tokens" if over == "tokens" else "seconds"
    ends = ", ".join(f"{name} ends at {100 * points[-1][1]:.1f} %" for name, points in by_arm.items())
    return _multiples(
        document, by_arm, (title, "held-out accuracy"), f"Held-out accuracy over {title}: {ends}."
    )


def over_training(document: Json, name: str, title: str) -> Markup:
    """A share that each tenth of the budget has, such as that of effective prompts."""
    budget = document["setting"]["budget_tokens"]
    by_arm: dict[str, Points] = {
        arm["arm"]: [
            (part["until"] * budget, part[name], None, None)
            for part in arm["training"]["parts"]
            if part[name] is not None
        ]
        for arm in document["arms"]
    }
    if not any(by_arm.values()):
        return NOTHING
    ends = ", ".join(f"{arm} from {p[0][1]:.2f} to {p[-1][1]:.2f}" for arm, p in by_arm.items() if p)
    return _multiples(document, by_arm, ("generated tokens", title), f"{title} over training: {ends}.")


def _multiples(document: Json, by_arm: dict[str, Points], titles: tuple[str, str], sentence: str) -> Markup:
    baseline = document["setting"]["baseline"]
    names = dict(zip(by_arm, labels(list(by_arm), 30), strict=True))
    every = [value for points in by_arm.values() for _, *values in points for value in values]
    present = [value for value in every if value is not None]
    pad = 0.04 * ((max(present) - min(present)) or 1)
    y_scale = alt.Scale(domain=[max(0.0, min(present) - pad), max(present) + pad], nice=False, zero=False)
    x_scale = alt.Scale(domain=[0, max(x for points in by_arm.values() for x, *_ in points)], nice=False)
    panels = []
    for place, (arm, points) in enumerate(by_arm.items()):
        first, below = place % 3 == 0, place >= len(by_arm) - 3
        y_axis = alt.Axis(tickCount=4, labels=first, ticks=first)
        y: Row = {"scale": y_scale, "title": titles[1] if first else None, "axis": y_axis}
        x_axis = alt.Axis(tickCount=3, labelExpr=SHORT, grid=False)
        x: Row = {"scale": x_scale, "title": titles[0] if below else None, "axis": x_axis}
        layers = [] if arm == baseline else [_line(by_arm[baseline], MUTED, x, y)]
        layers += [_band(points, x, y), _line(points, MARK, x, y), _dots(points, names[arm], x, y)]
        title = alt.TitleParams(names[arm])
        panels.append(alt.layer(*layers).properties(width=220, height=120, title=title))
    return draw(alt.concat(*panels, columns=3, spacing=20), sentence)


def _line(points: Points, colour: str, x: Row, y: Row) -> alt.Chart:
    dashes = [4, 3] if colour == MUTED else [1, 0]
    line = chart([{"x": p[0], "y": p[1]} for p in points])
    drawn = line.mark_line(aria=False, color=colour, strokeWidth=2, strokeDash=dashes)
    layer: alt.Chart = drawn.encode(x=alt.X("x:Q", **x), y=alt.Y("y:Q", **y))
    return layer


def _dots(points: Points, name: str, x: Row, y: Row) -> alt.Chart:
    rows = [{"x": p[0], "y": p[1], "words": f"{name}: {p[1]:.3f} at {count(round(p[0]))}"} for p in points]
    dots = chart(rows).mark_circle(color=MARK, size=26, opacity=1)
    layer: alt.Chart = dots.encode(x=alt.X("x:Q", **x), y=alt.Y("y:Q", **y), description="words:N")
    return layer


def _band(points: Points, x: Row, y: Row) -> alt.Chart:
    rows = [{"x": p[0], "low": p[2], "high": p[3]} for p in points if p[2] is not None]
    band = chart(rows).mark_area(aria=False, color=MARK, opacity=0.18)
    layer: alt.Chart = band.encode(x=alt.X("x:Q", **x), y=alt.Y("low:Q", **y), y2="high:Q")
    return layer


def final(document: Json) -> Markup:
    """Final differences with the intervals that hold for all arms together, in right answers of 100."""
    panels = []
    for key, name in (
        ("difference", document["setting"]["baseline"]),
        ("against_length", document["setting"]["second"]),
        ("against_control", "its own control"),
    ):
        rows = [(arm["arm"], _estimate(arm[key], document)) for arm in document["arms"] if arm[key]]
        if rows:
            panels.append((f"against {name}", rows))
    if not panels:
        return NOTHING
    parts = ", ".join(f"{name} {signed(e.value, 1)}" for name, e in panels[0][1])
    return intervals(
        panels, f"Right answers of 100 {panels[0][0]}: {parts}.", title="right answers of 100, difference"
    )


def _estimate(difference: Json, document: Json) -> Estimate:
    low, high = difference["joint"] or (None, None)
    points = [None if value is None else 100 * value for value in (difference["value"], low, high)]
    return Estimate(points[0], points[1], points[2], document["setting"]["prompts"])


def costs(document: Json) -> Markup:
    """What every arm spent its tokens on."""
    names = labels([arm["arm"] for arm in document["arms"]], 30)
    parts = ["re-scoring" if part == "rescoring" else part for part, _ in PARTS]
    rows = [
        {
            "arm": name,
            "part": spent_on,
            "place": place,
            "value": arm["cost"][part],
            "words": f"{name}, {spent_on}: {count(round(arm['cost'][part]))} tokens",
        }
        for name, arm in zip(names, document["arms"], strict=True)
        for place, (spent_on, (part, _)) in enumerate(zip(parts, PARTS, strict=True))
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
    shares = [arm["cost"]["training"] / max(arm["cost"]["tokens"], 1) for arm in document["arms"]]
    parts_of_training = ", ".join(
        f"{name} {100 * share:.0f} %" for name, share in zip(names, shares, strict=True)
    )
    return _bars(
        bars, len(names), f"The share of its tokens that an arm's own training got: {parts_of_training}."
    )


def times(document: Json) -> Markup:
    """Seconds to the last mark."""
    names = labels([arm["arm"] for arm in document["arms"]], 30)
    rows = [
        {"arm": name, "value": arm["cost"]["seconds"], "words": f"{name}: {seconds(arm['cost']['seconds'])}"}
        for name, arm in zip(names, document["arms"], strict=True)
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
    parts = ", ".join(f"{row['words']}" for row in rows)
    return _bars(bars, len(names), f"Seconds of an arm with one seed: {parts}.")


def _rows_axis(names: list[str]) -> alt.Y:
    axis = alt.Axis(ticks=False, domain=False, labelLimit=240)
    return alt.Y("arm:N", scale=alt.Scale(domain=names), title=None, axis=axis)


def _bars(bars: alt.Chart, rows: int, sentence: str) -> Markup:
    return draw(bars.properties(width=300, height=24 * rows), sentence)
