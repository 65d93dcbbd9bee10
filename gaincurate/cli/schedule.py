"""`gaincurate schedule`: opens a run, plans its rounds, drives a trainer, tells where it stands."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from gaincurate.cli import output
from gaincurate.cli.recipe import recipe
from gaincurate.cli.schedule_options import (
    chosen,
    finder_of,
    given_options,
    model_of_set,
    pair,
    paths_of,
    pointing_at_logs,
    take_logged,
    tell_of_the_last,
)
from gaincurate.errors import InputError

app = typer.Typer(no_args_is_help=True, help="Rounds of training data that follow the model.")
app.command()(recipe)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")]
Trainer = Annotated[
    str | None,
    typer.Option(
        "--trainer",
        metavar="T",
        help="Whose checkpoints: trl, verl, openrlhf, nemo-rl, skyrl, slime, prime-rl, trinity, areal. "
        "Default: the last one given.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def start(
    scored: Annotated[Path, typer.Argument(metavar="DIR", help="A finished scored set.")],
    run: Annotated[Path, typer.Option("--run", help="Folder for the run.")],
    strategy: Annotated[
        str,
        typer.Option(
            help="uniform, file-order, length, gain-rl, variance, or module:Class for a strategy of your own."
        ),
    ],
    budget: Annotated[int, typer.Option(min=1, help="Distinct prompts in a round.")],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in the run.")],
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    by: Annotated[
        str | None, typer.Option(help="Column of the order. Default: the strategy's own (gain-rl: gc_angle).")
    ] = None,
    ascending: Annotated[
        bool | None,
        typer.Option("--ascending/--descending", help="Low values first. Default: high ones, for --by."),
    ] = None,
    sigma: Annotated[
        str | None, typer.Option(help="gain-rl, length: width in ranks, or of the set (0.1N). Default: 1000.")
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="gain-rl: sensitivity. Default: 2.")] = None,
    beta: Annotated[float | None, typer.Option(help="gain-rl: target accuracy. Default: 0.5.")] = None,
    step_range: Annotated[
        str | None,
        typer.Option(metavar="LO,HI", help="gain-rl: clamp of mu's step; 0,1000 is the released code's."),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Another option of the strategy; repeatable."),
    ] = None,
    align_to: Annotated[
        int, typer.Option(min=1, help="The trainer's prompts a batch, which the budget is a multiple of.")
    ] = 1,
    order: Annotated[
        Literal["drawn", "rank"], typer.Option(help="Of the rows in a round: as drawn, or by rank.")
    ] = "drawn",
    reward_range: Annotated[
        str, typer.Option(metavar="LO,HI", help="Rewards of a failure and of a success.")
    ] = "0,1",
    min_coverage: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of a round's prompts that must have an outcome.")
    ] = 1.0,
    bare: Annotated[
        bool, typer.Option("--bare", help="Leave the scoring run's system message and examples out.")
    ] = False,
    with_scores: Annotated[
        bool, typer.Option("--with-scores", help="Put all gc_ columns into data.parquet.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="{checkpoint} in round 0. Default: the model that scored the set."),
    ] = None,
    rescore: Annotated[
        Literal["off", "round", "window", "full"],
        typer.Option(
            help="At checkpoints, score anew: nothing, the round's prompts, those that mu can reach, all."
        ),
    ] = "off",
    rescore_every: Annotated[int, typer.Option(min=1, help="After so many rounds each.")] = 1,
    probe: Annotated[
        int, typer.Option(min=0, help="Prompts scored first, to see whether the rest pays; 0 for none.")
    ] = 512,
    drift: Annotated[
        float, typer.Option(min=-1.0, max=1.0, help="The rest is left at this rank correlation or above.")
    ] = 0.98,
    scoring: Annotated[
        str, typer.Option(help="More options for scoring anew, in one text ('--device cuda:1').")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Open a run over a scored set and write its round 0.

    Example: gaincurate schedule start scored --run run --strategy gain-rl --budget 1024 --rounds 200
    """
    with output.reporting():
        from gaincurate.schedule.config import RescoreConfig, checked
        from gaincurate.schedule.rounds import start as open_run

        given = given_options(
            sigma=sigma, alpha=alpha, beta=beta, step_range=step_range, options=options or []
        )
        low, high = pair(reward_range, "--reward-range")
        try:
            more = shlex.split(scoring)
        except ValueError as error:
            raise InputError(f"--scoring {scoring}: {str(error).lower()}.") from error
        again = RescoreConfig(what=rescore, every=rescore_every, probe=probe, drift=drift, options=more)
        config = checked(
            scored=scored,
            run=run,
            strategy=strategy,
            budget=budget,
            rounds=rounds,
            seed=seed,
            by=by,
            ascending=ascending,
            options=given,
            align_to=align_to,
            order=order,
            reward_low=low,
            reward_high=high,
            min_coverage=min_coverage,
            bare=bare,
            with_scores=with_scores,
            model=model or model_of_set(scored),
            rescore=again,
        )
        opened = open_run(config, output.note)
        if as_json:
            output.as_json({"run": str(run), "round": 0, **paths_of(opened, 0)})
            return
        plan = opened.plan(0)
        output.text(
            f"{run}: round 0 of {rounds} is planned: {budget:,} of {opened.facts['rows']:,} prompts, "
            f"{plan['forecast']['prompt_tokens']:,} prompt tokens"
        )
        output.text(f"  data: {opened.data(0)}")
        output.text(f"  outcomes go to: {opened.outcomes(0)}")
        output.text('    a line for each rollout: {"gc_id": "...", "reward": 1.0, "round": 0}')
        output.text(f"  next: gaincurate schedule run {shlex.quote(str(run))} -- CMD ...")


@app.command(name="next")
def next_(
    run: RunFolder,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="What the round's training left, where a re-scoring is due; with --trainer its output root."
        ),
    ] = None,
    trainer: Trainer = None,
    wait: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds to wait until the newest checkpoint is complete.")
    ] = None,
    outcomes: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Take outcomes from what the trainer logged: a file, a folder or a glob; repeatable.",
        ),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--from", help="Whose logs: trl, verl, prime-rl, nemo-rl or lines. Default: seen in them."
        ),
    ] = None,
    reward_column: Annotated[
        str | None, typer.Option(help="Which number of a log is the reward, where there are several.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take the newest round's outcomes, write the next round and print its folder.

    Example: gaincurate schedule next run --outcomes trainer/completions
    """
    again = f"Run the same command again to go on: {shlex.join(['gaincurate', *sys.argv[1:]])}"
    with output.reporting(again):
        from gaincurate.schedule.rounds import advance
        from gaincurate.schedule.run import Run, working_on
        from gaincurate.schedule.trainer import trainer_lock

        opened = Run(run)
        with trainer_lock(run), working_on(run):  # a trainer that follows the run plans its rounds itself
            taken = take_logged(opened, outcomes or [], format_, reward_column)
            finder = finder_of(opened, trainer, output.note)
            found = chosen(finder, opened, checkpoint, wait)
            with pointing_at_logs(opened, taken):
                folder = advance(opened, found, output.note, finder.held)
        round_ = opened.state["round"]
        tell_of_the_last(opened, output.note)
        if as_json:
            done = folder is None
            output.as_json({"finished": done, "round": round_, **({} if done else paths_of(opened, round_))})
        elif folder is None:
            output.note(f"{run} is finished: all of its {opened.config.rounds} rounds are done")
        else:
            output.text(str(folder))


@app.command()
def run(
    run: RunFolder,
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="-- CMD ...",
            help="The trainer; {data} {round} {checkpoint} {outcomes} {output} are filled in. Default: the "
            "last one.",
        ),
    ] = None,
    timeout: Annotated[float | None, typer.Option(min=1.0, help="Seconds for one round's training.")] = None,
    trainer: Trainer = None,
    again: Annotated[
        bool, typer.Option("--again", help="Train the newest round once more, though its trainer ended well.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the rounds that can be known and the forecast.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Drive a trainer through the rounds: run it, take its outcomes, score anew where due, plan the next.

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
        from gaincurate.schedule.story import forecast, status

        opened = Run(run)
        if dry_run:
            found = forecast(opened, command or [], finder_of(opened, trainer, output.note, keep=False))
            output.as_json(found) if as_json else print_forecast(found)
            return
        with RoundsView(opened) as view:
            finder = finder_of(opened, trainer, view.note)
            drive(opened, command or [], timeout=timeout, again=again, view=view, finder=finder)
        found = status(opened)
        output.as_json(found) if as_json else print_status(found)


@app.command(name="status")
def status_(run: RunFolder, as_json: AsJson = False) -> None:
    """Tell where a run stands: mu, accuracy, drift, cost, round by round.

    Example: gaincurate schedule status run
    """
    with output.reporting():
        from gaincurate.cli.rounds import print_status
        from gaincurate.schedule.run import Run
        from gaincurate.schedule.story import status

        found = status(Run(run))
        output.as_json(found) if as_json else print_status(found)
