"""A run's numbers in experiment trackers: a stand-in, and the real ones where they are installed."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import runs
from gaincurate.errors import InputError
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.run import Run
from gaincurate.schedule.status import status
from gaincurate.schedule.tracking import TRACKERS, Tracking, numbers
from gaincurate.trainers.session import RunSession


def play(run: Run) -> None:
    """Half of the rewards of every group of the newest round are 1; then the next round."""
    runs.report(run)
    advance(run)


def test_each_round_is_sent_once_whatever_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[dict[str, float], int]] = []
    opened: list[str | None] = []
    closed: list[str] = []
    broken: list[bool] = []
    notes: list[str] = []

    def log(values: dict[str, float], round_: int) -> None:
        if broken:
            raise OSError("no network")
        sent.append((values, round_))

    def open_(run: Run, identifier: str | None) -> Any:
        opened.append(identifier)
        return "w1", log, lambda: closed.append("w1")

    monkeypatch.setitem(TRACKERS, "wandb", open_)
    run = runs.begin(tmp_path, rounds=4)
    play(run)
    with closing(Tracking(run, "wandb", notes.append)) as tracking:
        assert [round_ for _, round_ in sent] == [0]  # a round from before it was tracked
        broken.append(True)
        play(run)
        tracking.send()
        assert notes == [
            "warning: wandb was not written: no network. The next `schedule run` sends what is missing"
        ]
        broken.clear()
    with closing(Tracking(run, "wandb")) as tracking:  # the next driver
        play(run)
        tracking.send()
        tracking.send()
    assert ([round_ for _, round_ in sent], opened, closed) == ([0, 1, 2], [None, "w1"], ["w1", "w1"])
    values = sent[1][0]
    assert (values["gaincurate/accuracy"], values["gaincurate/rollouts"]) == (0.5, 16)
    assert values["gaincurate/mu"] == pytest.approx(run.plan(1)["mu"])


def test_names_and_numbers_are_those_that_live_trainers_log(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    play(run)
    sent, live = numbers(status(run)["rounds"][0]), RunSession(run.folder).metrics()
    assert {f"gaincurate/{name}" for name in live} <= set(sent)
    assert sent["gaincurate/concentration"] == live["concentration"]


def test_a_tracker_that_cannot_begin_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: Any) -> None:
        raise RuntimeError("nobody is logged in")

    run = runs.begin(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with pytest.raises(InputError, match="^--track wandb: it cannot begin: nobody is logged in"):
        Tracking(run, "wandb")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="`pip install wandb` installs it"):
        Tracking(run, "wandb")


def test_tensorboard_has_what_was_sent(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = runs.begin(tmp_path)
    for _ in range(2):  # two drivers
        play(run)
        with closing(Tracking(run, "tensorboard")):
            pass
    events = reader.EventAccumulator(str(run.folder / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    assert [event.step for event in events.Tensors("gaincurate/accuracy")] == [0, 1]


def test_wandb_takes_what_is_sent_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    if not hasattr(wandb, "Settings"):
        pytest.skip("a folder of that name, not the package")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run = runs.begin(tmp_path)
    play(run)
    with closing(Tracking(run, "wandb")):
        pass
    state = json.loads((run.folder / "tracking.json").read_text())
    assert list((tmp_path / "wandb").glob(f"offline-run-*/run-{state['id']}.wandb"))
