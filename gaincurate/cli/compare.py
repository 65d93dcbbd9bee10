"""`gaincurate compare`: trains arms side by side, then shows what differs.

The terminal, `--json` and the page show the same document, so none can say more than another.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from gaincurate.cli import output
from gaincurate.cli.options import AsJson, configured
from gaincurate.cli.progress import ProgressView, duration
from gaincurate.cli.report import lacking_for_pages, need_a_place_for_the_page, print_parts
from gaincurate.core.options import Option
from gaincurate.errors import InputError

PAGE, DOCUMENT = "report.html", "results.json"

Json = dict[str, Any]


def print_comparison(comparison: Json) -> None:
    """Print what can be said first, and what it rests on below."""
    from gaincurate.compare.contents import parts

    setting = comparison["setting"]
    output.say(comparison["headline"])
    for note in comparison["notes"]:
        output.say(f"NOTE: {note}")
    output.text()
    output.say(
        f"{output.counted(setting['budget_tokens'], 'generated token')} for each of "
        f"{output.counted(len(comparison['arms']), 'arm')} and "
        f"{output.counted(setting['seeds_count'], 'seed')}; "
        f"{output.counted(setting['prompts'], 'held-out prompt')}, "
        f"{output.counted(setting['samples'], 'answer')} each; "
        f"{comparison['arms'][0]['curve'][0]['accuracy']:.3f} of them right at the start"
    )
    for arm in comparison["arms"]:
        output.say(arm["sentence"], "  ")
    if comparison["against_length"]:
        output.say(comparison["against_length"], "  ")
    print_parts(parts(comparison))


@configured()
def compare(
    config: Annotated[
        Path,
        Option(
            "A .toml file with scored, heldout, verifier, budget_tokens and [[arms]] at least.",
            metavar="CONFIG",
            argument=True,
        ),
    ],
    out: Annotated[
        Path | None,
        Option(
            "Folder of the comparison. Default: beside CONFIG, with its name without .toml.",
            names=("--out", "-o"),
            metavar="DIR",
        ),
    ] = None,
    tune: Annotated[
        bool,
        Option(
            "First train uniform sampling with several learning rates and sizes of a step at equal tokens "
            "([tune] in CONFIG), and give all arms the best.",
            names=("--tune",),
        ),
    ] = False,
    workers: Annotated[
        int, Option("How many arms are trained at a time, each by a process of its own.", min=1)
    ] = 1,
    dry_run: Annotated[
        bool, Option("Print trainings, steps, generated tokens and an estimate of the time; write nothing.")
    ] = False,
    trial: Annotated[
        bool, Option("With --dry-run: time one step of uniform sampling, which is thrown away.")
    ] = False,
    page: Annotated[
        Path | None,
        Option(
            "Write the page there. Default: DIR/report.html, where the extra `report` is installed.",
            names=("--html",),
            metavar="FILE",
        ),
    ] = None,
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
    """
    with output.reporting(resumes=True):
        out = out or config.parent / (config.stem if config.suffix else f"{config.name}-compared")
        if trial and not dry_run:
            raise InputError("--trial goes with --dry-run.")
        if dry_run:
            facts = _estimated(config, out, workers, tune=tune, trial=trial)
            output.result(facts, as_json, partial(print_estimate, out=out, workers=workers))
            return
        if page is not None:
            need_a_place_for_the_page(page, "--html")
        _train(config, out, workers, tune=tune)
        comparison = _document(out)
        _write_page(comparison, page, out)
        output.result(comparison, as_json, print_comparison)


def _train(config: Path, out: Path, workers: int, *, tune: bool) -> None:
    with ProgressView() as view:
        view.loading("torch and TRL")
        from gaincurate.compare import runner
        from gaincurate.compare.config import read_comparison

        comparison = read_comparison(config)
        view.loading("")
        runner.compare(comparison, out, view, workers=workers, tune=tune)


def _estimated(config: Path, out: Path, workers: int, *, tune: bool, trial: bool) -> Json:
    with ProgressView() as view:
        view.loading("torch and TRL")
        from gaincurate.compare.config import read_comparison
        from gaincurate.compare.estimate import estimate

        comparison = read_comparison(config)
        view.loading("a model for one step" if trial else "the sets")
        return estimate(comparison, out, workers, tune=tune, trial=trial)


def print_estimate(facts: Json, out: Path, workers: int) -> None:
    """Print what a comparison would do, and what the time rests on."""
    tuning = f", {facts['tuning']:,} of them to tune" if facts["tuning"] else ""
    output.fitted(
        f"{out}: {output.counted(facts['trainings'], 'training')}{tuning}, {facts['done']:,} done; "
        f"{facts['tokens']:,} tokens to generate in training, and "
        f"{output.counted(facts['judged'], 'answer')} to judge"
    )
    heads = {
        "trainings": "trainings",
        "done": "done",
        "prompts": "prompts a step",
        "rollouts": "rollouts a step",
        "charged": "tokens charged before",
        "steps": "steps at least",
    }
    output.records(facts["arms"], {"arm": "arm", **{head: (name, ",") for name, head in heads.items()}})
    if facts["seconds"] is None:
        time = "time: not known, as no training is done there; --trial times one step"
    else:
        each = f" with --workers {workers}" if workers > 1 else ""
        time = f"time: about {duration(facts['seconds'])}{each}, by {facts['basis']}"
    output.fitted(time, first="  ")
    output.text("  nothing was written")


def _document(out: Path) -> dict[str, Any]:
    from gaincurate.compare.document import document
    from gaincurate.compare.results import read_results
    from gaincurate.core.files import write_json

    comparison = document(read_results(out))
    write_json(out / DOCUMENT, comparison)
    output.note(f"{out / DOCUMENT}: all measures")
    return comparison


def _write_page(comparison: dict[str, Any], asked: Path | None, out: Path) -> None:
    if asked is None and (lacking := lacking_for_pages()):
        output.note(f"no page: it needs {lacking}")
        return
    from gaincurate.compare.page import to_html
    from gaincurate.core.files import write_atomic

    path = asked or out / PAGE
    write_atomic(path, to_html(comparison).encode(), named=True)
    output.note(f"{path}: written; open it in a browser.")
