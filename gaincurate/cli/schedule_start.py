"""`gaincurate schedule start`: its options, and what it says."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from gaincurate.cli import output
from gaincurate.cli.options import configured
from gaincurate.cli.rescoring import scoring_options, tell_of_machine
from gaincurate.cli.schedule_options import (
    ROLLOUT,
    budget_for,
    given_options,
    pair,
    paths_of,
    see_references,
    tell_of_references,
)
from gaincurate.options import ADVANCED, DOTS, GAIN_RL, RESCORING, Option, checked, json_object

AsJson = Annotated[bool, Option("Print JSON.", names=("--json",))]


def _rollout(text: str) -> dict[str, Any]:
    return json_object(text, "--rollout", ROLLOUT)


@configured("gaincurate.schedule.config:ScheduleConfig", whole=False)
def start(
    config: dict[str, Any],
    budget: Annotated[
        int | None,
        Option("Distinct prompts in a round. dots: --refresh-every times --step-prompts.", min=1),
    ] = None,
    options: Annotated[
        list[str] | None,
        Option(
            "Another option of the strategy; repeatable.",
            names=("--set",),
            metavar="NAME=VALUE",
        ),
    ] = None,
    sigma: Annotated[
        str | None, Option("Width in ranks, or of the set (0.1N). Default: 1000.", GAIN_RL, metavar="N")
    ] = None,
    alpha: Annotated[float | None, Option("gain-rl: sensitivity. Default: 2.", GAIN_RL)] = None,
    beta: Annotated[float | None, Option("gain-rl: target accuracy. Default: 0.5.", GAIN_RL)] = None,
    step_range: Annotated[
        Any,
        Option(
            "gain-rl: clamp of mu's step; 0,1000 is the released code's.",
            GAIN_RL,
            metavar="LO,HI",
            read=str,
        ),
    ] = None,
    step_prompts: Annotated[int | None, Option("The trainer's prompts per step.", DOTS, min=1)] = None,
    refresh_every: Annotated[
        int | None, Option("Steps that one draw is for. Default: 2.", DOTS, min=1)
    ] = None,
    target_difficulty: Annotated[
        float | None, Option("The failure rate to aim at. Default: 0.5.", DOTS)
    ] = None,
    temperature: Annotated[float | None, Option("How sharply to aim. Default: 0.001.", DOTS)] = None,
    target: Annotated[
        Literal["difficulty", "variance"] | None,
        Option("Aim at a failure rate, the default, or at the largest p (1 - p).", DOTS),
    ] = None,
    references: Annotated[
        int | None, Option("Prompts observed before each draw. Default: 256.", DOTS, min=3)
    ] = None,
    reuse_references: Annotated[
        float | None,
        Option("Name references within W of the target in the plan, to train on.", DOTS, metavar="W"),
    ] = None,
    adapter: Annotated[
        Path | None, Option("What `difficulty fit` wrote. Default: no training.", DOTS)
    ] = None,
    group_column: Annotated[
        str | None,
        Option("Predict by the mean of this column's groups, the baseline.", DOTS, metavar="NAME"),
    ] = None,
    rollout: Annotated[
        dict[str, Any] | None,
        Option(
            "Observe references by `difficulty rollout` with these options "
            '(\'{"verifier": "math", "samples": 8}\'); with "server" by that, else with the newest '
            "checkpoint.",
            DOTS,
            metavar="JSON",
            read=_rollout,
        ),
    ] = None,
    reference_outcomes: Annotated[
        Path | None,
        Option("What round 0's references did: outcomes, or a rollout set.", DOTS),
    ] = None,
    reward_range: Annotated[
        Any,
        Option(
            "Rewards of a failure and of a success.",
            ADVANCED,
            metavar="LO,HI",
            read=str,
            shown="0,1",
        ),
    ] = "0,1",
    scoring: Annotated[
        str,
        Option("More options for scoring again, in one text ('--device cuda:1').", RESCORING),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Open a run over a scored set and write its round 0.

    Example: gaincurate schedule start scored --run run --strategy gain-rl --budget 1024 --rounds 200
    """
    with output.reporting():
        from gaincurate.schedule.config import ScheduleConfig
        from gaincurate.schedule.rounds import advance
        from gaincurate.schedule.rounds import start as open_run
        from gaincurate.schedule.run import working_on

        named = {
            "sigma": sigma, "alpha": alpha, "beta": beta, "step_prompts": step_prompts, "target": target,
            "refresh_every": refresh_every, "target_difficulty": target_difficulty,
            "temperature": temperature, "references": references, "reuse_references": reuse_references,
            "adapter": None if adapter is None else str(adapter), "group_column": group_column,
            "rollout": rollout,
        }  # fmt: skip
        given = given_options(named, step_range=step_range, options=options or [])
        run, strategy = config["run"], config["strategy"]
        if reference_outcomes is not None:
            see_references(strategy, reference_outcomes)
        more, seen = scoring_options(scoring)
        settings = config | {
            "budget": budget_for(strategy, budget, given),
            "options": given,
            "rescore": config.get("rescore", {}) | {"options": more},
        }
        settings["reward_low"], settings["reward_high"] = pair(reward_range, "--reward-range")
        opened = open_run(checked(ScheduleConfig, settings), output.note)
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
            f"{run}: round 0 of {opened.config.rounds} is planned: {opened.config.budget:,} of "
            f"{output.counted(opened.facts['rows'], 'prompt')}, "
            f"{output.counted(plan['forecast']['prompt_tokens'], 'prompt token')}"
        )
        output.text(f"  data: {opened.data(0)}")
        output.text(f"  outcomes go to: {opened.outcomes(0)}")
        output.text('    a line for each rollout: {"gc_id": "...", "reward": 1.0, "round": 0}')
        output.text(f"  next: gaincurate schedule run {shlex.quote(str(run))} -- CMD ...")
