"""`gaincurate report`: what the scores of a set are worth, in the terminal, as a page or as JSON."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gaincurate.cli import output
from gaincurate.cli.hygiene_options import report_checks
from gaincurate.cli.options import configured
from gaincurate.cli.report_text import print_report
from gaincurate.errors import InputError, OutputError
from gaincurate.options import CHECKS, READING, Option

if TYPE_CHECKING:
    from gaincurate.hygiene.config import RowChecks

_MARK, _HEAD = b'<meta name="generator" content="gaincurate ', 2048  # what a page of ours has, and where


@configured("gaincurate.hygiene.config:RowChecks")
def report(
    config: RowChecks,
    folder: Annotated[Path, Option("A finished scored set.", metavar="DIR", argument=True)],
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
        Option("Another scored set of the same prompts (dtype, checkpoint); may be repeated."),
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
    as_json: Annotated[bool, Option("Print everything as JSON.", names=("--json",))] = False,
) -> None:
    """Say what each score of a set is worth: more than prompt length, or not.

    Without pass rates (--rollouts, --run) or a level of difficulty it can say what a score follows, not what
    it is worth for training. Rows that stand there twice are counted; further checks of the rows are made
    where their options are given, see `gaincurate hygiene`.

    Example: gaincurate report scored --rollouts rollouts -o report.html
    """
    with output.reporting():
        if page is not None:
            need_a_place_for_the_page(page, "--output")
        from gaincurate.report.build import report as build
        from gaincurate.report.document import to_json

        checks = report_checks(config, near_duplicates)
        found = build(
            folder,
            run=run,
            rollouts=rollouts or [],
            success=success,
            against=against or [],
            group_column=group_column,
            columns=columns or [],
            hygiene=checks,
        )
        if page is not None:
            from gaincurate.files import write_atomic
            from gaincurate.report.page import to_html

            write_atomic(page, to_html(found).encode())
            output.note(f"{page}: written; open it in a browser.")
        if as_json:
            output.as_json(to_json(found))
        else:
            print_report(found)


def need_a_place_for_the_page(page: Path, option: str) -> None:
    """Say what is missing before minutes of work are lost to it.

    Args:
        page: the file to be written.
        option: that named it.

    Raises:
        InputError: a library for pages is not installed.
        OutputError: no page of ours can lie there.
    """
    if missing := missing_for_pages():
        raise InputError(f"{option} needs {' and '.join(missing)}: `pip install 'gaincurate[report]'`.")
    if page.is_dir() or not page.parent.is_dir():
        what = "is a folder" if page.is_dir() else f"lies in {page.parent}, which is no folder"
        raise OutputError(f"{option} {page} {what}: name a file, such as report.html.", path=str(page))
    if page.exists() and _MARK not in page.read_bytes()[:_HEAD]:
        raise OutputError(
            f"{option} {page} is there and is no report: it would be lost. Name another file, such as "
            "report.html.",
            path=str(page),
        )
    if page.suffix.lower() not in (".html", ".htm"):
        raise OutputError(
            f"{option} {page}: the page is HTML; name a file that ends in .html.", path=str(page)
        )


def missing_for_pages() -> list[str]:
    """Libraries that a page needs and that are not installed."""
    return [name for name in ("altair", "jinja2", "vl_convert") if find_spec(name) is None]
