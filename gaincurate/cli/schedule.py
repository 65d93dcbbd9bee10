"""`gaincurate schedule`: rounds of training data for a trainer, planned one after the other.

`next` and `run` hold the run's locks, because a trainer that follows the run plans its rounds itself.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

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
from gaincurate.trainers.names import with_part

app = typer.Typer(cls=Group, no_args_is_help=True, help="Rounds of training data that follow the model.")
app.command(cls=Command)(start)

RunFolder = Annotated[Path, Option("The run's folder.", metavar="RUN", argument=True)]
Trainer = Annotated[
    str | None,
    Option(
        f"Whose checkpoints: {', '.join(with_part('layout'))}. Default: the last one given.",
        metavar="T",
    ),
]


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
@configured()
def next_(
    run: RunFolder,
    checkpoint: Annotated[
        Path | None,
        Option("What the round's training left, where a re-scoring is due; with --trainer its output root."),
    ] = None,
    trainer: Trainer = None,
    wait: Annotated[
        float | None, Option("Seconds to wait until the newest checkpoint is complete.", min=0.0)
    ] = None,
    outcomes: Annotated[
        list[Path] | None,
        Option("Take outcomes from what the trainer logged: a file, a folder or a glob; repeatable."),
    ] = None,
    format_: Annotated[
        str | None,
        Option(
            f"Whose logs: {', '.join(with_part('log'))} or lines. Default: seen in them.",
            names=("--from",),
            metavar="T",
        ),
    ] = None,
    reward_column: Annotated[
        str | None,
        Option("Which number of a log is the reward, where there are several.", metavar="NAME"),
    ] = None,
    reference_outcomes: Annotated[
        Path | None,
        Option("dots: what the next round's references did: outcomes, or a rollout set."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take the newest round's outcomes, write the next round and print its folder.

    With strategy dots it needs the outcomes of reference prompts too, says of which, and where they go.

    Example: gaincurate schedule next run --outcomes trainer/completions
    """
    again = f"Run the same command again to go on: {shlex.join(['gaincurate', *sys.argv[1:]])}"
    with output.reporting(again):
        from gaincurate.core.process import command_lock
        from gaincurate.schedule.rounds import advance
        from gaincurate.schedule.run import Run, working_on

        opened = Run(run)
        with command_lock(run), working_on(run):  # a trainer that follows the run plans its rounds itself
            taken = take_logged(opened, outcomes or [], format_, reward_column)
            finder = finder_of(opened, trainer, output.note)
            resumes_from = chosen(finder, opened, checkpoint, wait)
            with pointing_at_logs(opened, taken):
                folder = advance(opened, resumes_from, output.note, finder.held, reference_outcomes)
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
@configured()
def run(
    run: RunFolder,
    command: Annotated[
        list[str] | None,
        Option(
            "The trainer; {data} {round} {checkpoint} {outcomes} {output} are filled in. Default: the "
            "last one.",
            metavar="-- CMD ...",
            argument=True,
        ),
    ] = None,
    timeout: Annotated[float | None, Option("Seconds for one round's training.", min=1.0)] = None,
    trainer: Trainer = None,
    retry: Annotated[
        bool,
        Option("Train the newest round again, though its trainer ended well.", alias="--again"),
    ] = False,
    dry_run: Annotated[bool, Option("Print the rounds that can be known and the forecast.")] = False,
    as_json: AsJson = False,
) -> None:
    """Drive a trainer through the rounds: run it, take its outcomes, score again where due, plan the next.

    It reads {data}, a Parquet file with `prompt` (chat messages), `gc_id` and the source columns; appends a
    line of JSON for each rollout to {outcomes}: {"gc_id": ..., "reward": ..., "round": {round}}; begins with
    {checkpoint} and saves a Hugging Face checkpoint below {output}. docs/schedule.md says more.

    Run the same command again after an interruption: it goes on where it was.

    Example: gaincurate schedule run run -- python train.py {data} {checkpoint} {outcomes} {output}
    """
    resume = f"Run the same command again to go on: {shlex.join(['gaincurate', *sys.argv[1:]])}"
    with output.reporting(resume):
        from gaincurate.cli.rounds import RoundsView, print_forecast, print_status
        from gaincurate.schedule.driver import drive
        from gaincurate.schedule.run import Run
        from gaincurate.schedule.status import forecast, status

        opened = Run(run)
        if dry_run:
            facts = forecast(opened, command or [], finder_of(opened, trainer, output.note, keep=False))
            output.as_json(facts) if as_json else print_forecast(facts)
            return
        with RoundsView(opened) as view:
            finder = finder_of(opened, trainer, view.note)
            drive(opened, command or [], timeout=timeout, again=retry, view=view, finder=finder)
        facts = status(opened)
        output.as_json(facts) if as_json else print_status(facts)


@app.command(name="status", cls=Command)
@configured()
def status_(run: RunFolder, as_json: AsJson = False) -> None:
    """Tell where a run stands: mu, accuracy, drift, cost, round by round.

    Example: gaincurate schedule status run
    """
    with output.reporting():
        from gaincurate.cli.rounds import print_status
        from gaincurate.schedule.run import Run
        from gaincurate.schedule.status import status

        facts = status(Run(run))
        output.as_json(facts) if as_json else print_status(facts)
