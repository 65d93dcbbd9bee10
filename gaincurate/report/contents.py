"""The document of a report as parts of paragraphs, tables and pictures.

The columns of tables are fields of the document, under the same names. Pictures are binned, or have one mark
per column, so no part grows with the number of rows. A terminal and a page show the same parts. The commands
that show predictions of difficulty use the tables of this module too.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from gaincurate.core.artifact import Json
from gaincurate.core.stats import Bin, Estimate
from gaincurate.difficulty.metrics import no_better_than_a_constant
from gaincurate.report.document import ENDS, ROUND, Document, GroupRate, Relation
from gaincurate.report.parts import Block, Heading, Legend, Part, Picture, number, records, seconds, signed
from gaincurate.report.plots import Curve, cloud, intervals, lines
from gaincurate.report.table import LENGTH
from gaincurate.report.verdict import alike, answer, likewise, mostly_groups, next_steps

CONTROLS = tuple(Relation.__annotations__)[2:-1]
"""The correlations of a `Relation`, from `overall` on."""
_MEASURES = (
    "accuracy", "effective", "mu", "drift", "training_seconds", "scoring_seconds", "completion_tokens",
)  # fmt: skip
_LISTED = 20  # groups that a terminal lists
_RANGE = (
    "Drawn prompts were all predicted near the target, so a correlation over them says little of the "
    "predictor; references are a random sample."
)
_BY_ROUND = (
    "round references rollouts rollout_seconds predict_seconds pearson ceiling brier brier_drawn "
    "p(1-p)_references p(1-p)_drawn"
)


def parts(document: Document) -> list[Part]:
    """All parts that have a table, a picture or facts."""
    made = [
        *([] if document.run is None else [_run(document.run)]),
        _length(document),
        _relations(document),
        _lifts(document),
        *([_outcomes(document)] if document.outcomes else []),
        _hygiene(document),
        _made(document),
    ]
    return [part for part in made if any(not isinstance(block, str) and block for block in part.blocks)]


def to_html(document: Document, explore: str | None = None) -> str:
    """The report as one HTML file; its texts are escaped, and the same document gives the same page.

    `explore` is the file of the page of every prompt, in the same folder, to link to.
    """
    from gaincurate.report.html import page  # needs an extra

    return page(
        "page.html.j2",
        document=document,
        explore=explore,
        verdicts=alike(document),
        answer=answer,
        likewise=likewise,
        mostly_groups=mostly_groups(document),
        steps=next_steps(document),
        parts=parts(document),
    )


def _run(run: Json) -> Part:
    by, rounds = "" if run["by"] is None else f" by {run['by']}", run["rounds"]
    blocks: list[Block] = [
        f"{run['folder']}: {run['strategy']}{by}, {len(rounds)} of {run['planned_rounds']:,} rounds, "
        f"{run['budget']:,} prompts each; {seconds(run['training_seconds'])} of training, "
        f"{seconds(run['scoring_seconds'])} of scoring"
    ]
    measured = {n: [(r["round"], r[n], None, None) for r in rounds if r[n] is not None] for n in _MEASURES}
    if curves := [Curve(name.replace("_", " "), points) for name, points in measured.items() if points]:
        listed = [f"{c.name} from {number(c.points[0][1])} to {number(c.points[-1][1])}" for c in curves]
        spec = lines(curves, ("round", ""), x=(-0.5, len(rounds) - 0.5), alike=False)
        blocks.append(Picture(spec, f"Round by round: {'; '.join(listed)}.", wide=True))
    caption = "Round by round; effective: with right and wrong rollouts"
    blocks += [records(caption, rounds, " ".join(ROUND)), *predictions(run["predictions"], rounds)]
    return Part("run", "The run", [*blocks, run["params"]])


def _length(document: Document) -> Part:
    pictures, rows = [], []
    for verdict, each in zip(document.verdicts, document.scatters, strict=True):
        sentence = f"{each.signal} against question tokens: rank correlation {signed(verdict.length.value)}."
        pictures.append(Picture(cloud(each), sentence, each.signal, f"{verdict.length.rows:,} rows"))
        figures = {"rank_correlation": verdict.length, "explained": verdict.explained}
        rows.append({"signal": verdict.signal, **figures})
    legend = Legend(
        "Each signal over the number of question tokens. Darker tiles hold more prompts. The solid line is "
        "the median of prompts of similar length, and the dashed lines are the quartiles. If the cloud is a "
        "narrow slope, sorting by the signal is sorting by length."
    )
    blocks: list[Block] = [legend, pictures]
    if rows:
        blocks.append(records("Rank correlation with length, and the share that length explains", rows))
    if shares := document.group_shares:
        columns = "column groups eta_squared by_chance"
        blocks.append(records("Share of each order that is the group", shares, columns))
    return Part("length", "Length and groups", blocks)


def _relations(document: Document) -> Part:
    blocks: list[Block] = [
        "Each signal's correlation with the targets, and the correlation that remains after controlling for "
        "length and groups. Only the remainder is a reason to compute the signal, because question length "
        "needs no model."
    ]
    for target in dict.fromkeys(relation.target for relation in document.relations):
        relations = [relation for relation in document.relations if relation.target == target]
        names = [name for name in CONTROLS if getattr(relations[0], name) is not None]
        panels = [
            (name.replace("_", " "), [(r.signal, getattr(r, name)) for r in relations]) for name in names
        ]
        # Length, which the other panels control for, is the last row.
        panels[0][1].append((LENGTH, relations[0].length))
        listed = "; ".join(
            f"{r.signal} {signed(r.overall.value)} overall, {signed(r.given_length.value)} given length"
            for r in relations
        )
        spec = intervals(panels, title="rank correlation")
        blocks += [
            Picture(spec, f"Rank correlations with {target}, with 95 % intervals: {listed}.", wide=True),
            records(f"rank correlation with {target}", relations, " ".join(["signal", *names, "length"])),
        ]
    return Part("relations", "What is left without length and groups", blocks)


def _lifts(document: Document) -> Part:
    blocks: list[Block] = [
        "GRPO learns nothing from a group of rollouts that are all right or all wrong; p (1 - p) measures "
        "how much a prompt can teach. The figures are its mean over the prompts at each end of a column "
        "and in the middle, divided by the mean of all prompts. At 1, selecting by the column is no "
        "better than random."
    ]
    for target in dict.fromkeys(lift.target for lift in document.lifts):
        lifts = [lift for lift in document.lifts if lift.target == target]
        ratios = {(lift.column, lift.end): lift.ratio for lift in lifts}
        names = list(dict.fromkeys(lift.column for lift in lifts))
        panels = [(end, [(name, ratios[name, end]) for name in names]) for end in ENDS]
        listed = "; ".join(f"{lift.column}, {lift.end} {number(lift.ratio.value)}" for lift in lifts)
        sentence = f"Mean {target} of the prompts at each end, divided by that of all: {listed}."
        rows = [{"column": name} | {f"{end}_tenth": ratios[name, end] for end in ENDS} for name in names]
        caption = f"Mean {target} of each tenth over that of a random tenth"
        spec = intervals(panels, middle=1.0, title="times the mean of all prompts")
        blocks += [Picture(spec, sentence, wide=True), records(caption, rows)]
    return Part("lifts", "What a batch would carry", blocks)


def _outcomes(document: Document) -> Part:
    caption = "The ceiling is the correlation that a perfect prediction would show, given so few rollouts"
    columns = "name prompts rollouts mean always never ceiling mean_variance"
    blocks: list[Block] = [records(caption, document.outcomes, columns)]
    for each in document.outcomes:
        left_out = f"; {each.unknown:,} of its prompts are not in this set" if each.unknown else ""
        blocks.append(" ".join([f"{each.name}: {each.source} from `{each.path}`{left_out}.", *each.notes]))
        if rates := [rate for rate in document.group_rates if rate.outcome == each.name]:
            blocks += groups(rates, document.about.group_column)
    return Part("outcomes", "Pass rates", blocks)


def groups(rates: list[GroupRate], column: str | None) -> list[Block]:
    """One policy's pass rates by group."""
    title, names = f"{rates[0].outcome} by {column}", "group prompts mean teaches variance"
    caption = f"{title}, the largest first; teaches: the share of prompts with both right and wrong rollouts"
    blocks: list[Block] = [records(caption, rates[:_LISTED], names)]
    if others := rates[_LISTED:]:
        blocks += [
            f"and {len(others):,} smaller ones (--json has all)",
            records(f"{title}, the smaller ones", others, names, detail=True),
        ]
    return blocks


def _hygiene(document: Document) -> Part:
    checks = document.hygiene
    blocks: list[Block] = [records("Checks", checks, "check rows share note", text="note")]
    for check in checks:
        if check.examples:
            shown = len(check.examples)
            more = f", {shown} of {check.rows:,}" if shown < check.rows else ""
            caption, names = f"{check.check}: examples{more}", "gc_id with text"
            blocks.append(records(caption, check.examples, names, left=["with"], text="text"))
    folder = shlex.quote(document.about.folder)
    text = f"Next: `gaincurate hygiene {folder}` makes all checks"
    if any(check.rows for check in checks):
        text += f", `gaincurate export {folder} --drop duplicates` leaves duplicates out"
    return Part("hygiene", "Hygiene: rows with something wrong", [*blocks, text])


def _made(document: Document) -> Part:
    names = ("folder", "manifest", "model", "site", "group_column", "group_how")
    facts = {name.replace("_", " "): getattr(document.about, name) or "none" for name in names}
    decided = [verdict for verdict in document.verdicts if verdict.estimate]
    caption = "The deciding correlation, at the confidence that holds for all comparisons together"
    table = records(caption, decided, "signal target estimate level looks", left=["target"])
    text = (
        "Correlations are Spearman's over the rows with both columns. Intervals are 95 % intervals over "
        "prompts, one at a time. gaincurate's documentation of `report` defines every figure."
    )
    meanings = {column.name: f"{column.meaning} ({column.made})" for column in document.columns}
    return Part("made", "How this was made", [*document.notes, text, table, meanings, facts], detail=True)


def predictions(facts: Json | None, rounds: Sequence[Json]) -> list[Block]:
    """The references of a run, their cost beside the trainer's, and calibration.

    `facts` are the `difficulty` of `schedule.observations.status`, None where nothing is predicted.
    """
    if facts is None or not facts["rounds"]:
        return []
    what, end, aim = "p (1 - p)", 0.25, "the largest p (1 - p)"
    if facts["target"] == "difficulty":
        what, end, aim = "failure rate", 1.0, f"a failure rate of {facts['target_difficulty']:g}"
    cost = facts["cost"]
    rollouts, tokens = (sum(row[name] or 0 for row in rounds) for name in ("rollouts", "completion_tokens"))
    rows = []
    for row in facts["rounds"]:
        of, drawn = row["on_halves"] or row["on_references"], row["on_drawn"] or {}
        figures = {name: of[name]["value"] for name in ("pearson", "ceiling", "brier")}
        figures |= {"brier_drawn": drawn.get("brier"), "p(1-p)_drawn": drawn.get("carried")}
        figures["p(1-p)_references"] = row["carried"]
        rows.append({**row, **figures, "references": f"{row['observed']:,} of {row['references']:,}"})
    newest, drawn = facts["rounds"][-1], facts["newest"]
    how = "each predicted from the others" if newest["on_halves"] is None else "one half from the other"
    title = f"round {newest['round']}: {what} of references, {how}"
    judged = [(title, newest["on_halves"] or newest["on_references"])]
    judged += [(f"round {drawn['round']}: {what} of drawn prompts", drawn)] if drawn else []
    return [
        Heading("What its predictions were worth"),
        f"The run aims at {aim}, predicted by {facts['predictor']}. Its references: {cost['rollouts']:,} "
        f"rollouts (the trainer's: {rollouts:,}), {cost['completion_tokens']:,} completion tokens (the "
        f"trainer's: {tokens:,}), {cost['rollout_seconds']:,.1f} s of rollouts, "
        f"{cost['predict_seconds']:,.1f} s of prediction. {_RANGE if drawn else ''}".rstrip(),
        records("Quality on references, and Brier score and p (1 - p) of drawn prompts", rows, _BY_ROUND),
        *quality(judged, what, end),
    ]


def quality(judged: Sequence[tuple[str, Json]], what: str, end: float = 1.0) -> list[Block]:
    """Tables of `difficulty.metrics.Quality` in its JSON form, with a warning where a constant is as good.

    `judged` has a title with each quality; `what` is predicted, in a range from 0 to `end`.
    """
    rows, reliabilities, warnings = [], list[Block](), list[Block]()
    for of, figures in judged:
        row: Json = {"of": of, "prompts": figures["count"]}
        for name in ("pearson", "ceiling", "spearman", "brier"):
            low, high = figures[name]["interval"] or (None, None)
            row[name] = Estimate(figures[name]["value"], low, high, figures["count"])
        rows.append(row | {"brier_of_mean": figures["brier_of_mean"]})
        if bins := [Bin(**entry) for entry in figures["reliability"]]:
            last = max(end, *(b.observed for b in bins))
            points = [(b.predicted, b.observed, None, None) for b in bins]
            curve = Curve(of, points, [(0, 0, None, None), (last, last, None, None)])
            sentence = f"{of}: predicted {what} against the observed one in {len(bins)} bins."
            spec = lines([curve], (f"predicted {what}", f"observed {what}"), x=(0, last))
            table = records(f"{of}, by what was predicted", bins, "low high count predicted observed")
            reliabilities += [Picture(spec, sentence), table]
        if len(rows) == 1 and (warning := no_better_than_a_constant(figures)) is not None:
            warnings.append(f"warning: {warning}")
    table = records("Quality; Pearson's correlation is to be read against the noise ceiling", rows)
    return [table, *warnings, *reliabilities]
