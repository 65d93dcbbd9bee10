"""`gaincurate schedule`: rounds of training data for a trainer, planned one after the other.

`next` and `run` hold the run's locks, because a trainer that follows the run plans its rounds itself. Status
and forecast are printed from plain values, the same that `--json` prints.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaincurate.cli import output
from gaincurate.cli.options import Command, Group, configured
from gaincurate.cli.schedule_options import (
    chosen,
    finder_of,
    paths_of,
    pointing_at_logs,
    take_logged,
    tell_of_the_last,
)
from gaincurate.cli.schedule_start import AsJson, start
from gaincurate.core.options import Option
from gaincurate.core.progress import View
from gaincurate.trainers.names import with_part

if TYPE_CHECKING:
    from gaincurate.schedule.run import Run
    from gaincurate.trainers.config import DriveConfig, NextConfig

app = typer.Typer(cls=Group, no_args_is_help=True, help="Rounds of training data that follow the model.")
app.command(cls=Command)(start)
RunFolder = Annotated[Path, Option("The run's folder.", metavar="RUN", argument=True)]
_RANGE = (
    "  drawn prompts were all predicted near the target, so a correlation over them says little of the "
    "predictor; references are a random sample"
)


@app.command(cls=Command)
@configured()
def recipe(
    trainer: Annotated[
        str,
        Option(f"{', '.join(with_part('recipe'))}.", metavar="TRAINER", argument=True),
    ],
    as_json: Annotated[bool, Option("Print JSON.", names=("--json",))] = False,
) -> None:
    """Print a script that trains one round with a trainer, to begin yours from.

    It says what becomes of the optimizer, the learning rate and the KL reference between rounds.

    Example: gaincurate schedule recipe verl > round.sh
    """
    with output.reporting():
        from gaincurate.trainers.profile import COMMAND, recipe_of

        printed = recipe_of(trainer)
        if as_json:
            output.as_json(printed.as_json())
            return
        for line in printed.script.splitlines():
            output.text(line)
        output.note(f"saved as round.sh: {COMMAND}")


@app.command(name="next", cls=Command)
@configured("gaincurate.trainers.config:NextConfig")
def next_(config: NextConfig, as_json: AsJson = False) -> None:
    """Take the newest round's outcomes, write the next round and print its folder.

    With strategy dots it needs the outcomes of reference prompts too, says of which, and where they go.

    Example: gaincurate schedule next run --outcomes trainer/completions
    """
    again = f"Run the same command again to go on: {shlex.join(['gaincurate', *sys.argv[1:]])}"
    with output.reporting(again):
        from gaincurate.core.process import command_lock
        from gaincurate.schedule.rounds import advance
        from gaincurate.schedule.run import Run, working_on

        run = config.run
        opened = Run(run)
        with command_lock(run), working_on(run):  # a trainer that follows the run plans its rounds itself
            taken = take_logged(opened, config.outcomes or [], config.log_format, config.reward_column)
            finder = finder_of(opened, config.trainer, output.note)
            resumes_from = chosen(finder, opened, config.checkpoint, config.wait)
            with pointing_at_logs(opened, taken):
                folder = advance(opened, resumes_from, output.note, finder.held, config.reference_outcomes)
        round_ = opened.state["round"]
        tell_of_the_last(opened, output.note)
        if as_json:
            done = folder is None
            output.as_json({"finished": done, "round": round_, **({} if done else paths_of(opened, round_))})
        elif folder is None:
            output.note(f"{run} is finished, after {output.counted(opened.config.rounds, 'round')}")
        else:
            output.text(str(folder))


@app.command(cls=Command)
@configured("gaincurate.trainers.config:DriveConfig")
def run(config: DriveConfig, as_json: AsJson = False) -> None:
    """Drive a trainer through the rounds: run it, take its outcomes, score again where due, plan the next.

    It reads {data}, a Parquet file with `prompt` (chat messages), `gc_id` and the source columns; appends a
    line of JSON for each rollout to {outcomes}: {"gc_id": ..., "reward": ..., "round": {round}}; begins with
    {checkpoint} and saves a Hugging Face checkpoint below {output}.

    Run the same command again after an interruption: it goes on where it was.

    Example: gaincurate schedule run run -- python train.py {data} {checkpoint} {outcomes} {output}
    """
    resume = f"Run the same command again to go on: {shlex.join(['gaincurate', *sys.argv[1:]])}"
    with output.reporting(resume):
        from gaincurate.core.process import check_placeholders
        from gaincurate.schedule.driver import NAMES, drive
        from gaincurate.schedule.run import Run
        from gaincurate.schedule.status import forecast, status

        opened, command = Run(config.run), config.command or []
        if config.dry_run:
            check_placeholders(command, NAMES)
            finder = finder_of(opened, config.trainer, output.note, keep=False)
            facts = forecast(opened, command, finder)
            output.as_json(facts) if as_json else print_forecast(facts)
            return
        with RoundsView(opened) as view:
            finder = finder_of(opened, config.trainer, view.note)
            drive(opened, command, timeout=config.timeout, again=config.retry, view=view, finder=finder)
        facts = status(opened)
        output.as_json(facts) if as_json else print_status(facts)


@app.command(name="status", cls=Command)
@configured()
def status_(
    run: RunFolder,
    forecast: Annotated[
        Path | None, Option("What `difficulty forecast --out` wrote, shown beside what came.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell where a run stands: mu, accuracy, drift, cost, round by round.

    Example: gaincurate schedule status run
    """
    with output.reporting():
        from gaincurate.schedule.forecast import read_forecast
        from gaincurate.schedule.run import Run
        from gaincurate.schedule.status import status

        expected = None if forecast is None else read_forecast(forecast)
        facts = status(Run(run), expected)
        output.as_json(facts) if as_json else print_status(facts)


def print_difficulty(facts: dict[str, Any], trainer: list[dict[str, Any]]) -> None:
    """References, their cost beside the trainer's, and calibration.

    Args:
        facts: `difficulty` of `schedule.status.status`.
        trainer: its `rounds`.
    """
    waiting = facts["waiting"]
    if facts["rounds"]:
        _cost(facts, trainer)
        _by_round(facts["rounds"])
        newest = facts["rounds"][-1]
        what = "failure rate" if facts["target"] == "difficulty" else "p (1 - p)"
        how = "each predicted from the others" if newest["on_halves"] is None else "one half from the other"
        _quality(_of_references(newest), f"round {newest['round']}: {what} of references, {how}")
        if facts["newest"] is not None:
            _quality(facts["newest"], f"round {facts['newest']['round']}: {what} of drawn prompts")
            output.text(_RANGE)
    if waiting is None:
        return
    if waiting["rolls_out"]:
        output.text(f"  round {waiting['round']}: its references are rolled out by `schedule run` or `next`")
    else:
        output.text(
            f"  round {waiting['round']} waits for outcomes of its references: prompts in "
            f"{waiting['prompts']}, outcomes to {waiting['outcomes']}"
        )


def _cost(facts: dict[str, Any], trainer: list[dict[str, Any]]) -> None:
    cost = facts["cost"]
    rollouts = sum(row["rollouts"] or 0 for row in trainer)
    tokens = sum(row["completion_tokens"] or 0 for row in trainer)
    aim = "the largest p (1 - p)"
    if facts["target"] == "difficulty":
        aim = f"a failure rate of {facts['target_difficulty']:g}"
    output.text(f"  aims at {aim}, predicted by {facts['predictor']}")
    output.text(
        f"  references: {output.counted(cost['rollouts'], 'rollout')} (the trainer's: {rollouts:,}), "
        f"{output.counted(cost['completion_tokens'], 'completion token')} (the trainer's: {tokens:,}), "
        f"{cost['rollout_seconds']:,.1f} s of rollouts, {cost['predict_seconds']:,.1f} s of prediction"
    )


def _by_round(rounds: list[dict[str, Any]]) -> None:
    rows = []
    for row in rounds:
        quality, drawn = _of_references(row), row["on_drawn"] or {}
        rows.append(
            [
                str(row["round"]),
                f"{row['observed']:,} of {row['references']:,}",
                output.number(row["rollouts"], ",d"),
                output.number(row["rollout_seconds"], ",.1f"),
                output.number(row["predict_seconds"], ",.1f"),
                output.number(quality["pearson"]["value"], ".3f"),
                output.number(quality["ceiling"]["value"], ".3f"),
                output.number(quality["brier"]["value"], ".4f"),
                output.number(drawn.get("brier"), ".4f"),
                output.number(row["carried"], ".4f"),
                output.number(drawn.get("carried"), ".4f"),
            ]
        )
    output.table(
        rows,
        [
            "round", "references", "rollouts", "rollout s", "predict s", "Pearson", "ceiling", "Brier",
            "Brier, drawn", "p(1-p), references", "p(1-p), drawn",
        ],
    )  # fmt: skip


def _of_references(row: dict[str, Any]) -> dict[str, Any]:
    """The quality that does not flatter, where a round has it."""
    figures: dict[str, Any] = row["on_halves"] or row["on_references"]
    return figures


def _figure(figure: dict[str, Any]) -> str:
    text = output.number(figure["value"], ".3f")
    around = figure["interval"]
    return text if around is None else f"{text} ({around[0]:.3f} to {around[1]:.3f})"


def _quality(figures: dict[str, Any], what: str) -> None:
    output.text(f"  {what} ({output.counted(figures['count'], 'prompt')}):")
    names = {"pearson": "Pearson", "spearman": "Spearman", "brier": "Brier", "ceiling": "noise ceiling"}
    output.text("    " + "  ".join(f"{name} {_figure(figures[key])}" for key, name in names.items()))
    output.table(
        [
            [
                f"{b['low']:.4g} to {b['high']:.4g}",
                f"{b['count']:,}",
                f"{b['predicted']:.3f}",
                f"{b['observed']:.3f}",
            ]
            for b in figures["reliability"]
        ],
        ["predicted", "prompts", "mean predicted", "mean observed"],
    )


class RoundsView(View):
    """A line for each round, on stderr, and below it what the trainer says last where a person watches."""

    def __init__(self, run: Run) -> None:
        from rich.console import Console
        from rich.status import Status

        console = Console(stderr=True)
        self._run = run
        self._status = Status("", console=console) if console.is_terminal else None
        self._text = ""

    def __enter__(self) -> RoundsView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def note(self, text: str) -> None:
        """See `View`."""
        output.note(text)

    def training(self, round_: int, attempt: int, command: Sequence[str]) -> None:
        """See `View`."""
        again = f", attempt {attempt}" if attempt > 1 else ""
        self._text = f"round {round_} of {self._run.config.rounds}{again}"
        if self._status is not None:
            self._status.start()
        else:
            output.note(f"{self._text}: {shlex.join(command)}")
        output.note(f"  log: {self._run.round_folder(round_) / 'trainer.log'}")

    def waiting(self, seconds: float, log: Path) -> None:
        """See `View`."""
        if self._status is not None:
            from rich.text import Text

            with log.open("rb") as file:
                file.seek(max(0, log.stat().st_size - 1000))
                lines = file.read().decode(errors="replace").splitlines()
            last = output.plain(lines[-1])[:80] if lines else ""
            line = Text(f"{self._text}  {seconds:,.0f} s  {last}", no_wrap=True, overflow="ellipsis")
            self._status.update(line)

    def round_done(self, round_: int, seconds: float) -> None:
        """See `View`."""
        from gaincurate.schedule.status import status

        facts = status(self._run)
        row = facts["rounds"][round_]
        mu = "" if row["mu"] is None else f"mu {row['mu']:,.1f}  "
        drift = "" if row["drift"] is None else f"  rank correlation {row['drift']:.3f}"
        scoring = "" if not row["scoring_seconds"] else f"  scoring {row['scoring_seconds']:,.1f} s"
        output.note(
            f"round {round_}: {mu}accuracy {row['accuracy']:.3f}  0<p<1 {row['effective']:.2f}  "
            f"{output.counted(row['rollouts'], 'rollout')}  "
            f"{output.counted(row['prompt_tokens'], 'prompt token')}  training {seconds:,.1f} s"
            f"{scoring}{drift}"
        )


def print_status(facts: dict[str, Any]) -> None:
    """Print what `schedule.status.status` returns."""
    if not facts["rounds"]:
        where = "no round yet"
    elif facts["finished"]:
        where = "finished"
    else:
        where = f"round {facts['rounds'][-1]['round']} waits for outcomes"
    by = f" by {facts['by']}" if facts["by"] else ""
    if facts["where"] is not None:
        by += f", where {facts['where']}"
    if facts["stratify"] != "none":
        by += f", within the groups of {facts['stratify']}"
    output.text(
        f"{facts['run']}: {facts['strategy']}{by}, {facts['budget']:,} of "
        f"{output.counted(facts['rows'], 'prompt')} a round, "
        f"{output.counted(facts['planned_rounds'], 'round')}; {where}"
    )
    expected = [row["metrics"].get("expected_effective") for row in facts["rounds"]]
    expects = any(share is not None for share in expected)
    output.table(
        [
            [
                str(row["round"]),
                output.number(row["mu"], ".1f"),
                output.number(row["accuracy"], ".3f"),
                output.number(row["effective"], ".3f"),
                *([output.number(share, ".3f")] if expects else []),
                output.number(row["concentration"], ".3f"),
                output.number(row["rollouts"], ",d"),
                output.number(row["prompt_tokens"], ",d"),
                output.number(row["drift"], ".3f"),
                output.number(row["training_seconds"], ",.1f"),
                output.number(row["scoring_seconds"], ",.1f"),
            ]
            for row, share in zip(facts["rounds"], expected, strict=True)
        ],
        [
            "round", "mu", "accuracy", "0<p<1", *(["expected"] if expects else []), "C_t", "rollouts",
            "prompt tokens", "rank corr.", "training s", "scoring s",
        ],
    )  # fmt: skip
    whole = facts["training_seconds"] + facts["scoring_seconds"]
    if whole:
        output.text(
            f"  {facts['training_seconds']:,.1f} s of training, {facts['scoring_seconds']:,.1f} s of scoring "
            f"({facts['scoring_seconds'] / whole:.0%})"
        )
    if facts["late"]:
        output.text(f"  outcomes that came after their round: of {output.counted(facts['late'], 'prompt')}")
    if (differ := facts["differ"]) is not None:
        share = differ["forecast"]
        output.text(
            f"  groups that differ: {output.number(differ['came'], '.1%')} so far. The forecast for "
            f"{differ['strategy']} was {share['value']:.1%} ({share['low']:.1%} to {share['high']:.1%}) in "
            f"groups of {differ['group']}."
        )
    waiting = facts["waiting"]
    if waiting is not None:
        output.text(
            f"  round {waiting['round']}: outcomes for {waiting['prompts']:,} of "
            f"{output.counted(waiting['of'], 'prompt')}"
        )
        if waiting["problem"]:
            output.text(f"  {waiting['problem']}")
    if facts["difficulty"] is not None:
        print_difficulty(facts["difficulty"], facts["rounds"])


def print_forecast(forecast: dict[str, Any]) -> None:
    """Print what `schedule.status.forecast` returns."""
    if not forecast["rounds"]:
        output.text("the run is finished: no round is left")
        return
    rows = []
    for entry in forecast["rounds"]:
        ranks = entry.get("ranks")
        rows.append(
            [
                str(entry["round"]),
                "known" if entry["known"] else "to come",
                f"{'' if entry['known'] else '~'}{entry['prompt_tokens']:,}",
                f"{ranks[0]:,} to {ranks[2]:,}" if ranks else "-",
                "yes" if entry["rescoring"] else "",
            ]
        )
    output.table(rows, ["round", "prompts", "prompt tokens", "ranks", "re-scoring after it"])
    for entry in forecast["rounds"]:
        if entry.get("command"):
            output.text(f"  round {entry['round']} runs: {shlex.join(entry['command'])}")
    paths = forecast["mu"]
    if paths and len(paths["rounds"]) > 1:
        output.text()
        output.text(f"mu, if every round had this accuracy (and C_t = {paths['concentration']:.3f} as now):")
        names = ("all wrong", "on target", "all right")
        rows = [
            [str(round_), *(f"{paths[name][place]:,.0f}" for name in names)]
            for place, round_ in enumerate(paths["rounds"])
        ]
        output.table(rows, ["round", *names])
