"""`gaincurate schedule`: rounds of training data for a trainer, planned one after the other.

`next` and `run` hold the run's locks, because a trainer that follows the run plans its rounds itself. The
status is printed from the plain values that `--json` prints.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaincurate.cli import output
from gaincurate.cli.options import AsJson, Command, Group, configured
from gaincurate.cli.run_view import RoundsView, of_rounds, print_status
from gaincurate.cli.schedule_start import paths_of, start
from gaincurate.core.options import Option
from gaincurate.errors import InputError
from gaincurate.trainers.names import with_part

if TYPE_CHECKING:
    from gaincurate.schedule.checkpoints import Finder
    from gaincurate.schedule.run import Run
    from gaincurate.trainers.config import DriveConfig, NextConfig

app = typer.Typer(cls=Group, no_args_is_help=True, help="Plan training rounds that adapt to the model.")
app.command(cls=Command)(start)
RunFolder = Annotated[Path, Option("The run's folder.", metavar="RUN", argument=True)]


@app.command(cls=Command)
@configured()
def recipe(
    trainer: Annotated[str, Option(f"{', '.join(with_part('recipe'))}.", metavar="TRAINER", argument=True)],
    live: Annotated[
        Path | None,
        Option("verl: print the settings of one long process that follows this run.", metavar="RUN"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a script that trains one round with a trainer, to begin yours from.

    It says what becomes of the optimizer, the learning rate and the KL reference between rounds.

    Example: gaincurate schedule recipe verl > round.sh
    """
    with output.reporting():
        from gaincurate.trainers.profile import COMMAND, recipe_of

        if live is not None:
            if trainer != "verl":
                raise InputError(
                    f"--live prints verl's settings. {trainer} takes none: its adapter, where it has one, "
                    "is in the docs on trainers."
                )
            from gaincurate.trainers.verl.settings import overrides

            lines = overrides(live)
            facts: dict[str, object] = {"settings": lines}
        else:
            script = recipe_of(trainer)
            lines, facts = script.splitlines(), {"trainer": trainer, "command": COMMAND, "script": script}
        if as_json:
            output.as_json(facts)
            return
        for line in lines:
            output.text(line)
        if live is None:
            output.note(f"saved as round.sh: {COMMAND}")


@app.command(name="next", cls=Command)
@configured("gaincurate.trainers.config:NextConfig")
def next_(config: NextConfig, as_json: AsJson = False) -> None:
    """Take the newest round's outcomes, write the next round and print its folder.

    With strategy dots it needs the outcomes of reference prompts too, says of which, and where they go.

    Example: gaincurate schedule next run --outcomes trainer/completions
    """
    with output.reporting(resumes=True):
        from gaincurate.core.process import command_lock
        from gaincurate.schedule.rounds import advance
        from gaincurate.schedule.run import Run, working_on

        run = config.run
        opened = Run(run)
        with command_lock(run), working_on(run):  # a trainer that follows the run plans its rounds itself
            take_logged(opened, config)
            finder = finder_of(opened, config.trainer, output.note)
            resumes_from = finder.chosen(opened, config.checkpoint) if config.checkpoint else None
            folder = advance(opened, resumes_from, output.note, finder.held, config.reference_outcomes)
        round_ = opened.round
        print_accuracy(opened)
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
    with output.reporting(resumes=True):
        from gaincurate.schedule.driver import drive, newest_command
        from gaincurate.schedule.observations import status
        from gaincurate.schedule.run import Run

        opened, command = Run(config.run), config.command or []
        if config.dry_run:
            finder = finder_of(opened, config.trainer, output.note, keep=False)
            filled = newest_command(opened, command, finder)
            of = of_rounds(opened.newest(), opened.config.rounds)
            facts = {"round": opened.newest(), "command": filled}
            output.result(facts, as_json, lambda _: output.text(f"{of}: {shlex.join(filled)}"))
            return
        with closing(RoundsView(opened)) as view:
            finder = finder_of(opened, config.trainer, view.note)
            drive(opened, command, timeout=config.timeout, again=config.retry, view=view, finder=finder)
        output.result(status(opened), as_json, print_status)


@app.command(name="status", cls=Command)
@configured()
def status_(run: RunFolder, as_json: AsJson = False) -> None:
    """Print the status of a run: mu, accuracy, drift and cost of each round.

    Example: gaincurate schedule status run
    """
    with output.reporting():
        from gaincurate.schedule.observations import status
        from gaincurate.schedule.run import Run

        output.result(status(Run(run)), as_json, print_status)


def finder_of(run: Run, trainer: str | None, note: Callable[[str], None], *, keep: bool = True) -> Finder:
    """The finder for checkpoints of the given trainer, of the last one, or of any; `keep` remembers it.

    Raises:
        InputError: there is no such trainer.
    """
    from gaincurate.schedule.checkpoints import Finder
    from gaincurate.trainers.checkpoints import TrainerFinder, remembered_trainer
    from gaincurate.trainers.profile import layout_of

    name = remembered_trainer(run, trainer, keep=keep)
    return Finder() if name is None else TrainerFinder(layout_of(name), note)


def take_logged(run: Run, config: NextConfig) -> None:
    """Take the outcomes that a trainer logged, where `schedule next` was given some.

    Raises:
        InputError: --reward-column without --outcomes, or a run without a round.
        OutcomeError: a log cannot be used.
    """
    if not config.outcomes:
        if config.reward_column is not None:
            raise InputError(f"--reward-column {config.reward_column} goes with --outcomes PATH.")
    elif not run.state["finished"]:  # else `advance` refuses
        from gaincurate.trainers.logs import take_logs

        run.newest()  # or there is no round whose outcomes they can be
        take_logs(run, config.outcomes, config.reward_column, output.note)


def print_accuracy(run: Run) -> None:
    """Print the accuracy of the round whose outcomes were taken."""
    state, mu = run.state, None
    if state["round"] >= 0 and not state["finished"]:
        state = run.plan(state["round"])
        mu = state["mu"]
    if inputs := state.get("inputs"):
        now = "" if mu is None else f", mu now {mu:.1f}"
        over = output.counted(inputs["rollouts"], "rollout")
        output.note(f"round {inputs['round']}: accuracy {inputs['accuracy']:.3f} over {over}{now}")
