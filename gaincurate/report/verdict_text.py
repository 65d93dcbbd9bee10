"""The sentences of the verdicts for readers without background, and the next steps with their commands.

The rules of the verdicts are in `verdict`, so a sentence can change without changing a verdict. No figure is
added here.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gaincurate.core.stats import Estimate
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.report.document import Document, Kind, Lift, Verdict
from gaincurate.report.relations import Judged
from gaincurate.report.table import LENGTH
from gaincurate.report.verdict import MATTERS, Decision, Evidence, best_end, by_length, left, weaker
from gaincurate.schedule.forecast import LITTLE_WASTE

_NOT_ITSELF = "there is nothing to judge it by but the pass rates that it was made from"
_MOSTLY = 0.5  # of a score's order, beyond chance: then it is first of all a choice of groups
_USUAL = 200  # tokens of an answer, to show what rollouts may cost
_PASSES = 3  # over the set, in a run that is proposed
_FEW = 2000  # rows; of fewer gain-rl's default width of 1,000 ranks is nearly all
Tone = Literal["yes", "some", "no", "unknown"]
ANSWERS: dict[Kind, tuple[str, Tone]] = {
    "tells-more": ("No", "no"),
    "tells-little-more": ("Hardly", "some"),
    "no-more-than-length": ("No: length does it", "no"),
    "no-more-than-groups": ("No: groups do it", "no"),
    "no-more-than-length-and-groups": ("No: length and groups do it", "no"),
    "tells-nothing": ("No", "no"),
    "tells-length-only": ("No: it is length", "no"),
    "tells-groups-only": ("Not known: it is the group", "unknown"),
    "no-outcomes-to-judge": ("Not known yet", "unknown"),
    "not-enough-rows": ("Too few rows to say", "unknown"),
}
"""The answer to "Sort by it?" where nothing speaks for a trial, and how it is coloured."""


def banner(evidence: Evidence) -> str | None:
    """The warning for a signal that length explains."""
    if not by_length(evidence):
        return None
    name, length = evidence.signal, evidence.length
    if abs(length.value or 0.0) >= math.sqrt(evidence.explained or 0.0) - 0.1:
        return (
            f"{name} is close to question length: rank correlation {_shown(length)}; "
            f"{_direction(length)} questions score higher."
        )
    return (
        f"Question length explains {evidence.explained or 0.0:.0%} of the order of {name}, though not in one "
        f"direction (rank correlation {_shown(length)})."
    )


def _direction(length: Estimate) -> str:
    return "longer" if (length.value or 0.0) > 0 else "shorter"


def sentence(evidence: Evidence, decision: Decision, group: str | None) -> str:
    """The verdict on a signal in words, with the advice whether to sort by it."""
    name, length = evidence.signal, _shown(evidence.length)
    if decision.judged is None:
        why = (
            "the same value in every row" if evidence.constant else f"a value in {evidence.rows:,} rows only"
        )
        share = 0.0 if evidence.share is None else evidence.share.eta_squared or 0.0
        end = "What either is worth for training is not known."
        return name + {
            "not-enough-rows": f" has {why}: there is nothing to sort by.",
            "tells-length-only": f" follows question length (rank correlation {length}): sorting by it is "
            f"close to sorting by length, which needs no model. {end}",
            "tells-groups-only": f" mostly says which {group} a row is from ({share:.0%} of its order): "
            "sorting by it picks some of these before others. What that is worth for training is not known.",
            "no-outcomes-to-judge": f" is not question length (rank correlation {length}), but whether to "
            "sort by it is not known: there is nothing to judge it by.",
        }[decision.kind]  # fmt: skip
    judged, relation, target = decision.judged, decision.judged.relation, decision.judged.relation.target
    overall, instead = f"rank correlation {_shown(relation.overall)}", _instead(evidence)
    or_group, and_group, inside = (
        "" if group is None else f" {word} {group}" for word in ("or", "and", "inside each")
    )
    remains = f"{_shown(left(relation))} at equal length{inside}"
    no_more = f" tells no more about {target} than"
    given_length = _shown(weaker(relation.given_length, relation.within_length_bins))
    within = "" if relation.within_groups is None else _shown(relation.within_groups)
    return name + {
        "tells-more": f" tells something about {target} that question length{or_group} does not: rank "
        f"correlation {remains}. {_advice(evidence, decision)}",
        "tells-little-more": f" adds next to nothing about {target} to question length{and_group}: rank "
        f"correlation {remains}. {instead}",
        "tells-length-only": f" is question length by another name (rank correlation {length}): nothing of "
        f"it is left at equal length. {instead}",
        "no-more-than-length": f"{no_more} question length does: {overall} over all rows, {given_length} at "
        f"equal length. {instead}",
        "no-more-than-groups": f"{no_more} which {group} a row is from: {overall} over all rows, {within} "
        "inside each. Choose among them by name, not by it.",
        "no-more-than-length-and-groups": f"{no_more} question length and {group} do: {overall} over all "
        f"rows, {remains}. {instead}",
        "tells-nothing": f" hardly goes with {target} ({overall}){_shuffling(evidence)}",
        "not-enough-rows": f": {relation.overall.rows:,} prompts with {target} are too few to say whether it "
        f"tells more than question length{or_group} does{_needed(judged, inside)}.",
    }[decision.kind]  # fmt: skip


def _advice(evidence: Evidence, decision: Decision) -> str:
    if not evidence.lifts:
        return "What sorting by it is worth for training is not known without pass rates."
    length = best_end(evidence.lifts, LENGTH)
    if decision.sort is not None:
        control = "" if length is None else f" (by length: {_times(length)})"
        return (
            f"Its {decision.sort.end} tenth carries {_times(decision.sort)} the p (1 - p) "
            f"of a random tenth{control}: sorting by it, {decision.sort.end} first, is worth a trial."
        )
    if best_end(evidence.lifts, evidence.signal) is not None:
        return "But length picks prompts to learn from at least as well: sort by length, if at all."
    where = "But neither its ends nor its middle carry notably more p (1 - p) than a random batch"
    return f"{where}: do not sort by it."


def _instead(evidence: Evidence) -> str:
    """The advice for a signal that adds nothing."""
    if not evidence.lifts:
        return "Sort by length, if at all: that needs no model."
    length = best_end(evidence.lifts, LENGTH)
    if length is None:
        return "Do not sort by it; length picks no better batches than chance either."
    order = {"highest": "longest", "lowest": "shortest"}.get(length.end, "middle")
    return (
        f"Length does it without a model: the {order} tenth carries {_times(length)} the p (1 - p) of a "
        "random tenth."
    )


def _shuffling(evidence: Evidence) -> str:
    if (best := best_end(evidence.lifts, evidence.signal)) is None:
        return ": sorting by it is no better than shuffling."
    carries = f"carries {_times(best)} the p (1 - p) of a random tenth"
    return f", though its {best.end} tenth {carries}: look at the figures before sorting by it."


def _needed(judged: Judged, inside: str) -> str:
    """About how many rows would do, by the width of the interval that decides."""
    beyond = weaker(judged.beyond, judged.in_bins)
    if beyond.low is None or beyond.high is None:
        return ""
    needed = judged.relation.overall.rows * ((beyond.high - beyond.low) / 2 / MATTERS) ** 2
    size = 10 ** (len(str(round(needed))) - 1)
    return f" ({_shown(beyond)} at equal length{inside}; about {math.ceil(needed / size) * size:,} would do)"


def headline(decided: Sequence[tuple[Evidence, Decision]], roles: frozenset[str]) -> str:
    """Whether to sort by any of the signals."""
    names = [evidence.signal for evidence, _ in decided]
    if not names:
        return "The set has no scores to judge."
    if not roles & {"difficulty", "pass-rate", "learnability"}:
        length = [evidence.signal for evidence, _ in decided if by_length(evidence)]
        lead = f"{_listed(length)} {_is(length)} close to question length. " if length else ""
        what = f"Whether sorting by {_any(names)} helps training is not known"
        return f"{lead}{what}: there is nothing to judge it by."
    if worth := [decision.sort for _, decision in decided if decision.sort is not None]:
        best = max(worth, key=lambda lift: lift.ratio.value or 0.0)
        return (
            f"Worth a trial: sort by {best.column}, {best.end} first; the first tenth then carries "
            f"{_times(best)} the p (1 - p) of a random one. Compare with length and with no order."
        )
    more = [evidence.signal for evidence, decision in decided if decision.kind == "tells-more"]
    few = [evidence.signal for evidence, decision in decided if decision.kind == "not-enough-rows"]
    if more:
        end = (
            "yet picks no better batches than chance and length do: do not sort by it"
            if "learnability" in roles
            else "which says nothing yet of what to train on first"
        )
        return f"{_listed(more)} {_tell(more)} something that question length does not, {end}."
    if len(few) == len(names):
        return f"Too few rows to say whether sorting by {_any(names)} helps: do not rely on it."
    judged = [evidence.signal for evidence, decision in decided if decision.judged is not None]
    if not judged:
        return f"Whether sorting by {_any(names)} helps training is not known: {_NOT_ITSELF}."
    if len(names) == 1:
        return f"{names[0]} tells nothing that question length does not: do not sort by it."
    return f"None of {len(names)} signals tells anything that question length does not: do not sort by them."


def mostly_groups(document: Document) -> str | None:
    """The one thing that matters most of a score that is mostly which group a prompt is from."""
    first = next((verdict.signal for verdict in document.verdicts), None)
    share = next((share for share in document.group_shares if share.column == first), None)
    if share is None or share.eta_squared is None or share.eta_squared - (share.by_chance or 0.0) < _MOSTLY:
        return None
    group = document.about.group_column
    return (
        f"{share.eta_squared:.0%} of the order of {first} is which {group} a prompt is from. Sorting by it "
        f"is choosing among these {share.groups:,} groups."
    )


def waste(document: Document) -> str | None:
    """The share of a uniform step that is wasted, and the advice that follows."""
    share = document.wasted
    if share is None or share.value is None:
        return None
    interval = f"{share.low or 0.0:.0%} to {share.high or 0.0:.0%}"
    start = (
        f"{share.value:.0%} of the groups of 8 rollouts in a uniform step ({interval}) would teach nothing."
    )
    if share.value < LITTLE_WASTE:
        return (
            f"{start} Selecting prompts can gain little: train on random prompts with a smaller batch first, "
            "such as 4 prompts a step in place of 16."
        )
    return f"{start} `gaincurate difficulty forecast` estimates the gain of selecting prompts."


def unknown(roles: frozenset[str], folder: str, rows: int, *, model: str, verifier: str | None) -> str | None:
    """The question that needs pass rates, and the commands that measure them.

    `model` is the set's own, `verifier` the one that fits its answers; None where it has none.
    """
    if roles & {"pass-rate", "learnability"}:
        return None
    text = "What the scores are worth for training cannot be said without pass rates. "
    if "difficulty" in roles:
        text += "A level is another judge's difficulty, and not what this model learns from. "
    if verifier is None:
        return (
            f"{text}The set has no column of answers that a verifier could judge by: `gaincurate difficulty "
            "rollout` takes one with --answer-column, or a verifier of your own, --verifier module:function."
        )
    references = max(1, min(512, rows))
    command = ["gaincurate", "difficulty", "rollout", folder, "--out", "rollouts", "--model", model]
    command += ["--verifier", verifier, "--reference", str(references)]
    again = ["gaincurate", "report", folder, "--rollouts", "rollouts"]
    if verifier == "reasoning-gym":  # which gives a little for wrong answers too
        again += ["--success", "1"]
    return (
        f"{text}A few hundred prompts are enough to begin with: `{shlex.join(command)}`, then "
        f"`{shlex.join(again)}`. {_cost(references)}"
    )


def _cost(references: int) -> str:
    """The cost of rollouts for so many prompts, by the defaults of `difficulty rollout`."""
    samples = RolloutConfig.model_fields["samples"].default
    longest = RolloutConfig.model_fields["max_tokens"].default
    completions = references * samples
    return (
        f"That is {references:,} prompts x {samples} = {completions:,} completions: "
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


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _tell(names: Sequence[str]) -> str:
    return "tells" if len(names) == 1 else "tell"


def _any(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"any of {len(names)} signals"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: a sentence, and the command for it where there is one."""

    text: str
    command: str | None


def answer(document: Document, verdict: Verdict) -> tuple[str, Tone]:
    """Whether to sort by a signal, in a word or two."""
    if verdict.sort_first is not None:
        return "Worth a trial", "yes"
    if verdict.verdict == "tells-more" and not document.lifts:  # only outcomes show the worth of a level
        return "Not known yet", "unknown"
    return ANSWERS[verdict.verdict]


def alike(document: Document) -> list[list[Verdict]]:
    """Verdicts with one answer together; those that are worth a trial come first and stand alone."""
    rows: dict[tuple[str, str | None], list[Verdict]] = {}
    for verdict in sorted(document.verdicts, key=lambda verdict: verdict.sort_first is None):
        alone = verdict.signal if verdict.sort_first is not None else None
        rows.setdefault((verdict.verdict, alone), []).append(verdict)
    return list(rows.values())


def likewise(others: Sequence[Verdict]) -> str:
    """The sentence after the first of several verdicts of one kind."""
    return f" The same holds for {', '.join(other.signal for other in others)}." if others else ""


def next_steps(document: Document) -> list[Step]:
    """The next steps, the most useful first."""
    steps = [Step(text, None) for text in (document.unknown, waste(document)) if text]
    best = _best(document)
    if best is not None:
        return [*steps, _trial(document, best)]
    if document.unknown is None and document.verdicts:
        little = document.wasted is not None and (document.wasted.value or 0.0) < LITTLE_WASTE
        if document.outcomes and not little:
            text = (
                "Select by the outcomes of the training, which are better evidence than any of these "
                "signals: each pass omits most prompts whose rollouts are all right or all wrong."
            )
            return [*steps, Step(text, _start(document, "posterior"))]
        text = "Draw prompts at random, which costs nothing:"
        return [*steps, Step(text, _start(document, "uniform"))]
    return steps


def _best(document: Document) -> Verdict | None:
    """Of the signals worth a trial, the one whose end carries most."""
    ratios = {(lift.column, lift.end): lift.ratio.value or 0.0 for lift in document.lifts}
    worth = [verdict for verdict in document.verdicts if verdict.sort_first is not None]
    return max(worth, key=lambda v: ratios.get((v.signal, v.sort_first or ""), 0.0), default=None)


def _trial(document: Document, verdict: Verdict) -> Step:
    text = (
        f"Train by {verdict.signal}, {verdict.sort_first} first, and compare with question length and random "
        "order at equal generated tokens. A correlation with pass rates does not show that training by the "
        "signal is faster."
    )
    if verdict.sort_first == "middle":  # no strategy begins in the middle of a column
        return Step(text, None)
    options = ["--ascending"] if verdict.sort_first == "lowest" else []
    if document.about.rows < _FEW:
        options += ["--sigma", "0.1N"]
    return Step(text, _start(document, "gain-rl", "--by", verdict.signal, *options))


def _start(document: Document, strategy: str, *options: str) -> str:
    folder, run = document.about.folder, "run" if document.run is None else f"{document.run['folder']}-next"
    # A round of all prompts would leave a strategy nothing to choose.
    budget = min(1024, max(1, document.about.rows // 4))
    rounds = min(200, math.ceil(_PASSES * document.about.rows / budget))
    command = ["gaincurate", "schedule", "start", folder, "--run", run, "--strategy", strategy, *options]
    return shlex.join([*command, "--budget", str(budget), "--rounds", str(rounds)])
