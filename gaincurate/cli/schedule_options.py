"""What the `schedule` commands make of their options; knows nothing of how rounds are planned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaincurate.cli import output
from gaincurate.errors import GaincurateError, InputError

if TYPE_CHECKING:
    from gaincurate.schedule.run import Run


def strategy_options(
    *,
    sigma: str | None,
    alpha: float | None,
    beta: float | None,
    step_range: str | None,
    options: list[str],
) -> dict[str, Any]:
    """The strategy's own options, those with a name here and those by --set."""
    named = {"sigma": sigma, "alpha": alpha, "beta": beta}
    given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    if step_range is not None:
        given["step_low"], given["step_high"] = pair(step_range, "--step-range")
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise InputError(f"--set {option}: expected NAME=VALUE.")
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value
    return given


def pair(text: str, option: str) -> tuple[float, float]:
    """Two numbers with a comma between them."""
    try:
        low, high = map(float, text.split(","))
    except ValueError as error:
        raise InputError(f"{option} {text}: expected two numbers, LO,HI.") from error
    return low, high


def model_of_set(scored: Path) -> str | None:
    """The model that scored a set, as files where it can be found here."""
    from gaincurate.schedule.rounds import model_of

    name = model_of(scored)
    if name is None or Path(name).exists():
        return name
    try:
        from gaincurate.scoring.model import find_model

        files = find_model(name)
    except (ImportError, GaincurateError):  # not on this machine: the trainer gets the name
        return name
    return str(files.weights[0] if files.gguf else files.folder)


def take_logged(run: Run, paths: Sequence[Path], format_: str | None, reward_column: str | None) -> None:
    """Take the outcomes that a trainer logged, where `schedule next` was given some."""
    if not paths:
        for option, value in (("--from", format_), ("--reward-column", reward_column)):
            if value is not None:
                raise InputError(f"{option} {value} goes with --outcomes PATH.")
        return
    if run.state.get("finished"):
        return  # which is said by the command itself
    from gaincurate.trainers.logs import take_logs

    take_logs(run, paths, format_, reward_column, output.note)
