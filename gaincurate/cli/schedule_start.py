"""`gaincurate schedule start`: opens a run over a scored set.

The text of `--scoring` is parsed by the `score` command itself, at once: a mistake in it must not wait until
the first re-scoring.
"""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gaincurate.cli import output
from gaincurate.cli.options import Command, configured
from gaincurate.cli.schedule_options import (
    ROLLOUT,
    budget_for,
    given_options,
    pair,
    paths_of,
    see_references,
    tell_of_references,
)
from gaincurate.cli.score import score
from gaincurate.core.cluster_options import read_workers
from gaincurate.core.options import (
    ADVANCED,
    DOTS,
    GAIN_RL,
    POSTERIOR,
    RESCORING,
    Cache,
    Option,
    checked,
    json_object,
)
from gaincurate.core.store import use_cache
from gaincurate.errors import InputError

if TYPE_CHECKING:
    from gaincurate.schedule.run import Run


_SCORING = (
    "device", "dtype", "backend", "workers", "threads", "batch_tokens", "logits_memory", "shard_rows",
    "allow_pickle", "trust_remote_code",
)  # fmt: skip
"""Options of `gaincurate score` that --scoring takes: of the machine, and what it may run. The others say
which prompts are scored, how they are read and where the set goes, which re-scoring settles itself."""
_OF_MACHINE = ("device", "dtype", "backend", "workers", "threads")
# typer has no public name for it: what its own click, or before 0.26 the installed one, calls UsageError.
_UsageError: Any = typer.BadParameter.__bases__[0]


def scoring_options(text: str) -> tuple[list[str], dict[str, Any]]:
    """The words of --scoring and the options that `gaincurate score` will read in them, seen now: a run
    keeps them.

    Raises:
        InputError: an option that there is not, one that re-scoring settles itself, or a bad value.
    """
    from gaincurate.scoring.config import DEVICE

    asked = f"--scoring {text!r}"
    takes = ", ".join("--" + name.replace("_", "-") for name in _SCORING)
    command_line = typer.Typer(add_completion=False)
    command_line.command(cls=Command, add_help_option=False)(score)
    command: Any = typer.main.get_command(command_line)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"{asked}: {str(error).lower()}.") from error
    try:
        _, _, words_read = command.make_parser(typer.Context(command)).parse_args(list(words))
        _refuse_others(asked, [option for option in words_read if option.param_type_name == "option"], takes)
        params = command.make_context("score", ["DATA", "--model", "M", "--out", "OUT", *words]).params
    except typer.BadParameter as error:
        raise InputError(f"{asked}: {_as_clause(error.format_message())}.") from error
    except _UsageError as error:
        raise InputError(f"{asked}: {_as_clause(error.message)}; it takes {takes}.") from error
    device, tokens, workers = params["device"], params["batch_tokens"], params["workers"]
    if workers is not None:
        try:
            read_workers(str(workers))
        except InputError as error:
            raise InputError(f"{asked}: {error}") from error
    if not DEVICE.fullmatch(device):
        raise InputError(f"{asked}: --device {device}: expected auto, cpu, cuda or cuda:N.")
    if tokens != "auto" and not (tokens.isdecimal() and len(tokens) <= 18 and int(tokens) >= 1):
        raise InputError(f"{asked}: --batch-tokens {tokens}: expected auto or a number from 1.")
    return words, {option.name: params[option.name] for option in words_read if option.name in _SCORING}


def _refuse_others(asked: str, options: list[Any], takes: str) -> None:
    for option in options:
        if option.name not in _SCORING:
            raise InputError(
                f"{asked}: {option.opts[0]} is settled by re-scoring itself, which goes by the first "
                f"scoring; it takes {takes}."
            )


def _as_clause(message: str) -> str:
    return message[:1].lower() + message[1:].removesuffix(".")


def tell_of_machine(run: Run, scoring: Mapping[str, Any]) -> None:
    """Warn where this machine cannot score again as asked; another one may be meant to, so it is no error."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
        return
    import torch

    from gaincurate.scoring.config import MachineConfig
    from gaincurate.scoring.identity import resolve_machine
    from gaincurate_kernels import resolve_backend

    asked = {"dtype": run.scored.identity.get("dtype", "auto"), **scoring}
    of_machine = {name: asked[name] for name in _OF_MACHINE if asked.get(name) is not None}
    try:
        config = MachineConfig(**of_machine)
        machine = resolve_machine(config)
        try:
            # Of any hidden size: which one it is, the checkpoint will tell.
            resolve_backend(
                config.backend, device=machine.type, hidden=1, dtype=getattr(torch, machine.dtype)
            )
        except ValueError as error:
            raise InputError(f"--{error}.") from error
    except InputError as error:
        output.note(
            f"warning: re-scoring on this machine would fail: {error} A run keeps its --scoring: to drive it "
            "here, start another."
        )


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
    preset: Annotated[
        Literal["variance", "mopps", "mapp"] | None,
        Option("The settings of a method. Options that you give come before its own.", POSTERIOR),
    ] = None,
    labels: Annotated[
        str | None,
        Option(
            "Columns that say which prompts are alike, or none. Default: those that predict the first "
            "outcomes best.",
            POSTERIOR,
            metavar="NAME,...",
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
        Literal["auto", "difficulty", "variance"] | None,
        Option(
            "Aim at a failure rate, as in the paper, or at the largest p (1 - p). Default: auto, what round "
            "0's references say is better.",
            DOTS,
        ),
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
    cache: Cache = None,
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

        use_cache(cache)
        named = {
            "sigma": sigma, "alpha": alpha, "beta": beta, "step_prompts": step_prompts, "target": target,
            "refresh_every": refresh_every, "target_difficulty": target_difficulty,
            "temperature": temperature, "references": references, "reuse_references": reuse_references,
            "preset": preset, "labels": labels,
            "adapter": None if adapter is None else str(adapter), "group_column": group_column,
            "rollout": rollout,
        }  # fmt: skip
        own_options = given_options(named, step_range=step_range, options=options or [])
        run, strategy = config["run"], config["strategy"]
        if reference_outcomes is not None:
            see_references(strategy, reference_outcomes)
        more, seen = scoring_options(scoring)
        settings = config | {
            "budget": budget_for(strategy, budget, own_options),
            "options": own_options,
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
        output.fitted(
            f"{run}: round 0 of {opened.config.rounds} is planned: {opened.config.budget:,} of "
            f"{output.counted(opened.prompts, 'prompt')}, "
            f"{output.counted(plan['forecast']['prompt_tokens'], 'prompt token')}"
        )
        output.text(f"  data: {opened.data(0)}")
        output.text(f"  outcomes go to: {opened.outcomes(0)}")
        output.text('    a line for each rollout: {"gc_id": "...", "reward": 1.0, "round": 0}')
        output.text(f"  next: gaincurate schedule run {shlex.quote(str(run))} -- CMD ...")
