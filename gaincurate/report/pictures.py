"""Which pictures a report has: takes a document, yields them, each with the sentence that says what it shows.

Knows no markup but the pictures' own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar, cast

from markupsafe import Markup

from gaincurate.report import charts, run_charts
from gaincurate.report.document import Document
from gaincurate.report.drawing import intervals
from gaincurate.report.figures import ENDS, Calibration, Distribution, LengthProfile, Lift, Relation, Scatter
from gaincurate.report.sections import Against, Foresight, Predictions, RunStory
from gaincurate.report.words import count, number, signed, spoken
from gaincurate.stats import Estimate

CONTROLS = (
    ("overall", "overall"),
    ("given_length", "given length"),
    ("within_length_bins", "within like length"),
    ("within_groups", "within groups"),
    ("given_length_within_groups", "given length, within groups"),
    ("within_length_bins_and_groups", "within both"),
)
"""The fields of `Relation` that are shown, with the names that a reader sees."""

NOTHING = Markup("")
T = TypeVar("T", Relation, Lift)


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
    profiles: list[Markup]
    calibrations: list[Markup]
    against: list[Markup]
    rounds: dict[str, Markup]
    foresight: list[Markup]


def pictures(document: Document) -> Pictures:
    """Draw all of them."""
    about = document.about
    told = document.run.predictions if document.run else None
    return Pictures(
        distributions=[_distribution(figure) for figure in document.distributions],
        scatters=[_scatter(figure) for figure in document.scatters],
        matrix=_matrix(document),
        relations={
            t: _relations(t, rows, about.length_column) for t, rows in by_target(document.relations).items()
        },
        lifts={t: _lifts(t, rows) for t, rows in by_target(document.lifts).items()},
        profiles=[_profile(figure) for figure in document.profiles],
        calibrations=[_calibration(figure) for figure in document.calibrations],
        against=[_against(other) for other in document.against],
        rounds=_rounds(document.run) if document.run else {},
        foresight=[_foresight(told, one) for one in told.found] if told else [],
    )


def by_target(figures: Iterable[T]) -> dict[str, list[T]]:
    """Figures of one target together, in the document's order."""
    found: dict[str, list[T]] = {}
    for figure in figures:
        found.setdefault(figure.target, []).append(figure)
    return found


def by_group(relations: Iterable[Relation]) -> list[tuple[str, int, list[Estimate]]]:
    """Groups in their order, each with the most rows that a relation has there and every relation's estimate.

    Relations are of different rows, so one may lack a group that another has.
    """
    found: list[dict[str, Estimate]] = [
        {one.group: one.correlation for one in relation.groups} for relation in relations
    ]
    names = dict.fromkeys(name for groups in sorted(found, key=len, reverse=True) for name in groups)
    missing = Estimate(None, None, None, 0)
    each = [(name, [groups.get(name, missing) for groups in found]) for name in names]
    return [(name, max(one.rows for one in own), own) for name, own in each]


def controls(relation: Relation) -> list[tuple[str, Estimate]]:
    """What is shown of a relation, with the reader's name for each; those without groups leave two out."""
    found = [(name, cast("Estimate | None", getattr(relation, field))) for field, name in CONTROLS]
    return [(name, estimate) for name, estimate in found if estimate is not None]


def _distribution(figure: Distribution) -> Markup:
    if not figure.quantiles:
        return NOTHING
    low, median, high = (number(figure.quantiles[i]) for i in (3, 4, 5))
    sentence = (
        f"Histogram of {figure.column}: {count(figure.rows)} rows, median {median}, middle half from {low} "
        f"to {high}."
    )
    return charts.histogram(figure, sentence)


def _scatter(figure: Scatter) -> Markup:
    if not figure.counts:
        return NOTHING
    bands = [band.median for band in figure.bands if band.median is not None]
    sentence = f"{figure.signal} against question tokens: rank correlation {spoken(figure.correlation)}."
    if len(bands) > 1:
        sentence += f" The median of short questions is {number(bands[0])}, of long ones {number(bands[-1])}."
    return charts.density(figure, sentence)


def _matrix(document: Document) -> Markup:
    names = [column.name for column in document.columns]
    known = [cell for cell in document.matrix if cell.correlation.value is not None]
    if len(names) < 2 or not known:
        return NOTHING
    strongest = max(known, key=lambda cell: abs(cell.correlation.value or 0))
    sentence = (
        f"Rank correlations of {len(names)} columns with each other. The strongest: {strongest.first} and "
        f"{strongest.second}, {signed(strongest.correlation.value)}."
    )
    return charts.heat_map(names, document.matrix, sentence)


def _relations(target: str, relations: list[Relation], length: str) -> Markup:
    rows = [(relation.signal, controls(relation)) for relation in relations]
    panels = [
        (name, [(signal, found[i][1]) for signal, found in rows]) for i, (name, _) in enumerate(rows[0][1])
    ]
    # The control stands below the signals; it is what the other panels hold fast.
    panels[0][1].append((length, relations[0].length))
    said = [
        f"{signal} {signed(found[0][1].value)} overall, {signed(found[1][1].value)} given length"
        for signal, found in rows
    ]
    sentence = f"Rank correlations with {target}, with 95 % intervals: {'; '.join(said)}."
    return intervals(panels, sentence, title="rank correlation")


def _lifts(target: str, lifts: list[Lift]) -> Markup:
    panels = [(end, [(x.column, x.ratio) for x in lifts if x.end == end]) for end in ENDS]
    said = "; ".join(f"{x.column}, {x.end} {number(x.ratio.value)}" for x in lifts)
    sentence = (
        f"Mean {target} of the prompts at each end, divided by that of all: {said}. Random picks have 1."
    )
    return intervals(panels, sentence, middle=1.0, title="times the mean of all prompts")


def _profile(figure: LengthProfile) -> Markup:
    bins = [b for b in figure.bins if any(target.value is not None for target in b.targets)]
    if not bins or not figure.targets:
        return NOTHING
    said = []
    for k, target in enumerate(figure.targets):
        values = [b.targets[k].value for b in bins]
        known = [value for value in values if value is not None]
        if known:
            said.append(f"with {target} from {signed(min(known))} to {signed(max(known))}")
    sentence = (
        f"Rank correlation of {figure.signal} inside {len(bins)} bins of like length: {'; '.join(said)}."
    )
    return charts.by_length(figure, sentence)


def _calibration(figure: Calibration) -> Markup:
    if not figure.bins:
        return NOTHING
    sentence = (
        f"Predicted failure rates ({figure.column}) against observed ones ({figure.outcome}) in "
        f"{len(figure.bins)} bins; mean squared difference {number(figure.brier.value)}."
    )
    return run_charts.reliability(figure.bins, sentence)


def _foresight(predictions: Predictions, found: Foresight) -> Markup:
    if not found.bins:
        return NOTHING
    what, end = ("failure rate", 1.0) if predictions.target == "difficulty" else ("p (1 - p)", 0.25)
    sentence = (
        f"Predicted {what} against the observed one in round {found.round}, {found.of}: "
        f"{len(found.bins)} bins, mean squared difference {number(found.brier.value)}."
    )
    return run_charts.reliability(found.bins, sentence, what, end)


def _against(other: Against) -> Markup:
    rows = [(stability.signal, stability.correlation) for stability in other.signals]
    if not any(estimate.value is not None for _, estimate in rows):
        return NOTHING
    said = "; ".join(f"{name} {signed(estimate.value, 3)}" for name, estimate in rows)
    sentence = f"Rank correlation of each signal with itself in {other.folder}: {said}."
    return intervals([("", rows)], sentence, middle=1.0, title="rank correlation between the two sets")


def _rounds(run: RunStory) -> dict[str, Markup]:
    drawn = {
        "accuracy": run_charts.shares(run),
        "mu": run_charts.aim(run),
        "drift": run_charts.drift(run),
        "cost": run_charts.cost(run),
        "tokens": run_charts.tokens(run),
    }
    return {name: picture for name, picture in drawn.items() if picture}
