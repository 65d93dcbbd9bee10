"""Sends a run's numbers to an experiment tracker, once per round (`schedule run --track NAME`).

What was sent is written beside the run, so a driver that was killed goes on in the same place of the tracker
and sends what is missing. A tracker that fails later costs a warning and no training: the numbers are in the
run's files, and the next driver sends them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from gaincurate.core.artifact import Json
from gaincurate.core.outcomes import read_file
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.errors import InputError
from gaincurate.schedule.observations import Note, rules_of, silent
from gaincurate.schedule.run import Run
from gaincurate.schedule.status import status

_STATE = "tracking.json"
_PROJECT = "gaincurate"
_OF_ROUND = (
    "accuracy",
    "effective",
    "all_wrong",
    "all_right",
    "concentration",
    "drift",
    "rollouts",
    "prompt_tokens",
    "completion_tokens",
    "training_seconds",
    "scoring_seconds",
)


@dataclass(frozen=True)
class Writer:
    """One run of a tracker that is open: its name there, and how numbers get into it at a step."""

    identifier: str
    log: Callable[[dict[str, float], int], Any]
    close: Callable[[], Any]


def _wandb(run: Run, identifier: str | None) -> Writer:
    project = os.environ.get("WANDB_PROJECT", _PROJECT)
    opened = importlib.import_module("wandb").init(
        project=project, name=run.folder.name, id=identifier, resume="allow", config=run.facts["config"]
    )
    return Writer(opened.id, lambda numbers, step: opened.log(numbers, step=step), opened.finish)


def _trackio(run: Run, identifier: str | None) -> Writer:
    trackio = importlib.import_module("trackio")
    project = os.environ.get("TRACKIO_PROJECT", _PROJECT)
    resume = "never" if identifier is None else "must"
    opened = trackio.init(
        project=project, name=identifier or run.folder.name, resume=resume, config=run.facts["config"]
    )
    return Writer(opened.name, lambda numbers, step: trackio.log(numbers, step=step), trackio.finish)


def _mlflow(run: Run, identifier: str | None) -> Writer:
    mlflow = importlib.import_module("mlflow")
    if "MLFLOW_EXPERIMENT_NAME" not in os.environ:
        mlflow.set_experiment(_PROJECT)
    opened = mlflow.start_run(run_id=identifier, run_name=None if identifier else run.folder.name)
    return Writer(
        opened.info.run_id, lambda numbers, step: mlflow.log_metrics(numbers, step=step), mlflow.end_run
    )


def _tensorboard(run: Run, identifier: str | None) -> Writer:
    folder = str(run.folder / "tensorboard")
    opened = importlib.import_module("tensorboard.summary").Writer(folder)

    def log(numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            opened.add_scalar(name, value, step)
        opened.flush()

    return Writer(folder, log, opened.close)


TRACKERS: dict[str, Callable[[Run, str | None], Writer]] = {
    "wandb": _wandb,
    "trackio": _trackio,
    "mlflow": _mlflow,
    "tensorboard": _tensorboard,
}
"""What opens a run of each tracker, or goes on with the one of that name."""


class Tracking(AbstractContextManager["Tracking"]):
    """A tracker that hears of a run's rounds, at once of those that it has missed.

    Args:
        run: the run.
        tracker: a name of `TRACKERS`.
        note: called with what a person should know.

    Raises:
        InputError: the tracker is not installed, or cannot be opened.
    """

    def __init__(self, run: Run, tracker: str, note: Note = silent) -> None:
        self._run, self._note, path = run, note, run.folder / _STATE
        state: Json = read_sealed(path) if path.exists() else {}
        if state.get("tracker") != tracker:  # another one has heard nothing yet
            state = {"tracker": tracker, "id": None, "round": -1, "step": -1}
        try:
            self._writer = TRACKERS[tracker](run, state["id"])
        except ImportError as error:
            raise InputError(
                f"--track {tracker}: {tracker} cannot be imported ({error}): pip install {tracker}."
            ) from error
        except Exception as error:  # whatever a tracker raises where nobody is logged in
            raise InputError(f"--track {tracker}: {tracker} cannot begin: {error}") from error
        self._state = {**state, "id": self._writer.identifier}

    def __enter__(self) -> Tracking:
        self.send()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guarded(self._writer.close)

    def send(self) -> None:
        """Send the rounds that are done and were not sent before; what goes wrong is a warning."""
        self._guarded(self._send_missing)

    def _send_missing(self) -> None:
        facts = status(self._run)
        done = [row for row in facts["rounds"] if row["accuracy"] is not None]
        for row in done:
            if row["round"] <= self._state["round"]:
                continue
            step = max(self._state["step"] + 1, _newest_step(self._run, row["round"]))
            self._writer.log(numbers(row), step)
            self._state |= {"round": row["round"], "step": step}
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
    """What a tracker is sent of a round, under the names that live trainers log.

    Args:
        row: of `rounds` in `schedule.status.status`.
    """
    values = {"round": row["round"], **row["metrics"], **{name: row[name] for name in _OF_ROUND}}
    return {
        f"gaincurate/{name}": float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _newest_step(run: Run, round_: int) -> int:
    """The trainer's last step in a round, as its outcomes say it; -1 where they do not."""
    lines = read_file(run.outcomes(round_), round_, run.ids, rules_of(run.config))
    return max((line.step for line in lines if line.step is not None), default=-1)
