"""A column that was made from pass rates is not judged by them, however it was made from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from column_sets import column_set, ids
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.metrics import COLUMNS
from gaincurate.difficulty.pass_rates import read_pass_rates
from gaincurate.report.build import report
from gaincurate.report.length_free import derive

ROWS = 150
COLUMN = COLUMNS["difficulty"]


def world(folder: Path) -> tuple[Path, np.ndarray]:
    """A set with levels, and each prompt's true rate."""
    random = np.random.default_rng(0)
    rate = random.random(ROWS)
    source = {"level": pa.array(np.round(5 * rate).astype(int))}
    scores = {"gc_angle": random.normal(size=ROWS)}
    return column_set(folder / "set", random.integers(5, 120, ROWS), scores, source), rate


def rates_file(path: Path, rate: np.ndarray, seed: int = 1) -> Path:
    wins = np.random.default_rng(seed).binomial(8, rate)
    pq.write_table(pa.table({"gc_id": ids(len(rate)), "wins": wins, "losses": 8 - wins}), path)
    return path


def test_a_column_is_not_judged_by_the_pass_rates_that_made_it(tmp_path: Path) -> None:
    folder, rate = world(tmp_path)
    own, fresh = (
        rates_file(tmp_path / "own.parquet", rate),
        rates_file(tmp_path / "new.parquet", rate, seed=2),
    )
    (made_of,) = read_pass_rates(own)
    scored = ScoredSet(folder)
    how = {"made_by": "a test", "outcomes": made_of.source}
    scored.add_column(COLUMN, made_of.ids, pa.array(made_of.failure, pa.float32()), how)
    document = report(folder, rollouts=[own, fresh])
    judged = {r.target for r in document.relations if r.signal == COLUMN}
    assert judged == {"level", "pass rate (new.parquet)", "p(1-p) (new.parquet)"}
    assert f"{COLUMN} was made from pass rate (own.parquet) and is not judged by it." in document.notes


def test_nor_is_a_column_made_from_that_column(tmp_path: Path) -> None:
    folder, rate = world(tmp_path)
    own = rates_file(tmp_path / "own.parquet", rate)
    (made_of,) = read_pass_rates(own)
    how = {"made_by": "a test", "outcomes": made_of.source}
    ScoredSet(folder).add_column(COLUMN, made_of.ids, pa.array(made_of.failure, pa.float32()), how)
    first = derive(ScoredSet(folder), COLUMN, "rank-in-bin").name
    second = derive(ScoredSet(folder), first, "rank-in-bin").name
    document = report(folder, rollouts=[own])
    assert {r.target for r in document.relations if r.signal in (first, second)} == {"level"}
    for name in (first, second):
        assert f"{name} was made from pass rate (own.parquet) and is not judged by it." in document.notes


def test_nor_by_a_later_state_of_the_same_file(tmp_path: Path) -> None:
    folder, rate = world(tmp_path)
    own = rates_file(tmp_path / "own.parquet", rate[:100])
    (made_of,) = read_pass_rates(own)
    how = {"made_by": "a test", "outcomes": made_of.source}
    ScoredSet(folder).add_column(COLUMN, made_of.ids, pa.array(made_of.failure, pa.float32()), how)
    document = report(folder, rollouts=[rates_file(own, rate)])
    assert {r.target for r in document.relations if r.signal == COLUMN} == {"level"}
    said = f"{COLUMN} was made from another state of pass rate (own.parquet) and is not judged by it."
    assert said in document.notes


def test_signals_that_only_the_same_rates_could_judge_are_not_said_to_tell_nothing(tmp_path: Path) -> None:
    folder = column_set(tmp_path / "set", np.arange(5, 105), {})
    own = rates_file(tmp_path / "own.parquet", np.linspace(0, 1, 100))
    (made_of,) = read_pass_rates(own)
    how = {"made_by": "a test", "outcomes": made_of.source}
    ScoredSet(folder).add_column(COLUMN, made_of.ids, pa.array(made_of.failure, pa.float32()), how)
    assert report(folder, rollouts=[own]).headline == (
        f"Whether sorting by {COLUMN} helps training is not known: there is nothing to judge it by but the "
        "pass rates that it was made from."
    )
