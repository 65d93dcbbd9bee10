"""Which rows of a set an export takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import exports
from command import run as gaincurate
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError
from gaincurate.schedule.observations import matching

SOURCES = ["web", "books", None, "web", "code", "web", "books", "code", "web", None]
RATES = [0.0, 0.25, 0.5, 0.75, 1.0, 0.5, None, 0.5, 0.5, 0.25]


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """Ten rows `id0000` to `id0009` with a source, a level in a struct and a computed column."""
    rows = [
        {"question": f"What is {k}?", "answer": str(k), "source": source, "extra": {"level": k % 4}}
        for k, source in enumerate(SOURCES)
    ]
    folder = exports.make_set(tmp_path / "set", rows)
    quarters = pa.array([k / 4 for k in range(5)])
    ScoredSet(folder).add_column("gc_difficulty", [f"id{k:04d}" for k in range(5)], quarters, {})
    return folder


@pytest.fixture
def rollouts(tmp_path: Path) -> Path:
    """Pass rates of four rollouts each, and none for row 6."""
    path = tmp_path / "rates.parquet"
    rows = [{"gc_id": f"id{k:04d}", "pass_rate": rate, "samples": 4} for k, rate in enumerate(RATES)]
    pq.write_table(pa.Table.from_pylist([row for row in rows if row["pass_rate"] is not None]), path)
    return path


def export(scored: Path, *options: object, out: str = "x.parquet") -> Any:
    return gaincurate("export", scored, "--trainer", "trl", "--out", scored.parent / out, *options)


def ids(file: Path) -> list[int]:
    return [int(gc_id[2:]) for gc_id in pq.read_table(file).column("gc_id").to_pylist()]


def test_a_condition_over_source_score_computed_and_rollout_columns(scored: Path, rollouts: Path) -> None:
    where = "0.2 < pass_rate < 0.8 and source != 'code' and extra.level > 0 and gc_angle < 1 and samples == 4"
    result = export(scored, "--where", where, "--rollouts", rollouts)
    assert result.exit_code == 0, result.stderr
    rows = enumerate(zip(SOURCES, RATES, strict=True))
    expected = [
        k for k, (source, rate) in rows if 0.2 < (rate or 0) < 0.8 and source in ("web", "books") and k % 4
    ]
    assert ids(scored.parent / "x.parquet") == expected
    counts = "3 of 10 rows are taken, left out are 7 by --where (3 of them for want of a value)\n"
    assert result.stderr.startswith(counts)
    result = export(scored, "--where", "gc_difficulty >= .5", "--overwrite")
    assert ids(scored.parent / "x.parquet") == [2, 3, 4]
    assert "left out are 7 by --where (5 of them for want of a value)\n" in result.stderr


def test_reasons_are_counted_in_turn_each_row_once_and_the_file_says_them(scored: Path) -> None:
    options = ["--by", "gc_angle", "--ascending", "--where", "source != 'code'", "--limit", 3, "--json"]
    result = export(scored, *options)
    assert ids(scored.parent / "x.parquet") == [8, 6, 5]
    assert result.stderr.startswith(
        "3 of 10 rows are taken, left out are 4 by --where (2 of them for want of a value), 3 after --limit 3\n"
    )
    made = json.loads(result.stdout)["made"]
    assert made["pick"]["where"] == "source != 'code'"
    stored = pq.read_schema(scored.parent / "x.parquet").metadata[b"gaincurate"]
    assert json.loads(stored) == made


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--where", "pass_rate > .5"], "has no column 'pass_rate'; --rollouts PATH adds it."),
        (["--where", "sorce == 'web'"], "there is no column 'sorce'; similar: source."),
        (["--where", "gc_angle > 9"], "no row is left: 0 of 10 rows are taken, left out are 10 by --where"),
        (["--where", "source == 3"], "column 'source' of texts cannot be compared with the number 3.0."),
        (["--rollouts", "x"], "--rollouts goes with --where"),
        (["--where", "gc_angle > 0", "--rollouts", "nowhere"], "nowhere does not exist."),
    ],
)  # fmt: skip
def test_what_does_not_go_is_one_sentence(scored: Path, options: list[str], sentence: str) -> None:
    result = export(scored, *options)
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.split())
    assert not (scored.parent / "x.parquet").exists()


def test_a_run_says_itself_which_rows(tmp_path: Path) -> None:
    run = exports.begin(tmp_path)
    result = export(run.folder, "--where", "level > 1")
    assert result.exit_code == 2
    assert f"--where is for a scored set; {run.folder} is a run, whose plan says which rows." in result.stderr


def test_a_name_of_both_is_refused_and_two_policies_too(tmp_path: Path) -> None:
    rows = [{"question": "a?", "answer": "1", "pass_rate": 0.5}]
    opened = ScoredSet(exports.make_set(tmp_path / "set", rows, shards=1))
    file = tmp_path / "rates.jsonl"
    file.write_text('{"gc_id": "id0000", "pass_rate": 0.25, "samples": 4}\n')
    assert matching(opened, "pass_rate == .5")[0].tolist() == [True]
    assert matching(opened, "samples == 4", file)[0].tolist() == [True]
    with pytest.raises(InputError, match="pass_rate is a column of .* and of --rollouts .*; leave"):
        matching(opened, "pass_rate == .5", file)
