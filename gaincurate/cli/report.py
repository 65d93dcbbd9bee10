"""`gaincurate report`: what each score of a set is worth, in the terminal, as JSON or as a page.

All three show one document. The first screen of the terminal says whether to sort by anything.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gaincurate.cli import output
from gaincurate.cli.hygiene_options import report_checks
from gaincurate.cli.options import configured
from gaincurate.core.options import CHECKS, READING, Cache, Option
from gaincurate.core.store import use_cache
from gaincurate.errors import InputError, OutputError

_GROUPS = 20  # that the terminal shows
_MORE = "-v shows each signal's verdict, its spread and its correlations."

if TYPE_CHECKING:
    from gaincurate.core.stats import Estimate
    from gaincurate.hygiene.config import RowChecks
    from gaincurate.report.document import Document, Lift, Predictions, Relation, Verdict


def print_report(document: Document, *, verbose: bool = False) -> None:
    """Print whether to sort by anything and what was asked for; each signal and the tables if `verbose`."""
    from gaincurate.report import verdict_text

    about = document.about
    output.say(
        f"{about.folder}: {output.counted(about.rows, 'row')}, {about.model}, {about.dtype} on "
        f"{about.device}; length is {about.length_column}; groups: {about.group_column or 'none'} "
        f"({about.group_how})"
    )
    output.text()
    if (groups := verdict_text.mostly_groups(document)) is not None:
        output.say(groups)
    output.say(document.headline)
    if document.unknown is not None:
        output.say(document.unknown)
    if (waste := verdict_text.waste(document)) is not None:
        output.say(waste)
    warned = [verdict for verdict in document.verdicts if verdict.banner is not None]
    for first, *others in [[verdict] for verdict in warned] if verbose else [warned] * bool(warned):
        output.say(f"WARNING: {first.banner}{_likewise(others)}")
    output.text()
    rows = [[verdict] for verdict in document.verdicts] if verbose else verdict_text.alike(document)
    for first, *others in rows:
        output.say(f"[{first.verdict}] {first.sentence}{_likewise(others)}", "  ")
    _run(document)
    if verbose:
        _signals(document)
        for target in dict.fromkeys(relation.target for relation in document.relations):
            _target(document, target)
    _outcomes(document)
    _against(document)
    _hygiene(document)
    _notes(document.notes if verbose else [*document.notes, _MORE])


def _likewise(others: Sequence[Verdict]) -> str:
    return f" The same holds for {', '.join(other.signal for other in others)}." if others else ""


def _head(line: str) -> None:
    output.text()
    output.say(line)


def _signals(document: Document) -> None:
    _head("spread, and rank correlation with question length (with half of its 95 % interval)")
    length = {verdict.signal: verdict.length for verdict in document.verdicts}
    shares = {share.column: share for share in document.group_shares}
    explained = {profile.signal: profile.explained for profile in document.profiles}
    group = [] if document.about.group_column is None else [f"explained by {document.about.group_column}"]
    lines = []
    for distribution in document.distributions:
        quantiles = (
            [f"{distribution.quantiles[place]:.4g}" for place in (2, 4, 6)]
            if distribution.quantiles
            else ["-"] * 3
        )
        cells = [distribution.column, f"{distribution.rows:,}", *quantiles]
        cells += [
            _shown(length.get(distribution.column)),
            output.number(explained.get(distribution.column), ".0%"),
        ]
        if group:
            share = shares.get(distribution.column)
            cells.append(output.number(None if share is None else share.eta_squared, ".0%"))
        lines.append(cells)
    output.table(lines, ["column", "rows", "5%", "50%", "95%", "length", "explained by it", *group])


def _target(document: Document, target: str) -> None:
    from gaincurate.report.document import ENDS
    from gaincurate.report.lift import PREDICTED

    relations = [relation for relation in document.relations if relation.target == target]
    _head(f"rank correlation with {target} (with half of its 95 % interval)")
    grouped = document.about.group_column is not None
    head = ["column", "overall", "given length", "in length bins"]
    head += ["in groups", "both"] if grouped else []
    lifts = {(lift.column, lift.end): lift for lift in document.lifts if lift.target == target}
    head += [f"{end} tenth" for end in ENDS] if lifts else []
    lines = [_relation(relation, lifts, grouped=grouped) for relation in relations]
    length = document.about.length_column
    if relations:
        blank = ["-"] * (4 if grouped else 2)
        lines.append([length, _shown(relations[0].length), *blank, *_ends(lifts, length)])
    if any(column == PREDICTED for column, _ in lifts):
        lines.append([PREDICTED, "-", *(["-"] * (4 if grouped else 2)), *_ends(lifts, PREDICTED)])
    output.table(lines, head)
    if lifts:
        output.say("tenths: their mean p (1 - p) over that of a random tenth")
    if lines and lines[-1][0] == PREDICTED:
        output.say(
            f"{PREDICTED}: what `difficulty predict --target variance` would pick of up to 256 of these "
            "prompts, each predicted from a half without it"
        )


def _relation(relation: Relation, lifts: dict[tuple[str, str], Lift], *, grouped: bool) -> list[str]:
    cells = [relation.overall, relation.given_length, relation.within_length_bins]
    groups = [relation.within_groups, relation.given_length_within_groups] if grouped else []
    return [relation.signal, *map(_shown, [*cells, *groups]), *_ends(lifts, relation.signal)]


def _ends(lifts: dict[tuple[str, str], Lift], column: str) -> list[str]:
    from gaincurate.report.document import ENDS

    if not lifts:
        return []
    ends = [lifts.get((column, end)) for end in ENDS]
    return [_shown(None if lift is None else lift.ratio, "") for lift in ends]


def _shown(estimate: Estimate | None, sign: str = "+") -> str:
    if estimate is None or estimate.value is None:
        return "-"
    text = format(estimate.value, f"{sign}.2f")
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return text
    half = (estimate.high - estimate.low) / 2
    return f"{text} ±{half:.2f}" if half >= 0.005 else f"{text} ±{half:.1g}"


def _outcomes(document: Document) -> None:
    for outcome in document.outcomes:
        _head(
            f"{outcome.name}: {output.counted(outcome.prompts, 'prompt')}"
            + ("" if outcome.rollouts is None else f", {output.counted(outcome.rollouts, 'rollout')}")
            + f", mean {outcome.mean:.3f}; all right {outcome.always:.0%}, none right {outcome.never:.0%}; "
            f"mean p (1 - p) {_shown(outcome.mean_variance, '')}; highest correlation that a prediction "
            f"could show {_shown(outcome.ceiling, '')}"
        )
        if outcome.unknown:
            verb = "is" if outcome.unknown == 1 else "are"
            output.say(f"  {outcome.unknown:,} of its prompts {verb} not in this set.")
        for note in outcome.notes:
            output.say(f"  {note}")
        _groups(document, outcome.name)
    for calibration in document.calibrations:
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


def _groups(document: Document, outcome: str) -> None:
    """The groups that were observed, the largest first."""
    rates = [rate for rate in document.group_rates if rate.outcome == outcome]
    if not rates:
        return
    lines = [
        [
            output.excerpt(rate.group, 40),
            f"{rate.prompts:,}",
            f"{rate.mean:.3f}",
            output.number(rate.teaches, ".0%"),
            output.number(rate.variance, ".3f"),
        ]
        for rate in rates[:_GROUPS]
    ]
    output.text()
    output.table(lines, [document.about.group_column or "", "prompts", "pass rate", "teaches", "p (1 - p)"])
    output.say("teaches: the share of its prompts with both right and wrong rollouts", first="  ")
    if len(rates) > _GROUPS:
        output.say(f"and {len(rates) - _GROUPS:,} smaller ones (--json has all)", first="  ")


def _against(document: Document) -> None:
    for other in document.against:
        differ = ", ".join(f"{d.key} {d.here} here and {d.there} there" for d in other.differences[:4])
        _head(
            f"against {other.folder}: {output.counted(other.shared, 'row')} in both, "
            f"{other.only_here:,} only here, {other.only_there:,} only there"
            + (f"; {differ}" if differ else "")
        )
        lines = [
            [signal.signal, _shown(signal.correlation), output.number(signal.top_shared, ".0%")]
            for signal in other.signals
        ]
        output.table(lines, ["signal", "rank correlation", "highest tenth shared"])


def _run(document: Document) -> None:
    run = document.run
    if run is None:
        return
    _head(
        f"{run.folder}: {run.strategy}{'' if run.by is None else f' by {run.by}'}, {len(run.rounds)} of "
        f"{output.counted(run.planned_rounds, 'round')}, {output.counted(run.budget, 'prompt')} each; "
        f"{run.training_seconds:,.0f} s of training, {run.scoring_seconds:,.0f} s of scoring"
    )
    lines = [
        [
            str(round_.round),
            output.number(round_.mu, ",.0f"),
            output.number(round_.accuracy, ".3f"),
            output.number(round_.effective, ".0%"),
            output.number(round_.drift, "+.3f"),
            output.number(round_.rollouts, ","),
            output.number(round_.completion_tokens, ","),
            output.number(round_.training_seconds, ",.0f"),
            output.number(round_.scoring_seconds, ",.0f"),
        ]
        for round_ in run.rounds
    ]
    head = ["round", "mu", "accuracy", "effective", "drift", "rollouts", "tokens", "training s", "scoring s"]
    output.table(lines, head)
    if run.predictions is not None:
        _predictions(run.predictions)


def _predictions(predictions: Predictions) -> None:
    aim = "the largest p (1 - p)"
    if predictions.target_difficulty is not None:
        aim = f"a failure rate of {predictions.target_difficulty:g}"
    tokens = (
        ""
        if predictions.completion_tokens is None
        else f", {output.counted(predictions.completion_tokens, 'completion token')}"
    )
    _head(
        f"aims at {aim}, predicted by {predictions.predictor or 'nothing yet'}; references took "
        f"{output.number(predictions.rollouts, ',')} rollouts{tokens}, "
        f"{output.number(predictions.rollout_seconds, ',.1f')} s of rollouts, "
        f"{output.number(predictions.predict_seconds, ',.1f')} s of prediction"
    )
    for quality in predictions.found:
        output.say(
            f"round {quality.round}, {quality.of} ({output.counted(quality.rows, 'prompt')}): "
            f"Pearson {_shown(quality.pearson)}, noise ceiling {_shown(quality.ceiling, '')}, "
            f"Spearman {_shown(quality.spearman)}, Brier {_shown(quality.brier, '')} (of the mean alone "
            f"{output.number(quality.brier_of_mean, '.2f')})",
            "  ",
        )
        output.table(
            [
                [f"{b.low:.4g} to {b.high:.4g}", f"{b.count:,}", f"{b.predicted:.3f}", f"{b.observed:.3f}"]
                for b in quality.bins
            ],
            ["predicted", "prompts", "mean", "observed"],
        )
    if predictions.warning:
        output.say(predictions.warning, "  ")


def _hygiene(document: Document) -> None:
    _head("hygiene: rows with something wrong")
    output.table(
        [[result.check, f"{result.rows:,}", f"{result.share:.2%}"] for result in document.hygiene],
        ["check", "rows", "share"],
    )
    for check in document.hygiene:
        if check.note:
            output.say(f"{check.check}: {check.note}", "  ")
        for example in check.examples:
            output.text(f"  {output.plain(example.gc_id)}  {output.excerpt(example.text, output.WIDTH)}")
            output.text(f"    {output.excerpt(example.match, output.WIDTH)}")
        if 0 < len(check.examples) < check.rows:
            output.text(f"  and {check.rows - len(check.examples):,} more")
    dirty = ",".join(check.check for check in document.hygiene if check.rows)
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


_FILES = 64  # that may be open (`ulimit -n`): Deno, within the same, opens some when it begins
_SPACE = 80 << 30  # bytes of address space (`ulimit -v`): V8, which draws, has 64 GiB of it
_MARK, _HEAD = b'<meta name="generator" content="gaincurate ', 2048  # what a page of ours has, and where


@configured("gaincurate.hygiene.config:RowChecks")
def report(
    config: RowChecks,
    folder: Annotated[Path, Option("A finished scored set.", metavar="DIR", argument=True, stores=True)],
    run: Annotated[
        Path | None, Option("A run over the set: its rounds, and its outcomes as pass rates.")
    ] = None,
    rollouts: Annotated[
        list[Path] | None,
        Option(
            "Observed pass rates: a rollout set, a run, an outcomes.jsonl, or .parquet/.arrow/.jsonl "
            "with gc_id and reward, wins and losses, or pass_rate; may be repeated."
        ),
    ] = None,
    success: Annotated[
        float | None,
        Option(
            "Of rollout sets: a rollout is right from this reward on. Default: a reward is so much of a "
            "success.",
            min=0,
            max=1,
        ),
    ] = None,
    against: Annotated[
        list[Path] | None,
        Option("Another scored set of the same prompts (dtype, checkpoint); may be repeated.", stores=True),
    ] = None,
    group_column: Annotated[
        str | None,
        Option(
            "The column of groups, such as the source or the task. Default: found by name.",
            READING,
            metavar="NAME",
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        Option(
            "A column of the source to take for a level of difficulty; may be repeated.",
            READING,
            metavar="NAME",
        ),
    ] = None,
    near_duplicates: Annotated[
        bool, Option("Look for near duplicates too, which takes longer.", CHECKS)
    ] = False,
    page: Annotated[
        Path | None,
        Option("Write all of it as one HTML file, which works offline.", names=("--output", "-o")),
    ] = None,
    explore: Annotated[
        bool,
        Option(
            "With -o report.html: write report-prompts.html too, with every prompt to sort, filter and "
            "search, and a map of the embeddings."
        ),
    ] = False,
    cache: Cache = None,
    as_json: Annotated[bool, Option("Print everything as JSON.", names=("--json",))] = False,
    verbose: Annotated[
        bool, Option("Print each signal's verdict and the tables.", names=("--verbose", "-v"))
    ] = False,
) -> None:
    """Say what each score of a set is worth: more than prompt length, or not.

    Without pass rates (--rollouts, --run) or a level of difficulty it can say what a score follows, not what
    it is worth for training. Rows that stand there twice are counted; further checks of the rows are made
    where their options are given, see `gaincurate hygiene`.

    Example: gaincurate report scored --rollouts rollouts -o report.html
    """
    with output.reporting():
        use_cache(cache)
        if page is not None:
            need_a_place_for_the_page(page, "--output")
        beside = None
        if explore:
            if page is None:
                raise InputError(
                    "--explore writes a page beside the report's: name that one, -o report.html."
                )
            beside = page.with_name(f"{page.stem}-prompts{page.suffix}")
            need_a_place_for_the_page(beside, "--explore")
        from gaincurate.report.build import look
        from gaincurate.report.document import to_json

        checks = report_checks(config, near_duplicates)
        looked = look(
            folder,
            run=run,
            rollouts=rollouts or [],
            success=success,
            against=against or [],
            group_column=group_column,
            columns=columns or [],
            hygiene=checks,
        )
        document = looked.document
        if page is not None:
            from gaincurate.core.files import write_atomic
            from gaincurate.report import explore as prompts
            from gaincurate.report.page import to_html

            if beside is not None:
                # `export --rollouts` has no --success: its pass rates are the same only without one.
                same = document.outcomes if success is None else []
                text = prompts.to_html(looked.scored, looked.table, outcomes=same, report=page.name)
                write_atomic(beside, text.encode(), named=True)
            html = to_html(document, None if beside is None else beside.name)
            write_atomic(page, html.encode(), named=True)
            output.note(f"{page}: written; open it in a browser.")
            if beside is not None:
                output.note(f"{beside}: every prompt; keep it beside {page.name}, which links to it.")
        if as_json:
            output.as_json(to_json(document))
        else:
            print_report(document, verbose=verbose)


def need_a_place_for_the_page(page: Path, option: str) -> None:
    """Say what is missing before minutes of work are lost to it.

    Args:
        page: the file to be written.
        option: that named it.

    Raises:
        InputError: pages cannot be made here.
        OutputError: no page of ours can lie there.
    """
    if lacking := lacking_for_pages():
        raise InputError(f"{option} needs {lacking}.")
    if page.is_dir() or not page.parent.is_dir():
        what = "is a folder" if page.is_dir() else f"lies in {page.parent}, which is no folder"
        raise OutputError(f"{option} {page} {what}: name a file, such as report.html.", path=str(page))
    from gaincurate.core.files import reading
    from gaincurate.core.foreign import open_regular

    ours = True
    if page.exists():
        with reading(page), open_regular(page) as file:
            ours = _MARK in file.read(_HEAD)
    if not ours:
        raise OutputError(
            f"{option} {page} is there and is no report: it would be lost. Name another file, such as "
            "report.html.",
            path=str(page),
        )
    if page.suffix.lower() not in (".html", ".htm"):
        raise OutputError(
            f"{option} {page}: the page is HTML; name a file that ends in .html.", path=str(page)
        )


def lacking_for_pages() -> str:
    """What a sentence says after "needs" where no page can be made; empty where one can."""
    missing = [name for name in ("altair", "jinja2", "vl_convert") if find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)}: `pip install 'gaincurate[report]'`"
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= files < _FILES:  # it would panic
        return (
            f"{_FILES} open files for what draws the pictures, and this process may have {files} "
            "(`ulimit -n`)"
        )
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if 0 <= limit < _SPACE:  # V8 would end the process by a signal
        return (
            f"{_SPACE >> 30} GiB of address space, as what draws the pictures reserves 64 and uses next to "
            f"none, and this process may have {limit / 2**30:.3g} (`ulimit -v`)"
        )
    return ""
