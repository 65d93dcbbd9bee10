"""`gaincurate schedule start`: its options, and what it says."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from gaincurate.cli import output
from gaincurate.cli.rescoring import scoring_options, tell_of_machine
from gaincurate.cli.schedule_options import (
    ROLLOUT,
    budget_for,
    given_options,
    model_of_set,
    pair,
    paths_of,
    see_references,
    tell_of_references,
)
from gaincurate.options import json_object

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def start(
    scored: Annotated[Path, typer.Argument(metavar="DIR", help="A finished scored set.")],
    run: Annotated[Path, typer.Option("--run", help="Folder for the run.")],
    strategy: Annotated[
        str,
        typer.Option(
            help="uniform, file-order, length, gain-rl, variance, dots, or module:Class for your own."
        ),
    ],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in the run.")],
    budget: Annotated[
        int | None,
        typer.Option(min=1, help="Distinct prompts in a round. dots: --refresh-every times --step-prompts."),
    ] = None,
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
    step_prompts: Annotated[
        int | None, typer.Option(min=1, help="dots: the trainer's prompts a step.")
    ] = None,
    refresh_every: Annotated[
        int | None, typer.Option(min=1, help="dots: steps that one draw is for. Default: 2.")
    ] = None,
    target_difficulty: Annotated[
        float | None, typer.Option(help="dots: the failure rate to aim at. Default: 0.5.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="dots: how sharply to aim. Default: 0.001.")
    ] = None,
    target: Annotated[
        Literal["difficulty", "variance"] | None,
        typer.Option(help="dots: aim at a failure rate, the default, or at the largest p (1 - p)."),
    ] = None,
    references: Annotated[
        int | None, typer.Option(min=3, help="dots: prompts observed before each draw. Default: 256.")
    ] = None,
    reuse_references: Annotated[
        float | None,
        typer.Option(
            metavar="W", help="dots: name references within W of the target in the plan, to train on."
        ),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(help="dots: what `difficulty fit` wrote. Default: no training."),
    ] = None,
    group_column: Annotated[
        str | None, typer.Option(help="dots: predict by the mean of this column's groups, the baseline.")
    ] = None,
    rollout: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="dots: observe references by `difficulty rollout` with these options "
            '(\'{"verifier": "math", "samples": 8}\'); with "server" by that, else with the newest '
            "checkpoint.",
        ),
    ] = None,
    reference_outcomes: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="dots: what round 0's references did: outcomes, or a rollout set."),
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
        from gaincurate.schedule.rounds import advance
        from gaincurate.schedule.rounds import start as open_run
        from gaincurate.schedule.run import working_on

        named = {
            "sigma": sigma, "alpha": alpha, "beta": beta, "step_prompts": step_prompts, "target": target,
            "refresh_every": refresh_every, "target_difficulty": target_difficulty,
            "temperature": temperature, "references": references, "reuse_references": reuse_references,
            "adapter": None if adapter is None else str(adapter), "group_column": group_column,
            "rollout": None if rollout is None else json_object(rollout, "--rollout", ROLLOUT),
        }  # fmt: skip
        given = given_options(named, step_range=step_range, options=options or [])
        if reference_outcomes is not None:
            see_references(strategy, reference_outcomes)
        low, high = pair(reward_range, "--reward-range")
        more, seen = scoring_options(scoring)
        again = RescoreConfig(what=rescore, every=rescore_every, probe=probe, drift=drift, options=more)
        config = checked(
            scored=scored,
            run=run,
            strategy=strategy,
            budget=budget_for(strategy, budget, given),
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
        if more:
            tell_of_machine(opened, seen)
        if reference_outcomes is not None:
            with working_on(run):
                advance(opened, note=output.note, references=reference_outcomes)
        if opened.state["round"] < 0:
            tell_of_references(opened, as_json)
            return
        if as_json:
            output.as_json({"run": str(run), "round": 0, **paths_of(opened, 0)})
            return
        plan = opened.plan(0)
        output.text(
            f"{run}: round 0 of {rounds} is planned: {config.budget:,} of "
            f"{output.counted(opened.facts['rows'], 'prompt')}, "
            f"{output.counted(plan['forecast']['prompt_tokens'], 'prompt token')}"
        )
        output.text(f"  data: {opened.data(0)}")
        output.text(f"  outcomes go to: {opened.outcomes(0)}")
        output.text('    a line for each rollout: {"gc_id": "...", "reward": 1.0, "round": 0}')
        output.text(f"  next: gaincurate schedule run {shlex.quote(str(run))} -- CMD ...")
