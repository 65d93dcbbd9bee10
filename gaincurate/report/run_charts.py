"""Charts of a run and of predictions against outcomes: takes figures, yields inline SVG pictures.

Knows nothing of the page around a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import altair as alt
from markupsafe import Markup

from gaincurate.report.drawing import MARK, MINUS, MUTED, SHORT, Row, chart, draw
from gaincurate.report.sections import Round, RunStory
from gaincurate.report.words import count, number, seconds, share
from gaincurate.stats import Bin

NOTHING = Markup("")
Series = tuple[str, str, Callable[[Round], float | None]]
Say = Callable[[float | None], str]


def shares(run: RunStory) -> Markup:
    """Accuracy and share of effective prompts."""
    return _lines(
        run,
        [("accuracy", MARK, lambda r: r.accuracy), ("effective prompts", MINUS, lambda r: r.effective)],
        title="share",
        said=share,
        domain=(0.0, 1.0),
    )


def aim(run: RunStory) -> Markup:
    """Where the strategy aimed, as a rank."""
    return _lines(run, [("mu", MARK, lambda r: r.mu)], title="mu, as a rank", said=number)


def drift(run: RunStory) -> Markup:
    """Rank correlation of a probe's new scores with the old ones."""
    found = [r.drift for r in run.rounds if r.drift is not None]
    if not found:
        return NOTHING
    return _lines(
        run,
        [("drift", MARK, lambda r: r.drift)],
        title="rank correlation",
        said=number,
        domain=(min(0.9, *found), 1.0),
    )


def cost(run: RunStory) -> Markup:
    """Wall time of training and scoring, one on the other."""
    parts = [
        ("training", MARK, lambda r: r.training_seconds),
        ("scoring", MINUS, lambda r: r.scoring_seconds),
    ]
    return _bars(run, parts, title="seconds", said=seconds)


def tokens(run: RunStory) -> Markup:
    """Tokens read and generated, one on the other."""
    parts = [
        ("generated", MARK, lambda r: r.completion_tokens),
        ("prompts", MINUS, lambda r: r.prompt_tokens),
    ]
    return _bars(run, parts, title="tokens", said=number)


def reliability(bins: Sequence[Bin], sentence: str, what: str = "failure rate", end: float = 1.0) -> Markup:
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
        known = [(r.round, value) for r in run.rounds if (value := of(r)) is not None]
        if known:
            (first, start), (last, end) = known[0], known[-1]
            parts.append(f"{name} {said(start)} in round {first} and {said(end)} in round {last}")
    return f"Round by round: {'; '.join(parts)}."
