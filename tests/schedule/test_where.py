"""Runs that draw only the rows for which a condition holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import column_sets
import dots_runs
import embedded
import runs
from command import run as gaincurate
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.run import Run

ROWS = 60
SOURCES = [["web", "books", "code", None][row % 4] for row in range(ROWS)]
WHERE = "source != 'web' and gc_difficulty < .9"
HOLDS = {row for row in range(ROWS) if SOURCES[row] in ("books", "code") and row % 10 < 9}


def begin(folder: Path, **options: Any) -> Run:
    if not (folder / "set").exists():
        angles = {"gc_angle": [((7 * row) % ROWS) / ROWS for row in range(ROWS)]}
        lengths = [3 + row % 11 for row in range(ROWS)]
        path = column_sets.column_set(folder / "set", lengths, angles, {"source": pa.array(SOURCES)})
        scored = ScoredSet(path)
        rates = pa.array([row % 10 / 10 for row in range(ROWS)])
        scored.add_column("gc_difficulty", scored.column("gc_id").to_pylist(), rates, {})
    given: dict[str, Any] = {"strategy": "uniform", "budget": 8, "rounds": 5, "where": WHERE}
    return runs.begin(folder, **(given | options))


@pytest.mark.parametrize("stratify", ["none", "source"])
@pytest.mark.parametrize(
    ("strategy", "own"),
    [("uniform", {}), ("gain-rl", {"sigma": "0.1N"}), ("falling", {}), ("posterior", {"preset": "mapp"})],
)
def test_no_strategy_draws_another_row(
    tmp_path: Path, strategy: str, own: dict[str, Any], stratify: str
) -> None:
    run = begin(tmp_path, strategy=strategy, options=own, stratify=stratify)
    for round_ in range(5):
        rows = run.rows(round_)
        assert len(set(rows)) == 8
        assert set(rows) <= HOLDS
        runs.step(run)


@pytest.mark.parametrize(
    "options",
    [
        {"where": "gc_difficulty >= 0"},  # nothing is left out
        {"where": "source == 'web'", "stratify": "source"},  # groups without a row
    ],
)
@pytest.mark.parametrize("strategy", ["uniform", "file-order"])
def test_a_group_without_rows_is_no_damage(tmp_path: Path, strategy: str, options: dict[str, Any]) -> None:
    run = begin(tmp_path, strategy=strategy, rounds=2, **options)
    assert len(runs.step(run).rows(1)) == 8


def test_uniform_has_every_row_once_in_a_pass(tmp_path: Path) -> None:
    run = begin(tmp_path, budget=9, rounds=3)
    drawn = run.rows(0)
    for round_ in (1, 2):
        drawn += runs.step(run).rows(round_)
    assert len(HOLDS) == 27
    assert set(drawn) == HOLDS


def test_shares_of_groups_are_those_of_the_rows_that_are_left(tmp_path: Path) -> None:
    run = begin(tmp_path, stratify="source", budget=9)
    books = sum(SOURCES[row] == "books" for row in HOLDS)
    prompts = run.plan(0)["groups"]["prompts"]
    assert sum(prompts.values()) == 9
    assert abs(prompts["books"] - 9 * books / len(HOLDS)) < 1
    assert prompts["web"] == prompts["(none)"] == 0
    assert "groups" not in begin(tmp_path, run=tmp_path / "other").plan(0)


def test_the_condition_is_seen_once(tmp_path: Path) -> None:
    run = begin(tmp_path)
    scored = ScoredSet(tmp_path / "set")
    ids = scored.column("gc_id").to_pylist()
    scored.add_column("gc_difficulty", ids, pa.array([1.0] * ROWS), {})  # now it holds for none
    assert set(runs.step(run).rows(1)) <= HOLDS


def test_the_command_says_how_many_rows_and_the_status_the_condition(tmp_path: Path) -> None:
    begin(tmp_path, run=tmp_path / "other")
    rates = tmp_path / "rates.parquet"
    ids = ScoredSet(tmp_path / "set").column("gc_id").to_pylist()
    pq.write_table(pa.table({"gc_id": ids[:40], "pass_rate": [row % 5 / 4 for row in range(40)]}), rates)
    shared = ["schedule", "start", tmp_path / "set", "--strategy", "uniform", "--budget", 4, "--rounds", 2]
    asked = ["--where", "0 < pass_rate < 1", "--rollouts", rates, "--run", tmp_path / "run", "--model", "m"]
    done = gaincurate(*shared, *asked)
    assert done.exit_code == 0, done.stderr
    assert "--where holds for 24 of 60 rows (20 have no value for it)" in done.stderr
    assert "warning" not in done.stderr
    few = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(rates)[:29], few)
    asked[3], asked[5] = few, tmp_path / "second"
    warned = gaincurate(*shared, *asked).stderr
    assert "warning: 31 of 60 rows have no pass_rate. `gaincurate difficulty predict` writes" in warned
    rates.unlink()  # the run needs it no more
    assert "4 of 24 prompts" in done.stdout
    shown = gaincurate("schedule", "status", tmp_path / "run").stdout
    assert "uniform, where 0 < pass_rate < 1, 4 of 24 prompts a round" in " ".join(shown.split())
    (listed,) = json.loads(gaincurate("ls", tmp_path / "run", "--json").stdout)
    assert listed["rows"] == 24
    assert {row % 5 for row in Run(tmp_path / "run").rows(0)} <= {1, 2, 3}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"where": "source == 'wbe'"}, "--where \"source == 'wbe'\" holds for 0 of 60 rows \\(15 have no value for it\\), and a round has 8\\."),
        ({"where": "sorce == 'web'"}, "there is no column 'sorce'; similar: source"),
        ({"where": "source = 'web'"}, "and equal as =="),
        ({"strategy": "dots", "options": {"reuse_references": 0.1, "group_column": "source", "step_prompts": 4}}, "--where and reuse_references do not go together"),
        ({"where": None, "rollouts": Path("rates")}, "--rollouts rates goes with --where"),
        ({"stratify": "source", "group_weights": {"web": 1, "books": 0, "code": 0, "(none)": 1}}, "take a smaller budget"),
    ],
)  # fmt: skip
def test_what_does_not_go_is_one_sentence(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        begin(tmp_path, **options)
    assert not (tmp_path / "run").exists()


def test_dots_observes_references_of_the_whole_set_and_draws_only_from_the_rest(tmp_path: Path) -> None:
    embedded.make_set(tmp_path / "set", np.random.default_rng(0).normal(size=(60, 8)))
    where = "question in ['group 1', 'group 3']"
    run = runs.begin(tmp_path, strategy="dots", budget=8, rounds=2, options=dots_runs.OPTIONS, where=where)
    references = {int(gc_id[2:]) for gc_id in dots_runs.asked_of(run, 0)}
    assert any(row % 5 not in (1, 3) for row in references)
    dots_runs.answer(run, 0)
    advance(run)
    rows = Run(run.folder).rows(0)
    assert len(set(rows)) == 8
    assert {row % 5 for row in rows} <= {1, 3}
