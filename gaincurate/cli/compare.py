"""What a comparison shows in the terminal: takes the document, prints it. Knows nothing of files."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

from gaincurate.cli import output
from gaincurate.cli.options import configured
from gaincurate.cli.report import missing_for_pages, need_a_place_for_the_page
from gaincurate.core.options import Option

Json = dict[str, Any]


def print_comparison(found: Json) -> None:
    """What can be said first; what it rests on below."""
    setting = found["setting"]
    output.say(found["headline"])
    for note in found["notes"]:
        output.say(f"NOTE: {note}")
    output.text()
    output.say(
        f"{output.counted(setting['budget_tokens'], 'generated token')} for each of "
        f"{output.counted(len(found['arms']), 'arm')} and {output.counted(setting['seeds_count'], 'seed')}; "
        f"{output.counted(setting['prompts'], 'held-out prompt')}, "
        f"{output.counted(setting['samples'], 'answer')} each; "
        f"{found['arms'][0]['curve'][0]['accuracy']:.3f} of them right at the start"
    )
    _verdicts(found)
    output.text()
    _gave(found)
    output.text()
    _cost(found)
    output.text()
    for arm in found["arms"]:
        output.say(arm["sentence"], "  ")
    if found["against_length"]:
        output.say(found["against_length"], "  ")


def _verdicts(found: Json) -> None:
    from gaincurate.compare.verdict_text import reached_at

    baseline, second = found["setting"]["baseline"], found["setting"]["second"]
    head = ["arm", "right", f"less {baseline}", "95 % together", "verdict", f"less {second}", "verdict"]
    head.append(f"at {baseline}'s end after")
    rows = []
    for arm in sorted(found["arms"], key=lambda arm: -float(arm["accuracy"]["value"])):
        against, length = arm["difference"] or {}, arm["against_length"] or {}
        rows.append(
            [
                arm["arm"],
                f"{arm['accuracy']['value']:.3f}",
                output.number(against.get("value"), "+.3f"),
                _span(against.get("joint")),
                against.get("answer", "the baseline"),
                output.number(length.get("value"), "+.3f"),
                length.get("answer", ""),
                reached_at(found, arm),
            ]
        )
    output.table(rows, head)


def _span(ends: list[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:+.3f} to {ends[1]:+.3f}"


def _gave(found: Json) -> None:
    most = max(found["arms"][0]["pass_at"], key=int)
    head = ["arm", f"pass@{most}", "answer tokens", "0<p<1", "reward", "replayed"]
    head += ["gradient~angle", "given time"]
    rows = [
        [
            arm["arm"],
            f"{arm['pass_at'][most]:.3f}",
            f"{arm['curve'][-1]['response_tokens']:,.1f}",
            output.number(arm["training"]["effective"], ".2f"),
            output.number(arm["training"]["reward"], ".3f"),
            output.number(arm["training"]["replayed"], ".0%"),
            output.number(arm["gradient"]["spearman"], "+.2f"),
            output.number(arm["gradient"]["given_step"], "+.2f"),
        ]
        for arm in found["arms"]
    ]
    output.table(rows, head)


def _cost(found: Json) -> None:
    names = ("training", "references", "scoring", "rescoring", "tokens")
    head = ["arm", "tokens of training", "references", "scoring", "re-scoring", "all", "steps", "seconds"]
    rows = [
        [
            arm["arm"],
            *(f"{arm['cost'][name]:,.0f}" for name in names),
            f"{arm['cost']['step']:,.0f}",
            f"{arm['cost']['seconds']:,.0f}",
        ]
        for arm in found["arms"]
    ]
    output.table(rows, head)


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
            from gaincurate.cli.compare import print_comparison

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
    from gaincurate.core.files import write_json

    found = document(read_results(out))
    write_json(out / DOCUMENT, found)
    output.note(f"{out / DOCUMENT}: all measures")
    return found


def _write_page(found: dict[str, Any], asked: Path | None, out: Path) -> None:
    if asked is None and (missing := missing_for_pages()):
        output.note(f"no page: it needs {' and '.join(missing)}, `pip install 'gaincurate[report]'`")
        return
    from gaincurate.compare.page import to_html
    from gaincurate.core.files import write_atomic

    path = asked or out / PAGE
    write_atomic(path, to_html(found).encode())
    output.note(f"{path}: written; open it in a browser.")
