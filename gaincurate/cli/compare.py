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
from gaincurate.cli.report import lacking_for_pages, print_parts
from gaincurate.cli.score import need_packages
from gaincurate.core.options import Option

Json = dict[str, Any]
PAGE, DOCUMENT = "report.html", "results.json"


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
        bool, Option("Print how many trainings, generated tokens and answers are left; write nothing.")
    ] = False,
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
    """Print in one sentence what a comparison would do."""
    tuning = f", {facts['tuning']:,} of them to tune" if facts["tuning"] else ""
    time = "" if facts["seconds"] is None else f", about {duration(facts['seconds'])} at the speed of those"
    output.fitted(
        f"{out}: {output.counted(facts['trainings'], 'training')}{tuning}, {facts['done']:,} done; "
        f"{facts['tokens']:,} tokens to generate in training{time}, and "
        f"{output.counted(facts['judged'], 'answer')} to judge; nothing was written"
    )
