"""Strategies of users' own: what they can read before a draw, what they may leave out, what is refused."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import embedded
import runs
from command import run as gaincurate
from gaincurate.errors import InputError, NotReadyError, OutcomeError
from gaincurate.schedule import base
from gaincurate.schedule.base import Context
from gaincurate.schedule.observations import status
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.run import Run

PAGE = Path(__file__).parents[2] / "docs/development.md"
ROWS = 60


def begin(folder: Path, strategy: str, **options: Any) -> Run:
    """A run of a strategy of this file over a set with embeddings."""
    sys.modules["mine"] = sys.modules[__name__]
    if not (folder / "set").exists():
        embedded.make_set(folder / "set", vectors())
    return runs.begin(folder, strategy=f"mine:{strategy}", **options)


def vectors() -> Any:
    """`[ROWS, 8]`, in five groups by row."""
    return np.random.default_rng(0).normal(size=(ROWS, 8)) * 0.1 + np.eye(8)[np.arange(ROWS) % 5]


class First(base.Selector):
    """The least that a strategy can be."""

    def draw(self, round_: int) -> Any:
        return np.arange(self.pool.budget)


class Reader(First):
    """Keeps what it was given."""

    by: ClassVar[str | None] = "gc_angle"
    ordering: ClassVar[base.Ordering] = "any"
    given: ClassVar[list[Any]] = []

    def observe(self, observed: base.Observed) -> None:
        self.given.append(observed)

    def prepare(self, context: Context) -> None:
        self.given.append(context)


class Waiting(First):
    """Needs a file before it draws."""

    class Options(base.Options):
        path: str

    def prepare(self, context: Context) -> None:
        if not Path(self.options.path).exists():
            raise NotReadyError(f"round {context.round} waits for {self.options.path}.")
        if context.opening:
            raise NotReadyError("not while the run is opened.")


class Predicting(First):
    """Says what it expects."""

    class Options(base.Options):
        name: str = "predicted"

        values: int = 8

    def plan_facts(self, rows: Any) -> dict[str, Any]:
        return {self.options.name: (rows / ROWS).tolist()[: self.options.values]}


class Adrift(First):
    """Draws by an order that a checkpoint changes, and says nothing of its reach."""

    by: ClassVar[str | None] = "gc_angle"
    ordering: ClassVar[base.Ordering] = "any"


class Abstract(base.Selector):
    """Lacks the one part that it needs."""


def plan_rows(run: Run, round_: int) -> list[int]:
    return [int(gc_id[2:]) for gc_id in run.ids(round_)]


def test_the_example_of_the_docs_draws_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(import numpy.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "neighbours.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "neighbours", raising=False)
    embedded.make_set(tmp_path / "set", vectors())
    made = gaincurate(
        "schedule", "start", "set", "--run", "run", "--strategy", "neighbours:Neighbours", "--set", "nearest=2",
        "--set", "temperature=0.05", "--budget", 12, "--rounds", 2,
    )  # fmt: skip
    assert made.exit_code == 0, made.stderr
    run = Run(tmp_path / "run")
    assert run.config.options == {"nearest": 2, "temperature": 0.05}
    before = [row % 5 for row in plan_rows(run, 0)]
    assert set(before) == {0, 1, 2, 3, 4}  # at first every prompt is as likely as the others
    runs.report(run, lambda gc_id, sample: sample % 2 if int(gc_id[2:]) % 5 == 3 else 1, samples=4)
    shutil.copytree(run.folder, tmp_path / "again")
    for folder in ("run", "again"):
        done = gaincurate("schedule", "next", folder)
        assert done.exit_code == 0, done.stderr
    # exp(0.25 / 0.05) is 148: the 12 prompts of that group weigh 37 times the 48 others.
    assert [row % 5 for row in plan_rows(run, 1)].count(3) >= 10
    assert runs.plans(Run(tmp_path / "again")) == runs.plans(run)
    runs.report(run)
    assert gaincurate("schedule", "next", "run").exit_code == 0
    assert run.state["finished"]


def test_a_strategy_reads_the_set_by_row_and_nothing_before_it_asks(tmp_path: Path) -> None:
    Reader.given.clear()
    run = begin(tmp_path, "Reader", rounds=2)
    told = [{"reward": 1, "tokens": 4}, {"reward": 0, "tokens": 8}, {"reward": 0}]
    runs.write(run, 0, [{"gc_id": i, "round": 0, **each} for i in run.ids(0) for each in told])
    advance(run, str(tmp_path))
    first, seen, second = Reader.given
    assert (seen.wins.tolist(), seen.losses.tolist(), seen.tokens.tolist()) == ([1] * 8, [2] * 8, [6] * 8)
    assert (first.round, first.checkpoint, first.opening) == (0, "the-model", True)
    assert (second.round, second.checkpoint, second.opening) == (1, str(tmp_path), False)
    fresh = Context(Run(run.folder), 1, second.order)
    assert fresh.run._scored is None
    expected = vectors().astype(np.float16).astype(np.float32)
    assert np.array_equal(fresh.embeddings([59, 0, 7]), expected[[59, 0, 7]])
    assert np.array_equal(fresh.embeddings(), expected)
    ids = fresh.column("gc_id").to_pylist()
    assert ids == embedded.names(ROWS)
    angles = fresh.column("gc_angle").to_numpy()[fresh.rows]
    assert sorted(fresh.rows.tolist()) == list(range(ROWS))
    assert (np.diff(angles) <= 0).all()
    with pytest.raises(InputError, match="has no column 'level'"):
        fresh.column("level")


def test_a_run_waits_until_its_strategy_is_ready(tmp_path: Path) -> None:
    path, folder = tmp_path / "needed", tmp_path / "run"
    begin(tmp_path, "Waiting", rounds=2, options={"path": str(path)})
    run = Run(folder)
    assert (run.state["round"], status(run)["difficulty"]) == (-1, None)
    shown = gaincurate("schedule", "next", folder)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert f"round 0 waits for {path}." in shown.stderr
    path.touch()
    assert gaincurate("schedule", "next", folder).exit_code == 0
    assert len(run.ids(0)) == 8
    path.unlink()
    runs.report(run)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(OutcomeError, match="round 1 waits for"):  # what a driver catches
        advance(run)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    path.touch()
    assert advance(run) == run.round_folder(1)


def test_what_a_strategy_says_of_a_round_is_in_its_plan_and_predictions_are_judged(tmp_path: Path) -> None:
    run = begin(tmp_path, "Predicting", rounds=2)
    assert run.plan(0)["predicted"] == [row / ROWS for row in plan_rows(run, 0)]
    runs.step(run, lambda gc_id, sample: int(gc_id[2:]) < 4)
    seen = run.plan(1)["inputs"]["calibration"]
    failed = (np.arange(8) >= 4).astype(float)
    assert seen["brier"] == pytest.approx(np.mean((np.arange(8) / ROWS - failed) ** 2))
    for options, sentence in (
        ({"name": "ids"}, "plan_facts gives 'ids', which plans have already"),
        ({"name": "references"}, "plan_facts gives 'references', which plans have already"),
        ({"values": 3}, "gives 'predicted' that is no finite failure rate for each of the 8"),
    ):
        with pytest.raises(InputError, match=sentence):
            begin(tmp_path / "b", "Predicting", options=options)
    assert not (tmp_path / "b/run").exists()


def test_what_a_strategy_has_no_part_for_is_refused(tmp_path: Path) -> None:
    for name, what, sentence in (
        ("Adrift", "window", "strategy mine:Adrift does not say which ranks it can reach; use full"),
        ("Abstract", "off", "--strategy mine:Abstract: mine has no subclass Abstract of"),
        ("Counted", "off", "mine:Counted: mine has no subclass Counted of gaincurate.schedule.base"),
    ):
        with pytest.raises(InputError, match=sentence):
            begin(tmp_path, name, rescore={"what": what})
    run = begin(tmp_path, "First", rounds=2)
    runs.report(run)
    with pytest.raises(InputError, match="strategy mine:First observes no references"):
        advance(run, references=tmp_path / "set")


class Counted:
    """No strategy."""


class Odd(First):
    """Draws, and has learned, what a test says."""

    drawn: ClassVar[Any] = None
    learned: ClassVar[Any] = None

    def draw(self, round_: int) -> Any:
        return self.drawn

    def state_dict(self) -> Any:
        return self.learned


@pytest.mark.parametrize("drawn", [[0, None], range(7), [0.5] * 8, [0] * 8, range(-1, 7), range(53, 61)])
def test_a_wrong_draw_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: Any) -> None:
    monkeypatch.setattr(Odd, "drawn", drawn)
    with pytest.raises(InputError, match="strategy mine:Odd drew ranks of shape .* a round needs 8 distinct"):
        begin(tmp_path, "Odd")


LEARNED = [{1, 2}, {(1, 2): 3}, {"x": float("nan")}]


@pytest.mark.parametrize("learned", LEARNED, ids=lambda value: type(value).__name__)
def test_a_state_of_no_json_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learned: Any) -> None:
    monkeypatch.setattr(Odd, "drawn", range(8))
    run = begin(tmp_path, "Odd")
    runs.report(run)
    monkeypatch.setattr(Odd, "learned", learned)
    with pytest.raises(InputError, match="strategy mine:Odd: state_dict returns no JSON value: "):
        advance(Run(run.folder))
    assert not run.round_folder(1).exists()
    monkeypatch.setattr(Odd, "learned", None)
    for measured in ({"mu": "x"}, {"mu": float("nan")}):
        monkeypatch.setattr(Odd, "metrics", lambda self, measured=measured: measured)
        with pytest.raises(InputError, match="strategy mine:Odd: metrics (gives 'x' as 'mu', |returns)"):
            advance(Run(run.folder))
        assert not run.round_folder(1).exists()
    monkeypatch.setattr(Odd, "metrics", First.metrics)
    monkeypatch.setattr(Odd, "learned", {"x": [1, None]})
    advance(Run(run.folder))


def test_a_module_that_is_not_found_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.some_set(tmp_path / "set")
    (tmp_path / "short_one.py").write_text(
        "from gaincurate.schedule import base\n\n\nclass Short(base.Selector):\n"
        "    def draw(self, round_):\n        return list(range(self.pool.budget))\n"
    )
    (tmp_path / "torn_one.py").write_text("import no_such_package_of_anyones\n")
    (tmp_path / "elsewhere").mkdir()
    start = ["schedule", "start", tmp_path / "set", "--budget", 8, "--rounds", 2, "--run", tmp_path / "run"]
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    assert gaincurate(*start, "--strategy", "short_one:Short").exit_code == 0
    runs.report(Run(tmp_path / "run"))
    torn = gaincurate(*start[:-1], tmp_path / "torn", "--strategy", "torn_one:Short")
    assert "cannot be imported (ModuleNotFoundError: No module named 'no_such" in torn.stderr
    monkeypatch.delitem(sys.modules, "short_one")
    sys.path.remove(str(tmp_path))
    monkeypatch.chdir(tmp_path / "elsewhere")
    lost = gaincurate("schedule", "next", tmp_path / "run")
    assert (lost.exit_code, lost.stdout) == (2, "")
    assert "Run it from the folder of short_one" in lost.stderr
    sys.path.append(str(tmp_path))  # as PYTHONPATH would
    assert gaincurate("schedule", "next", tmp_path / "run").exit_code == 0
