"""The pictures of a run, round by round, for its section of the page.

They stand apart from the page's other pictures because a run is about rounds and those are about columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import altair as alt
from markupsafe import Markup

from gaincurate.report.document import Round, RunStory
from gaincurate.report.formatting import number, seconds, share
from gaincurate.report.svg import MARK, MINUS, NOTHING, SHORT, Row, chart, draw

Series = tuple[str, str, Callable[[Round], float | None]]
Say = Callable[[float | None], str]


def rounds(run: RunStory) -> dict[str, Markup]:
    """The pictures of a run by name, without those that have nothing to show."""
    drawn = {
        "accuracy": _shares(run),
        "mu": _aim(run),
        "drift": _drift(run),
        "cost": _cost(run),
        "tokens": _tokens(run),
    }
    return {name: picture for name, picture in drawn.items() if picture}


def _shares(run: RunStory) -> Markup:
    """Accuracy and share of effective prompts."""
    return _lines(
        run,
        [("accuracy", MARK, lambda r: r.accuracy), ("effective prompts", MINUS, lambda r: r.effective)],
        title="share",
        said=share,
        domain=(0.0, 1.0),
    )


def _aim(run: RunStory) -> Markup:
    """Where the strategy aimed, as a rank."""
    return _lines(run, [("mu", MARK, lambda r: r.mu)], title="mu, as a rank", said=number)


def _drift(run: RunStory) -> Markup:
    """Rank correlation of a probe's new scores with the old ones."""
    drifts = [r.drift for r in run.rounds if r.drift is not None]
    if not drifts:
        return NOTHING
    return _lines(
        run,
        [("drift", MARK, lambda r: r.drift)],
        title="rank correlation",
        said=number,
        domain=(min(0.9, *drifts), 1.0),
    )


def _cost(run: RunStory) -> Markup:
    """Wall time of training and scoring, one on the other."""
    parts = [
        ("training", MARK, lambda r: r.training_seconds),
        ("scoring", MINUS, lambda r: r.scoring_seconds),
    ]
    return _bars(run, parts, title="seconds", said=seconds)


def _tokens(run: RunStory) -> Markup:
    """Tokens read and generated, one on the other."""
    parts = [
        ("generated", MARK, lambda r: r.completion_tokens),
        ("prompts", MINUS, lambda r: r.prompt_tokens),
    ]
    return _bars(run, parts, title="tokens", said=number)


def _lines(
    run: RunStory,
    series: Sequence[Series],
    *,
    title: str,
    said: Say,
    domain: tuple[float, float] | None = None,
) -> Markup:
    rows = _rows(run, series, said)
    if not rows:
        return NOTHING
    scale = alt.Scale(domain=list(domain), nice=False) if domain else alt.Scale(zero=False)
    base = chart(rows).encode(
        x=_round_axis(run),
        y=alt.Y("value:Q", title=title, scale=scale, axis=alt.Axis(tickCount=4)),
        color=_colour(series),
    )
    dots = base.mark_circle(size=30, opacity=1).encode(description="words:N")
    drawn = alt.layer(base.mark_line(aria=False, strokeWidth=2), dots).properties(width=400, height=150)
    return draw(drawn, _sentence(run, series, said))


def _bars(run: RunStory, series: Sequence[Series], *, title: str, said: Say) -> Markup:
    rows = _rows(run, series, said)
    if not rows:
        return NOTHING
    # A bar for each round: wide with few rounds, a hairline with hundreds.
    bars = (
        chart(rows)
        .mark_bar(size=max(1, min(24, 300 // len(run.rounds))))
        .encode(
            x=_round_axis(run),
            y=alt.Y("value:Q", title=title, stack=True, axis=alt.Axis(tickCount=4, labelExpr=SHORT)),
            color=_colour(series),
            # The first series lies at the bottom.
            order=alt.Order("place:Q"),
            description="words:N",
        )
    )
    return draw(bars.properties(width=400, height=150), _sentence(run, series, said))


def _rows(run: RunStory, series: Sequence[Series], said: Say) -> list[Row]:
    return [
        {
            "round": r.round,
            "value": value,
            "series": name,
            "place": place,
            "words": f"round {r.round}: {name} {said(value)}",
        }
        for place, (name, _, of) in enumerate(series)
        for r in run.rounds
        if (value := of(r)) is not None
    ]


def _round_axis(run: RunStory) -> alt.X:
    last = max((r.round for r in run.rounds), default=0)
    scale = alt.Scale(domain=[-0.5, last + 0.5], nice=False)
    ticks = alt.Axis(grid=False, tickMinStep=1, format="d", tickCount=min(8, last + 1))
    return alt.X("round:Q", title="round", scale=scale, axis=ticks)


def _colour(series: Sequence[Series]) -> alt.Color:
    names, colours = [name for name, _, _ in series], [colour for _, colour, _ in series]
    legend = alt.Legend(orient="top", title=None) if len(series) > 1 else None
    return alt.Color("series:N", scale=alt.Scale(domain=names, range=colours), legend=legend)


def _sentence(run: RunStory, series: Sequence[Series], said: Say) -> str:
    parts = []
    for name, _, of in series:
        points = [(r.round, value) for r in run.rounds if (value := of(r)) is not None]
        if points:
            (first, start), (last, end) = points[0], points[-1]
            parts.append(f"{name} {said(start)} in round {first} and {said(end)} in round {last}")
    return f"Round by round: {'; '.join(parts)}."
