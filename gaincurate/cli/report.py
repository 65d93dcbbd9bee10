"""`gaincurate report`: what each score of a set is worth, in the terminal, as JSON or as a page.

All three show one document. The first screen of the terminal says whether to sort by anything.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gaincurate.cli import output
from gaincurate.cli.options import AsJson, configured
from gaincurate.core.options import READING, Cache, Option
from gaincurate.core.store import use_cache
from gaincurate.errors import InputError, OutputError

MINUS, NONE = "\N{MINUS SIGN}", "\N{EN DASH}"
_OF_SIGNALS = {"length", "relations", "lifts"}
"""Parts that the terminal shows with -v."""
_MORE = "-v shows each signal's verdict and its correlations."

if TYPE_CHECKING:
    from gaincurate.report.document import Document
    from gaincurate.report.parts import Block, Cell, Part


def print_report(document: Document, *, verbose: bool = False) -> None:
    """Print whether to sort by any signal, and the next steps; each signal and all tables if `verbose`."""
    from gaincurate.report import verdict as verdicts
    from gaincurate.report.contents import parts

    if (groups := verdicts.mostly_groups(document)) is not None:
        output.say(groups)
    output.say(document.headline)
    about = document.about
    output.say(
        f"{about.folder}: {output.counted(about.rows, 'row')}, {about.model}, {about.dtype} on "
        f"{about.device}; groups: {about.group_column or 'none'} "
        f"({about.group_how})"
    )
    for step in verdicts.next_steps(document):
        output.say(step.text)
        if step.command is not None:
            output.fitted(step.command, "      ", first="  ")
    warned = [verdict for verdict in document.verdicts if verdict.banner is not None]
    for first, *others in [[verdict] for verdict in warned] if verbose else [warned] * bool(warned):
        output.say(f"WARNING: {first.banner}{verdicts.likewise(others)}")
    output.text()
    rows = [[verdict] for verdict in document.verdicts] if verbose else verdicts.alike(document)
    for first, *others in rows:
        output.say(f"[{first.verdict}] {first.sentence}{verdicts.likewise(others)}", "  ")
    print_parts([part for part in parts(document) if verbose or part.name not in _OF_SIGNALS])
    output.text()
    for note in document.notes if verbose else [*document.notes, _MORE]:
        output.say(f"note: {note}", "  ")


def print_parts(parts: Sequence[Part]) -> None:
    """Print the paragraphs and tables of a document, without what a page has on demand."""
    for part in parts:
        if not part.detail:
            output.text()
            output.say(part.title)
            print_blocks(part.blocks)


def print_blocks(blocks: Sequence[Block]) -> None:
    """Print paragraphs and tables."""
    from gaincurate.report.parts import Legend, Table

    for block in blocks:
        if isinstance(block, str) and not isinstance(block, Legend):
            output.say(block, "  ", first="  ")
        elif isinstance(block, Table) and not block.detail:
            output.text()
            output.say(block.caption, "  ", first="  ")
            places = [name == block.text for name in block.head]
            rows = [[_shown(*each) for each in zip(row, places, strict=True)] for row in block.rows]
            output.table(rows, block.head, {*block.left, block.text})


def _shown(cell: Cell, cut: bool) -> str:
    """A cell in characters that every terminal has, a text of the data cut to one line."""
    from gaincurate.report.parts import Figure

    if cut:
        return output.excerpt(str(cell), output.WIDTH)
    plain = output.plain(f"{cell.value} {cell.half}".rstrip() if isinstance(cell, Figure) else str(cell))
    return "-" if plain == NONE else re.sub(rf"{MINUS}(?=\d)", "-", plain)


_SPACE = 80 << 30  # bytes of address space (`ulimit -v`): V8, which draws, has 64 GiB of it
_MARK, _HEAD = b'<meta name="generator" content="gaincurate ', 2048  # what a page of ours has, and where


@configured()
def report(
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
            "For rollout sets: the reward from which a rollout counts as right. Default: rewards between "
            "0 and 1 count as partial successes.",
            min=0,
            max=1,
        ),
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
    page: Annotated[
        Path | None,
        Option("Write the report as one HTML file that works offline.", names=("--output", "-o")),
    ] = None,
    explore: Annotated[
        bool,
        Option(
            "With -o report.html: also write report-prompts.html, a table of all prompts with sorting, "
            "filters and search, and a map of the embeddings."
        ),
    ] = False,
    cache: Cache = None,
    as_json: AsJson = False,
    verbose: Annotated[
        bool, Option("Print each signal's verdict and the tables.", names=("--verbose", "-v"))
    ] = False,
) -> None:
    """Say what each score of a set is worth: more than prompt length, or not.

    Without pass rates (--rollouts, --run) or a difficulty level, the report shows what a score correlates
    with, not its worth for training. Duplicate rows are counted; `gaincurate hygiene` makes the other checks
    of the rows.

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
        from gaincurate.core.scored_set import ScoredSet
        from gaincurate.report.build import report as make
        from gaincurate.report.document import to_json

        inputs: dict[str, Any] = {"run": run, "rollouts": rollouts or [], "success": success}
        inputs |= {"group_column": group_column, "columns": columns or []}
        document = make(folder, **inputs)
        if page is not None:
            from gaincurate.core.files import write_atomic
            from gaincurate.report.contents import to_html

            if beside is not None:
                from gaincurate.report import explore as prompts
                from gaincurate.report.build import observed_table

                scored = ScoredSet(folder)
                table, *_ = observed_table(scored, **inputs)
                # `export --rollouts` has no --success: its pass rates are the same only without one.
                same = document.outcomes if success is None else []
                text = prompts.to_html(scored, table, outcomes=same, report=page.name)
                write_atomic(beside, text.encode())
            html = to_html(document, None if beside is None else beside.name)
            write_atomic(page, html.encode())
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
            f"{option} {page} exists and is not a report of gaincurate, so it is not overwritten. Give "
            "another file, such as report.html.",
            path=str(page),
        )


def lacking_for_pages() -> str:
    """The object of a sentence with "needs" if pages cannot be made, else an empty text."""
    missing = [name for name in ("jinja2", "vl_convert") if find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)}: `pip install 'gaincurate[report]'`"
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if 0 <= limit < _SPACE:  # V8 would end the process by a signal
        return (
            f"{_SPACE >> 30} GiB of address space, of which the drawing library reserves 64, and the limit "
            f"of this process is {limit / 2**30:.3g} (`ulimit -v`)"
        )
    return ""
