"""Rounds that teach nothing, by outcomes as trainers report them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runs
from command import run as gaincurate
from gaincurate import Schedule
from gaincurate.difficulty.beta import groups_that_differ
from gaincurate.schedule.observations import status
from gaincurate.schedule.run import Run
from gaincurate.trainers.session import RunSession


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


def test_programs_and_live_trainers_hear_of_it_too_until_a_group_differs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
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


def test_what_was_expected_is_of_the_groups_that_came_and_hard_and_easy_are_all_wrong_and_all_right(
    tmp_path: Path,
) -> None:
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
