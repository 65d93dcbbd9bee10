"""`gaincurate compare`: strategies trained side by side at equal cost, and what can be said of them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

from gaincurate.cli import output
from gaincurate.cli.options import configured
from gaincurate.cli.report import missing_for_pages, need_a_place_for_the_page
from gaincurate.options import Option

PAGE, DOCUMENT = "report.html", "results.json"


@configured()
def compare(
    config: Annotated[Path, Option("A .toml file; see docs/compare.md.", metavar="CONFIG", argument=True)],
    out: Annotated[
        Path | None,
        Option(
            "Folder of the comparison. Default: beside CONFIG, with its name without .toml.",
            names=("--out", "-o"),
            metavar="DIR",
        ),
    ] = None,
    workers: Annotated[
        int, Option("How many arms are trained at a time, each by a process of its own.", min=1)
    ] = 1,
    page: Annotated[
        Path | None,
        Option(
            "Write the page there. Default: DIR/report.html, where the extra `report` is installed.",
            names=("--html",),
            metavar="FILE",
        ),
    ] = None,
    as_json: Annotated[bool, Option("Print all measures as JSON.", names=("--json",))] = False,
) -> None:
    """Train a model under several strategies at equal generated tokens, and say whether they differ.

    CONFIG names a scored set to train on, another one to judge on, a verifier, a budget and the arms;
    `uniform` and `length` are always among them. Each arm is trained with each seed by TRL's GRPO, pays for
    its own scoring and reference rollouts, and is judged at the same numbers of generated tokens.

    Run the same command again after an interruption: what was trained and judged is kept. On a finished
    comparison it only shows it again.

    Example: gaincurate compare compare.toml -o compared
    """
    again = f"Run the same command again: {shlex.join(['gaincurate', *sys.argv[1:]])}"
    with output.reporting(again):
        out = out or config.parent / (config.stem if config.suffix else f"{config.name}-compared")
        if page is not None:
            need_a_place_for_the_page(page, "--html")
        _train(config, out, workers)
        found = _document(out)
        _write_page(found, page, out)
        if as_json:
            output.as_json(found)
        else:
            from gaincurate.cli.compare_text import print_comparison

            print_comparison(found)


def _train(config: Path, out: Path, workers: int) -> None:
    from gaincurate.cli.progress import ProgressView
    from gaincurate.compare import runner
    from gaincurate.compare.config import read_comparison
    from gaincurate.core.process import stoppable

    comparison = read_comparison(config)
    with stoppable(), ProgressView() as view:
        runner.compare(comparison, out, view, workers=workers)


def _document(out: Path) -> dict[str, Any]:
    from gaincurate.compare.document import document
    from gaincurate.compare.results import read_results
    from gaincurate.files import write_json

    found = document(read_results(out))
    write_json(out / DOCUMENT, found)
    output.note(f"{out / DOCUMENT}: all measures")
    return found


def _write_page(found: dict[str, Any], asked: Path | None, out: Path) -> None:
    if asked is None and (missing := missing_for_pages()):
        output.note(f"no page: it needs {' and '.join(missing)}, `pip install 'gaincurate[report]'`")
        return
    from gaincurate.compare.page import to_html
    from gaincurate.files import write_atomic

    path = asked or out / PAGE
    write_atomic(path, to_html(found).encode())
    output.note(f"{path}: written; open it in a browser.")
