from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runs
import sets
from command import run
from gaincurate.derive.column import derive
from gaincurate.derive.length_free import rank_in_bin, residual
from gaincurate.errors import InputError, OutputError
from gaincurate.schedule.order import Order
from gaincurate.scored_set import ScoredSet


def values(folder: Path, name: str) -> list[Any]:
    found: list[Any] = ScoredSet(folder).column(name).to_pylist()
    return found


def test_the_columns_hold_the_function_and_the_file_says_how_it_was_made(tmp_path: Path) -> None:
    folder = runs.some_set(tmp_path / "set", 80, 3)
    scored = ScoredSet(folder)
    angle = scored.column("gc_angle").to_numpy().astype(float)
    length = scored.column("gc_question_tokens").to_numpy().astype(float)
    done = derive(scored, "gc_angle", "residual")
    assert (done.name, done.rows, done.values, done.kept) == ("gc_angle_residual", 80, 80, False)
    assert np.allclose(values(folder, done.name), residual(angle, length), atol=1e-6)
    derive(scored, "gc_angle", "rank-in-bin", bins=4, name="gc_mine")
    assert np.allclose(values(folder, "gc_mine"), rank_in_bin(angle, length, 4), atol=1e-6)
    told = json.loads((folder / "columns/gc_mine.json").read_text())
    assert told["manifest"] == scored.manifest_hash
    assert (
        told["how"]["meaning"] == "rank of gc_angle in (0, 1) among rows of about the same gc_question_tokens"
    )
    assert told["how"] | {"signal": "gc_angle", "length_free": "rank-in-bin", "bins": 4} == told["how"]


def test_the_same_again_changes_no_byte_and_another_way_is_refused(tmp_path: Path) -> None:
    folder = runs.some_set(tmp_path / "set")
    derive(ScoredSet(folder), "gc_angle", "rank-in-bin", bins=4, name="gc_mine")
    stamps = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (folder / "columns").iterdir()}
    assert derive(ScoredSet(folder), "gc_angle", "rank-in-bin", bins=4, name="gc_mine").kept
    assert stamps == {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (folder / "columns").iterdir()
    }
    with pytest.raises(OutputError) as caught:
        derive(ScoredSet(folder), "gc_angle", "rank-in-bin", bins=5, name="gc_mine")
    assert str(caught.value) == (
        f"{folder} has a column gc_mine already, made otherwise (rank of gc_angle in (0, 1) among rows of about "
        "the same gc_question_tokens); give another --name, or --overwrite to replace it."
    )
    assert not derive(ScoredSet(folder), "gc_angle", "residual", name="gc_mine", overwrite=True).kept
    assert json.loads((folder / "columns/gc_mine.json").read_text())["how"]["length_free"] == "residual"


def test_a_column_made_of_a_computed_one_is_made_anew_when_that_one_changed(tmp_path: Path) -> None:
    import pyarrow as pa

    folder = runs.some_set(tmp_path / "set", 6, 1)
    scored = ScoredSet(folder)
    ids = scored.column("gc_id").to_pylist()
    scored.add_column("gc_difficulty", ids, pa.array(np.arange(6.0)), {"made_by": "a test"})
    derive(scored, "gc_difficulty", "rank-in-bin", bins=1)
    scored.add_column("gc_difficulty", ids, pa.array(-np.arange(6.0)), {"made_by": "a test"})
    with pytest.raises(OutputError, match="has a column gc_difficulty_rank_in_bin already, made otherwise"):
        derive(ScoredSet(folder), "gc_difficulty", "rank-in-bin", bins=1)


def test_rows_without_a_value_stay_without(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        sets.scored_row(f"id{k}", angle=k / 10, tokens=3 + k) | {"gc_angle_inter": None if k % 3 else k / 10}
        for k in range(12)
    ]
    folder = sets.make_set(tmp_path / "set", [rows[:5], rows[5:]])
    for way in ("residual", "rank-in-bin"):
        done = derive(ScoredSet(folder), "gc_angle_inter", way, bins=2 if way == "rank-in-bin" else None)
        assert [v is None for v in values(folder, done.name)] == [bool(k % 3) for k in range(12)]
        assert done.values == 4


@pytest.mark.parametrize("way", ["residual", "rank-in-bin"])
def test_a_run_is_ordered_by_it(tmp_path: Path, way: str) -> None:
    folder = runs.some_set(tmp_path / "set")
    made = run("derive", folder, "--signal", "gc_angle", "--length-free", way, "--name", "gc_free")
    assert made.exit_code == 0, made.output
    assert "gc_free written, 60 of 60 rows have a value" in made.stdout
    started = run(
        *("schedule", "start", folder, "--run", tmp_path / "run", "--strategy", "gain-rl", "--by", "gc_free"),
        *("--budget", "8", "--rounds", "2", "--model", "the-model"),
    )
    assert started.exit_code == 0, started.output
    order = Order(tmp_path / "run/order.arrow").rows.tolist()
    column = values(folder, "gc_free")
    ids = ScoredSet(folder).column("gc_id").to_pylist()
    assert order == sorted(range(60), key=lambda k: (-(column[k] or 0), ids[k]))


def test_the_command_says_what_it_took_away_and_that_it_is_there(tmp_path: Path) -> None:
    folder = runs.some_set(tmp_path / "set")
    first = run("derive", folder, "--signal", "gc_angle", "--length-free", "rank-in-bin", "--json")
    told = json.loads(first.stdout)
    assert told["name"] == "gc_angle_rank_in_bin"
    assert abs(told["after"]) <= 1
    again = run("derive", folder, "--signal", "gc_angle", "--length-free", "rank-in-bin")
    assert "gc_angle_rank_in_bin is there already, made in this way" in again.stdout


def test_bins_are_for_ranks_alone(tmp_path: Path) -> None:
    folder = runs.some_set(tmp_path / "set")
    result = run("derive", folder, "--signal", "gc_angle", "--length-free", "residual", "--bins", "20")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: --bins 20 goes with --length-free rank-in-bin.\n",
    )
    assert not (folder / "columns").exists()
    ranked = run("derive", folder, "--signal", "gc_angle", "--length-free", "rank-in-bin")
    named = run("derive", folder, "--signal", "gc_angle", "--length-free", "rank-in-bin", "--bins", "20")
    assert (ranked.exit_code, named.exit_code) == (0, 0)
    assert "is there already, made in this way" in named.stdout, "20 is the default"


def test_columns_that_cannot_be_taken(tmp_path: Path) -> None:
    folder = sets.make_set(tmp_path / "set", [[sets.scored_row("a"), sets.scored_row("b")]])
    scored = ScoredSet(folder)
    for options, sentence in (
        ({"signal": "question"}, "--signal question: that column holds string, and this needs numbers."),
        ({"signal": "gc_nll"}, f"{folder} has no column 'gc_nll'; it has question, gc_id, "),
        ({"length": "gc_id"}, "--length gc_id: that column holds string, and this needs numbers."),
        ({"name": "gc_angle"}, "--name gc_angle is the column that it would be made from; give another."),
        (
            {"name": "mine"},
            "computed column 'mine': the name must be gc_ and letters, digits or underscores.",
        ),
        ({"name": "gc_angle_intra"}, "column 'gc_angle_intra' is part of the shards, which are immutable."),
        (
            {"signal": "gc_angle_intra_offdiag"},
            f"--signal gc_angle_intra_offdiag: no row of {folder} has a value there.",
        ),
    ):
        given: dict[str, Any] = {"signal": "gc_angle", "way": "rank-in-bin"} | options
        with pytest.raises(InputError) as caught:
            derive(scored, **given)
        assert str(caught.value).startswith(sentence)
    assert not (folder / "columns").exists()
