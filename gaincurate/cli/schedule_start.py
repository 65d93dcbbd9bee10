"""`gaincurate schedule start`: opens a run over a scored set."""

from __future__ import annotations

import filecmp
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaincurate.cli import output
from gaincurate.cli.example import FILES, TRAIN
from gaincurate.cli.options import AsJson, Command, configured, pair
from gaincurate.cli.score import score
from gaincurate.core.options import ADVANCED, DOTS, RESCORING, Cache, Option, checked
from gaincurate.core.store import use_cache
from gaincurate.errors import InputError

if TYPE_CHECKING:
    from gaincurate.schedule.run import Run

_SCORING = (
    "--device", "--dtype", "--backend", "--workers", "--threads", "--batch-tokens", "--shard-rows",
    "--allow-pickle", "--trust-remote-code",
)  # fmt: skip
"""Options of `gaincurate score` that --scoring takes: of the machine, and what it may run. Re-scoring itself
settles which prompts are scored, how they are read and where the set goes."""
_OF_RUN = ("bare", "clusters", "order", "with_scores")
"""Fields of `ScheduleConfig` that --set takes where the strategy has no option of the name."""
_STRATEGIES = (
    "gaincurate.schedule.strategies.gaussian:GaussianOptions",
    "gaincurate.schedule.strategies.posterior:PosteriorOptions",
    "gaincurate.schedule.strategies.dots:DotsOptions",
)
"""The models whose marked fields are options of `schedule start`; `--set` takes their other fields."""


def scoring_words(text: str) -> list[str]:
    """The words of --scoring, checked now, because the first re-scoring may be hours away.

    Raises:
        InputError: an option that re-scoring does not take.
    """
    from gaincurate.scoring.config import DEVICE

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"--scoring {text!r}: {str(error).lower()}.") from error
    names = [word.partition("=")[0] for word in words if word.startswith("-")]
    if other := [name for name in names if name not in _SCORING]:
        raise InputError(f"--scoring {text!r}: it takes {', '.join(_SCORING)}, and not {other[0]}.")
    app = typer.Typer(add_completion=False)
    app.command(cls=Command)(score)
    command: Any = typer.main.get_command(app)
    context = command.make_context("score", ["DATA", "--model", "M", "--out", "OUT", *words])  # the values
    if not DEVICE.fullmatch(device := str(context.params["device"])):
        raise InputError(f"--scoring {text!r}: --device {device}: expected auto, cpu, cuda or cuda:N.")
    return words


def _own_options(named: dict[str, Any], options: list[str]) -> dict[str, Any]:
    """The strategy's own options: those with an option of their name, and those of --set."""
    from gaincurate.core.foreign import json_value

    values = dict(named)
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise InputError(f"--set {option}: expected NAME=VALUE.")
        try:
            values[name] = json_value(value)
        except ValueError:
            values[name] = value
    return values


def paths_of(run: Run, round_: int) -> dict[str, str]:
    """The paths of a round's files, for programs."""
    return {
        "data": str(run.data(round_)),
        "outcomes": str(run.outcomes(round_)),
        "plan": str(run.round_folder(round_) / "plan.json"),
    }


@configured("gaincurate.schedule.config:ScheduleConfig", whole=False, own=_STRATEGIES)
def start(
    config: dict[str, Any],
    own: dict[str, Any],
    budget: Annotated[
        int | None,
        Option(
            "Distinct prompts in a round. Required, except for dots: refresh_every * step_prompts.", min=1
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        Option(
            f"Another option of the strategy, or {', '.join(_OF_RUN)}; repeatable.",
            names=("--set",),
            metavar="NAME=VALUE",
        ),
    ] = None,
    reference_outcomes: Annotated[
        Path | None, Option("Outcomes of round 0's references, or a rollout set.", DOTS)
    ] = None,
    reward_range: Annotated[
        Any,
        Option("Rewards of a failure and of a success.", ADVANCED, metavar="LO,HI", read=str, shown="0,1"),
    ] = "0,1",
    scoring: Annotated[
        str,
        Option("Further options of `score` for scoring again, as one text ('--device cuda:1').", RESCORING),
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
        from gaincurate.schedule.rounds import start as open_run

        use_cache(cache)
        own_options = _own_options(own, options or [])
        run, strategy = config["run"], config["strategy"]
        kind = load(strategy)
        of_run = set(_OF_RUN) & own_options.keys() - kind.Options.model_fields.keys()
        config |= {name: own_options.pop(name) for name in of_run}
        size = check_options(strategy, kind, own_options).round_size(budget)
        if size is None:
            raise InputError(f"strategy {strategy} needs --budget N, the distinct prompts of a round.")
        low, high = pair(reward_range, "--reward-range")
        settings = config | {
            "budget": size,
            "options": own_options,
            "reward_low": low,
            "reward_high": high,
            "rescore": config.get("rescore", {}) | {"options": scoring_words(scoring)},
        }
        opened = open_run(checked(ScheduleConfig, settings), output.note, reference_outcomes)
        if opened.round < 0:
            _print_waiting(opened, as_json)
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
        script = Path("train.py")  # of `gaincurate example`, whose flags are known
        example = script.exists() and filecmp.cmp(script, FILES / script, shallow=False)
        trainer = TRAIN if example else "CMD ..."
        output.text(f"  next: gaincurate schedule run {shlex.quote(str(run))} -- {trainer}")


def _print_waiting(run: Run, as_json: bool) -> None:
    """Print that a run has no round yet; `rounds.start` has noted why."""
    from gaincurate.schedule.observations import status

    if as_json:
        difficulty = status(run)["difficulty"]
        waiting = None if difficulty is None else difficulty["waiting"]
        output.as_json({"run": str(run.folder), "round": None, "references": waiting})
        return
    output.text(f"{run.folder}: opened; its strategy waits for something before round 0")
    output.text(f"  next: gaincurate schedule next {shlex.quote(str(run.folder))}")
