"""`gaincurate report`: what each score of a set is worth, in the terminal, as JSON or as a page.

All three show one document. The first screen of the terminal says whether to sort by anything.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gaincurate.cli import output
from gaincurate.cli.hygiene_options import report_checks
from gaincurate.cli.options import AsJson, configured
from gaincurate.cli.run_view import print_bins, print_status, status_of
from gaincurate.core.options import CHECKS, READING, Cache, Option
from gaincurate.core.store import use_cache
from gaincurate.errors import InputError, OutputError

FINDINGS: dict[str, output.Cell] = {"check": "check", "rows": ("rows", ","), "share": ("share", ".2%")}
"""The table of what hygiene finds."""
_GROUPS = 20  # that the terminal shows
_MORE = "-v shows each signal's verdict, its spread and its correlations."

if TYPE_CHECKING:
    from gaincurate.core.stats import Estimate
    from gaincurate.hygiene.config import RowChecks
    from gaincurate.report.document import Distribution, Document, Verdict


def print_report(document: Document, *, verbose: bool = False) -> None:
    """Print whether to sort by anything and what was asked for; each signal and the tables if `verbose`."""
    from gaincurate.report import verdict_text

    if (groups := verdict_text.mostly_groups(document)) is not None:
        output.say(groups)
    output.say(document.headline)
    about = document.about
    output.say(
        f"{about.folder}: {output.counted(about.rows, 'row')}, {about.model}, {about.dtype} on "
        f"{about.device}; length is {about.length_column}; groups: {about.group_column or 'none'} "
        f"({about.group_how})"
    )
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
    if document.run is not None:
        output.text()
        print_status(status_of(document.run.folder))
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
    shares = {share.column: share.eta_squared for share in document.group_shares}
    explained = {profile.signal: profile.explained for profile in document.profiles}

    def quantile(place: int) -> Callable[[Distribution], str]:
        return lambda each: f"{each.quantiles[place]:.4g}" if each.quantiles else "-"

    columns: dict[str, output.Cell] = {
        "column": "column",
        "rows": ("rows", ","),
        "5%": quantile(2),
        "50%": quantile(4),
        "95%": quantile(6),
        "length": lambda each: _shown(length.get(each.column)),
        "explained by it": lambda each: output.number(explained.get(each.column), ".0%"),
    }
    if (group := document.about.group_column) is not None:
        columns[f"explained by {group}"] = lambda each: output.number(shares.get(each.column), ".0%")
    output.records(document.distributions, columns)


def _target(document: Document, target: str) -> None:
    from gaincurate.report.document import ENDS
    from gaincurate.report.lift import PREDICTED

    relations = {each.signal: each for each in document.relations if each.target == target}
    lifts = {(each.column, each.end): each.ratio for each in document.lifts if each.target == target}
    _head(f"rank correlation with {target} (with half of its 95 % interval)")
    fields = {"overall": "overall", "given length": "given_length", "in length bins": "within_length_bins"}
    if document.about.group_column is not None:
        fields |= {"in groups": "within_groups", "both": "given_length_within_groups"}
    length = document.about.length_column
    of_length = next((each.length for each in relations.values()), None)
    predicted = [PREDICTED] * any(column == PREDICTED for column, _ in lifts)

    def correlation(field: str) -> Callable[[str], str]:
        of_others = of_length if field == "overall" else None
        return lambda name: _shown(
            getattr(relations[name], field) if name in relations else of_others if name == length else None
        )

    def tenth(end: str) -> Callable[[str], str]:
        return lambda name: _shown(lifts.get((name, end)), "")

    columns: dict[str, output.Cell] = {"column": str}
    columns |= {head: correlation(field) for head, field in fields.items()}
    columns |= {f"{end} tenth": tenth(end) for end in ENDS} if lifts else {}
    output.records([*relations, *([length] * bool(relations)), *predicted], columns)
    if lifts:
        output.say("tenths: their mean p (1 - p) over that of a random tenth")
    if predicted:
        output.say(
            f"{PREDICTED}: what `difficulty predict --target variance` would pick of up to 256 of these "
            "prompts, each predicted from a half without it"
        )


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
        print_bins(calibration.bins)


def _groups(document: Document, outcome: str) -> None:
    """The groups that were observed, the largest first."""
    rates = [rate for rate in document.group_rates if rate.outcome == outcome]
    if not rates:
        return
    output.text()
    output.records(
        rates[:_GROUPS],
        {
            document.about.group_column or "": lambda rate: output.excerpt(rate.group, 40),
            "prompts": ("prompts", ","),
            "pass rate": ("mean", ".3f"),
            "teaches": ("teaches", ".0%"),
            "p (1 - p)": ("variance", ".3f"),
        },
    )
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
        output.records(
            other.signals,
            {
                "signal": "signal",
                "rank correlation": lambda signal: _shown(signal.correlation),
                "highest tenth shared": ("top_shared", ".0%"),
            },
        )


def _hygiene(document: Document) -> None:
    _head("hygiene: rows with something wrong")
    output.records(document.hygiene, FINDINGS)
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
    as_json: AsJson = False,
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
        output.as_json(to_json(document)) if as_json else print_report(document, verbose=verbose)


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
