from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import runs
import sets
from column_sets import column_set
from command import run
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.stats import Floats, even_bins, spearman
from gaincurate.errors import InputError, OutputError
from gaincurate.report.length_free import KNOTS, derive, rank_in_bin, residual

NAN = float("nan")


def planted(rows: int, seed: int = 0, *, rises_and_falls: bool = False) -> tuple[Floats, Floats, Floats]:
    """Signal, length and what the signal tells beside length."""
    random = np.random.default_rng(seed)
    length = np.round(np.exp(random.normal(4, 0.7, rows)) + 2)
    own = random.normal(0, 1, rows)
    shape = (np.log(length) - 4) ** 2 * 5 if rises_and_falls else -3 * np.log(length)
    return shape + own, length, own


@pytest.mark.parametrize("rises_and_falls", [False, True])
def test_a_residual_has_no_rank_correlation_with_length_and_keeps_what_is_the_signals_own(
    rises_and_falls: bool,
) -> None:
    signal, length, own = planted(4000, rises_and_falls=rises_and_falls)
    found = residual(signal, length)
    assert abs(spearman(found, length) or 0) < 0.03
    assert (spearman(found, own) or 0) > 0.98
    if not rises_and_falls:
        assert abs(spearman(signal, length) or 0) > 0.8


def test_a_residual_is_that_of_least_squares_with_truncated_powers_over_all_rows() -> None:
    signal, length, _ = planted(500, 3)
    x = np.log(length)
    distinct = np.unique(x)
    knots = np.quantile(distinct, np.arange(1, KNOTS + 1) / (KNOTS + 1))
    basis = np.stack([x**k for k in range(4)] + [np.clip(x - knot, 0, None) ** 3 for knot in knots], 1)
    fitted = basis @ np.linalg.lstsq(basis, signal, rcond=None)[0]
    assert np.allclose(residual(signal, length), signal - fitted, atol=1e-6)


def test_few_lengths_leave_what_differs_from_the_mean_of_a_length() -> None:
    signal, length = np.array([1.0, 3.0, 10.0, 14.0]), np.array([5.0, 5.0, 9.0, 9.0])
    assert np.allclose(residual(signal, length), [-1, 1, -2, 2])
    assert np.allclose(residual(signal, np.full(4, 7.0)), signal - signal.mean())


@given(
    st.lists(
        st.tuples(st.floats(-1e3, 1e3, allow_nan=False) | st.just(NAN), st.integers(1, 60)), max_size=80
    ),
    st.integers(1, 9),
)
def test_every_value_stays_where_it_is_and_none_appears(rows: list[tuple[float, int]], bins: int) -> None:
    signal = np.array([a for a, _ in rows], float)
    length = np.array([b for _, b in rows], float)
    for found in (residual(signal, length), rank_in_bin(signal, length, bins)):
        assert np.array_equal(np.isnan(found), np.isnan(signal))
    there = ~np.isnan(signal)
    assert abs(residual(signal, length)[there].sum()) <= 1e-6 * max(1, np.abs(signal[there]).sum())


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 12)), min_size=1, max_size=60), st.integers(1, 7)
)
def test_ranks_equal_those_counted_one_by_one(rows: list[tuple[int, int]], bins: int) -> None:
    signal, length = np.array([a for a, _ in rows], float), np.array([b for _, b in rows], float)
    bin_of = even_bins(length, bins)
    expected = []
    for value, own in zip(signal, bin_of, strict=True):
        others = [v for v, b in zip(signal, bin_of, strict=True) if b == own]
        below, equal = sum(v < value for v in others), sum(v == value for v in others)
        expected.append((below + equal / 2) / len(others))
    assert np.allclose(rank_in_bin(signal, length, bins), expected)


def test_lengths_without_logarithm_and_a_residual_without_scipy_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(InputError, match="^a length of 0 has no logarithm; take --length-free rank-in-bin"):
        residual(np.array([1.0, 2.0]), np.array([0.0, 2.0]))
    monkeypatch.setitem(sys.modules, "scipy.interpolate", None)
    with pytest.raises(InputError, match="a residual needs scipy: `pip install 'gaincurate\\[derive\\]'`"):
        residual(np.array([1.0, 2.0]), np.array([3.0, 2.0]))


def values(folder: Path, name: str) -> list[Any]:
    return list(ScoredSet(folder).column(name).to_pylist())


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
    how = {"signal": "gc_angle", "length_free": "rank-in-bin", "bins": 4}
    how["meaning"] = "rank of gc_angle in (0, 1) among rows of about the same gc_question_tokens"
    assert told["how"] | how == told["how"]


def test_the_same_again_changes_no_byte_and_another_way_is_refused(tmp_path: Path) -> None:
    folder = runs.some_set(tmp_path / "set")

    def stamps() -> dict[Path, tuple[bytes, int]]:
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (folder / "columns").iterdir()}

    derive(ScoredSet(folder), "gc_angle", "rank-in-bin", bins=4, name="gc_mine")
    before = stamps()
    assert derive(ScoredSet(folder), "gc_angle", "rank-in-bin", bins=4, name="gc_mine").kept
    assert stamps() == before
    with pytest.raises(OutputError, match=r"column gc_mine that was made in another way \(rank of gc_angle"):
        derive(ScoredSet(folder), "gc_angle", "rank-in-bin", bins=5, name="gc_mine")
    assert not derive(ScoredSet(folder), "gc_angle", "residual", name="gc_mine", overwrite=True).kept
    assert json.loads((folder / "columns/gc_mine.json").read_text())["how"]["length_free"] == "residual"


def test_a_column_made_of_a_computed_one_is_made_anew_when_that_one_changed(tmp_path: Path) -> None:
    scored = ScoredSet(runs.some_set(tmp_path / "set", 6, 1))
    ids = scored.column("gc_id").to_pylist()
    for sign in (1, -1):
        scored.add_column("gc_difficulty", ids, pa.array(sign * np.arange(6.0)), {"made_by": "a test"})
        if sign == 1:
            derive(scored, "gc_difficulty", "rank-in-bin", bins=1)
    with pytest.raises(OutputError, match="a column gc_difficulty_rank_in_bin that was made in another"):
        derive(ScoredSet(scored.folder), "gc_difficulty", "rank-in-bin", bins=1)


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


def test_values_past_what_the_column_holds_are_none(tmp_path: Path) -> None:
    big = pa.array([(k % 5) * 1e50 if k < 6 else (k % 5) * 1.0 for k in range(24)])
    folder = column_set(tmp_path / "set", [3 + k // 6 for k in range(24)], {}, {"big": big})
    done = derive(ScoredSet(folder), "big", "residual", name="gc_free")
    kept = [value for value in values(folder, "gc_free") if value is not None]
    assert done.values == len(kept) < 24
    assert np.isfinite(kept).all()
    folder = column_set(tmp_path / "b", [3] * 24, {}, {"big": pa.array([(k % 5) * 1e50 for k in range(24)])})
    with pytest.raises(InputError, match=r"--signal big: its residual values are beyond"):
        derive(ScoredSet(folder), "big", "residual", name="gc_free")


def test_bins_are_for_ranks_alone(tmp_path: Path) -> None:
    command = ("derive", runs.some_set(tmp_path / "set"), "--signal", "gc_angle", "--length-free")
    result = run(*command, "residual", "--bins", "20")
    assert result.exit_code == 2
    assert result.stderr == "error: --bins 20 goes with --length-free rank-in-bin.\n"
    assert not (tmp_path / "set/columns").exists()
    assert run(*command, "rank-in-bin").exit_code == 0
    assert "is there already, made in this way" in run(*command, "rank-in-bin", "--bins", "20").stdout


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"signal": "question"}, "--signal question: that column holds string, and this needs numbers."),
        ({"signal": "gc_nll"}, "{folder} has no column 'gc_nll'; it has question, gc_id, "),
        ({"name": "gc_angle"}, "--name gc_angle is the column that it would be made from; give another."),
        (
            {"name": "mine"},
            "computed column 'mine': the name must be gc_ and letters, digits or underscores.",
        ),
        ({"name": "gc_angle_intra"}, "column 'gc_angle_intra' is part of the shards, which are immutable."),
        (
            {"signal": "gc_angle_intra_offdiag"},
            "--signal gc_angle_intra_offdiag: no row of {folder} has a value",
        ),
        ({"bins": 0}, "--bins 0: at least one."),
    ],
)
def test_columns_that_cannot_be_taken(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    folder = sets.make_set(tmp_path / "set", [[sets.scored_row("a"), sets.scored_row("b")]])
    with pytest.raises(InputError) as caught:
        derive(ScoredSet(folder), **{"signal": "gc_angle", "way": "rank-in-bin"} | options)
    assert str(caught.value).startswith(sentence.format(folder=folder))
    assert not (folder / "columns").exists()
