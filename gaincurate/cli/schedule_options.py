"""What the options of `gaincurate schedule` stand for: budgets, strategies' own options, checkpoints, logs.

A strategy's options are read by its own model, so `--set` reaches those that have no option of their name.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaincurate.cli import output
from gaincurate.core.foreign import json_value
from gaincurate.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gaincurate.schedule.checkpoints import Finder
    from gaincurate.schedule.run import Run


def given_options(
    named: Mapping[str, Any], *, step_range: str | Sequence[float] | None, options: list[str]
) -> dict[str, Any]:
    """The strategy's own options, those with an option of their name and those by --set.

    Raises:
        InputError: one is not as it should be.
    """
    values = dict(named)
    if step_range is not None:
        values["step_low"], values["step_high"] = pair(step_range, "--step-range")
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise InputError(f"--set {option}: expected NAME=VALUE.")
        try:
            values[name] = json_value(value)
        except ValueError:
            values[name] = value
    return values


def tell_of_references(run: Run, as_json: bool) -> None:
    """What a run that has no round yet waits for."""
    from gaincurate.schedule.references import needed_for
    from gaincurate.schedule.status import status

    difficulty = status(run)["difficulty"]
    waiting = None if difficulty is None else difficulty["waiting"]
    if as_json:
        output.as_json({"run": str(run.folder), "round": None, "references": waiting})
        return
    name = shlex.quote(str(run.folder))
    if waiting is None:
        output.text(f"{run.folder}: opened; its strategy waits for something before round 0")
        output.text(f"  next: gaincurate schedule next {name} plans round 0, or says what it needs")
        return
    output.text(f"{run.folder}: opened; round 0 is planned when its references are observed")
    if waiting["rolls_out"]:
        output.text(
            f"  next: gaincurate schedule run {name} -- CMD ... rolls them out, or schedule next {name}"
        )
    else:
        output.text(f"  {needed_for(run)}")


def pair(value: str | Sequence[float], option: str) -> tuple[float, float]:
    """Two numbers with a comma between them, or a list of them from a file.

    Raises:
        InputError: they are not.
    """
    try:
        low, high = map(float, value.split(",") if isinstance(value, str) else value)
    except (ValueError, TypeError) as error:
        raise InputError(f"{option} {value}: expected two numbers, LO,HI.") from error
    return low, high


def paths_of(run: Run, round_: int) -> dict[str, str]:
    """Where a round's files are, for programs."""
    return {
        "data": str(run.data(round_)),
        "outcomes": str(run.outcomes(round_)),
        "plan": str(run.round_folder(round_) / "plan.json"),
    }


def finder_of(run: Run, trainer: str | None, note: Callable[[str], None], *, keep: bool = True) -> Finder:
    """What finds the checkpoints of the given trainer, which is kept if asked, of the last one, or of any.

    Raises:
        InputError: there is no such trainer.
    """
    from gaincurate.schedule.checkpoints import Finder
    from gaincurate.trainers.profile import layout_of
    from gaincurate.trainers.snapshot import TrainerFinder, remembered_trainer

    name = remembered_trainer(run, trainer, keep=keep)
    return Finder() if name is None else TrainerFinder(layout_of(name), note)


def take_logged(run: Run, paths: Sequence[Path], reward_column: str | None) -> bool:
    """Take the outcomes that a trainer logged, where `schedule next` was given some; whether it was.

    Raises:
        InputError: an option that goes with paths and there are none.
        OutcomeError: a log cannot be used.
    """
    if not paths:
        if reward_column is not None:
            raise InputError(f"--reward-column {reward_column} goes with --outcomes PATH.")
        return False
    if run.state["finished"]:
        return False  # which is said by the command itself
    if run.round < 0:
        raise InputError(
            f"--outcomes {paths[0]}: {run.folder} has no round yet that it could be of; --reference-outcomes "
            "takes what references did."
        )
    from gaincurate.trainers.logs import take_logs

    take_logs(run, paths, reward_column, output.note)
    return True


@contextmanager
def pointing_at_logs(run: Run, taken: bool) -> Iterator[None]:
    """Say after a refusal where the outcomes of logs are that it is about."""
    from gaincurate.errors import OutcomeError

    try:
        yield
    except OutcomeError as error:
        path = run.outcomes(run.round)
        if not taken or str(path) not in str(error):  # of references
            raise
        raise OutcomeError(
            f"{error} What was in the logs is in {path}: give the rest of them to the same command, or "
            "delete that file to take another training's.",
            **error.data,
        ) from error


def tell_of_the_last(run: Run, note: Callable[[str], None]) -> None:
    """What came of the round whose outcomes were taken."""
    state = run.state
    if state["round"] < 0:
        return
    if state.get("finished"):
        seen, mu = state["inputs"], None
    else:
        plan = run.plan(state["round"])
        seen, mu = plan["inputs"], plan["mu"]
    if seen:
        now = "" if mu is None else f", mu now {mu:.1f}"
        over = output.counted(seen["rollouts"], "rollout")
        note(f"round {seen['round']}: accuracy {seen['accuracy']:.3f} over {over}{now}")
