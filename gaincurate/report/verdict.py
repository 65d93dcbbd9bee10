"""The verdict on each signal: the rules, the sentences for readers without background, and the next steps.

A signal tells more than length and groups only if two intervals exclude 0 on the same side: that of its
correlation with a target given length, and that inside bins of similar length. Both are inside groups if
there are any. The intervals hold at 95 % for all pairs of signals and targets together, because one of many
signals often looks good by chance.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple

from gaincurate.core.stats import LEVEL, Estimate
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.report.document import Document, Kind, Lift, SignalVerdict
from gaincurate.report.parts import listed
from gaincurate.report.relations import Judged, SignalEvidence
from gaincurate.report.table import LENGTH
from gaincurate.schedule.forecast import LITTLE_WASTE

EXPLAINED = 0.8  # a rank correlation with length beyond which length explains a signal
MATTERS = 0.1  # a smaller correlation is negligible, even if significant
_WORTH = 1.1  # times the p (1 - p) of a random batch: less is not worth sorting
_NARROW = 0.25  # an interval around 0 that reaches further does not rule out a correlation
_LEAST = 30  # rows of a verdict
_MOSTLY = 0.5  # share of a score's order beyond chance: sorting by it mostly chooses groups
_USUAL = 200  # tokens of an answer, to show what rollouts may cost
_PASSES = 3  # over the set, in a run that is proposed
_FEW = 2000  # rows; of fewer gain-rl's default width of 1,000 ranks is nearly all
Tone = Literal["yes", "some", "no", "unknown"]
ANSWERS: dict[Kind, tuple[str, Tone]] = {
    "tells-more": ("No", "no"),
    "tells-little-more": ("Hardly", "some"),
    "tells-length-only": ("No: it is length", "no"),
    "no-more-than-length": ("No: length does it", "no"),
    "no-more-than-groups": ("No: groups do it", "no"),
    "no-more-than-length-and-groups": ("No: length and groups do it", "no"),
    "tells-nothing": ("No", "no"),
    "not-enough-rows": ("Too few rows to say", "unknown"),
    "tells-groups-only": ("Not known: it is the group", "unknown"),
    "no-outcomes-to-judge": ("Not known yet", "unknown"),
}
"""The answer to "Sort by it?" without a reason for a trial, and its colour; the best verdict first."""


def verdict(evidence: SignalEvidence, group: str | None) -> SignalVerdict:
    """The verdict on a signal, by the target that it tells most about. `group` is the column of groups."""
    kind, judged = _decide(evidence)
    sort = sort_by(evidence) if kind == "tells-more" else None
    return SignalVerdict(
        signal=evidence.signal,
        verdict=kind,
        sentence=evidence.signal + _sentence(evidence, kind, judged, sort, group),
        banner=_banner(evidence) if _by_length(evidence) else None,
        sort_first=None if sort is None else sort.end,
        length=evidence.length,
        explained=evidence.explained,
        target=None if judged is None else judged.relation.target,
        estimate=None if judged is None else _weaker(judged.beyond, judged.in_bins),
        level=evidence.level,
        looks=evidence.looks,
    )


def _decide(evidence: SignalEvidence) -> tuple[Kind, Judged | None]:
    """The verdict and the relation that decided, which is None without targets or rows."""
    if evidence.constant or evidence.rows < _LEAST:
        return "not-enough-rows", None
    if evidence.judged:
        best_first = list(ANSWERS)

        def order(judged: Judged) -> tuple[int, float]:
            """By its verdict, and of several targets with one verdict the most decisive."""
            tells = (kind := _kind_of(judged)) in ("tells-more", "tells-little-more")
            decisive = _weaker(judged.beyond, judged.in_bins) if tells else judged.relation.overall
            return best_first.index(kind), -abs(decisive.value or 0.0)

        judged = min(evidence.judged, key=order)
        return _kind_of(judged), judged
    share = evidence.share
    if _by_length(evidence):
        return "tells-length-only", None
    if share is not None and (share.eta_squared or 0.0) > max(EXPLAINED**2, 2 * (share.by_chance or 0.0)):
        return "tells-groups-only", None
    return "no-outcomes-to-judge", None


def _by_length(evidence: SignalEvidence) -> bool:
    """Whether length explains a signal, by a monotone or by any other relation."""
    return abs(evidence.length.value or 0.0) > EXPLAINED or (evidence.explained or 0.0) > EXPLAINED**2


def _kind_of(judged: Judged) -> Kind:
    """The verdict on one relation."""
    relation, beyond, in_bins = judged.relation, judged.beyond, judged.in_bins
    if relation.overall.rows < _LEAST or relation.overall.value is None:
        return "not-enough-rows"
    if beyond.value is None:
        return "tells-length-only"  # length leaves nothing of it
    if relation.overall.low is None:
        return "not-enough-rows"
    side = _sign(beyond)
    if side and side == _sign(in_bins):
        return "tells-more" if abs(_weaker(beyond, in_bins).value or 0.0) >= MATTERS else "tells-little-more"
    reach = 1.0 if beyond.low is None or beyond.high is None else max(abs(beyond.low), abs(beyond.high))
    if reach > _NARROW and not side:
        return "not-enough-rows"
    if not _notable(relation.overall):
        return "tells-nothing"
    length = not (_notable(relation.given_length) and _notable(relation.within_length_bins))
    groups = relation.within_groups is not None and not _notable(relation.within_groups)
    if length != groups:
        return "no-more-than-length" if length else "no-more-than-groups"
    both = (relation.given_length_within_groups, relation.within_length_bins_and_groups)
    if length or not all(each is None or _notable(each) for each in both):
        return "no-more-than-length-and-groups"
    return "not-enough-rows"


def _weaker(first: Estimate, second: Estimate) -> Estimate:
    """The correlation that is closer to 0."""
    return second if abs(second.value or 0.0) < abs(first.value or 0.0) else first


def _sign(interval: Estimate) -> int:
    """On which side of 0 an interval lies; 0 where it holds 0 or there is none."""
    low, high = interval.low or 0.0, interval.high or 0.0
    return 1 if low > 0 else -1 if high < 0 else 0


def _notable(correlation: Estimate) -> bool:
    return _sign(correlation) != 0 and abs(correlation.value or 0.0) >= MATTERS


def best_end(lifts: Sequence[Lift], column: str) -> Lift | None:
    """The part of a column with significantly and notably more p (1 - p) than a random batch, if any."""
    of_column = [lift for lift in lifts if lift.column == column]
    sure = [lift for lift in of_column if _low(lift, len(of_column)) > 1]
    best = max(sure, key=lambda lift: lift.ratio.value or 0.0, default=None)
    return best if best is not None and (best.ratio.value or 0.0) >= _WORTH else None


def _low(lift: Lift, looks: int) -> float:
    """The lower bound of a lift in an interval that holds at 95 % for `looks` lifts together."""
    value, low = lift.ratio.value, lift.ratio.low
    if not value or not low:
        return 0.0
    normal = NormalDist()
    wider = normal.inv_cdf(1 - (1 - LEVEL) / 2 / looks) / normal.inv_cdf(0.5 + LEVEL / 2)
    return value * float((low / value) ** wider)


def sort_by(evidence: SignalEvidence) -> Lift | None:
    """The end to train on first: better than a random batch and than any batch by length; else None."""
    best = best_end(evidence.lifts, evidence.signal)
    if best is None:
        return None
    others = [lift for lift in evidence.lifts if lift.column != evidence.signal]
    length = [lift.ratio.value or 0.0 for lift in others if lift.target == best.target]
    return best if (best.ratio.value or 0.0) > max(length, default=0.0) else None


def _banner(evidence: SignalEvidence) -> str:
    """The warning for a signal that length explains."""
    name, length, explained = evidence.signal, evidence.length, evidence.explained or 0.0
    if abs(length.value or 0.0) >= math.sqrt(explained) - 0.1:
        direction = "longer" if (length.value or 0.0) > 0 else "shorter"
        return (
            f"{name} is close to question length: rank correlation {_shown(length)}; {direction} questions "
            "score higher."
        )
    return (
        f"Question length explains {explained:.0%} of the order of {name}, though not in one direction "
        f"(rank correlation {_shown(length)})."
    )


def _sentence(
    evidence: SignalEvidence, kind: Kind, judged: Judged | None, sort: Lift | None, group: str | None
) -> str:
    """The rest of a sentence that begins with the signal's name: the verdict, and whether to sort by it."""
    length = _shown(evidence.length)
    if judged is None:
        share = 0.0 if evidence.share is None else evidence.share.eta_squared or 0.0
        why = (
            "the same value in every row" if evidence.constant else f"a value in {evidence.rows:,} rows only"
        )
        without_targets: dict[Kind, str] = {
            "not-enough-rows": f" has {why}: there is nothing to sort by.",
            "tells-length-only": f" follows question length (rank correlation {length}): sorting by it is "
            "close to sorting by length, which needs no model. The worth of either for training is unknown.",
            "tells-groups-only": f" mostly says which {group} a row is from ({share:.0%} of its order): "
            "sorting by it picks some of these before others. The worth of that for training is unknown.",
            "no-outcomes-to-judge": f" is not question length (rank correlation {length}), but whether to "
            "sort by it is not known: there is nothing to judge it by.",
        }
        return without_targets[kind]
    relation, target = judged.relation, judged.relation.target
    overall, instead = _shown(relation.overall), _instead(evidence)
    given = relation.given_length_within_groups or relation.given_length
    left = _shown(_weaker(given, relation.within_length_bins_and_groups or relation.within_length_bins))
    given_length = _shown(_weaker(relation.given_length, relation.within_length_bins))
    within = "" if relation.within_groups is None else _shown(relation.within_groups)
    inside, or_group, and_group = (
        "" if group is None else f" {word} {group}" for word in ("inside each", "or", "and")
    )
    sentences: dict[Kind, str] = {
        "tells-more": f" tells something about {target} that question length{or_group} does not: rank "
        f"correlation {left} at equal length{inside}. {_advice(evidence, sort)}",
        "tells-little-more": f" adds next to nothing about {target} to question length{and_group}: rank "
        f"correlation {left} at equal length{inside}. {instead}",
        "tells-length-only": f" is question length by another name (rank correlation {length}): nothing of "
        f"it is left at equal length. {instead}",
        "no-more-than-length": f" tells no more about {target} than question length does: rank correlation "
        f"{overall} over all rows, {given_length} at equal length. {instead}",
        "no-more-than-groups": f" tells no more about {target} than which {group} a row is from: rank "
        f"correlation {overall} over all rows, {within} inside each. Choose among them by name, not by it.",
        "no-more-than-length-and-groups": f" tells no more about {target} than question length and {group} "
        f"do: rank correlation {overall} over all rows, {left} at equal length{inside}. {instead}",
        "tells-nothing": f" hardly goes with {target} (rank correlation {overall}){_shuffling(evidence)}",
        "not-enough-rows": f": {relation.overall.rows:,} prompts with {target} are too few to say whether it "
        f"tells more than question length{or_group} does{_needed(judged, inside)}.",
    }
    return sentences[kind]


def _advice(evidence: SignalEvidence, sort: Lift | None) -> str:
    """The advice for a signal that tells more."""
    if not evidence.lifts:
        return "The worth of sorting by it for training is unknown without pass rates."
    length = best_end(evidence.lifts, LENGTH)
    if sort is not None:
        control = "" if length is None else f" (by length: {_times(length)})"
        return (
            f"Its {sort.end} tenth carries {_times(sort)} the p (1 - p) of a random tenth{control}: sorting "
            f"by it, {sort.end} first, is worth a trial."
        )
    if best_end(evidence.lifts, evidence.signal) is not None:
        return "But length picks prompts to learn from at least as well: sort by length, if at all."
    return "But neither end nor the middle has notably more p (1 - p) than random prompts: do not sort by it."


def _instead(evidence: SignalEvidence) -> str:
    """The advice for a signal that adds nothing."""
    if not evidence.lifts:
        return "Sort by length, if at all: that needs no model."
    length = best_end(evidence.lifts, LENGTH)
    if length is None:
        return "Do not sort by it; length picks no better batches than chance either."
    order = {"highest": "longest", "lowest": "shortest"}.get(length.end, "middle")
    carries = f"carries {_times(length)} the p (1 - p) of a random tenth"
    return f"Length needs no model: the {order} tenth {carries}."


def _shuffling(evidence: SignalEvidence) -> str:
    """The advice for a signal that tells nothing."""
    if (best := best_end(evidence.lifts, evidence.signal)) is None:
        return ": sorting by it is no better than shuffling."
    carries = f"carries {_times(best)} the p (1 - p) of a random tenth"
    return f", though its {best.end} tenth {carries}: look at the figures before sorting by it."


def _needed(judged: Judged, inside: str) -> str:
    """About how many rows would be enough, by the width of the interval that decides."""
    beyond = _weaker(judged.beyond, judged.in_bins)
    if beyond.low is None or beyond.high is None:
        return ""
    needed = judged.relation.overall.rows * ((beyond.high - beyond.low) / 2 / MATTERS) ** 2
    size = 10 ** (len(str(round(needed))) - 1)
    return f" ({_shown(beyond)} at equal length{inside}; about {math.ceil(needed / size) * size:,} suffice)"


def headline(verdicts: Sequence[SignalVerdict], worth: Sequence[Lift], roles: frozenset[str]) -> str:
    """Whether to sort by any signal, given the ends that are worth a trial and the roles of all columns."""
    names = [verdict.signal for verdict in verdicts]
    if not names:
        return "The set has no scores to judge."
    any_of = names[0] if len(names) == 1 else f"any of {len(names)} signals"
    unknown = f"Whether sorting by {any_of} helps training is not known: there is nothing to judge it by"
    if not roles & {"difficulty", "pass-rate", "learnability"}:
        length = [verdict.signal for verdict in verdicts if verdict.banner is not None]
        verb = "is" if len(length) == 1 else "are"
        lead = f"{listed(length)} {verb} close to question length. " if length else ""
        return f"{lead}{unknown}."
    if worth:
        best = max(worth, key=lambda lift: lift.ratio.value or 0.0)
        return (
            f"Worth a trial: sort by {best.column}, {best.end} first; the first tenth then carries "
            f"{_times(best)} the p (1 - p) of a random one. Compare with length and with no order."
        )
    if more := [verdict.signal for verdict in verdicts if verdict.verdict == "tells-more"]:
        end = (
            "yet picks no better batches than chance and length do: do not sort by it"
            if "learnability" in roles
            else "which says nothing yet of what to train on first"
        )
        verb = "tells" if len(more) == 1 else "tell"
        return f"{listed(more)} {verb} something that question length does not, {end}."
    if all(verdict.verdict == "not-enough-rows" for verdict in verdicts):
        return f"Too few rows to say whether sorting by {any_of} helps: do not rely on it."
    if all(verdict.target is None for verdict in verdicts):
        return f"{unknown} but the pass rates that it was made from."
    if len(names) == 1:
        return f"{names[0]} tells nothing that question length does not: do not sort by it."
    return f"None of {len(names)} signals tells anything that question length does not: do not sort by them."


def mostly_groups(document: Document) -> str | None:
    """A warning if the first signal is mostly the group that a prompt is from."""
    first = next((verdict.signal for verdict in document.verdicts), None)
    share = next((share for share in document.group_shares if share.column == first), None)
    if share is None or share.eta_squared is None or share.eta_squared - (share.by_chance or 0.0) < _MOSTLY:
        return None
    group = document.about.group_column
    return (
        f"{group} explains {share.eta_squared:.0%} of the order of {first}. Sorting by {first} mostly "
        f"chooses among these {share.groups:,} groups."
    )


def unknown(roles: frozenset[str], folder: str, rows: int, *, model: str, verifier: str | None) -> str | None:
    """The question that needs pass rates, and the commands that measure them; None with pass rates.

    `model` is the set's own, `verifier` the one that fits its answers; None where it has none.
    """
    if roles & {"pass-rate", "learnability"}:
        return None
    text = "The worth of the scores for training is unknown without pass rates. "
    if "difficulty" in roles:
        text += "A level is a difficulty by another judge and does not show what this model can learn from. "
    if verifier is None:
        return (
            f"{text}The set has no column of answers for a verifier: `gaincurate difficulty rollout` takes "
            "one with --answer-column, or a custom verifier with --verifier module:function."
        )
    references = max(1, min(512, rows))
    command = ["gaincurate", "difficulty", "rollout", folder, "--out", "rollouts", "--model", model]
    command += ["--verifier", verifier, "--reference", str(references)]
    again = ["gaincurate", "report", folder, "--rollouts", "rollouts"]
    if verifier == "reasoning-gym":  # which gives a little for wrong answers too
        again += ["--success", "1"]
    samples, longest = (RolloutConfig.model_fields[name].default for name in ("samples", "max_tokens"))
    completions = references * samples
    return (
        f"{text}A few hundred prompts are enough to begin with: `{shlex.join(command)}`, then "
        f"`{shlex.join(again)}`. That is {references:,} prompts x {samples} = {completions:,} completions: "
        f"{completions * longest:,} tokens at most (--max-tokens {longest}), {completions * _USUAL:,} with "
        f"answers of {_USUAL} tokens. `--reference 16` first says how long yours are and how fast they come."
    )


def _shown(estimate: Estimate) -> str:
    if estimate.value is None:
        return "not defined"
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return f"{estimate.value:+.2f}"
    return f"{estimate.value:+.2f} ({estimate.low:+.2f} to {estimate.high:+.2f})"


def _times(lift: Lift) -> str:
    ratio = lift.ratio
    return f"{ratio.value or 0.0:.2f} times ({ratio.low or 0.0:.2f} to {ratio.high or 0.0:.2f})"


class Step(NamedTuple):
    """One thing to do: a sentence, and the command for it where there is one."""

    text: str
    command: str | None = None


def answer(document: Document, verdict: SignalVerdict) -> tuple[str, Tone]:
    """Whether to sort by a signal, in a few words, and the colour of the answer."""
    if verdict.sort_first is not None:
        return "Worth a trial", "yes"
    if verdict.verdict == "tells-more" and not document.lifts:  # a level does not show the worth
        return "Not known yet", "unknown"
    return ANSWERS[verdict.verdict]


def alike(document: Document) -> list[list[SignalVerdict]]:
    """Verdicts with one answer together; those that are worth a trial come first, one by one."""
    rows: dict[tuple[str, str | None], list[SignalVerdict]] = {}
    for each in sorted(document.verdicts, key=lambda verdict: verdict.sort_first is None):
        alone = each.signal if each.sort_first is not None else None
        rows.setdefault((each.verdict, alone), []).append(each)
    return list(rows.values())


def likewise(others: Sequence[SignalVerdict]) -> str:
    """The sentence after the first of several verdicts of one kind."""
    return f" The same holds for {', '.join(other.signal for other in others)}." if others else ""


def next_steps(document: Document) -> list[Step]:
    """The next steps, the most useful first."""
    steps = [Step(document.unknown)] if document.unknown else []
    share, little = document.wasted, False
    if share is not None and share.value is not None:
        little = share.value < LITTLE_WASTE
        advice = (
            "Selecting prompts can gain little: train on random prompts with a smaller batch first, such as "
            "4 prompts a step in place of 16."
            if little
            else "`gaincurate difficulty forecast` estimates the gain of selecting prompts."
        )
        interval = f"{share.low or 0.0:.0%} to {share.high or 0.0:.0%}"
        groups = f"{share.value:.0%} of the groups of 8 rollouts in a uniform step ({interval})"
        steps.append(Step(f"{groups} would teach nothing. {advice}"))
    worth = {(verdict.signal, verdict.sort_first) for verdict in document.verdicts}
    ends = [lift for lift in document.lifts if (lift.column, lift.end) in worth]
    text, strategy = "Draw prompts at random, which costs nothing:", "uniform"
    options, about = list[str](), document.about
    if ends:
        best, strategy = max(ends, key=lambda lift: lift.ratio.value or 0.0), "gain-rl"
        text = (
            f"Train by {best.column}, {best.end} first, and compare with question length and random order at "
            "equal generated tokens. A correlation with pass rates does not show that training by the signal "
            "is faster."
        )
        if best.end == "middle":  # no strategy begins in the middle of a column
            return [*steps, Step(text)]
        options = ["--by", best.column, *(["--ascending"] if best.end == "lowest" else [])]
        options += ["--sigma", "0.1N"] if about.rows < _FEW else []
    elif document.unknown is not None or not document.verdicts:
        return steps
    elif document.outcomes and not little:
        strategy = "posterior"
        text = (
            "Select by the outcomes of the training, which are better evidence than any of these "
            "signals: each pass omits most prompts whose rollouts are all right or all wrong."
        )
    run = "run" if document.run is None else f"{document.run['folder']}-next"
    # A round of all prompts would leave a strategy nothing to choose.
    budget = min(1024, max(1, about.rows // 4))
    rounds = min(200, math.ceil(_PASSES * about.rows / budget))
    size = ["--budget", str(budget), "--rounds", str(rounds)]
    command = ["gaincurate", "schedule", "start", about.folder, "--run", run, "--strategy", strategy]
    return [*steps, Step(text, shlex.join([*command, *options, *size]))]
