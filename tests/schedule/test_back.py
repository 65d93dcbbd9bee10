"""Going back: the run is byte for byte what it was, whatever was done since and wherever a kill falls."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import runs
from gaincurate.core import files, sealed
from gaincurate.errors import OutputError
from gaincurate.schedule import checkpoints
from gaincurate.schedule.checkpoints import return_to, saved_place
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.run import Run


def go_on(run: Run, rounds: int) -> None:
    for _ in range(rounds):
        runs.report(run)
        advance(run)


def refused(run: Run, saved: Any, where: str, sentence: str) -> None:
    with pytest.raises(OutputError) as caught:
        return_to(run, saved, where)
    assert str(caught.value).startswith(f"{where} {sentence}")


def test_a_run_that_went_back_plans_the_same_rounds_again(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rounds=5)
    go_on(run, 1)
    saved = json.loads(json.dumps(saved_place(run, step=4)))
    go_on(run, 3)
    before = runs.plans(run)
    assert return_to(run, saved, "checkpoint-4") == 3
    assert run.state["round"] == 1
    assert runs.plans(run) == before[:2]
    assert sorted(p.name for p in (run.folder / "undone").iterdir()) == ["00002-1", "00003-1", "00004-1"]
    go_on(Run(run.folder), 3)
    assert runs.plans(run) == before


def test_outcomes_behind_the_step_are_taken_back_and_a_half_line_goes(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    ids = run.ids(0)
    first = [{"gc_id": i, "reward": 1, "round": 0, "step": 1, "sample": 0} for i in ids[:4]]
    lost = [{"gc_id": i, "reward": 0, "round": 0, "step": 2, "sample": 0} for i in ids[4:]]
    runs.write(run, 0, first)
    saved = saved_place(run, step=1)
    runs.write(run, 0, lost)
    with run.outcomes(0).open("a") as file:
        file.write('{"gc_id": "id0')
    assert return_to(run, saved, "checkpoint-1") == 0
    runs.write(run, 0, [{**line, "reward": 1} for line in lost])
    advance(run)
    assert run.plan(1)["inputs"]["accuracy"] == 1.0
    assert run.plan(1)["inputs"]["rollouts"] == len(ids)


def test_the_selectors_large_state_comes_back_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaincurate.schedule.run._LARGE", 10)
    run = runs.begin(tmp_path, strategy="posterior", rounds=5)
    go_on(run, 1)
    saved = saved_place(run, step=0)
    go_on(run, 3)
    before = runs.plans(run)
    assert run.state_of(1)["selector"] is None
    return_to(run, saved, "c")
    go_on(run, 3)
    assert runs.plans(run) == before


@pytest.mark.parametrize("cut", range(5))
def test_killed_on_the_way_it_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    run = runs.begin(tmp_path, rounds=5)
    saved = saved_place(run, step=0)
    go_on(run, 3)
    before = runs.plans(run)
    calls = iter(range(100))

    def dying(real: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == cut:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_sealed", dying(sealed.write_sealed))
        patch.setattr(checkpoints, "_set_aside", dying(checkpoints._set_aside))
        patch.setattr(files, "append_lines", dying(files.append_lines))
        with pytest.raises(KeyboardInterrupt):
            return_to(run, saved, "c")
    between = Run(run.folder)
    assert between.plan(between.state["round"])["round"] == between.state["round"]  # a run all the same
    between.order(between.state["order"])
    return_to(between, saved, "c")
    assert between.state["round"] == 0
    go_on(between, 3)
    assert runs.plans(between) == before


def test_a_finished_run_goes_back_too(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rounds=2)
    go_on(run, 1)
    saved = saved_place(run, step=2)
    go_on(run, 1)
    assert run.state["finished"]
    return_to(run, saved, "c")
    assert not run.state["finished"]
    go_on(run, 1)
    assert run.state["finished"]


def test_what_does_not_fit_is_refused_before_anything_is_undone(tmp_path: Path) -> None:
    run = runs.begin(tmp_path / "one", rounds=4)
    other = runs.begin(tmp_path / "two", rounds=4, seed=1)
    go_on(run, 1)
    one = saved_place(run, 1)
    go_on(run, 1)
    late = saved_place(run, 2)
    refused(other, one, "checkpoint-1", f"was saved with another run than {other.folder}; give the run")
    return_to(run, one, "checkpoint-1")
    undone = "is of a history that was undone: "
    refused(run, late, "checkpoint-2", f"{undone}round 2 was set aside in undone/.")
    shutil.rmtree(run.folder / "undone")
    refused(run, late, "checkpoint-2", f"is of round 2, which {run.folder} does not have: the run's")
    runs.write(run, 1, [{"gc_id": i, "reward": 1, "round": 1, "attempt": 2} for i in run.ids(1)])
    advance(run)
    refused(run, late, "checkpoint-2", f"{undone}round 2 was planned again since.")
    refused(run, one | {"format": 9}, "c", "has format 9, this version reads 1.")
    assert run.state["round"] == 2


def test_a_later_checkpoint_of_the_same_round_is_undone_too(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)

    def step(number: int) -> dict[str, Any]:
        runs.write(run, 0, [{"gc_id": run.ids(0)[number], "reward": 1, "round": 0, "step": number}])
        return saved_place(run, number)

    one, two, three = step(1), step(2), step(3)
    assert return_to(run, two, "checkpoint-2") == 0
    *_, last = run.outcomes(0).read_text().splitlines()
    assert json.loads(last) == {"resume_from_step": 2}  # takes step 3 back
    undone = "is of a history that was undone: "
    refused(run, three, "c", f"{undone}training went back to step 2 since, before its step 3. Resume from a")
    again = step(3)
    for place in (again, two, one):
        return_to(run, place, "c")
    for late in (two, again):
        refused(run, late, "late", f"{undone}training went back to step 1")
    run.outcomes(0).write_text("")
    refused(run, one, "checkpoint-1", f"{undone}round 0 was trained again since.")


def test_an_order_that_was_replaced_since_is_kept_and_comes_back(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rounds=4)
    saved = saved_place(run, 0)
    digest = run.state["order"]
    run.keep_order()
    os.link(run.folder / "order.arrow", run.folder / "rows.arrow")
    from gaincurate.schedule.run import Order, build

    build(run.next_order, run.scored, "gc_question_tokens", ascending=True)
    new = Order(run.next_order).digest
    sealed.write_sealed(run.round_folder(0) / "state.json", {**run.state, "order": new})
    run.settle_order(new)
    assert Order(run.folder / "order.arrow").digest == new
    return_to(run, saved, "c")
    assert Order(run.folder / "order.arrow").digest == digest
    run.forget_orders({digest})
    assert (run.folder / "orders" / f"{digest}.arrow").exists()
    run.forget_orders(set())
    assert list((run.folder / "orders").iterdir()) == []


def test_without_the_order_nothing_is_undone(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rounds=4)
    saved = saved_place(run, 0)
    saved = {**saved, "state": {**saved["state"], "order": "90e"}}
    go_on(run, 2)
    with pytest.raises(OutputError, match="is missing or is not the order"):
        return_to(run, saved, "c")
    assert run.state["round"] == 2
