"""A run followed live: rows in the plan's order, outcomes in, and back again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runs
from gaincurate.errors import InputError, LockedError, OutcomeError, OutputError
from gaincurate.trainers.session import PLACE, RunSession, followed, place_beside


def outcomes(rows: list[dict[str, Any]], step: int, samples: int = 2) -> list[dict[str, Any]]:
    return [
        {"gc_id": row["gc_id"], "reward": (step + k) % 2, "step": step, "sample": k}
        for row in rows
        for k in range(samples)
    ]


def train(live: RunSession, count: int, steps: int, first: int = 1) -> list[str]:
    """A trainer of one batch a step; what it trained on."""
    trained = []
    for step in range(first, first + steps):
        rows = live.take(count)
        trained += [row["gc_id"] for row in rows]
        live.report(outcomes(rows, step))
    return trained


def test_the_rows_are_the_plans_in_their_order_round_after_round(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rounds=3)
    with RunSession(run.folder) as live:
        trained = train(live, 4, 6)
        assert live.round == 2
        assert live.take(4) == []  # after the last round there is nothing
    assert trained == [gc_id for round_ in range(3) for gc_id in run.ids(round_)]
    assert run.state["finished"]


def test_a_row_names_its_round_and_its_prompt(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    row = RunSession(run.folder).take(1)[0]
    assert row["gc_id"] == run.ids(0)[0]
    assert row["gc_round"] == 0
    assert row["prompt"] == [{"role": "user", "content": row["question"]}]


def test_a_batch_in_two_rounds_is_refused(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    with pytest.raises(InputError, match=r"^the trainer takes 3 prompts a step and a round of .* has 8,"):
        RunSession(run.folder).take(3)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"gc_id": "nobody's"}, r"\"nobody's\" is not among the prompts of round 0"),
        ({"gc_id": [1]}, r"gc_id is \[1\], not a text"),
        ({"step": 1.0}, "step is 1.0, not a whole number"),
        ({"tokens": -1}, "tokens is -1, which counts nothing"),
        ({"round": 5}, "round 5 is not planned yet"),
        ({"text": b"x"}, "an outcome cannot be written: .* bytes"),
        ({"text": "\ud800"}, "an outcome cannot be written: .* surrogates"),
        ({"text": json.loads("[" * 100 + "]" * 100)}, "an outcome cannot be written: .* 64 deep"),
        ({"text": 10**5000}, "an outcome cannot be written: .* digits"),
    ],
)
def test_what_a_run_cannot_use_is_not_written(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    run = runs.begin(tmp_path)
    with RunSession(run.folder) as live:
        rows = live.take(8)
        with pytest.raises(OutcomeError, match=f"^an outcome.*{sentence.removeprefix('an outcome')}"):
            live.report([*outcomes(rows, 1), {"gc_id": live.ids[0], "reward": 1.0} | change])
        assert not run.outcomes(0).exists()
        live.report(outcomes(rows, 1))
        assert live.turn()


def test_another_batch_size_in_the_middle_of_a_round_is_refused(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    with RunSession(run.folder) as live:
        train(live, 2, 1)
        with pytest.raises(InputError, match=r"saved after 2 of the round's 8.*resume with its batch size"):
            live.take(4)


def test_two_trainers_of_one_run_are_one_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaincurate.core.process._FREED", 0.0)
    run = runs.begin(tmp_path)
    with RunSession(run.folder), pytest.raises(LockedError, match="still at work"):
        RunSession(run.folder).open()
    with RunSession(run.folder):
        pass


@settings(max_examples=12)
@given(saved_at=st.integers(0, 8), trained_to=st.integers(0, 8))
def test_resumed_anywhere_the_plans_are_those_of_a_run_that_never_stopped(
    tmp_path_factory: pytest.TempPathFactory, saved_at: int, trained_to: int
) -> None:
    folder = tmp_path_factory.mktemp("live")
    whole = runs.begin(folder / "whole", rounds=4)
    with RunSession(whole.folder) as live:
        history = train(live, 4, 8)
    run = runs.begin(folder / "cut", rounds=4)
    with RunSession(run.folder) as live:
        train(live, 4, saved_at)
        live.save_beside(folder, step=saved_at)
        train(live, 4, max(trained_to - saved_at, 0), first=saved_at + 1)
    with RunSession(run.folder) as live:
        saved = place_beside(folder)
        assert saved["step"] == saved_at
        live.restore(saved, str(folder))
        rest = train(live, 4, 8 - saved_at, first=saved_at + 1)
    assert rest == history[4 * saved_at :]
    assert runs.plans(run) == runs.plans(whole)


def test_a_checkpoint_without_a_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=f"has no {PLACE}: it was not saved by a trainer that followed a"):
        place_beside(tmp_path)


def test_a_start_from_nothing_takes_back_round_0_and_no_more(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    with RunSession(run.folder) as live:
        train(live, 4, 1)
    with RunSession(run.folder) as live:
        live.begin_anew()
        train(live, 8, 1)
        live.turn()
        assert run.plan(1)["inputs"]["rollouts"] == 16
        with pytest.raises(OutputError, match="is at round 1 and the trainer begins at step 0: resume"):
            live.begin_anew()


def test_the_metrics_are_the_plans(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    with RunSession(run.folder) as live:
        assert live.metrics()["mu"] == 0.0
        train(live, 4, 2)
        live.turn()
        found = live.metrics()
    assert found["mu"] == run.plan(1)["mu"]
    assert found["accuracy"] == run.plan(1)["inputs"]["accuracy"] == 0.5
    assert found["round"] == 1.0


def test_one_process_has_one_view_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs.begin(tmp_path)
    monkeypatch.chdir(tmp_path)
    first = followed("run")
    assert first is followed(run.folder)
    first.open()
    shutil.rmtree(run.folder)
    again = runs.begin(tmp_path, rounds=5)
    with followed(again.folder) as second:
        assert second is not first
        assert second.rounds == 5
