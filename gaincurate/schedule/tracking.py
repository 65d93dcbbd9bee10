"""Sends a run's numbers to an experiment tracker, once per round (`schedule run --track NAME`).

What was sent is written in the run's folder, so the next driver continues the tracker's run and sends what is
missing. A tracker that fails later costs a warning and no training.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

from gaincurate.core.artifact import Json
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.errors import InputError
from gaincurate.schedule.observations import Note, silent
from gaincurate.schedule.run import Run
from gaincurate.schedule.status import status

_STATE = "tracking.json"
_OF_ROUND = (
    "round", "accuracy", "effective", "all_wrong", "all_right", "concentration", "drift", "rollouts",
    "prompt_tokens", "completion_tokens", "training_seconds", "scoring_seconds",
)  # fmt: skip

Writer = tuple[str, Callable[[dict[str, float], int], Any], Callable[[], Any]]
"""A tracker's name of a run, a function that logs numbers at a round, and one that closes it."""


def _wandb(run: Run, identifier: str | None) -> Writer:
    project = os.environ.get("WANDB_PROJECT", "gaincurate")
    opened = importlib.import_module("wandb").init(
        project=project, name=run.folder.name, id=identifier, resume="allow", config=run.facts["config"]
    )
    return opened.id, lambda numbers, round_: opened.log(numbers, step=round_), opened.finish


def _tensorboard(run: Run, identifier: str | None) -> Writer:
    folder = str(run.folder / "tensorboard")
    opened = importlib.import_module("tensorboard.summary").Writer(folder)

    def log(numbers: dict[str, float], round_: int) -> None:
        for name, value in numbers.items():
            opened.add_scalar(name, value, round_)
        opened.flush()

    return folder, log, opened.close


TRACKERS = {"wandb": _wandb, "tensorboard": _tensorboard}
"""Functions that open a run of a tracker, or continue the one of that name."""


class Tracking:
    """A tracker that gets a run's finished rounds, at once those that it lacks.

    Args:
        run: the run.
        tracker: a name of `TRACKERS`.
        note: called with a warning.

    Raises:
        InputError: the tracker is not installed, or cannot be opened.
    """

    def __init__(self, run: Run, tracker: str, note: Note = silent) -> None:
        self._run, self._note, path = run, note, run.folder / _STATE
        state: Json = read_sealed(path) if path.exists() else {}
        if state.get("tracker") != tracker:
            state = {"tracker": tracker, "id": None, "round": -1}
        try:
            identifier, self._log, self._close = TRACKERS[tracker](run, state["id"])
        except Exception as error:  # whatever a tracker raises where nobody is logged in
            raise InputError(
                f"--track {tracker}: it cannot begin: {error}. `pip install {tracker}` installs it."
            ) from error
        self._state = {**state, "id": identifier}
        self.send()

    def close(self) -> None:
        """End the tracker's run; an error is a warning."""
        self._guarded(self._close)

    def send(self) -> None:
        """Send the finished rounds that were not sent before; an error is a warning."""
        self._guarded(self._send_missing)

    def _send_missing(self) -> None:
        for row in status(self._run)["rounds"]:
            if row["accuracy"] is not None and row["round"] > self._state["round"]:
                self._log(numbers(row), row["round"])
                self._state["round"] = row["round"]
                write_sealed(self._run.folder / _STATE, self._state)

    def _guarded(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:
            self._note(
                f"warning: {self._state['tracker']} was not written: {str(error).rstrip('.')}. The next "
                "`schedule run` sends what is missing"
            )


def numbers(row: Json) -> dict[str, float]:
    """The numbers of a round for a tracker, under the names that live trainers log.

    Args:
        row: of `rounds` in `schedule.status.status`.
    """
    values = row["metrics"] | {name: row[name] for name in _OF_ROUND}
    return {
        f"gaincurate/{name}": float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
