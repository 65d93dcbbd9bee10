"""`gaincurate schedule`: plans rounds of training data for a trainer, one after the other.

`next` and `run` hold the run's locks, because a trainer that follows the run plans its rounds itself. The
status is printed from the plain values that `--json` prints.
"""

from __future__ import annotations

import filecmp
import shlex
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaincurate.cli import output
from gaincurate.cli.options import AsJson, configured, group, pair
from gaincurate.cli.output import counted
from gaincurate.cli.progress import RoundsView, duration, of_rounds
from gaincurate.cli.report import print_blocks
from gaincurate.cli.score import score
from gaincurate.cli.sets import FILES, TRAIN
from gaincurate.core.options import ADVANCED, DOTS, RESCORING, Option, checked
from gaincurate.errors import InputError
from gaincurate.trainers.names import with_part

if TYPE_CHECKING:
    from gaincurate.schedule.checkpoints import Finder
    from gaincurate.schedule.run import Run
    from gaincurate.trainers.config import DriveConfig, NextConfig

_SCORING = (
    "--device", "--dtype", "--backend", "--workers", "--threads", "--batch-tokens", "--shard-rows",
    "--allow-pickle", "--trust-remote-code",
)  # fmt: skip
"""Options of `gaincurate score` that --scoring takes: of the machine, and what it may run. Re-scoring itself
settles which prompts are scored, how they are read and where the set goes."""
_OF_RUN = ("bare", "clusters", "order", "with_scores")
"""Fields of `ScheduleConfig` that --set takes where the strategy has no option of the name."""


def _scoring_words(text: str) -> list[str]:
    """The words of --scoring, checked at once, because the first re-scoring may be hours away."""
    from gaincurate.scoring.config import DEVICE

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"--scoring {text!r}: {str(error).lower()}.") from error
    names = [word.partition("=")[0] for word in words if word.startswith("-")]
    if other := [name for name in names if name not in _SCORING]:
        raise InputError(f"--scoring {text!r}: it takes {', '.join(_SCORING)}, and not {other[0]}.")
    command: Any = typer.main.get_command(group(score, add_completion=False))
    context = command.make_context("score", ["DATA", "--model", "M", "--out", "OUT", *words])  # the values
    if not DEVICE.fullmatch(device := str(context.params["device"])):
        raise InputError(f"--scoring {text!r}: --device {device}: expected auto, cpu, cuda or cuda:N.")
    return words


def _paths(run: Run, round_: int) -> dict[str, str]:
    """The paths of a round's files, for programs."""
    plan = run.round_folder(round_) / "plan.json"
    return {"data": str(run.data(round_)), "outcomes": str(run.outcomes(round_)), "plan": str(plan)}


@configured(
    "gaincurate.schedule.config:ScheduleConfig",
    # Models whose marked fields are options too; `--set` takes their other fields.
    "gaincurate.schedule.strategies.gaussian:GaussianOptions",
    "gaincurate.schedule.strategies.posterior:PosteriorOptions",
    "gaincurate.schedule.strategies.dots:DotsOptions",
    stores=True,
)
def start(
    config: dict[str, Any],
    own: dict[str, Any],
    budget: Annotated[int | None, Option(ge=1)] = None,
    options: Annotated[list[str] | None, Option(names=("--set",), metavar="NAME=VALUE")] = None,
    reference_outcomes: Annotated[Path | None, Option(panel=DOTS)] = None,
    reward_range: Annotated[Any, Option(panel=ADVANCED, metavar="LO,HI", read=str, shown="0,1")] = "0,1",
    scoring: Annotated[str, Option(panel=RESCORING)] = "",
    as_json: AsJson = False,
) -> None:
    """Open a run over a scored set and write its round 0.

    Example: gaincurate schedule start scored --run run --strategy gain-rl --budget 1024 --rounds 200

    Options:
        budget: Distinct prompts in a round. Required, except for dots: refresh_every * step_prompts.
        options: Another option of the strategy, or bare, clusters, order, with_scores; repeatable.
        reference_outcomes: Outcomes of round 0's references, or a rollout set.
        reward_range: Rewards of a failure and of a success.
        scoring: Further options of `score` for scoring again, as one text ('--device cuda:1').
    """
    from gaincurate.core.foreign import json_value
    from gaincurate.schedule.base import check_options, load
    from gaincurate.schedule.config import ScheduleConfig
    from gaincurate.schedule.observations import status
    from gaincurate.schedule.rounds import start as open_run

    for option in options or []:
        name, equals, value = option.partition("=")
        if not equals:
            raise InputError(f"--set {option}: expected NAME=VALUE.")
        try:
            own[name] = json_value(value)
        except ValueError:
            own[name] = value
    strategy = config["strategy"]
    kind = load(strategy)
    of_run = set(_OF_RUN) & own.keys() - kind.Options.model_fields.keys()
    config |= {name: own.pop(name) for name in of_run}
    size = check_options(strategy, kind, own).round_size(budget)
    if size is None:
        raise InputError(f"strategy {strategy} needs --budget N, the distinct prompts of a round.")
    low, high = pair(reward_range, "--reward-range")
    rescore = config.get("rescore", {}) | {"options": _scoring_words(scoring)}
    config |= {"budget": size, "options": own, "rescore": rescore}
    config |= {"reward_low": low, "reward_high": high}
    opened = open_run(checked(ScheduleConfig, config), output.note, reference_outcomes)
    run, is_open = opened.folder, opened.round >= 0
    if as_json:
        facts: dict[str, Any] = {"run": str(run), "round": 0 if is_open else None}
        difficulty = None if is_open else status(opened)["difficulty"]
        more = {"references": None if difficulty is None else difficulty["waiting"]}
        output.as_json(facts | (_paths(opened, 0) if is_open else more))
    elif not is_open:  # `rounds.start` has noted why
        output.text(
            f"{run}: opened; its strategy waits for something before round 0",
            f"  next: gaincurate schedule next {shlex.quote(str(run))}",
        )
    else:
        tokens = opened.plan(0)["forecast"]["prompt_tokens"]
        output.fitted(
            f"{run}: round 0 of {opened.config.rounds} is planned: {opened.config.budget:,} of "
            f"{counted(opened.prompts, 'prompt')}, {counted(tokens, 'prompt token')}"
        )
        script = Path("train.py")  # of `gaincurate example`, whose flags are known
        example = script.exists() and filecmp.cmp(script, FILES / script, shallow=False)
        trainer = TRAIN if example else "CMD ..."
        output.text(
            f"  data: {opened.data(0)}",
            f"  outcomes go to: {opened.outcomes(0)}",
            '    a line for each rollout: {"gc_id": "...", "reward": 1.0, "round": 0}',
            f"  next: gaincurate schedule run {shlex.quote(str(run))} -- {trainer}",
        )


@configured()
def recipe(
    trainer: Annotated[str, Option(f"{', '.join(with_part('recipe'))}.", metavar="TRAINER", argument=True)],
    live: Annotated[Path | None, Option(metavar="RUN")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a script that trains one round with a trainer, to begin yours from.

    It says what becomes of the optimizer, the learning rate and the KL reference between rounds.

    Example: gaincurate schedule recipe verl > round.sh

    Options:
        live: verl: print the settings of one long process that follows this run.
    """
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
    output.result(facts, as_json, lambda _: output.text(*lines))
    if live is None and not as_json:
        output.note(f"saved as round.sh: {COMMAND}")


@configured("gaincurate.trainers.config:NextConfig", resumes=True)
def next_(config: NextConfig, as_json: AsJson = False) -> None:
    """Take the newest round's outcomes, write the next round and print its folder.

    With strategy dots it needs the outcomes of reference prompts too, says of which, and where they go.

    Example: gaincurate schedule next run --outcomes trainer/completions
    """
    from gaincurate.core.process import command_lock
    from gaincurate.schedule.rounds import advance
    from gaincurate.schedule.run import Run, working_on
    from gaincurate.trainers.logs import take_logs

    run = Run(config.run)
    if config.reward_column is not None and not config.outcomes:
        raise InputError(f"--reward-column {config.reward_column} goes with --outcomes PATH.")
    with command_lock(run.folder), working_on(run.folder):  # a trainer that follows the run plans its rounds
        if config.outcomes and not run.state["finished"]:  # else `advance` refuses
            run.newest()  # or there is no round whose outcomes they can be
            take_logs(run, config.outcomes, config.reward_column, output.note)
        finder = _finder(run, config.trainer, output.note)
        resumes_from = finder.chosen(run, config.checkpoint) if config.checkpoint else None
        folder = advance(run, resumes_from, output.note, finder.held, config.reference_outcomes)
    state = run.state
    planned = run.plan(run.round) if run.round >= 0 and not state["finished"] else state | {"mu": None}
    if inputs := planned.get("inputs"):
        now = "" if planned["mu"] is None else f", mu now {planned['mu']:.1f}"
        over = counted(inputs["rollouts"], "rollout")
        output.note(f"round {inputs['round']}: accuracy {inputs['accuracy']:.3f} over {over}{now}")
    if as_json:
        paths = {} if folder is None else _paths(run, run.round)
        output.as_json({"finished": folder is None, "round": run.round, **paths})
    elif folder is None:
        output.note(f"{config.run} is finished, after {counted(run.config.rounds, 'round')}")
    else:
        output.text(str(folder))


@configured("gaincurate.trainers.config:DriveConfig", resumes=True)
def run(config: DriveConfig, as_json: AsJson = False) -> None:
    """Drive a trainer through the rounds: run it, take its outcomes, score again where due, plan the next.

    It reads {data}, a Parquet file with `prompt` (chat messages), `gc_id` and the source columns; appends a
    line of JSON for each rollout to {outcomes}: {"gc_id": ..., "reward": ..., "round": {round}}; begins with
    {checkpoint} and saves a Hugging Face checkpoint below {output}.

    Run the same command again after an interruption: it goes on where it was.

    Example: gaincurate schedule run run -- python train.py {data} {checkpoint} {outcomes} {output}
    """
    from gaincurate.schedule.driver import drive, newest_command
    from gaincurate.schedule.observations import status
    from gaincurate.schedule.run import Run

    opened, command = Run(config.run), config.command or []
    if config.dry_run:
        finder = _finder(opened, config.trainer, output.note, keep=False)
        filled = newest_command(opened, command, finder)
        of = of_rounds(opened.newest(), opened.config.rounds)
        facts = {"round": opened.newest(), "command": filled}
        output.result(facts, as_json, lambda _: output.text(f"{of}: {shlex.join(filled)}"))
        return
    with closing(RoundsView(opened)) as view:
        finder = _finder(opened, config.trainer, view.note)
        drive(opened, command, timeout=config.timeout, again=config.retry, view=view, finder=finder)
    output.result(status(opened), as_json, print_status)


@configured()
def status_(run: Annotated[Path, Option(metavar="RUN", argument=True)], as_json: AsJson = False) -> None:
    """Print the status of a run: mu, accuracy, drift and cost of each round.

    Example: gaincurate schedule status run

    Options:
        run: The run's folder.
    """
    from gaincurate.schedule.observations import status
    from gaincurate.schedule.run import Run

    output.result(status(Run(run)), as_json, print_status)


app = group(start, recipe, next_, run, status_, help="Plan training rounds that adapt to the model.")


def _finder(run: Run, trainer: str | None, note: Callable[[str], None], *, keep: bool = True) -> Finder:
    """Finds checkpoints of the given trainer, of the remembered one, or of any; `keep` remembers it."""
    from gaincurate.schedule.checkpoints import Finder
    from gaincurate.trainers.checkpoints import TrainerFinder, remembered_trainer
    from gaincurate.trainers.profile import layout_of

    name = remembered_trainer(run, trainer, keep=keep)
    return Finder() if name is None else TrainerFinder(layout_of(name), note)


_COLUMNS: dict[str, output.Cell] = {
    "round": "round",
    "target rank": ("mu", ".1f"),
    "accuracy": ("accuracy", ".3f"),
    "groups differ": ("effective", ".3f"),
    "all wrong": ("all_wrong", ".3f"),
    "all right": ("all_right", ".3f"),
    "expected": ("metrics.expected_effective", ".3f"),
    "seen": ("metrics.seen", ",d"),
    "easy": ("metrics.easy", ",d"),
    "hard": ("metrics.hard", ",d"),
    "mean angle": ("concentration", ".3f"),
    "rollouts": ("rollouts", ",d"),
    "prompt tokens": ("prompt_tokens", ",d"),
    "rank corr.": ("drift", ".3f"),
    "training s": ("training_seconds", ",.1f"),
    "scoring s": ("scoring_seconds", ",.1f"),
}
"""The columns of a status, which docs/watching.md explains. One without any value is left out: a strategy
without mu has no target rank."""


def print_status(facts: dict[str, Any]) -> None:
    """Print the facts of `schedule.observations.status`."""
    rounds = facts["rounds"]
    where = "finished" if facts["finished"] else "no round yet"
    if rounds and not facts["finished"]:
        where = f"{of_rounds(rounds[-1]['round'], facts['planned_rounds'])} is in progress"
    by = f" by {facts['by']}" if facts["by"] else ""
    if facts["where"] is not None:
        by += f", where {facts['where']}"
    if facts["stratify"] != "none":
        by += f", within the groups of {facts['stratify']}"
    output.fitted(
        f"{facts['run']}: {facts['strategy']}{by}, {facts['budget']:,} of {counted(facts['kept'], 'prompt')} "
        f"a round, {counted(facts['planned_rounds'], 'round')}; {where}"
    )
    filled = [name for name, how in _COLUMNS.items() if any(output.cell(row, how) != "-" for row in rounds)]
    output.records(rounds, {name: _COLUMNS[name] for name in filled or ["round"]})
    training, scoring = facts["training_seconds"], facts["scoring_seconds"]
    if whole := training + scoring:
        output.fitted(f"  {training:,.1f} s of training, {scoring:,.1f} s of scoring ({scoring / whole:.0%})")
    if facts["seconds_left"] is not None:
        output.fitted(f"  about {duration(facts['seconds_left'])} left, as the last rounds went")
    for name in ("nothing_learnt", "advice"):
        if facts[name] is not None:
            output.fitted(f"  {facts[name]}")
    if facts["late"]:
        output.fitted(f"  outcomes that came after their round: of {counted(facts['late'], 'prompt')}")
    if (waiting := facts["waiting"]) is not None:
        of = counted(waiting["of"], "prompt")
        output.fitted(f"  round {waiting['round']}: outcomes for {waiting['prompts']:,} of {of}")
        if waiting["problem"]:
            output.fitted(f"  {waiting['problem']}")
    if facts["last_line"] is not None:
        output.text(f"  the trainer's log ends: {output.plain(facts['last_line'])[: output.WIDTH]}")
    if facts["difficulty"] is None:
        return
    from gaincurate.report.contents import predictions

    print_blocks(predictions(facts["difficulty"], rounds))
    if (waiting := facts["difficulty"]["waiting"]) is None:
        return
    if waiting["rolls_out"]:
        output.text(f"  round {waiting['round']}: its references are rolled out by `schedule run` or `next`")
    else:
        output.fitted(
            f"  round {waiting['round']} waits for outcomes of its references: prompts in "
            f"{waiting['prompts']}, outcomes to {waiting['outcomes']}"
        )
