"""`gaincurate schedule start`: opens a run over a scored set.

The text of `--scoring` is parsed by the `score` command itself, at once: a mistake in it must not wait until
the first re-scoring.
"""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaincurate.cli import output
from gaincurate.cli.options import AsJson, Command, configured
from gaincurate.cli.schedule_options import (
    given_options,
    pair,
    paths_of,
    tell_of_references,
)
from gaincurate.cli.score import score
from gaincurate.core.options import (
    ADVANCED,
    DOTS,
    GAIN_RL,
    RESCORING,
    Cache,
    Option,
    checked,
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
    from gaincurate.scoring.config import DEVICE, ScoreConfig

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
        for option in words_read:
            if option.param_type_name == "option" and option.name not in _SCORING:
                raise InputError(
                    f"{asked}: {option.opts[0]} is settled by re-scoring itself, which goes by the first "
                    f"scoring; it takes {takes}."
                )
        params = command.make_context("score", ["DATA", "--model", "M", "--out", "OUT", *words]).params
    except typer.BadParameter as error:
        raise InputError(f"{asked}: {_as_clause(error.format_message())}.") from error
    except _UsageError as error:
        raise InputError(f"{asked}: {_as_clause(error.message)}; it takes {takes}.") from error
    given = {option.name: params[option.name] for option in words_read if option.name in _SCORING}
    try:
        config = checked(ScoreConfig, {"data": "DATA", "model": "M", "out": "OUT", **given})
        if not DEVICE.fullmatch(config.device):
            raise InputError(f"--device {config.device}: expected auto, cpu, cuda or cuda:N.")
    except InputError as error:
        raise InputError(f"{asked}: {error}") from error
    return words, given


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


_STRATEGIES = (
    "gaincurate.schedule.strategies.gaussian:GaussianOptions",
    "gaincurate.schedule.strategies.posterior_options:PosteriorOptions",
    "gaincurate.schedule.strategies.dots_options:DotsOptions",
)
"""The models whose marked fields are options of `schedule start`; `--set` takes their other fields."""


@configured("gaincurate.schedule.config:ScheduleConfig", whole=False, own=_STRATEGIES)
def start(
    config: dict[str, Any],
    own: dict[str, Any],
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
    step_range: Annotated[
        Any,
        Option(
            "gain-rl: clamp of mu's step; 0,1000 is the released code's.",
            GAIN_RL,
            metavar="LO,HI",
            read=str,
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
        from gaincurate.schedule.base import check_options, load
        from gaincurate.schedule.config import ScheduleConfig
        from gaincurate.schedule.rounds import advance
        from gaincurate.schedule.rounds import start as open_run
        from gaincurate.schedule.run import working_on

        use_cache(cache)
        own_options = given_options(own, step_range=step_range, options=options or [])
        run, strategy = config["run"], config["strategy"]
        kind = load(strategy)
        if reference_outcomes is not None and not kind.observes_references:
            raise InputError(
                f"--reference-outcomes {reference_outcomes}: strategy {strategy} observes no references."
            )
        if reference_outcomes is not None and not reference_outcomes.exists():
            raise InputError(f"--reference-outcomes {reference_outcomes} does not exist.")
        size = check_options(strategy, kind, own_options).round_size(budget)
        if size is None:
            raise InputError(f"strategy {strategy} needs --budget N, the distinct prompts of a round.")
        more, seen = scoring_options(scoring)
        settings = config | {
            "budget": size,
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
        if opened.round < 0:
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
