"""The status: predictions against figures computed another way, and rounds that teach nothing."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dots_runs
import runs
from command import run as gaincurate
from dots_runs import step
from gaincurate import Schedule
from gaincurate.difficulty.beta import groups_that_differ
from gaincurate.errors import InputError, OutcomeError
from gaincurate.schedule.checkpoints import return_to, saved_place
from gaincurate.schedule.observations import status
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.run import Run
from gaincurate.trainers.session import RunSession


@pytest.fixture(autouse=True)
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    return dots_runs.in_process(monkeypatch)


def told(run: Run) -> dict[str, Any]:
    found = json.loads(gaincurate("schedule", "status", run.folder, "--json").stdout)
    assert isinstance(found, dict)
    return found


def failures(ids: list[str], round_: int) -> Any:
    return np.array([1 - np.mean([dots_runs.reward(i, round_, k) for k in range(4)]) for i in ids])


def test_a_status_counts_references_and_says_how_good_predictions_were(tmp_path: Path) -> None:
    run = dots_runs.begin(tmp_path, temperature=0.2, rounds=2, budget=20, reuse_references=0.25)
    for _ in range(3):
        step(run, tokens=5)
    status = told(run)
    assert status["finished"]
    found = status["difficulty"]
    aim = (found["target"], found["target_difficulty"], found["predictor"])
    assert aim == ("difficulty", 0.5, "group-mean")
    seconds = {
        "rollout_seconds": 0,
        "predict_seconds": sum(row["predict_seconds"] for row in found["rounds"]),
    }
    assert found["cost"] == {"rollouts": 120, "completion_tokens": 2 * 15 * 4 * 7, **seconds}
    assert found["waiting"] is None
    for round_, row in enumerate(found["rounds"]):
        ids = run.plan(round_)["references"]["ids"]
        d = failures(ids, round_)
        assert (row["references"], row["observed"], row["rollouts"], row["policy"]) == (15, 15, 60, None)
        assert row["reusable"] == (np.abs(d - 0.5) <= 0.25).sum()
        assert row["carried"] == pytest.approx(np.mean(d * (1 - d) * 4 / 3))
        assert row["predict_seconds"] > 0
        # Leave one out: the mean of the others of the group, else of all others.
        groups = np.array([int(i[2:]) % 5 for i in ids])
        alone = []
        for i in range(15):
            others = np.arange(15) != i
            same = others & (groups == groups[i])
            alone.append(d[same].mean() if same.any() else d[others].mean())
        quality = row["on_references"]
        assert quality["brier"]["value"] == pytest.approx(np.mean((np.array(alone) - d) ** 2))
        assert quality["pearson"]["value"] == pytest.approx(np.corrcoef(alone, d)[0, 1])
        low, high = quality["pearson"]["interval"]
        assert low < quality["pearson"]["value"] < high
        assert quality["ceiling"]["value"] is None or 0 <= quality["ceiling"]["value"] <= 1
        # Drawn prompts: what the plan says of them against what came back.
        plan = run.plan(round_)
        y, x = failures(plan["ids"], round_), np.array(plan["predicted"])
        drawn = row["on_drawn"]
        assert drawn["count"] == 20
        assert drawn["brier"] == pytest.approx(np.mean((x - y) ** 2))
        assert drawn["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1])
        ranks = [np.array([np.mean(np.flatnonzero(np.sort(v) == one)) for one in v]) for v in (x, y)]
        assert drawn["spearman"] == pytest.approx(np.corrcoef(ranks[0], ranks[1])[0, 1])
        assert drawn["carried"] == pytest.approx(np.mean(y * (1 - y) * 4 / 3))
        noise = np.mean(y * (1 - y) / 3) / np.var(y, ddof=1)
        assert drawn["ceiling"] == pytest.approx(np.sqrt(max(0, 1 - noise)))
    newest = found["newest"]
    assert newest["round"] == 1
    assert newest["brier"]["value"] == found["rounds"][1]["on_drawn"]["brier"]
    low, high = newest["brier"]["interval"]
    assert low < newest["brier"]["value"] < high
    assert sum(part["count"] for part in newest["reliability"]) == 20
    for part in newest["reliability"]:
        here = (x >= part["low"]) & (x < part["high"])
        assert part["count"] == here.sum()
        assert part["observed"] == pytest.approx(y[here].mean())
    shown = " ".join(gaincurate("schedule", "status", run.folder).stdout.split())
    assert "aims at a failure rate of 0.5, predicted by group-mean" in shown
    assert "120 rollouts (the trainer's: 160), 840 completion tokens (the trainer's: 800)" in shown
    assert "round 1: failure rate of drawn prompts 20 " in shown


def test_a_run_without_a_round_and_one_that_waits_again(tmp_path: Path) -> None:
    run = dots_runs.begin(tmp_path)
    found = told(run)
    assert (found["rounds"], found["waiting"]) == ([], None)
    assert found["difficulty"]["waiting"]["round"] == 0
    shown = gaincurate("schedule", "status", run.folder).stdout
    assert "8 of 60 prompts a round, 3 rounds; no round yet" in shown
    prompts, given = (run.references_folder(0) / f"references.{kind}" for kind in ("parquet", "jsonl"))
    assert f"round 0 waits for outcomes of its references: prompts in {prompts}, outcomes to {given}" in shown
    with pytest.raises(InputError, match=r"^--checkpoint somewhere: no round of .* was trained yet"):
        advance(run, "somewhere")
    step(run)
    assert told(run)["difficulty"]["waiting"] is None
    runs.write(run, 0, dots_runs.lines(run.ids(0), 0, round=0))
    assert gaincurate("schedule", "next", run.folder).exit_code == 2
    assert told(run)["difficulty"]["waiting"]["round"] == 1


def test_going_back_sets_aside_what_references_did_since(tmp_path: Path) -> None:
    run = dots_runs.begin(tmp_path)
    step(run)
    place = saved_place(run, 3)
    step(run)
    first, expected = run.plan(1), runs.plans(run)[1]
    runs.write(run, 1, dots_runs.lines(run.ids(1), 1, round=1))
    with pytest.raises(OutcomeError):
        advance(run)
    dots_runs.answer(run, 2)
    assert return_to(run, place, "the checkpoint") == 1
    assert sorted(path.name for path in (run.folder / "difficulty").iterdir()) == ["00000"]
    assert (run.folder / "undone/difficulty-00001-1/references.jsonl").exists()
    assert (run.folder / "undone/difficulty-00002-1/references.jsonl").exists()
    run.outcomes(0).unlink()
    step(run)
    assert run.plan(1)["references"]["ids"] == first["references"]["ids"]
    assert runs.plans(run)[1] == expected


def test_a_budget_and_a_rollout_are_checked_on_the_command_line(tmp_path: Path) -> None:
    dots_runs.begin(tmp_path)
    asked = ("schedule", "start", tmp_path / "set", "--run", tmp_path / "x", "--rounds", 2, "--strategy")
    assert gaincurate(*asked, "uniform").stderr == (
        "error: strategy uniform needs --budget N, the distinct prompts of a round.\n"
    )
    assert gaincurate(*asked, "dots", "--budget", 8, "--rollout", "[1]").stderr == (
        'error: --rollout \'[1]\': expected a JSON object, such as {"verifier": "math", "samples": 8}.\n'
    )
    assert not (tmp_path / "x").exists()


def report(run: Run, groups: list[list[Any]]) -> None:
    """Rewards of the round's prompts, whose groups take turns; a pair is a reward and `correct`."""
    lines = []
    for place, gc_id in enumerate(run.ids(round_ := run.newest())):
        for sample, reward in enumerate(groups[place % len(groups)]):
            reward, correct = reward if isinstance(reward, tuple) else (reward, None)
            line = {"gc_id": gc_id, "reward": reward, "round": round_, "sample": sample, "correct": correct}
            lines.append(line)
    runs.write(run, round_, lines)


@pytest.mark.parametrize(
    ("groups", "low", "shares", "silent"),
    [
        ([[0, 0, 0, 0]], 0, (0, 1, 0), True),
        ([[0, 0], [0, 0, 0], [1, 1]], 0, (0, 6 / 8, 2 / 8), True),
        ([[0.1, 0.1], [0.1, 0.1, 0.1]], 0, (0, 0, 0), True),
        ([[-1, -1], [-1, -1, -1]], -1, (0, 1, 0), True),
        ([[None, 0], [0, None, 0]], 0, (0, 1, 0), True),
        ([[0], [0]], 0, (0, 1, 0), True),
        ([[0], [1]], 0, (0, 0.5, 0.5), False),  # single rollouts, which may be wanted
        ([[0.25], [0]], 0, (0.5, 0.5, 0), False),  # the mean of a group in one line
        ([[0, 0], [0, 0, 0.01]], 0, (0.5, 0.5, 0), False),
        ([[None], [0, 1]], 0, (1, 0, 0), False),
        ([[(0.1, False), (0.0, False)], [(0, False), (0, False)]], 0, (0.5, 0.5, 0), False),
        ([[(None, True), (None, True)]], 0, (0, 0, 1), True),
    ],
)  # fmt: skip
def test_a_round_without_a_group_that_differs_says_so_with_its_likely_causes(
    tmp_path: Path, groups: list[list[Any]], low: float, shares: tuple[float, ...], silent: bool
) -> None:
    run = runs.begin(tmp_path, strategy="uniform", reward_low=low)
    report(run, groups)
    said = gaincurate("schedule", "next", run.folder).stderr
    facts = status(run)
    row = facts["rounds"][0]
    assert (row["effective"], row["all_wrong"], row["all_right"]) == pytest.approx(shares)
    assert ("no group of round 0 had rewards that differ" in said) == silent
    assert (f"the reward range ({low} to 1)" in (facts["nothing_learnt"] or "")) == silent


def test_programs_and_live_trainers_hear_of_it_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = runs.begin(tmp_path, strategy="uniform", rounds=4)
    report(run, [[0, 0]])
    Schedule(run.folder).next()
    report(run, [[0, 0]])
    with RunSession(run.folder) as live:
        live.turn()
        assert live.metrics()["all_wrong"] == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "no group of round 0 had" in caplog.text
    assert "no group of round 1 had" in caplog.text
    report(run, [[0, 1]])
    Schedule(run.folder).next()
    assert len(caplog.records) == 2
    assert json.loads(gaincurate("schedule", "status", run.folder, "--json").stdout)["nothing_learnt"] is None


def test_where_most_groups_are_silent_replay_is_advised_once_and_in_the_status(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, strategy="uniform", rounds=4)
    advised, shown = [], []
    for groups in ([[0, 0], [1, 1], [0, 1]], [[0, 0], [1, 1], [0, 1]], [[0, 1]]):
        report(run, groups)
        said = " ".join(gaincurate("schedule", "next", run.folder).stderr.split())
        advised.append("more than half of the groups are silent, so switch replay on" in said)
        shown.append("switch replay on" in gaincurate("schedule", "status", run.folder).stdout)
    assert advised == [True, False, False]
    assert shown == [True, True, False]


def test_what_was_expected_is_of_the_groups_that_came(tmp_path: Path) -> None:
    run = runs.begin(
        tmp_path, strategy="posterior", rounds=8, rows=16, options={"memory": "0.5", "preset": "mapp"}
    )
    groups = [[0, 0, 0], [1, 1, 1], [0, 1, 1], [0, 0, 1, 1]]
    report(run, groups)
    seen = {gc_id: groups[place % 4] for place, gc_id in enumerate(run.ids(0))}
    Schedule(run.folder).next()
    of_size = {n: float(groups_that_differ(np.ones(1), np.ones(1), n)[0]) for n in (3, 4)}
    expected = status(run)["rounds"][0]["metrics"]["expected_effective"]
    assert expected == pytest.approx((3 * of_size[3] + of_size[4]) / 4)
    for _ in range(6):
        plan = run.plan(run.newest())
        failure, rollouts = np.array(plan["predicted"]), np.array(plan["predicted_rollouts"])
        chances = groups_that_differ(rollouts * (1 - failure), rollouts * failure, 3)
        assert plan["metrics"]["expected_effective"] == pytest.approx(chances.mean())
        wrong, right = ([not any(v) for v in seen.values()], [all(v) for v in seen.values()])
        metrics = {"seen": len(seen), "hard": sum(wrong), "easy": sum(right)}
        assert {name: plan["metrics"][name] for name in metrics} == metrics
        report(run, groups[:3])
        for place, gc_id in enumerate(run.ids(run.newest())):
            seen[gc_id] = seen.get(gc_id, []) + groups[place % 3]
        Schedule(run.folder).next()
