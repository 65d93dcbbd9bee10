"""`gaincurate compare`: trains arms side by side, then shows what differs.

The terminal, `--json` and the page show the same document, so none can say more than another.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

from gaincurate.cli import output
from gaincurate.cli.options import configured
from gaincurate.cli.progress import ProgressView, duration
from gaincurate.cli.report import lacking_for_pages, need_a_place_for_the_page
from gaincurate.core.options import Option
from gaincurate.errors import InputError

PAGE, DOCUMENT = "report.html", "results.json"

Json = dict[str, Any]


def print_comparison(comparison: Json) -> None:
    """Print what can be said first, and what it rests on below."""
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
    _verdicts(comparison)
    output.text()
    _training(comparison)
    output.text()
    _cost(comparison)
    _task_shares(comparison)
    _tuning(comparison)
    output.text()
    for arm in comparison["arms"]:
        output.say(arm["sentence"], "  ")
    if comparison["against_length"]:
        output.say(comparison["against_length"], "  ")


def _verdicts(comparison: Json) -> None:
    from gaincurate.compare.verdict_text import reached_at

    baseline, second = comparison["setting"]["baseline"], comparison["setting"]["second"]
    several = comparison["setting"]["claim"] != "these tasks"
    head = ["arm", "right", f"less {baseline}", "95 % together", "verdict"]
    head += ["these tasks", f"less {second}", "verdict"] if several else [f"less {second}", "verdict"]
    controlled = any(arm["control"] for arm in comparison["arms"])
    head += ["its control", "less it", "verdict"] if controlled else []
    head.append(f"at {baseline}'s end after")
    rows = []
    for arm in sorted(comparison["arms"], key=lambda arm: -float(arm["accuracy"]["value"])):
        against, length = arm["difference"] or {}, arm["against_length"] or {}
        control = arm["against_control"] or {}
        beside = [
            arm["control"] or "",
            output.number(control.get("value"), "+.3f") if control else "",
            control.get("answer", ""),
        ]
        rows.append(
            [
                arm["arm"],
                f"{arm['accuracy']['value']:.3f}",
                output.number(against.get("value"), "+.3f"),
                _span(against.get("joint")),
                against.get("answer", "the baseline"),
                *([against["claims"]["these tasks"]["answer"] if against else ""] if several else []),
                output.number(length.get("value"), "+.3f"),
                length.get("answer", ""),
                *(beside if controlled else []),
                reached_at(comparison, arm),
            ]
        )
    output.table(rows, head)


def _span(ends: list[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:+.3f} to {ends[1]:+.3f}"


def _training(comparison: Json) -> None:
    most = max(comparison["arms"][0]["pass_at"], key=int)
    head = [
        "arm",
        f"pass@{most}",
        "answer tokens",
        "prompts",
        "0<p<1",
        "reward",
        "replayed",
        "gradient",
        "clipped",
    ]
    head += ["gradient~angle", "given time"]
    rows = [
        [
            arm["arm"],
            f"{arm['pass_at'][most]:.3f}",
            f"{arm['curve'][-1]['response_tokens']:,.1f}",
            output.number((arm["drawn"] or {}).get("prompts"), ",.0f"),
            output.number(arm["training"]["effective"], ".2f"),
            output.number(arm["training"]["reward"], ".3f"),
            output.number(arm["training"]["replayed"], ".0%"),
            output.number(arm["training"]["grad_norm"], ".3g"),
            output.number(arm["training"]["clipped"], ".0%"),
            output.number(arm["gradient"]["spearman"], "+.2f"),
            output.number(arm["gradient"]["given_step"], "+.2f"),
        ]
        for arm in comparison["arms"]
    ]
    output.table(rows, head)


def _cost(comparison: Json) -> None:
    names = ("training", "references", "scoring", "rescoring", "tokens")
    head = ["arm", "tokens of training", "references", "scoring", "re-scoring", "all", "steps", "seconds"]
    rows = [
        [
            arm["arm"],
            *(f"{arm['cost'][name]:,.0f}" for name in names),
            f"{arm['cost']['step']:,.0f}",
            f"{arm['cost']['seconds']:,.0f}",
        ]
        for arm in comparison["arms"]
    ]
    output.table(rows, head)


def _task_shares(comparison: Json) -> None:
    """The share of its groups that each arm drew of each task; nothing where the tasks are not known."""
    shares = {arm["arm"]: (arm["drawn"] or {}).get("tasks") for arm in comparison["arms"]}
    names = sorted({task for each in shares.values() if each for task in each})
    if not names:
        return
    output.text()
    rows = [
        [arm, *(output.number((each or {}).get(task, 0.0), ".0%") for task in names)]
        for arm, each in shares.items()
    ]
    output.table(rows, ["drawn of", *names])


def _tuning(comparison: Json) -> None:
    """What was tried before any arm."""
    tuned = comparison["setting"]["tuned"]
    if tuned is None:
        return
    output.text()
    rows = [
        [
            f"{row['learning_rate']:g}",
            str(row["step_prompts"]),
            str(row["group"]),
            f"{row['accuracy']:.3f}",
            f"{row['steps']:,.0f}",
            "chosen" if all(row[name] == value for name, value in tuned["chosen"].items()) else "",
        ]
        for row in tuned["grid"]
    ]
    output.table(
        rows, ["uniform, learning rate", "prompts a step", "rollouts a prompt", "right", "steps", ""]
    )


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
    as_json: Annotated[bool, Option("Print all measures as JSON.", names=("--json",))] = False,
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
    again = f"Run the same command again: {shlex.join(['gaincurate', *sys.argv[1:]])}"
    with output.reporting(again):
        out = out or config.parent / (config.stem if config.suffix else f"{config.name}-compared")
        if trial and not dry_run:
            raise InputError("--trial goes with --dry-run.")
        if dry_run:
            facts = _estimated(config, out, workers, tune=tune, trial=trial)
            output.as_json(facts) if as_json else print_estimate(facts, out, workers)
            return
        if page is not None:
            need_a_place_for_the_page(page, "--html")
        _train(config, out, workers, tune=tune)
        comparison = _document(out)
        _write_page(comparison, page, out)
        if as_json:
            output.as_json(comparison)
        else:
            print_comparison(comparison)


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
    head = ["arm", "trainings", "done", "prompts a step", "rollouts a step", "tokens charged before"]
    head.append("steps at least")
    names = ("trainings", "done", "prompts", "rollouts", "charged", "steps")
    output.table([[arm["arm"], *(f"{arm[name]:,}" for name in names)] for arm in facts["arms"]], head)
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
