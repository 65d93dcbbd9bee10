"""A run as a data set: under torch's loader, under a stand-in for torchdata's, and after kills."""

from __future__ import annotations

import gc
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import runs
from gaincurate import RoundDataset
from gaincurate.errors import InputError, LockedError, OutcomeError, OutputError
from gaincurate.schedule.run import Run

GROUP = 2
OPTIONS: dict[str, Any] = {"strategy": "posterior", "budget": 8, "rounds": 4}


class StatefulLoader:
    """As much of torchdata's StatefulDataLoader as a data set meets (0.11, no workers).

    Its state has the data set's; before it iterates it gives that back, then calls `iter`.
    """

    def __init__(self, dataset: Any, batch_size: int, collate_fn: Any = list) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        self._saved: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        if self._saved is not None:
            self.dataset.load_state_dict(self._saved["dataset"])
            self._saved = None
        batch = []
        for row in self.dataset:
            batch.append(row)
            if len(batch) == self.batch_size:
                yield batch
                batch = []

    def state_dict(self) -> dict[str, Any]:
        return {"dataset": self.dataset.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._saved = state


def reward(row: dict[str, Any], sample: int) -> float:
    """A rollout's reward, that of a model which always answers a draw in the same way."""
    return float((int(row["gc_id"][2:]) + row["gc_draw"] + sample) % 3 == 0)


def report(dataset: RoundDataset, rows: list[dict[str, Any]]) -> None:
    dataset.report(rows, [[reward(row, sample) for sample in range(GROUP)] for row in rows])


def iter_reporting(dataset: RoundDataset, left_out: Collection[int] = ()) -> Iterator[dict[str, Any]]:
    """The rows, each reported before the next one is asked for, but for these draws."""
    for row in dataset:
        if row["gc_draw"] not in left_out:
            report(dataset, [row])
        yield row


def planned(run: Run) -> list[tuple[int, str]]:
    return [(round_, gc_id) for round_ in range(len(runs.plans(run))) for gc_id in run.ids(round_)]


def drawn(rows: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(row["gc_round"], row["gc_id"]) for row in rows]


def counted(run: Run) -> list[tuple[int, str, int]]:
    """Round, id and sample of each outcome that was not taken back, from the files alone."""
    return sorted((line["round"], line["gc_id"], line["sample"]) for line in runs.valid_lines(run))


def whole(folder: Path) -> Run:
    """A run that was followed to its end without a break."""
    run = runs.begin(folder, **OPTIONS)
    dataset = RoundDataset(run.folder)
    assert len(list(iter_reporting(dataset))) == 32
    dataset.close()
    return run


def test_a_loader_gets_the_prompts_of_the_plans_and_the_run_its_outcomes(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, **OPTIONS)
    dataset = RoundDataset(run.folder)
    assert isinstance(dataset, torch.utils.data.IterableDataset)
    seen: list[dict[str, Any]] = []
    for rows in torch.utils.data.DataLoader(dataset, batch_size=4, collate_fn=list):
        report(dataset, rows)
        seen += rows
    assert drawn(seen) == planned(run)
    assert [row["gc_draw"] for row in seen] == list(range(1, 33))
    assert seen[0]["prompt"][-1]["role"] == "user"
    assert run.state["finished"]
    expected = [(round_, gc_id, sample) for round_, gc_id in planned(run) for sample in range(GROUP)]
    assert counted(run) == sorted(expected)
    assert list(dataset) == []


@pytest.mark.parametrize("step", [1, 4, 5, 8, 15])
def test_a_resumed_loader_ends_in_the_same_plans_and_outcomes(tmp_path: Path, step: int) -> None:
    expected = whole(tmp_path / "whole")
    run = runs.begin(tmp_path, **OPTIONS)
    before, saved = RoundDataset(run.folder), None
    loader = StatefulLoader(before, 2)
    for number, rows in enumerate(loader, 1):
        if number == step:  # whether its outcomes have come makes no difference
            saved = json.dumps(loader.state_dict())
        report(before, rows)
        assert loader.state_dict()["dataset"]["step"] == 2 * number
        if number == step + 3:  # ended here, after what is undone
            break
    before.close()
    assert saved is not None
    with run.outcomes(0).open("a") as file:
        file.write('{"gc_id":')  # killed while it wrote a late outcome
    dataset = RoundDataset(run.folder)
    loader = StatefulLoader(dataset, 2)
    loader.load_state_dict(json.loads(saved))
    dataset.load_state_dict(json.loads(saved)["dataset"])
    assert dataset.state_dict() == json.loads(saved)["dataset"]
    seen: list[dict[str, Any]] = []
    for rows in loader:
        report(dataset, rows)
        seen += rows
    assert drawn(seen) == planned(run)[2 * step :]
    assert runs.plans(run) == runs.plans(expected)
    assert counted(run) == counted(expected)


@pytest.mark.parametrize("killed", [1, 2, 3])
def test_the_pages_example_is_killed(tmp_path: Path, killed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(StatefulDataLoader=StatefulLoader)
    monkeypatch.setitem(sys.modules, "torchdata", SimpleNamespace(stateful_dataloader=module))
    monkeypatch.setitem(sys.modules, "torchdata.stateful_dataloader", module)
    page = (Path(__file__).parents[2] / "docs/own-loop.md").read_text()
    train: dict[str, Any] = {}
    exec(next(part for part in page.split("```python\n") if "from torchdata" in part).split("```")[0], train)

    def trained(folder: Path, kills: list[int]) -> tuple[Run, list[int], list[int]]:
        run = runs.begin(folder, **OPTIONS | {"budget": 16, "rounds": 2})
        checkpoint, saved = None, list[int]()
        draws: list[int] = []

        def step(rows: list[dict[str, Any]]) -> list[list[float]]:
            if kills and len(draws) == 8 * kills[0]:
                kills.pop(0)
                raise KeyboardInterrupt
            draws.extend(row["gc_draw"] for row in rows)
            return [[reward(row, sample) for sample in range(GROUP)] for row in rows]

        def save(number: int) -> Path:
            nonlocal checkpoint
            assert not saved or number > saved[-1]
            saved.append(number)
            checkpoint = folder / f"step-{number}"
            checkpoint.mkdir()
            return checkpoint

        for _ in range(len(kills)):
            with pytest.raises(KeyboardInterrupt):
                train["train"](run.folder, checkpoint, step, save, 2)
            gc.collect()  # a process that was killed does not hold the run
        train["train"](run.folder, checkpoint, step, save, 2)
        return run, draws, saved

    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    expected, _, _ = trained(tmp_path / "whole", [])
    run, draws, saved = trained(tmp_path / "cut", [killed])
    back = 8 * (killed - killed % 2)  # to the newest save
    assert draws == [*range(1, 8 * killed + 1), *range(back + 1, 33)]
    assert saved == [0, 2, 4]
    assert runs.plans(run) == runs.plans(expected)
    assert counted(run) == counted(expected)


def test_without_a_state_the_prompts_without_outcomes_come_first(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, **OPTIONS, min_coverage=0.5)
    before = RoundDataset(run.folder)
    rows = iter(before)
    first = [next(rows) for _ in range(8)]
    report(before, first[:3] + first[4:6])
    second = [next(rows) for _ in range(3)]  # round 1 is planned from 5 of the 8
    assert {row["gc_round"] for row in second} == {1}
    report(before, [second[1]])
    report(before, [first[3]])  # late
    with run.outcomes(0).open("a") as file:  # killed while the outcome of first[6] was written
        line = {"gc_id": first[6]["gc_id"], "reward": 1, "round": 0, "step": 7, "sample": 1}
        lines = [line, {"gc_id": "x"}]
        file.write("\n".join(map(json.dumps, lines))[:-3])
    before.close()
    dataset = RoundDataset(run.folder)
    assert drawn(list(iter_reporting(dataset))) == [
        place for place in planned(run) if place not in drawn(first[:6]) and place != drawn(second)[1]
    ]
    assert run.plan(2)["inputs"]["late"] == 3  # first[3], and first[6:] again
    cut = [(0, first[6]["gc_id"], 1)]  # sample 1 of first[6] was written before the kill: it counts once
    every = [(round_, gc_id, sample) for round_, gc_id in planned(run) for sample in range(GROUP)]
    assert counted(run) == sorted(every + cut)


def test_prompts_that_a_finished_run_has_no_outcomes_of_are_drawn_again(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, **OPTIONS | {"rounds": 1, "min_coverage": 0.5})
    before = RoundDataset(run.folder)
    rows = list(iter_reporting(before, {3, 7}))
    before.close()
    assert run.state["finished"]
    dataset = RoundDataset(run.folder)
    assert drawn(list(iter_reporting(dataset))) == drawn([rows[2], rows[6]])
    assert list(dataset) == []
    assert len(counted(run)) == 8 * GROUP


def test_a_worker_of_the_loader_may_iterate_and_this_process_report(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, **OPTIONS | {"rounds": 1})
    dataset = RoundDataset(run.folder)
    batches: Any = iter(torch.utils.data.DataLoader(dataset, batch_size=2, collate_fn=list, num_workers=1))
    seen = [row for _ in range(4) for row in next(batches)]
    with pytest.raises(OutcomeError, match="asks for prompts ahead of the outcomes"):
        next(batches)
    assert drawn(seen) == planned(run)
    report(dataset, seen)
    del batches  # and its worker, which holds the run
    gc.collect()
    assert list(RoundDataset(run.folder)) == []
    assert run.state["finished"]


LOADS = """
import os, sys, time, torch, gaincurate
loader = torch.utils.data.DataLoader(
    gaincurate.RoundDataset(sys.argv[1]), collate_fn=lambda rows: (os.write(1, b"x"), time.sleep(60)), num_workers=1
)
next(iter(loader))
"""


def test_a_worker_whose_loader_is_killed_lets_the_run_go(tmp_path: Path) -> None:
    """It is inside of its batch, where torch's own look at the parent does not come."""
    run = runs.begin(tmp_path, **OPTIONS)
    command = [sys.executable, "-c", LOADS, str(run.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"x"
        dataset = RoundDataset(run.folder)
        with pytest.raises(LockedError):
            next(iter(dataset))
        process.kill()
        since = time.monotonic()
        assert process.stdout.read() == b""  # until the worker is gone too
        assert time.monotonic() - since < 30
    assert next(iter(dataset))["gc_draw"] == 1


def test_two_workers_another_process_and_a_run_that_scores_again_are_refused(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, **OPTIONS)
    dataset = RoundDataset(run.folder)
    with pytest.raises(InputError, match="2 workers, each of which would yield all prompts"):
        list(torch.utils.data.DataLoader(dataset, batch_size=2, num_workers=2))
    next(iter(dataset))
    with pytest.raises(LockedError):
        next(iter(RoundDataset(run.folder)))
    dataset.close()
    next(iter(RoundDataset(run.folder)))
    with pytest.raises(OutputError, match="is no run"):
        RoundDataset(tmp_path / "none")
    again = runs.begin(tmp_path / "again", rescore={"what": "full", "every": 1})
    with pytest.raises(InputError, match="not done live with a RoundDataset"):
        next(iter(RoundDataset(again.folder)))


def test_a_wrong_reward_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, **OPTIONS)
    dataset = RoundDataset(run.folder)
    rows = iter(dataset)
    pair = [next(rows), next(rows)]
    with pytest.raises(OutcomeError, match=r"reward 2 of 'id\d+' is outside 0 to 1"):
        dataset.report(pair, [[0.0, 1.0], [2.0, 0.0]])
    assert not run.outcomes(0).exists()
    dataset.report(pair, [[0.0, None], [1.0, 0.5]], tokens=[[3, 4], [5, 6]])
    lines = [json.loads(line) for line in run.outcomes(0).read_text().splitlines()]
    found = [[line[name] for name in ("step", "sample", "reward", "tokens")] for line in lines]
    assert found == [[1, 1, None, 4], [1, 0, 0.0, 3], [2, 1, 0.5, 6], [2, 0, 1.0, 5]]


def test_an_endless_one_repeats_the_last_round_and_reports_nothing_of_it(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, **OPTIONS | {"rounds": 1})
    dataset = pickle.loads(pickle.dumps(RoundDataset(run.folder, endless=True)))
    rows = iter(dataset)
    seen = []
    for _ in range(20):
        seen.append(next(rows))
        report(dataset, seen[-1:])
    assert [row["gc_draw"] for row in seen] == [*range(1, 9), *[0] * 12]
    assert [row["gc_id"] for row in seen] == (run.ids(0) * 3)[:20]
    assert len(counted(run)) == 8 * GROUP
