"""What a report shows in the terminal: takes the document, prints it. Knows nothing of files or options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gaincurate.cli import output

if TYPE_CHECKING:
    from gaincurate.report.document import Document, Lift, Predictions, Relation
    from gaincurate.stats import Estimate


def print_report(found: Document) -> None:
    """The first screen says whether to sort by anything; all else follows."""
    about = found.about
    output.say(
        f"{about.folder}: {output.counted(about.rows, 'row')}, {about.model}, {about.dtype} on "
        f"{about.device}; length is {about.length_column}; groups: {about.group_column or 'none'} "
        f"({about.group_how})"
    )
    output.text()
    output.say(found.headline)
    if found.unknown is not None:
        output.say(found.unknown)
    for verdict in found.verdicts:
        if verdict.banner is not None:
            output.say(f"WARNING: {verdict.banner}")
    output.text()
    for verdict in found.verdicts:
        output.say(f"[{verdict.verdict}] {verdict.sentence}", "  ")
    _signals(found)
    for target in dict.fromkeys(relation.target for relation in found.relations):
        _target(found, target)
    _outcomes(found)
    _against(found)
    _run(found)
    _hygiene(found)
    _notes(found.notes)


def _head(line: str) -> None:
    output.text()
    output.say(line)


def _signals(found: Document) -> None:
    _head("spread, and rank correlation with question length (with half of its 95 % interval)")
    length = {verdict.signal: verdict.length for verdict in found.verdicts}
    shares = {share.column: share for share in found.group_shares}
    explained = {profile.signal: profile.explained for profile in found.profiles}
    group = [] if found.about.group_column is None else [f"explained by {found.about.group_column}"]
    lines = []
    for one in found.distributions:
        quantiles = [f"{one.quantiles[place]:.4g}" for place in (2, 4, 6)] if one.quantiles else ["-"] * 3
        cells = [one.column, f"{one.rows:,}", *quantiles]
        cells += [_shown(length.get(one.column)), output.number(explained.get(one.column), ".0%")]
        if group:
            share = shares.get(one.column)
            cells.append(output.number(None if share is None else share.eta_squared, ".0%"))
        lines.append(cells)
    output.table(lines, ["column", "rows", "5%", "50%", "95%", "length", "explained by it", *group])


def _target(found: Document, target: str) -> None:
    from gaincurate.report.document import ENDS

    relations = [relation for relation in found.relations if relation.target == target]
    _head(f"rank correlation with {target} (with half of its 95 % interval)")
    grouped = found.about.group_column is not None
    head = ["column", "overall", "given length", "in length bins"]
    head += ["in groups", "both"] if grouped else []
    lifts = {(lift.column, lift.end): lift for lift in found.lifts if lift.target == target}
    head += [f"{end} tenth" for end in ENDS] if lifts else []
    lines = [_relation(relation, lifts, grouped=grouped) for relation in relations]
    length = found.about.length_column
    if relations:
        blank = ["-"] * (4 if grouped else 2)
        lines.append([length, _shown(relations[0].length), *blank, *_ends(lifts, length)])
    output.table(lines, head)
    if lifts:
        output.say("tenths: their mean p (1 - p) over that of a random tenth")


def _relation(relation: Relation, lifts: dict[tuple[str, str], Lift], *, grouped: bool) -> list[str]:
    cells = [relation.overall, relation.given_length, relation.within_length_bins]
    groups = [relation.within_groups, relation.given_length_within_groups] if grouped else []
    return [relation.signal, *map(_shown, [*cells, *groups]), *_ends(lifts, relation.signal)]


def _ends(lifts: dict[tuple[str, str], Lift], column: str) -> list[str]:
    from gaincurate.report.document import ENDS

    if not lifts:
        return []
    found = [lifts.get((column, end)) for end in ENDS]
    return [_shown(None if lift is None else lift.ratio, "") for lift in found]


def _shown(found: Estimate | None, sign: str = "+") -> str:
    if found is None or found.value is None:
        return "-"
    text = format(found.value, f"{sign}.2f")
    if found.low is None or found.high is None:
        return text
    return f"{text} ±{(found.high - found.low) / 2:.2f}"


def _outcomes(found: Document) -> None:
    for one in found.outcomes:
        _head(
            f"{one.name}: {output.counted(one.prompts, 'prompt')}"
            + ("" if one.rollouts is None else f", {output.counted(one.rollouts, 'rollout')}")
            + f", mean {one.mean:.3f}; all right {one.always:.0%}, none right {one.never:.0%}; mean "
            f"p (1 - p) {_shown(one.mean_variance, '')}; highest correlation that a prediction could show "
            f"{_shown(one.ceiling, '')}"
        )
        if one.unknown:
            verb = "is" if one.unknown == 1 else "are"
            output.say(f"  {one.unknown:,} of its prompts {verb} not in this set.")
        for note in one.notes:
            output.say(f"  {note}")
    for calibration in found.calibrations:
        _head(
            f"{calibration.column} against {calibration.outcome}: Pearson {_shown(calibration.pearson)}, "
            f"Spearman {_shown(calibration.spearman)}, Brier {_shown(calibration.brier, '')} (of the mean "
            f"alone {calibration.brier_of_mean:.2f})"
        )
        lines = [
            [f"{b.low:.1f} to {b.high:.1f}", f"{b.count:,}", f"{b.predicted:.2f}", f"{b.observed:.2f}"]
            for b in calibration.bins
        ]
        output.table(lines, ["predicted", "prompts", "mean", "observed"])


def _against(found: Document) -> None:
    for other in found.against:
        differ = ", ".join(f"{d.key} {d.here} here and {d.there} there" for d in other.differences[:4])
        _head(
            f"against {other.folder}: {output.counted(other.shared, 'row')} in both, "
            f"{other.only_here:,} only here, {other.only_there:,} only there"
            + (f"; {differ}" if differ else "")
        )
        lines = [
            [one.signal, _shown(one.correlation), output.number(one.top_shared, ".0%")]
            for one in other.signals
        ]
        output.table(lines, ["signal", "rank correlation", "highest tenth shared"])


def _run(found: Document) -> None:
    run = found.run
    if run is None:
        return
    _head(
        f"{run.folder}: {run.strategy}{'' if run.by is None else f' by {run.by}'}, {len(run.rounds)} of "
        f"{output.counted(run.planned_rounds, 'round')}, {output.counted(run.budget, 'prompt')} each; "
        f"{run.training_seconds:,.0f} s of training, {run.scoring_seconds:,.0f} s of scoring"
    )
    lines = [
        [
            str(one.round),
            output.number(one.mu, ",.0f"),
            output.number(one.accuracy, ".3f"),
            output.number(one.effective, ".0%"),
            output.number(one.drift, "+.3f"),
            output.number(one.rollouts, ","),
            output.number(one.completion_tokens, ","),
            output.number(one.training_seconds, ",.0f"),
            output.number(one.scoring_seconds, ",.0f"),
        ]
        for one in run.rounds
    ]
    head = ["round", "mu", "accuracy", "effective", "drift", "rollouts", "tokens", "training s", "scoring s"]
    output.table(lines, head)
    if run.predictions is not None:
        _predictions(run.predictions)


def _predictions(told: Predictions) -> None:
    aim = "the largest p (1 - p)"
    if told.target_difficulty is not None:
        aim = f"a failure rate of {told.target_difficulty:g}"
    tokens = (
        ""
        if told.completion_tokens is None
        else f", {output.counted(told.completion_tokens, 'completion token')}"
    )
    _head(
        f"aims at {aim}, predicted by {told.predictor or 'nothing yet'}; references took "
        f"{output.number(told.rollouts, ',')} rollouts{tokens}, "
        f"{output.number(told.rollout_seconds, ',.1f')} s of rollouts, "
        f"{output.number(told.predict_seconds, ',.1f')} s of prediction"
    )
    for one in told.found:
        output.say(
            f"round {one.round}, {one.of} ({output.counted(one.rows, 'prompt')}): "
            f"Pearson {_shown(one.pearson)}, noise ceiling {_shown(one.ceiling, '')}, "
            f"Spearman {_shown(one.spearman)}, Brier {_shown(one.brier, '')} (of the mean alone "
            f"{output.number(one.brier_of_mean, '.2f')})",
            "  ",
        )
        output.table(
            [
                [f"{b.low:.4g} to {b.high:.4g}", f"{b.count:,}", f"{b.predicted:.3f}", f"{b.observed:.3f}"]
                for b in one.bins
            ],
            ["predicted", "prompts", "mean", "observed"],
        )
    if told.warning:
        output.say(told.warning, "  ")


def _hygiene(found: Document) -> None:
    _head("hygiene: rows with something wrong")
    output.table(
        [[one.check, f"{one.rows:,}", f"{one.share:.2%}"] for one in found.hygiene],
        ["check", "rows", "share"],
    )
    for check in found.hygiene:
        if check.note:
            output.say(f"{check.check}: {check.note}", "  ")
        for example in check.examples:
            output.text(f"  {output.plain(example.gc_id)}  {output.plain(example.text)[: output.WIDTH]}")
            output.text(f"    {output.plain(example.match)[: output.WIDTH]}")
        if 0 < len(check.examples) < check.rows:
            output.text(f"  and {check.rows - len(check.examples):,} more")
    dirty = ",".join(check.check for check in found.hygiene if check.rows)
    if dirty:
        output.say(
            "next, with the same options: `gaincurate hygiene DIR --list FILE` lists every row, `gaincurate "
            f"export DIR --drop {dirty}` leaves them out",
            "  ",
        )


def _notes(notes: Sequence[str]) -> None:
    if notes:
        output.text()
    for note in notes:
        output.say(f"note: {note}", "  ")
