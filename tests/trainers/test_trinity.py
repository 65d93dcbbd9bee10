"""Trinity-RFT's explorer on a run: against a fake with its signatures, and where it is installed, against it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fake_trinity
import runs
from adapters import Table, adapter, exported, parameters, reward_of
from gaincurate.errors import InputError, LockedError, OutcomeError, OutputError
from gaincurate.schedule.run import Run


class Explorer:
    """What Trinity's explorer does with its task sets: reads ahead, feeds back where it syncs, saves there."""

    def __init__(self, made: Any, sync_interval: int = 1, saved: dict[str, Any] | None = None) -> None:
        self.tasks, self.interval = made(saved or {}), sync_interval
        self.step = (saved or {}).get("latest_iteration", 0)
        self.open: list[list[Any]] = []
        self.trained: list[str] = []
        self.ids: list[str] = []  # of the task set's rows

    def explore(self, steps: int) -> None:
        for _ in range(steps):
            tasks = asyncio.run(self.tasks.read())
            self.step += 1
            self.open.append([task.index for task in tasks])
            self.trained += [task.raw_task["gc_id"] for task in tasks]
            if self.step % self.interval == 0:
                self.finish(len(self.open))

    def finish(self, batches: int) -> None:
        for _ in range(batches):
            indices = [index["index"] for index in self.open.pop(0)]
            values = [reward_of(self.ids[index]) for index in indices]
            metrics = {0: {"indices": indices, "values": values}}
            self.tasks.feedback({fake_trinity.SELECTOR_METRIC: metrics, "other": 1.0})

    def saved(self) -> dict[str, Any]:
        state = {"latest_iteration": self.step, "taskset_states": self.tasks.state_dict()}
        found: dict[str, Any] = json.loads(json.dumps(state, indent=2))
        return found


@pytest.fixture(params=["fake", "real"])
def maker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Makes the task scheduler of a run, given what the explorer had saved."""
    if request.param == "fake":
        (trinity,) = adapter(monkeypatch, ["trinity.live"], fake_trinity.modules())

        def fake(run: Run | None, saved: dict[str, Any], columns: Any = None) -> Any:
            table = Table(columns or exported(run or Run(tmp_path / "run")))
            chosen = (trinity.RunSelector, run and str(run.folder))
            return fake_trinity.TasksetScheduler(saved, chosen, table, 4)

        return fake
    pytest.importorskip("trinity", reason="Trinity-RFT is not installed")
    from trinity.buffer.selector import SELECTORS
    from trinity.buffer.task_scheduler import get_taskset_scheduler
    from trinity.common.config import Config, DataSelectorConfig, TasksetConfig

    adapter(monkeypatch, ["trinity.live"], {})
    monkeypatch.delitem(SELECTORS.modules, "gaincurate.trainers.trinity.RunSelector", raising=False)

    def real(run: Run | None, saved: dict[str, Any], columns: Any = None) -> Any:
        columns = columns or exported(run or Run(tmp_path / "run"))
        path = tmp_path / "tasks"
        path.mkdir(exist_ok=True)
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        (path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = Config()
        config.buffer.batch_size = 4
        config.buffer.total_steps = 100
        selector = DataSelectorConfig(
            selector_type="gaincurate.trainers.trinity.RunSelector",
            kwargs={"run": str(run.folder)} if run else {},
        )
        tasks = TasksetConfig(name="the-set", path=str(path), data_selector=selector)
        tasks.default_workflow_type, tasks.total_steps, tasks.batch_size = "math_workflow", 100, 4
        config.buffer.explorer_input.tasksets = [tasks]
        return get_taskset_scheduler(explorer_state=saved, config=config)

    return real


def explorer(maker: Any, run: Run, interval: int = 1, saved: dict[str, Any] | None = None) -> Explorer:
    made = Explorer(lambda state: maker(run, state), interval, saved)
    made.ids = exported(run)["gc_id"]
    return made


def selector_of(one: Explorer) -> Any:
    found = getattr(one.tasks, "selector", None)
    return found or one.tasks.tasksets[0].reader.selector


def planned(run: Run) -> list[str]:
    return [gc_id for round_ in range(run.config.rounds) for gc_id in run.ids(round_)]


@pytest.mark.parametrize("interval", [1, 2])
def test_three_rounds_are_explored_as_planned_and_then_there_are_no_more_tasks(
    maker: Any, tmp_path: Path, interval: int
) -> None:
    run = runs.begin(tmp_path, rounds=3)
    one = explorer(maker, run, interval)
    one.explore(6)
    with pytest.raises(StopAsyncIteration):
        one.explore(1)
    assert one.trained == planned(run)
    assert run.state["finished"]
    for round_ in range(3):
        lines = [json.loads(line) for line in run.outcomes(round_).read_text().splitlines()]
        expected = [(gc_id, reward_of(gc_id), round_) for gc_id in run.ids(round_)]
        assert [(line["gc_id"], line["reward"], line["round"]) for line in lines] == expected


@pytest.mark.parametrize(("saved_at", "killed_at"), [(1, 2), (2, 2), (3, 5), (2, 6), (5, 6)])
def test_resumed_in_the_middle_of_a_round_the_plans_are_those_of_a_run_that_never_stopped(
    maker: Any, tmp_path: Path, saved_at: int, killed_at: int
) -> None:
    whole = runs.begin(tmp_path / "whole", rounds=3)
    one = explorer(maker, whole)
    one.explore(6)
    run = runs.begin(tmp_path / "cut", rounds=3)
    killed = explorer(maker, run)
    killed.explore(saved_at)
    saved = killed.saved()
    killed.explore(killed_at - saved_at)
    selector_of(killed).live.close()
    again = explorer(maker, run, saved=saved)
    again.explore(6 - saved_at)
    assert killed.trained[: 4 * saved_at] + again.trained == one.trained == planned(run)
    assert runs.plans(run) == runs.plans(whole)


def test_a_round_whose_last_batch_is_still_explored_says_what_would_do(maker: Any, tmp_path: Path) -> None:
    run = runs.begin(tmp_path, budget=12)
    one = explorer(maker, run, interval=2)
    with pytest.raises(OutcomeError) as caught:
        one.explore(4)
    absent = run.ids(0)[8:]
    assert str(caught.value) == (
        f"round 0 has outcomes for 8 of its 12 prompts and 100% of them are needed (--min-coverage); "
        f"{run.outcomes(0)} lacks {', '.join(absent)}. Trinity's explorer waits for outcomes where it syncs "
        "weights alone: let budget / buffer.batch_size be a multiple of synchronizer.sync_interval, with "
        "sync_offset 0 and a sync_style other than fully_async. A run that is started with --min-coverage 0.6666 "
        "goes on here, and what comes later counts as late."
    )


def test_with_that_coverage_it_goes_on_and_the_rest_is_late(maker: Any, tmp_path: Path) -> None:
    run = runs.begin(tmp_path, budget=12, min_coverage=0.6666)
    one = explorer(maker, run, interval=2)
    one.explore(6)
    assert one.trained == [*run.ids(0), *run.ids(1)]
    lines = [json.loads(line) for line in run.outcomes(1).read_text().splitlines()]
    assert [line["gc_id"] for line in lines if line["round"] == 0] == run.ids(0)[8:]
    one.explore(1)
    assert run.plan(2)["inputs"]["late"] == 4


def test_a_batch_of_which_nothing_came_back_does_not_take_the_next_ones_outcomes(
    maker: Any, tmp_path: Path
) -> None:
    run = runs.begin(tmp_path, min_coverage=0.5)
    one = explorer(maker, run, interval=100)
    one.explore(2)
    one.tasks.feedback({"other": 1.0})  # the first batch failed whole
    del one.open[0]
    one.finish(1)
    lines = [json.loads(line) for line in run.outcomes(0).read_text().splitlines()]
    assert [(line["gc_id"], line["step"]) for line in lines] == [(gc_id, 2) for gc_id in run.ids(0)[4:]]
    one.explore(1)
    assert run.plan(1)["inputs"]["prompts"] == 4


def test_saved_with_batches_on_their_way_those_are_explored_again(maker: Any, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    killed = explorer(maker, run, interval=100)
    killed.explore(2)
    killed.finish(1)
    saved = killed.saved()
    selector_of(killed).live.close()
    again = explorer(maker, run, saved=saved)
    again.explore(2)
    assert again.trained == [*run.ids(0)[4:], *run.ids(1)[:4]]
    assert run.plan(1)["inputs"]["rollouts"] == 8


def test_what_it_cannot_follow_is_said(maker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaincurate.core.process._FREED", 0.0)
    run = runs.begin(tmp_path)
    with pytest.raises(
        InputError, match=r"not said: give its folder by data_selector\.kwargs: \{run: FOLDER\}"
    ):
        maker(None, {})
    with pytest.raises(OutputError, match="the task set 'the-set' has no column gc_id; write it with"):
        maker(run, {}, {"question": ["why?"]})
    one = explorer(maker, run)
    with pytest.raises(LockedError, match="still at work"):
        explorer(maker, run)
    selector_of(one).live.close()
    with pytest.raises(OutputError, match="the explorer's saved state is another selector's: no run can"):
        maker(run, {"latest_iteration": 2, "taskset_states": [{"current_index": 8}]})


def test_prompts_that_the_task_set_lacks_are_named(maker: Any, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    columns = exported(run)
    gone = run.ids(0)[1]
    at = columns["gc_id"].index(gone)
    fewer = {name: values[:at] + values[at + 1 :] for name, values in columns.items()}
    tasks = maker(run, {}, fewer)
    with pytest.raises(InputError) as caught:
        asyncio.run(tasks.read())
    assert str(caught.value) == (
        f"{gone!r} of the run is not among the 59 rows that the task set 'the-set' has: it was cut or filtered, or "
        "written from another scored set. Write it again with `gaincurate export`, and let the trainer filter "
        "nothing."
    )


def test_a_run_that_scores_anew_is_refused(maker: Any, tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rescore={"what": "round"})
    with pytest.raises(
        InputError, match=r"\(--rescore round\), which is not done live with Trinity-RFT. Start"
    ):
        maker(run, {})


def test_without_trinity_the_adapter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trinity.buffer.selector.selector", None)
    with pytest.raises(
        InputError, match=r"^this adapter is for Trinity-RFT 0.6 and works inside it alone, and"
    ):
        adapter(monkeypatch, ["trinity.live"], {})


@pytest.mark.parametrize("name", ["__init__", "get_indices", "feedback", "state_dict", "load_state_dict"])
def test_the_selector_has_the_signatures_of_its_base(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (trinity,) = adapter(monkeypatch, ["trinity.live"], fake_trinity.modules())
    expected = parameters(getattr(fake_trinity.BaseSelector, name))
    assert parameters(getattr(trinity.RunSelector, name)) == expected


@pytest.mark.parametrize("name", ["__init__", "get_indices", "feedback", "state_dict", "load_state_dict"])
def test_the_fake_has_the_signatures_of_trinity(name: str) -> None:
    pytest.importorskip("trinity", reason="Trinity-RFT is not installed")
    from trinity.buffer.selector.selector import BaseSelector

    assert parameters(getattr(fake_trinity.BaseSelector, name)) == parameters(getattr(BaseSelector, name))


def test_what_trinitys_own_operator_calculates_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    operators = pytest.importorskip("trinity.buffer.operators.mappers.pass_rate_calculator")
    (trinity,) = adapter(monkeypatch, ["trinity.live"], {})
    run = runs.begin(tmp_path)
    chosen = (trinity.RunSelector, str(run.folder))
    tasks = fake_trinity.TasksetScheduler({}, chosen, Table(exported(run)), 4)
    batch = asyncio.run(tasks.read())
    rollouts = [
        SimpleNamespace(info={"task_index": task.index}, reward=reward)
        for task in batch
        for reward in (0.0, 1.0, 1.0, 0.0)
    ]
    _, metrics = operators.PassRateCalculator().process(rollouts)
    tasks.feedback(metrics)
    lines = [json.loads(line) for line in run.outcomes(0).read_text().splitlines()]
    assert [(line["gc_id"], line["reward"]) for line in lines] == [(gc_id, 0.5) for gc_id in run.ids(0)[:4]]
