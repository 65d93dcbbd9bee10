"""The document of a report as parts of paragraphs, tables and pictures.

The columns of tables are the fields of the document, by their names there. Everything drawn is binned, or has
one mark per column, so no part grows with the number of rows. A terminal and a page show the same parts below
the same sentences.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from gaincurate.core.artifact import Json
from gaincurate.report.document import (
    ENDS,
    QUANTILES,
    ROUND,
    Document,
    GroupRate,
    Lift,
    Relation,
    Tenths,
)
from gaincurate.report.formatting import count, number, seconds, share, signed
from gaincurate.report.lift import PREDICTED
from gaincurate.report.parts import Block, Legend, Part, Picture, Table, cell, figure, records
from gaincurate.report.plots import (
    MARK,
    MINUS,
    MUTED,
    PAPER,
    Curve,
    bars,
    cloud,
    histogram,
    intervals,
    lines,
)
from gaincurate.report.predictions import predictions, reliability
from gaincurate.report.verdict_text import alike, answer, likewise, mostly_groups, next_steps

CONTROLS = (
    "overall", "given_length", "within_length_bins", "within_groups", "given_length_within_groups",
    "within_length_bins_and_groups",
)  # fmt: skip
"""The fields of `Relation` that are shown."""
_MEASURES = (
    "accuracy",
    "effective",
    "mu",
    "drift",
    "training_seconds",
    "scoring_seconds",
    "completion_tokens",
)
_MEDIAN = QUANTILES.index(0.5)  # its neighbours are the quartiles
_RATES = {
    "never": MINUS,
    **{
        name: f"color-mix(in srgb, {MARK} {part}%, {PAPER})"
        for name, part in (("to ¼", 30), ("to ½", 55), ("to ¾", 80), ("below 1", 100))
    },
    "always": MUTED,
}
"""Of prompts by their pass rate; only the blue ones teach."""
_BARS, _LISTED = 12, 20  # groups that are drawn, and that a terminal lists
T = TypeVar("T", Relation, Lift, Tenths)


def parts(document: Document) -> list[Part]:
    """All parts, without those that have nothing to show."""
    made = [
        *([] if document.run is None else [_run(document.run)]),
        _columns(document),
        _length(document),
        _matrix(document),
        _relations(document),
        _lifts(document),
        _profiles(document),
        _outcomes(document),
        _calibrations(document),
        _against(document),
        _prompts(document),
        _hygiene(document),
        _made(document),
    ]
    return [part for part in made if any(not isinstance(block, str) and block for block in part.blocks)]


def to_html(document: Document, explore: str | None = None) -> str:
    """The report as one HTML file. The same document gives the same page.

    Args:
        document: its texts come from data; each is escaped, and characters without a shape are written out.
        explore: the page of every prompt beside this one, to link to.
    """
    from gaincurate.report.html import environment  # needs an extra

    texts = {"answer": answer, "likewise": likewise, "mostly_groups": mostly_groups(document)}
    return (
        environment("gaincurate.report")
        .get_template("page.html.j2")
        .render(
            document=document,
            explore=explore,
            verdicts=alike(document),
            steps=next_steps(document),
            parts=parts(document),
            **texts,
        )
    )


def by_target(figures: Iterable[T]) -> dict[str, list[T]]:
    """Figures of one target together, in the document's order."""
    by_name: dict[str, list[T]] = {}
    for each in figures:
        by_name.setdefault(each.target, []).append(each)
    return by_name


def _run(run: Json) -> Part:
    by, rounds = "" if run["by"] is None else f" by {run['by']}", run["rounds"]
    blocks: list[Block] = [
        f"{run['folder']}: {run['strategy']}{by}, {len(rounds)} of {count(run['planned_rounds'])} rounds, "
        f"{count(run['budget'])} prompts each; {seconds(run['training_seconds'])} of training, "
        f"{seconds(run['scoring_seconds'])} of scoring"
    ]
    curves = []
    for name in _MEASURES:
        if points := [(r["round"], r[name], None, None) for r in rounds if r[name] is not None]:
            curves.append(Curve(name.replace("_", " "), points))
    if curves:
        listed = [f"{c.name} from {number(c.points[0][1])} to {number(c.points[-1][1])}" for c in curves]
        spec = lines(curves, ("round", ""), x=(-0.5, len(rounds) - 0.5), alike=False)
        blocks.append(Picture(spec, f"Round by round: {'; '.join(listed)}.", wide=True))
    blocks.append(
        records("Round by round; effective: with right and wrong rollouts", rounds, " ".join(ROUND))
    )
    return Part("run", "The run", [*blocks, *predictions(run["predictions"], rounds), run["params"]])


def _columns(document: Document) -> Part:
    pictures, rows = [], []
    for each in document.distributions:
        if each.quantiles:
            low, median, high = (number(each.quantiles[_MEDIAN + i]) for i in (-1, 0, 1))
            bins, outside = each.histogram, each.histogram.below + each.histogram.above
            spec = histogram(bins.edges, bins.counts, each.quantiles[_MEDIAN])
            sentence = f"Histogram of {each.column}: median {median}, middle half from {low} to {high}."
            note = f"{count(each.rows)} rows" + (f"; {count(outside)} beyond the edges" if outside else "")
            pictures.append(Picture(spec, sentence, each.column, note))
            quantiles = map(number, [*each.quantiles, each.mean])
            rows.append(
                [each.column, count(each.rows), count(each.missing), *quantiles, count(each.distinct)]
            )
    head = ["column", "rows", "missing", *map(share, QUANTILES), "mean", "distinct"]
    table = Table("Quantiles: the value below which each share of the prompts lies", head, rows)
    text = Legend("Distribution of each column's values. The vertical line is the median.")
    meanings = {column.name: f"{column.meaning} ({column.made})" for column in document.columns}
    return Part("distributions", "Distributions", [text, pictures, table, meanings])


def _length(document: Document) -> Part:
    correlations = {verdict.signal: verdict.length for verdict in document.verdicts}
    pictures = []
    for each in document.scatters:
        if each.counts:
            note = f"{count(each.correlation.rows)} rows"
            note += f"; {count(each.outside)} beyond the edges" if each.outside else ""
            sentence = (
                f"{each.signal} against question tokens: rank correlation {signed(each.correlation.value)}."
            )
            spec = cloud(each.signal, each.points, each.x_edges, each.y_edges, each.counts, each.bands)
            pictures.append(Picture(spec, sentence, each.signal, note))
    rows = [
        [each.signal, figure(correlations[each.signal]), share(each.explained)]
        for each in document.profiles
        if each.signal in correlations
    ]
    text = Legend(
        "Each signal over the number of question tokens. A point is a prompt; from 2,000 prompts on, darker "
        "tiles hold more prompts. The solid line is the median of prompts of similar length, and the dashed "
        "lines are the quartiles. If the cloud is a narrow slope, sorting by the signal is sorting by length."
    )
    head = ["signal", "rank correlation", "explained by length"]
    shares = records(
        f"Share of each order that is {document.about.group_column}",
        document.group_shares,
        "column groups rows eta_squared by_chance",
    )
    tables = [table for table in (Table("Rank correlation with length", head, rows), shares) if table.rows]
    return Part("length", "Length and groups", [text, pictures, *tables])


def _matrix(document: Document) -> Part:
    text = "Spearman's rank correlation of each pair of columns: +1 is the same order, -1 the reverse."
    rows = [[c.first, c.second, figure(c.correlation), count(c.correlation.rows)] for c in document.matrix]
    table = Table("All correlations", ["column", "and", "correlation", "rows"], rows, left=["and"])
    return Part("matrix", "All correlations", [text, table], detail=True)


def _relations(document: Document) -> Part:
    blocks: list[Block] = [
        "Each signal's correlation with the targets, and the correlation that remains after controlling for "
        "length and groups. Only the remainder is a reason to compute the signal, because question length "
        "needs no model."
    ]
    for target, relations in by_target(document.relations).items():
        names = [name for name in CONTROLS if getattr(relations[0], name) is not None]
        panels = [
            (name.replace("_", " "), [(r.signal, getattr(r, name)) for r in relations]) for name in names
        ]
        # The control stands below the signals; it is what the other panels hold fast.
        panels[0][1].append((document.about.length_column, relations[0].length))
        listed = "; ".join(
            f"{r.signal} {signed(r.overall.value)} overall, {signed(r.given_length.value)} given length"
            for r in relations
        )
        spec = intervals(panels, title="rank correlation")
        inside = [
            [r.signal, g.group, figure(g.correlation), count(g.correlation.rows)]
            for r in relations
            for g in r.groups
        ]
        blocks += [
            Picture(spec, f"Rank correlations with {target}, with 95 % intervals: {listed}.", wide=True),
            records(f"rank correlation with {target}", relations, " ".join(["signal", *names, "length"])),
        ]
        if inside:
            head = ["signal", "group", "correlation", "rows"]
            blocks.append(Table(f"Inside groups: {target}", head, inside, left=["group"], detail=True))
    return Part("relations", "What is left without length and groups", blocks)


def _lifts(document: Document) -> Part:
    blocks: list[Block] = [
        "GRPO learns nothing from a group of rollouts that are all right or all wrong; p (1 - p) measures "
        "how much a prompt can teach. The figures are its mean over the prompts at each end of a column "
        "and in the middle, divided by the mean of all prompts. At 1, selecting by the column is no "
        "better than random."
    ]
    for target, lifts in by_target(document.lifts).items():
        ratios = {(lift.column, lift.end): lift.ratio for lift in lifts}
        names = list(dict.fromkeys(lift.column for lift in lifts))
        panels = [
            (end, [(name, ratios[name, end]) for name in names if (name, end) in ratios]) for end in ENDS
        ]
        listed = "; ".join(f"{lift.column}, {lift.end} {number(lift.ratio.value)}" for lift in lifts)
        sentence = f"Mean {target} of the prompts at each end, divided by that of all: {listed}."
        rows = [[name, *(cell("ratio", ratios.get((name, end))) for end in ENDS)] for name in names]
        caption = f"Mean {target} of each tenth over that of a random tenth"
        blocks += [
            Picture(
                intervals(panels, middle=1.0, title="times the mean of all prompts"), sentence, wide=True
            ),
            Table(caption, ["column", *(f"{end} tenth" for end in ENDS)], rows),
        ]
        if PREDICTED in names:
            blocks.append(
                f"{PREDICTED}: the selection of `difficulty predict --target variance` among up to 256 of "
                "these prompts, each predicted from the half of them without it."
            )
    for target, tenths in by_target(document.tenths).items():
        blocks += _tenths(target, tenths)
    return Part("lifts", "What a batch would carry", blocks)


def _tenths(target: str, figures: list[Tenths]) -> list[Block]:
    curves = [
        Curve(
            each.column,
            [(k, t.value or 0.0, t.low, t.high) for k, t in enumerate(each.tenths, 1)],
            [(1, each.mean, None, None), (len(each.tenths), each.mean, None, None)],
        )
        for each in figures
    ]
    listed = "; ".join(
        f"{each.column} {number(each.tenths[0].value)} in its lowest, {number(each.tenths[-1].value)} in "
        "its highest"
        for each in figures
    )
    rows = [
        [each.column, str(k), number(low), number(high), count(tenth.rows), cell("tenth", tenth)]
        for each in figures
        for k, (low, high, tenth) in enumerate(zip(each.low, each.high, each.tenths, strict=True), 1)
    ]
    caption = f"Mean {target} by tenth, lowest values first; the dashed line is the mean of all"
    head = ["column", "tenth", "from", "to", "prompts", "mean"]
    spec = lines(curves, ("tenth", ""), columns=4, x=(0.5, 10.5))
    picture = Picture(spec, f"Mean {target} by the tenth of each column: {listed}.", wide=True)
    return [picture, Table(caption, head, rows, detail=True)]


def _profiles(document: Document) -> Part:
    blocks: list[Block] = [
        "The prompts in bins of similar length, short ones first. A signal with information beyond length "
        "has correlations inside the bins too."
    ]
    for each in document.profiles:
        names = [f"{count(b.low)} to {count(b.high)}" for b in each.bins]
        rows = [
            [
                name,
                count(b.rows),
                *(map(number, b.quartiles) if b.quartiles else [""] * 3),
                *map(figure, b.targets),
            ]
            for name, b in zip(names, each.bins, strict=True)
        ]
        head = ["question tokens", "rows", "lower quartile", "median", "upper quartile", *each.targets]
        blocks.append(Table(f"{each.signal} in bins of like length", head, rows, detail=True))
    return Part("profiles", "Within like length", blocks, detail=True)


def _outcomes(document: Document) -> Part:
    blocks: list[Block] = []
    for each in document.outcomes:
        left_out = f"; {count(each.unknown)} of its prompts are not in this set" if each.unknown else ""
        blocks.append(" ".join([f"{each.name}: {each.source} from `{each.path}`{left_out}.", *each.notes]))
        if rates := [rate for rate in document.group_rates if rate.outcome == each.name]:
            blocks += groups(rates, document.about.group_column)
    caption = "The ceiling is the correlation that a perfect prediction would show, given so few rollouts"
    table = records(
        caption, document.outcomes, "name prompts rollouts mean always never ceiling mean_variance"
    )
    return Part("outcomes", "Pass rates", [table, *blocks] if blocks else [])


def groups(rates: list[GroupRate], column: str | None) -> list[Block]:
    """One policy's pass rates by group."""
    drawn = [rate for rate in rates if rate.counts][:_BARS]
    rows = [
        (each.group, {name: n / each.prompts for name, n in zip(_RATES, each.counts, strict=True)})
        for each in drawn
    ]
    listed = "; ".join(f"{each.group} mean {share(each.mean)}" for each in drawn)
    title = f"{rates[0].outcome} by {column}"
    picture = Picture(
        bars(rows, _RATES, "share of prompts"), f"Pass rates in {len(drawn)} groups: {listed}.", title
    )
    caption = f"{title}, the largest first; teaches: the share of prompts with both right and wrong rollouts"
    names, others = "group prompts mean teaches variance", rates[_LISTED:]
    blocks: list[Block] = [picture, records(caption, rates[:_LISTED], names)]
    if others:
        blocks += [
            f"and {count(len(others))} smaller ones (--json has all)",
            records(f"{title}, the smaller ones", others, names, detail=True),
        ]
    return blocks


def _calibrations(document: Document) -> Part:
    text = Legend("Predicted failure rates against observed ones. On the dashed line they are equal.")
    names = "column outcome pearson spearman brier brier_of_mean"
    quality = records("Quality of predictions", document.calibrations, names, left=["outcome"])
    each_one = [
        reliability(f"{c.column}, {c.outcome}", "failure rate", c.bins) for c in document.calibrations
    ]
    blocks = [block for blocks in each_one for block in blocks]
    return Part("calibration", "Calibration of predictions", [text, quality, *blocks] if blocks else [])


def _against(document: Document) -> Part:
    blocks: list[Block] = [
        "The same prompts scored with other settings. An order that changes with the dtype or between "
        "checkpoints reflects noise, or one moment of the training."
    ]
    for other in document.against:
        caption = (
            f"against {other.folder}: {count(other.shared)} rows in both, {count(other.only_here)} only "
            f"here, {count(other.only_there)} only there"
        )
        blocks.append(records(caption, other.signals, "signal correlation top_shared top_by_chance"))
        if other.differences:
            blocks.append(
                records("Settings that differ", other.differences, "key here there", left=["here", "there"])
            )
    return Part("stability", "Stability of the order", blocks)


def _prompts(document: Document) -> Part:
    blocks: list[Block] = ["The prompts with the highest, median and lowest values of each signal."]
    for ends in document.ends:
        rows = [
            [place, number(p.value, 4), count(p.question_tokens), p.group or "", p.text + " [cut]" * p.cut]
            for place in ("top", "middle", "bottom")
            for p in getattr(ends, place)
        ]
        head = ["place", "value", "tokens", "group", "question"]
        blocks.append(
            Table(f"Prompts by {ends.signal}", head, rows, left=["group"], text="question", detail=True)
        )
    return Part("prompts", "Prompts at the top, in the middle and at the bottom", blocks, detail=True)


def _hygiene(document: Document) -> Part:
    checks = document.hygiene
    blocks: list[Block] = [records("Checks", checks, "check rows share note", text="note")]
    for check in checks:
        if check.examples:
            more = (
                f", {len(check.examples)} of {count(check.rows)}" if len(check.examples) < check.rows else ""
            )
            blocks.append(
                records(
                    f"{check.check}: examples{more}",
                    check.examples,
                    "gc_id match text",
                    left=["match"],
                    text="text",
                )
            )
    dirty = ",".join(check.check for check in checks if check.rows)
    text = "No check reports a row. Checks that are not in this table were not run."
    if dirty:
        text = (
            "Next, with the same options: `gaincurate hygiene DIR --list FILE` lists every row, "
            f"`gaincurate export DIR --drop {dirty}` leaves them out"
        )
    return Part("hygiene", "Hygiene: rows with something wrong", [*blocks, text])


def _made(document: Document) -> Part:
    about = document.about
    names = (
        "folder",
        "manifest",
        "model",
        "site",
        "prompt_column",
        "length_column",
        "group_column",
        "group_how",
    )
    facts = {name.replace("_", " "): getattr(about, name) or "none" for name in names}
    sizes = {f"rows of {name}": count(rows) for name, rows in about.group_sizes.items()}
    decided = [verdict for verdict in document.verdicts if verdict.estimate]
    caption = "The deciding correlation, at the confidence that holds for all comparisons together"
    table = records(caption, decided, "signal target estimate level looks", left=["target"])
    methods = {name.replace("_", " "): text for name, text in document.methods.items()}
    blocks: list[Block] = [*document.notes, table, methods, facts | sizes | about.settings]
    return Part("made", "How this was made", blocks, detail=True)
