"""`gaincurate report` and `gaincurate compare`: documents in the terminal, as JSON and as a page.

All three show the same document. The first screen of a report says whether any signal is worth sorting by;
`compare` first trains the arms, then shows how they differ.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gaincurate.cli import output
from gaincurate.cli.options import AsJson, configured
from gaincurate.cli.output import counted
from gaincurate.cli.progress import ProgressView, duration
from gaincurate.cli.score import need_packages
from gaincurate.core.options import READING, Option
from gaincurate.errors import InputError, OutputError

if TYPE_CHECKING:
    from gaincurate.report.document import Document
    from gaincurate.report.parts import Block, Cell, Part

Json = dict[str, Any]
PAGE, DOCUMENT = "report.html", "results.json"
MINUS, NONE = "\N{MINUS SIGN}", "\N{EN DASH}"
_OF_SIGNALS = {"length", "relations", "lifts"}  # parts that the terminal shows with -v
_MORE = "-v shows each signal's verdict and its correlations."
_SPACE = 80 << 30  # bytes of address space (`ulimit -v`): V8, which draws, has 64 GiB of it
_MARK, _HEAD = b'<meta name="generator" content="gaincurate ', 2048  # what a page of ours has, and where


def print_report(document: Document, *, verbose: bool = False) -> None:
    """Print whether to sort by any signal, and the next steps; each signal and all tables if `verbose`."""
    from gaincurate.report import verdict as verdicts
    from gaincurate.report.contents import parts

    if (groups := verdicts.mostly_groups(document)) is not None:
        output.say(groups)
    output.say(document.headline)
    about = document.about
    output.say(
        f"{about.folder}: {counted(about.rows, 'row')}, {about.model}, {about.dtype} on {about.device}; "
        f"groups: {about.group_column or 'none'} ({about.group_how})"
    )
    for step in verdicts.next_steps(document):
        output.say(step.text)
        if step.command is not None:
            output.fitted(f"  {step.command}", "      ")
    warned = [verdict for verdict in document.verdicts if verdict.banner is not None]
    for first, *others in [[verdict] for verdict in warned] if verbose else [warned] * bool(warned):
        output.say(f"WARNING: {first.banner}{verdicts.likewise(others)}")
    output.text("")
    rows = [[verdict] for verdict in document.verdicts] if verbose else verdicts.alike(document)
    for first, *others in rows:
        output.say(f"[{first.verdict}] {first.sentence}{verdicts.likewise(others)}", "  ")
    print_parts([part for part in parts(document) if verbose or part.name not in _OF_SIGNALS])
    output.text("")
    for note in document.notes if verbose else [*document.notes, _MORE]:
        output.say(f"note: {note}", "  ")


def print_parts(parts: Sequence[Part]) -> None:
    """Print the paragraphs and tables of a document, without the parts that a page shows on demand."""
    for part in parts:
        if not part.detail:
            output.text("")
            output.say(part.title)
            print_blocks(part.blocks)


def print_blocks(blocks: Sequence[Block]) -> None:
    """Print paragraphs and tables."""
    from gaincurate.report.parts import Legend, Table

    for block in blocks:
        if isinstance(block, str) and not isinstance(block, Legend):
            output.say(f"  {block}", "  ")
        elif isinstance(block, Table) and not block.detail:
            output.text("")
            output.say(f"  {block.caption}", "  ")
            places = [name == block.text for name in block.head]
            rows = [[_shown(*each) for each in zip(row, places, strict=True)] for row in block.rows]
            output.table(rows, block.head, {*block.left, block.text})


def _shown(cell: Cell, cut: bool) -> str:
    """A cell in characters that every terminal has; a text of the data is cut to one line."""
    from gaincurate.report.parts import FigureText

    if cut:
        return output.excerpt(str(cell), output.WIDTH)
    plain = output.plain(f"{cell.value} {cell.half}".rstrip() if isinstance(cell, FigureText) else str(cell))
    return "-" if plain == NONE else re.sub(rf"{MINUS}(?=\d)", "-", plain)


@configured(stores=True)
def report(
    folder: Annotated[Path, Option("A finished scored set.", metavar="DIR", argument=True, stores=True)],
    run: Path | None = None,
    rollouts: list[Path] | None = None,
    success: Annotated[float | None, Option(ge=0, le=1)] = None,
    group_column: Annotated[str | None, Option(panel=READING, metavar="NAME")] = None,
    columns: Annotated[list[str] | None, Option(panel=READING, metavar="NAME")] = None,
    page: Annotated[Path | None, Option(names=("--output", "-o"))] = None,
    explore: bool = False,
    as_json: AsJson = False,
    verbose: Annotated[bool, Option(names=("--verbose", "-v"))] = False,
) -> None:
    """Say what each score of a set is worth: more than prompt length, or not.

    Without pass rates (--rollouts, --run) or a difficulty level, the report shows what a score correlates
    with, not its worth for training. Duplicate rows are counted; `gaincurate hygiene` makes the other checks
    of the rows.

    Example: gaincurate report scored --rollouts rollouts -o report.html

    Options:
        run: A run over the set: its rounds, and its outcomes as pass rates.
        rollouts: Observed pass rates: a rollout set, a run, an outcomes.jsonl, or .parquet/.arrow/.jsonl with
            gc_id and reward, wins and losses, or pass_rate; may be repeated.
        success: For rollout sets: the reward from which a rollout counts as right. Default: rewards between
            0 and 1 count as partial successes.
        group_column: The column of groups, such as the source or the task. Default: a column with a
            usual name, such as data_source or task.
        columns: A column of the source to take for a level of difficulty; may be repeated.
        page: Write the report as one HTML file that works offline.
        explore: With -o report.html: also write report-prompts.html, a table of all prompts with sorting,
            filters and search, and a map of the embeddings.
        verbose: Print each signal's verdict and the tables.
    """
    if page is not None:
        _need_a_place(page, "--output")
    beside = None
    if explore:
        if page is None:
            raise InputError("--explore writes a page beside the report's: name that one, -o report.html.")
        beside = page.with_name(f"{page.stem}-prompts{page.suffix}")
        _need_a_place(beside, "--explore")
    from gaincurate.core.files import write_atomic
    from gaincurate.core.scored_set import ScoredSet
    from gaincurate.report import contents, document
    from gaincurate.report.build import observed_table
    from gaincurate.report.build import report as make

    inputs: Json = {"run": run, "rollouts": rollouts or [], "success": success}
    inputs |= {"group_column": group_column, "columns": columns or []}
    made = make(folder, **inputs)
    if page is not None:
        if beside is not None:
            from gaincurate.report import explore as prompts  # it needs the extra

            scored = ScoredSet(folder)
            table, *_ = observed_table(scored, **inputs)
            # `export --rollouts` has no --success: its pass rates are the same only without one.
            same = made.outcomes if success is None else []
            write_atomic(beside, prompts.to_html(scored, table, outcomes=same, report=page.name).encode())
        write_atomic(page, contents.to_html(made, None if beside is None else beside.name).encode())
        output.note(f"{page}: written; open it in a browser.")
        if beside is not None:
            output.note(f"{beside}: every prompt; keep it beside {page.name}, which links to it.")
    output.as_json(document.to_json(made)) if as_json else print_report(made, verbose=verbose)


def _need_a_place(page: Path, option: str) -> None:
    """Raise before the work starts if the page cannot be made or written."""
    if lacking := lacking_for_pages():
        raise InputError(f"{option} needs {lacking}.")
    if page.is_dir() or not page.parent.is_dir():
        what = "is a folder" if page.is_dir() else f"lies in {page.parent}, which is no folder"
        raise OutputError(f"{option} {page} {what}: name a file, such as report.html.", path=str(page))
    from gaincurate.core.files import reading
    from gaincurate.core.foreign import open_regular

    if page.exists():
        with reading(page), open_regular(page) as file:
            is_report = _MARK in file.read(_HEAD)
        if not is_report:
            raise OutputError(
                f"{option} {page} exists and is not a report of gaincurate, so it is not overwritten. Give "
                "another file, such as report.html.",
                path=str(page),
            )


def lacking_for_pages() -> str:
    """The missing packages or memory for pages, as the object of "needs"; empty if pages can be made."""
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


@configured(resumes=True)
def compare(
    config: Annotated[Path, Option(metavar="CONFIG", argument=True)],
    out: Annotated[Path | None, Option(names=("--out", "-o"), metavar="DIR")] = None,
    tune: bool = False,
    workers: Annotated[int, Option(ge=1)] = 1,
    dry_run: bool = False,
    as_json: AsJson = False,
) -> None:
    """Train a model under several strategies at equal generated tokens, and say whether they differ.

    CONFIG names a scored set to train on, another one to judge on, a verifier, a budget and the arms;
    `uniform` and `length` are always among them, and so is uniform sampling with the replay and the size of a
    step of an arm that has its own. Each arm is trained with each seed by TRL's GRPO, pays for
    its own scoring and reference rollouts, and is judged at the same numbers of generated tokens.

    Run the same command again after an interruption: what was trained and judged is kept. On a finished
    comparison it only shows it again.

    Example: gaincurate compare compare.toml -o compared

    Options:
        config: A .toml file with scored, heldout, verifier, budget_tokens and [[arms]] at least.
        out: Folder of the comparison. Default: beside CONFIG, with its name without .toml.
        tune: First train uniform sampling with several learning rates and sizes of a step at equal tokens
            ([tune] in CONFIG), and give all arms the best.
        workers: How many arms are trained at a time, each by a process of its own.
        dry_run: Print how many trainings, generated tokens and answers are left; write nothing.
    """
    need_packages("compare", ("torch", "transformers", "trl"), "score,trl")
    out = out or config.parent / (config.stem if config.suffix else f"{config.name}-compared")
    with ProgressView() as view:
        view.loading("torch and TRL")
        from gaincurate.compare import runner
        from gaincurate.compare.config import read_comparison

        asked = read_comparison(config)
        if dry_run:
            left = runner.estimate(asked, out, workers, tune=tune)
        else:
            view.loading("")
            runner.compare(asked, out, view, workers=workers, tune=tune)
    if dry_run:
        output.result(left, as_json, partial(print_estimate, out=out))
        return
    from gaincurate.compare.contents import to_html
    from gaincurate.compare.document import document
    from gaincurate.compare.results import read_results
    from gaincurate.core.files import write_atomic, write_json

    comparison = document(read_results(out))
    write_json(out / DOCUMENT, comparison)
    output.note(f"{out / DOCUMENT}: all measures")
    if lacking := lacking_for_pages():
        output.note(f"no page: it needs {lacking}")
    else:
        write_atomic(out / PAGE, to_html(comparison).encode())
        output.note(f"{out / PAGE}: written; open it in a browser.")
    output.result(comparison, as_json, print_comparison)


def print_estimate(facts: Json, out: Path) -> None:
    """Print an estimate of the work of a comparison."""
    tuning = f", {facts['tuning']:,} of them to tune" if facts["tuning"] else ""
    time = "" if facts["seconds"] is None else f", about {duration(facts['seconds'])} at the speed of those"
    output.fitted(
        f"{out}: {counted(facts['trainings'], 'training')}{tuning}, {facts['done']:,} done; "
        f"{facts['tokens']:,} tokens to generate in training{time}, and "
        f"{counted(facts['judged'], 'answer')} to judge; nothing was written"
    )


def print_comparison(comparison: Json) -> None:
    """Print the result of a comparison, and the figures behind it."""
    from gaincurate.compare.contents import parts

    setting, arms = comparison["setting"], comparison["arms"]
    output.say(comparison["headline"])
    for note in comparison["notes"]:
        output.say(f"NOTE: {note}")
    output.text("")
    output.say(
        f"{counted(setting['budget_tokens'], 'generated token')} for each of {counted(len(arms), 'arm')} and "
        f"{counted(setting['seeds_count'], 'seed')}; {counted(setting['prompts'], 'held-out prompt')}, "
        f"{counted(setting['samples'], 'answer')} each; {arms[0]['curve'][0]['accuracy']:.3f} of them right "
        "at the start"
    )
    for arm in arms:
        output.say(arm["sentence"], "  ")
    if comparison["against_length"]:
        output.say(comparison["against_length"], "  ")
    print_parts(parts(comparison))
