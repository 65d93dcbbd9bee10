"""The rules that turn the figures of a signal into a verdict; the sentences are in `verdict_text`.

A signal tells more than length and groups only if two intervals exclude 0 on the same side: that of its
correlation with a target given length, and that inside bins of like length. Both are inside groups where
there are any. Their level is the one at which all looks together are right 95 % of the time, because some
of many signals looks good by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from gaincurate.core.stats import LEVEL, Estimate
from gaincurate.report.document import GroupShare, Kind, Lift, Relation
from gaincurate.report.relations import Judged

EXPLAINED = 0.8
"""A rank correlation with length beyond which length explains a signal."""
MATTERS = 0.1
"""A smaller correlation is next to nothing, however sure."""
_WORTH = 1.1  # times what a random batch carries: less is not worth sorting for
_NARROW = 0.25  # an interval around 0 that reaches further cannot say that there is nothing
_LEAST = 30  # rows

_BEST_FIRST: tuple[Kind, ...] = (
    "tells-more",
    "tells-little-more",
    "tells-length-only",
    "no-more-than-length",
    "no-more-than-groups",
    "no-more-than-length-and-groups",
    "tells-nothing",
    "not-enough-rows",
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of one signal.

    Attributes:
        signal: its name.
        rows: that have it; `constant` if they have one value.
        length: its correlation with length.
        explained: its rank variance between bins of like length, 0 to 1.
        share: that between groups.
        judged: its relations with targets.
        lifts: of it and of length.
    """

    signal: str
    rows: int
    constant: bool
    length: Estimate
    explained: float | None
    share: GroupShare | None
    judged: Sequence[Judged]
    lifts: Sequence[Lift]


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, the relation that decided (None without targets), and the end to train on first, if any."""

    kind: Kind
    judged: Judged | None
    sort: Lift | None


def decide(evidence: Evidence) -> Decision:
    """The verdict on a signal: that of the target of which it tells most."""
    if evidence.constant or evidence.rows < _LEAST:
        return Decision("not-enough-rows", None, None)
    if not evidence.judged:
        return Decision(_alone(evidence), None, None)
    kinds = [(kind_of(judged), judged) for judged in evidence.judged]
    kind, judged = min(kinds, key=lambda pair: (_BEST_FIRST.index(pair[0]), -_weight(*pair)))
    return Decision(kind, judged, sort_by(evidence) if kind == "tells-more" else None)


def _weight(kind: Kind, judged: Judged) -> float:
    """By which of several targets with one verdict the best is picked."""
    tells = kind in ("tells-more", "tells-little-more")
    decisive = weaker(judged.beyond, judged.in_bins) if tells else judged.relation.overall
    return abs(decisive.value or 0.0)


def _alone(evidence: Evidence) -> Kind:
    """Without targets only what a signal is can be said."""
    if by_length(evidence):
        return "tells-length-only"
    share = evidence.share
    if share is not None and (share.eta_squared or 0.0) > max(EXPLAINED**2, 2 * (share.by_chance or 0.0)):
        return "tells-groups-only"
    return "no-outcomes-to-judge"


def by_length(evidence: Evidence) -> bool:
    """Whether length explains the signal, in one direction or in whatever form."""
    return abs(evidence.length.value or 0.0) > EXPLAINED or (evidence.explained or 0.0) > EXPLAINED**2


def kind_of(judged: Judged) -> Kind:
    """The verdict on one relation."""
    relation, beyond, in_bins = judged.relation, judged.beyond, judged.in_bins
    if relation.overall.rows < _LEAST or relation.overall.value is None:
        return "not-enough-rows"
    if beyond.value is None:
        return "tells-length-only"  # length leaves nothing of it
    if relation.overall.low is None:
        return "not-enough-rows"
    side = sign(beyond)
    if side and side == sign(in_bins):
        return "tells-more" if abs(weaker(beyond, in_bins).value or 0.0) >= MATTERS else "tells-little-more"
    if _reach(beyond) > _NARROW and not side:
        return "not-enough-rows"
    if not _notable(relation.overall):
        return "tells-nothing"
    length = not (_notable(relation.given_length) and _notable(relation.within_length_bins))
    groups = relation.within_groups is not None and not _notable(relation.within_groups)
    if length or groups:
        return (
            "no-more-than-length-and-groups"
            if length and groups
            else "no-more-than-length"
            if length
            else "no-more-than-groups"
        )
    both = relation.given_length_within_groups
    sure = both is not None and not _notable(both)
    return "no-more-than-length-and-groups" if sure else "not-enough-rows"


def weaker(first: Estimate, second: Estimate) -> Estimate:
    """The correlation that lies nearer to 0."""
    return second if abs(second.value or 0.0) < abs(first.value or 0.0) else first


def left(relation: Relation) -> Estimate:
    """The rest of a relation after all controls, at 95 %: the weaker of the two that decide."""
    return weaker(
        relation.given_length_within_groups or relation.given_length,
        relation.within_length_bins_and_groups or relation.within_length_bins,
    )


def sign(interval: Estimate) -> int:
    """On which side of 0 an interval lies; 0 where it holds 0 or there is none."""
    if interval.low is None or interval.high is None:
        return 0
    return 1 if interval.low > 0 else -1 if interval.high < 0 else 0


def _notable(correlation: Estimate) -> bool:
    return sign(correlation) != 0 and abs(correlation.value or 0.0) >= MATTERS


def _reach(interval: Estimate) -> float:
    """How far an interval goes from 0."""
    if interval.low is None or interval.high is None:
        return 1.0
    return max(abs(interval.low), abs(interval.high))


def best_end(lifts: Sequence[Lift], column: str) -> Lift | None:
    """Which part of a column carries notably more p (1 - p) than a random batch, if one surely does."""
    of_column = [lift for lift in lifts if lift.column == column]
    sure = [lift for lift in of_column if _low(lift, len(of_column)) > 1]
    best = max(sure, key=lambda lift: lift.ratio.value or 0.0, default=None)
    return best if best is not None and (best.ratio.value or 0.0) >= _WORTH else None


def _low(lift: Lift, looks: int) -> float:
    """The lower bound of a lift at the level at which that many of them are right 95 % of the time."""
    value, low = lift.ratio.value, lift.ratio.low
    if not value or not low:
        return 0.0
    normal = NormalDist()
    wider = normal.inv_cdf(1 - (1 - LEVEL) / 2 / looks) / normal.inv_cdf(0.5 + LEVEL / 2)
    return value * float((low / value) ** wider)


def sort_by(evidence: Evidence) -> Lift | None:
    """The end to train on first: surely better than chance, and better than length can pick."""
    best = best_end(evidence.lifts, evidence.signal)
    if best is None:
        return None
    length = [
        lift.ratio.value or 0.0
        for lift in evidence.lifts
        if lift.column != evidence.signal and lift.target == best.target
    ]
    return best if (best.ratio.value or 0.0) > max(length, default=0.0) else None
