"""A run's numbers in experiment trackers: stand-ins for all of them, and the real ones where they are installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import runs
from command import run as gaincurate
from gaincurate.errors import InputError
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.run import Run, working_on
from gaincurate.schedule.status import status
from gaincurate.schedule.tracking import TRACKERS, Tracking, numbers

Sent = list[tuple[dict[str, float], int]]


class Trackers:
    """Stand-ins with the calls of wandb 0.31, trackio 0.43, mlflow 3.17 and tensorboard 2.21 that are used."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: Sent = []
        self.opened: list[Any] = []
        self.closed = 0
        self.broken = False
        log, close = self._log, self._close
        monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=self._wandb))
        trackio = SimpleNamespace(init=self._trackio, log=log, finish=close)
        monkeypatch.setitem(sys.modules, "trackio", trackio)
        mlflow = SimpleNamespace(
            set_experiment=lambda name: None, start_run=self._mlflow, log_metrics=log, end_run=close
        )
        monkeypatch.setitem(sys.modules, "mlflow", mlflow)
        monkeypatch.setitem(sys.modules, "tensorboard", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "tensorboard.summary", SimpleNamespace(Writer=self._tensorboard))

    def _log(self, values: dict[str, float], *, step: int) -> None:
        if self.broken:
            raise OSError("no network")
        self.sent.append((values, step))

    def _close(self) -> None:
        self.closed += 1

    def _wandb(self, *, project: str, name: str, id: str | None, resume: str, config: Any) -> Any:
        assert (project, name, resume, config["budget"]) == ("gaincurate", "run", "allow", 8)
        self.opened.append(id)
        return SimpleNamespace(id=id or "w1", log=self._log, finish=self._close)

    def _trackio(self, *, project: str, name: str, resume: str, config: Any) -> Any:
        assert (project, config["budget"]) == ("gaincurate", 8)
        self.opened.append({"never": None, "must": name}[resume])
        return SimpleNamespace(name="run-2")

    def _mlflow(self, *, run_id: str | None, run_name: str | None) -> Any:
        assert (run_id is None) == (run_name == "run")
        self.opened.append(run_id)
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "m1"))

    def _tensorboard(self, folder: str) -> Any:
        assert Path(folder).name == "tensorboard"
        self.opened.append(folder)
        step_of: dict[int, dict[str, float]] = {}

        def add_scalar(tag: str, value: float, step: int) -> None:
            step_of.setdefault(step, {})[tag] = value

        def flush() -> None:
            for step in sorted(step_of):
                self._log(step_of.pop(step), step=step)

        return SimpleNamespace(add_scalar=add_scalar, flush=flush, close=self._close)


def play(run: Run, step: int | None = None) -> None:
    """Half of the rewards of every group of the newest round are 1; then the next round."""
    round_ = run.state["round"]
    more = {} if step is None else {"step": step}
    lines = [
        {"gc_id": gc_id, "reward": sample, "round": round_, "sample": sample, **more}
        for gc_id in run.ids(round_)
        for sample in (0, 1)
    ]
    runs.write(run, round_, lines)
    with working_on(run.folder):
        advance(run)


@pytest.mark.parametrize("name", TRACKERS)
def test_each_round_is_sent_once_at_the_trainers_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    trackers = Trackers(monkeypatch)
    run = runs.begin(tmp_path, rounds=4)
    play(run, step=8)
    with Tracking(run, name) as tracking:
        assert [step for _, step in trackers.sent] == [8]  # a round from before it was tracked
        play(run, step=20)
        tracking.send()
        tracking.send()
    assert trackers.closed == 1
    with Tracking(run, name) as tracking:  # a driver that was killed goes on in the same place
        play(run, step=3)  # a trainer that counts from 1 again in every round
        play(run)  # and one that says no step
        tracking.send()
    assert [step for _, step in trackers.sent] == [8, 20, 21, 22]
    identifier = {"wandb": "w1", "trackio": "run-2", "mlflow": "m1"}.get(
        name, str(run.folder / "tensorboard")
    )
    assert trackers.opened == [identifier if name == "tensorboard" else None, identifier]
    for round_, (values, _) in enumerate(trackers.sent):
        assert values["gaincurate/round"] == round_
        assert (values["gaincurate/accuracy"], values["gaincurate/effective"]) == (0.5, 1.0)
        assert values["gaincurate/rollouts"] == 16
        assert values["gaincurate/mu"] == pytest.approx(run.plan(round_)["mu"])


def test_names_and_numbers_are_those_that_live_trainers_log(tmp_path: Path) -> None:
    from gaincurate.trainers.session import RunSession

    run = runs.begin(tmp_path)
    play(run)
    sent = numbers(status(run)["rounds"][0])
    live = RunSession(run.folder).metrics()
    of_round_0 = ("accuracy", "effective", "concentration")
    assert {name: sent[f"gaincurate/{name}"] for name in of_round_0} == {
        name: live[name] for name in of_round_0
    }
    assert {f"gaincurate/{name}" for name in live} <= set(sent)


def test_a_tracker_that_fails_costs_a_warning_and_is_caught_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trackers = Trackers(monkeypatch)
    notes: list[str] = []
    run = runs.begin(tmp_path)
    with Tracking(run, "wandb", notes.append) as tracking:
        trackers.broken = True
        play(run)
        tracking.send()
        assert trackers.sent == []
        assert notes == [
            "warning: wandb was not written: no network. The next `schedule run` sends what is missing"
        ]
        trackers.broken = False
        play(run)
        tracking.send()
    assert [values["gaincurate/round"] for values, _ in trackers.sent] == [0, 1]
    with Tracking(run, "mlflow"):  # another tracker has heard nothing yet
        assert [values["gaincurate/round"] for values, _ in trackers.sent] == [0, 1, 0, 1]


def test_a_run_whose_numbers_cannot_be_read_costs_a_warning_and_the_tracker_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trackers = Trackers(monkeypatch)
    notes: list[str] = []
    run = runs.begin(tmp_path)
    play(run)
    whole = run.outcomes(0).read_bytes()
    run.outcomes(0).write_text("no JSON\n")
    with Tracking(run, "wandb", notes.append) as tracking:
        assert (len(notes), trackers.sent, trackers.closed) == (1, [], 0)
        assert notes[0].startswith("warning: wandb was not written: ")
        assert notes[0].endswith("The next `schedule run` sends what is missing")
        assert ".. " not in notes[0]
        run.outcomes(0).write_bytes(whole)
        tracking.send()
    assert (len(notes), len(trackers.sent), trackers.closed) == (1, 1, 1)


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in ("wandb", "trackio", "mlflow", "tensorboard.summary", "tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    run = runs.begin(tmp_path)
    result = gaincurate("schedule", "run", run.folder, "--track", name, "--", *runs.COMMAND)
    assert result.exit_code == 2
    assert f"error: --track {name}: {name} cannot be imported" in result.stderr
    assert result.stderr.strip().endswith(f"pip install {name}.")
    assert not run.outcomes(0).exists()


def test_a_tracker_that_cannot_begin_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: Any) -> None:
        raise RuntimeError("nobody is logged in")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with pytest.raises(InputError, match="^--track wandb: wandb cannot begin: nobody is logged in"):
        Tracking(runs.begin(tmp_path), "wandb")


def test_tensorboard_has_what_was_sent(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = runs.begin(tmp_path)
    for _ in range(2):  # two drivers
        play(run, step=5)
        with Tracking(run, "tensorboard"):
            pass
    events = reader.EventAccumulator(str(run.folder / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    tensors = events.Tensors("gaincurate/accuracy")
    assert [event.step for event in tensors] == [5, 6]
    assert [event.tensor_proto.float_val[0] for event in tensors] == [0.5, 0.5]


def test_mlflow_has_what_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file:{tmp_path / 'mlruns'}")
    run = runs.begin(tmp_path)
    for _ in range(2):
        play(run, step=5)
        with Tracking(run, "mlflow"):
            pass
    identifier = json.loads((run.folder / "tracking.json").read_text())["id"]
    history = mlflow.MlflowClient().get_metric_history(identifier, "gaincurate/round")
    assert [(metric.step, metric.value) for metric in history] == [(5, 0.0), (6, 1.0)]


def test_wandb_takes_what_is_sent_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    if not hasattr(wandb, "Settings"):
        pytest.skip("a folder of that name, not the package")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run = runs.begin(tmp_path)
    play(run, step=5)
    with Tracking(run, "wandb"):
        pass
    state = json.loads((run.folder / "tracking.json").read_text())
    assert (state["round"], state["step"]) == (0, 5)
    assert list((tmp_path / "wandb").glob(f"offline-run-*/run-{state['id']}.wandb"))


def test_trackio_has_what_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    storage = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage
    run = runs.begin(tmp_path)
    for _ in range(2):
        play(run, step=5)
        with Tracking(run, "trackio"):
            pass
    name = json.loads((run.folder / "tracking.json").read_text())["id"]
    logs = storage.get_logs("gaincurate", name)
    assert [(entry["step"], entry["gaincurate/round"]) for entry in logs] == [(5, 0.0), (6, 1.0)]
