"""Rounds of a run: their order, their rows, their outcomes, and what stops them."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import runs
import sets
from column_sets import column_set
from gaincurate.core.prompts import training_rows, write_rows
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError, OutcomeError, OutputError, StorageError
from gaincurate.schedule.config import STRATEGIES
from gaincurate.schedule.observations import status
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.run import Order, Run, build, write_order


def third(gc_id: str, sample: int) -> float:
    """A third of the rollouts is right."""
    return float((int(gc_id[2:]) * 7 + sample * 11) % 3 == 0)


def step(run: Run) -> Run:
    return runs.step(run, third)


def full_disk(monkeypatch: pytest.MonkeyPatch, after: Path) -> None:
    """From when this file is there, nothing can be written any more."""
    replace = Path.replace

    def refused(path: Path, target: Path) -> Path:
        if after.exists():
            raise OSError(errno.ENOSPC, "full")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refused)


def test_a_round_is_complete_with_its_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs.begin(tmp_path)
    runs.report(run)
    before = set(run.folder.rglob("*"))
    with monkeypatch.context() as patch:
        full_disk(patch, run.round_folder(1) / "state.json")
        with pytest.raises(StorageError, match="the disk is full"):
            advance(run)
    assert Run(run.folder).state["round"] == 0
    with monkeypatch.context() as patch:
        full_disk(patch, run.round_folder(1) / "plan.json")
        assert advance(run) == run.round_folder(1)
    names = ("", "data.parquet", "plan.json", "state.json")
    new = {run.folder / "execution.jsonl", *(run.round_folder(1) / name for name in names)}
    assert set(run.folder.rglob("*")) - before == new
    again = Run(run.folder)
    assert (again.round, again.state["round"]) == (1, 1)
    assert step(again).state["round"] == 2


@pytest.mark.parametrize("strategy", ["uniform", "gain-rl", "length"])
@pytest.mark.parametrize("angles", [{}, {"gc_angle": [1.0, *[None] * 39]}], ids=["none", "one"])
def test_a_set_without_angles_is_scheduled(tmp_path: Path, strategy: str, angles: dict[str, Any]) -> None:
    column_set(tmp_path / "set", [3] * 40, angles)
    run = runs.begin(tmp_path, strategy=strategy, budget=39)
    for _ in range(2):
        run = step(run)
    inputs = run.plan(2)["inputs"]
    assert inputs["concentration"] == (1.0 if inputs["concentration_over"] else None)
    assert [row["round"] for row in status(run)["rounds"]] == [0, 1, 2]


def test_a_round_has_the_rows_of_its_plan_with_full_prompts(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    plan, table = run.plan(0), pq.read_table(run.data(0))
    assert len(set(plan["ids"])) == 8
    assert table.column("gc_id").to_pylist() == plan["ids"]
    assert table.column_names == ["question", "gc_id", "prompt"]
    assert table.column("prompt").to_pylist() == [
        [{"role": "user", "content": f"question {int(i[2:])}"}] for i in plan["ids"]
    ]
    assert (plan["mu"], plan["sigma"], plan["round"]) == (0.0, 6.0, 0)
    scored = ScoredSet(tmp_path / "set")
    rows = scored.rows(plan["ids"])
    assert plan["forecast"]["prompt_tokens"] == sum(rows.column("gc_prompt_tokens").to_pylist())
    assert plan["forecast"]["mean_angle"] == pytest.approx(np.mean(rows.column("gc_angle").to_numpy()))


def test_nothing_is_scored_again_after_the_last_round(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rounds=4, rescore={"what": "full", "every": 2})
    assert [run.rescores_after(round_) for round_ in range(4)] == [False, True, False, False]


def test_the_rows_of_a_round_may_be_in_the_order_of_their_ranks(tmp_path: Path) -> None:
    drawn, by_rank = (runs.begin(tmp_path, run=tmp_path / order, order=order) for order in ("drawn", "rank"))
    order = drawn.order(drawn.state["order"]).rows.tolist()
    ranks = [order.index(row) for row in drawn.rows(0)]
    assert ranks != sorted(ranks)
    assert [order.index(row) for row in by_rank.rows(0)] == sorted(ranks)


def test_mu_over_fifty_rounds_is_that_of_a_simulation_of_the_formulas(tmp_path: Path) -> None:
    options = {"sigma": "20", "alpha": 1.5, "beta": 0.4}
    run = runs.begin(tmp_path, rows=400, rounds=50, budget=16, options=options)
    scored = ScoredSet(tmp_path / "set")
    angles = scored.column("gc_angle").to_numpy().astype(float)
    angle = dict(zip(scored.column("gc_id").to_pylist(), angles, strict=True))
    random, mu = np.random.default_rng(3), np.float64(0)
    for round_ in range(50):
        assert run.plan(round_)["mu"] == pytest.approx(float(mu), abs=1e-9)
        ids, target = run.ids(round_), random.random()
        rewards = {(i, s): float(random.random() < target) for i in ids for s in range(4)}
        runs.report(run, lambda gc_id, sample, rewards=rewards: rewards[gc_id, sample], 4)  # type: ignore[misc]
        accuracy = np.mean([np.mean([rewards[i, s] for s in range(4)]) for i in ids])
        concentration = np.mean([angle[i] for i in ids])
        mu += 8 * np.tanh(1.5 * (accuracy - 0.4)) + 8 * np.tanh(1.5 * concentration)
        mu = np.clip(mu, 0, 399)
        advance(run)
    state = run.state
    assert state["finished"]
    assert state["metrics"]["mu"] == pytest.approx(float(mu), abs=1e-9)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES.keys() - {"dots"}))  # it asks for references first
def test_a_run_is_the_same_in_one_process_or_a_fresh_one_each_round(tmp_path: Path, strategy: str) -> None:
    for name in "ab":
        scored = ScoredSet(runs.some_set(tmp_path / name / "set"))
        rates = pa.array([(7 * k) % 60 / 60 for k in range(60)])
        scored.add_column("gc_difficulty", scored.column("gc_id").to_pylist(), rates, {})
    one, many = (runs.begin(tmp_path / name, strategy=strategy, rounds=6, budget=12) for name in "ab")
    for _ in range(6):
        runs.report(one, third)
        advance(one)
        many = step(many)
    assert runs.plans(one) == runs.plans(many)
    assert len(runs.plans(one)) == 6
    assert many.state["finished"]
    with pytest.raises(InputError, match="is finished: all of its 6 rounds are done"):
        advance(many)


def wrong(gc_id: str, sample: int) -> int:
    return 0


def late_line(gc_id: str, round_: int) -> dict[str, Any]:
    return {"gc_id": gc_id, "reward": 1, "round": round_, "sample": 9}


def test_late_outcomes_move_posteriors_but_no_accuracy(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, strategy="posterior", budget=6)
    first = run.ids(0)
    runs.step(run, wrong)
    runs.write(run, 1, [late_line(first[0], 0)])  # in the new round's file
    runs.write(run, 0, [late_line(first[1], 0)])  # behind what was taken
    runs.step(run, wrong)
    plan = run.plan(2)
    assert (plan["inputs"]["accuracy"], plan["inputs"]["late"]) == (0.0, 2)
    state = run.state["selector"]
    wins = dict(zip(state["rows"], state["wins"], strict=True))
    assert sorted(wins.values())[-2:] == [1.0, 1.0]
    assert {row for row, won in wins.items() if won} == {int(i[2:]) for i in first[:2]}
    runs.step(run, wrong)
    assert run.state["inputs"]["late"] == 0  # none is taken twice


def test_a_late_line_that_was_taken_before_counts_once(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, strategy="posterior", budget=6, options={"memory": 1.0})
    first = run.ids(0)
    runs.step(run, lambda gc_id, sample: 1)
    # The trainer says round 0 all over again, with one new rollout, and then resumes it.
    again = [{"gc_id": i, "reward": 1, "round": 0, "sample": s} for i in first for s in range(2)]
    runs.write(run, 1, [*again, late_line(first[0], 0)])
    runs.write(run, 0, [late_line(first[0], 0), {"resume_from_step": 0}, late_line(first[1], 0)])
    runs.step(run, wrong)
    state = run.state["selector"]
    wins = dict(zip(state["rows"], state["wins"], strict=True))
    assert [wins[int(i[2:])] for i in first] == [3.0, 2.0, 2.0, 2.0, 2.0, 2.0]


def test_bad_outcomes_change_nothing_and_good_ones_then_go_on(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    with pytest.raises(OutcomeError, match="round 0 has no outcomes"):
        advance(run)
    runs.write(run, 0, [{"gc_id": "who?", "reward": 1, "round": 0}])
    before = runs.plans(run), run.state
    with pytest.raises(OutcomeError, match="'who\\?' is not among the prompts of round 0"):
        advance(run)
    assert (runs.plans(run), run.state) == before
    run.outcomes(0).unlink()
    runs.report(run)
    assert advance(run) == run.round_folder(1)
    with pytest.raises(OutcomeError, match="round 1 has no outcomes"):  # `next` twice plans no second round
        advance(run)


def test_another_scored_set_in_its_place_is_refused(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    runs.report(run)
    shutil.rmtree(tmp_path / "set")
    runs.some_set(tmp_path / "set", seed=5)
    with pytest.raises(OutputError, match="is not the scored set that .* was opened with"):
        advance(Run(run.folder))
    shutil.rmtree(tmp_path / "set")
    with pytest.raises(OutputError, match=r"the scored set of .* is gone: it is neither at .* nor at .*\."):
        advance(Run(run.folder))


def test_set_and_run_may_be_moved_together(tmp_path: Path) -> None:
    runs.begin(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    run = Run(tmp_path / "there/run")
    assert run.scored.folder.resolve() == tmp_path / "there/set"
    runs.report(run)
    assert advance(run) == tmp_path / "there/run/rounds/00001"


def test_a_kill_between_two_writes_loses_nothing(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rounds=4)
    step(run)
    step(run)
    expected, newest = runs.plans(run), run.state
    (run.round_folder(2) / "plan.json").unlink()  # as if killed before the plan
    assert Run(run.folder).state == run.state_of(1)
    advance(Run(run.folder))
    assert (runs.plans(run), Run(run.folder).state) == (expected, newest)


@given(st.lists(st.sampled_from([0.1, 0.2, 0.25, 0.5]), min_size=1, max_size=12), st.booleans())
def test_an_order_is_sorted_by_value_and_equal_ones_by_id(
    tmp_path_factory: pytest.TempPathFactory, angles: list[float], ascending: bool
) -> None:
    folder = tmp_path_factory.mktemp("order")
    ids = [f"{(7 * i) % 13:02d}" for i in range(len(angles))]
    rows = [sets.scored_row(gc_id, angle=angle) for gc_id, angle in zip(ids, angles, strict=True)]
    scored = ScoredSet(sets.make_set(folder / "set", [rows[:5], rows[5:]]))
    assert build(folder / "o.arrow", scored, "gc_angle", ascending=ascending) == 0
    order = Order(folder / "o.arrow")
    sign = 1 if ascending else -1
    expected = sorted(range(len(angles)), key=lambda k: (sign * np.float32(angles[k]), ids[k]))
    assert order.rows.tolist() == expected
    assert order.values.tolist() == [float(np.float32(angles[k])) for k in expected]


@pytest.mark.parametrize("ascending", [False, True])
def test_rows_without_a_value_come_last_whatever_the_direction(tmp_path: Path, ascending: bool) -> None:
    scored = ScoredSet(runs.some_set(tmp_path / "set", 6, 2))
    ids = scored.column("gc_id").to_pylist()
    scored.add_column("gc_difficulty", ids[:4], pa.array([0.5, float("nan"), 0.1, None]), {})
    assert build(tmp_path / "o.arrow", scored, "gc_difficulty", ascending=ascending) == 4
    order = Order(tmp_path / "o.arrow")
    assert order.rows.tolist()[:2] == ([2, 0] if ascending else [0, 2])
    assert np.isnan(order.values[2:]).all()


def test_a_column_of_texts_or_none_is_refused(tmp_path: Path) -> None:
    scored = ScoredSet(runs.some_set(tmp_path / "set", 6, 2))
    with pytest.raises(InputError, match="--by question: that column holds string, and an order needs"):
        build(tmp_path / "o.arrow", scored, "question", ascending=True)
    with pytest.raises(InputError, match="has no column 'level'; it has question, gc_id"):
        build(tmp_path / "o.arrow", scored, "level", ascending=True)


def test_a_damaged_order_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "o.arrow"
    write_order(path, np.arange(3), np.zeros(3))
    swapped = path.read_bytes().replace(np.arange(3).tobytes(), np.array([0, 2, 1]).tobytes())
    for data, why in ((b"ARROW1\0\0 and no more", ""), (swapped, "its bytes do not match the hash in it")):
        path.write_bytes(data)
        with pytest.raises(OutputError, match=f"o.arrow is damaged: {why}"):
            Order(path)


SHOTS = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]


def shown(
    rows: list[dict[str, Any]], column: str, segmentation: dict[str, Any] | None = None, **options: bool
) -> pa.Table:
    identity = {"source": {"prompt_column": column}, "segmentation": segmentation or {}}
    table = pa.Table.from_pylist([{**row, "gc_id": f"i{k}", "gc_angle": 0.5} for k, row in enumerate(rows)])
    return training_rows(table, identity, **{"bare": False, "with_scores": False, **options})


def test_a_text_becomes_the_messages_that_were_scored() -> None:
    found = shown([{"q": "why?", "level": 3}], "q", {"system": "Think.", "shots": SHOTS})
    assert found.column_names == ["q", "level", "gc_id", "prompt"]
    assert found.column("prompt").to_pylist() == [
        [{"role": "system", "content": "Think."}, *SHOTS, {"role": "user", "content": "why?"}]
    ]
    assert found.column("q").to_pylist() == ["why?"]


def test_a_prompt_column_of_messages_is_replaced_in_its_place() -> None:
    own = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "why?"}]
    found = shown([{"prompt": own, "answer": "x"}], "prompt", {"system": "Ours.", "system_override": True})
    assert found.column_names == ["prompt", "answer", "gc_id"]
    assert found.column("prompt").to_pylist()[0][0] == {"role": "system", "content": "Ours."}
    bare = shown([{"prompt": own}], "prompt", {"system": "Ours.", "system_override": True}, bare=True)
    assert bare.column("prompt").to_pylist() == [own]


def test_another_column_called_prompt_is_kept_beside_it() -> None:
    found = shown([{"prompt": "a template", "extra": {"q": "why?"}}], "extra.q", with_scores=True)
    assert found.column("source_prompt").to_pylist() == ["a template"]
    assert found.column("prompt").to_pylist() == [[{"role": "user", "content": "why?"}]]
    assert "gc_angle" in found.column_names


def test_no_rows_and_a_row_that_cannot_be_are_handled(tmp_path: Path) -> None:
    table = shown([{"q": "why?"}], "q")
    write_rows(tmp_path / "d.parquet", table)
    assert pq.read_table(tmp_path / "d.parquet").equals(table)
    with pytest.raises(OutputError, match="row i0 of the scored set: the prompt is empty"):
        shown([{"q": " "}], "q")
