from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaincurate.derive.length_free import KNOTS, rank_in_bin, residual
from gaincurate.errors import InputError
from gaincurate.stats import Floats, even_bins, spearman

NAN = float("nan")


def planted(
    rows: int = 4000, seed: int = 0, *, rises_and_falls: bool = False
) -> tuple[Floats, Floats, Floats]:
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
    signal, length, own = planted(rises_and_falls=rises_and_falls)
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
@settings(max_examples=80)
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
@settings(max_examples=100)
def test_ranks_equal_those_counted_one_by_one(rows: list[tuple[int, int]], bins: int) -> None:
    signal, length = np.array([a for a, _ in rows], float), np.array([b for _, b in rows], float)
    bin_of = even_bins(length, bins)
    expected = []
    for value, own in zip(signal, bin_of, strict=True):
        others = [v for v, b in zip(signal, bin_of, strict=True) if b == own]
        below, equal = sum(v < value for v in others), sum(v == value for v in others)
        expected.append((below + equal / 2) / len(others))
    assert np.allclose(rank_in_bin(signal, length, bins), expected)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=80), st.integers(1, 9))
@settings(max_examples=100)
def test_bins_go_with_length_and_never_part_equal_lengths(lengths: list[int], bins: int) -> None:
    found = even_bins(np.array(lengths, float), bins)
    assert found.min() >= 0
    assert found.max() < bins
    of = dict(zip(lengths, found.tolist(), strict=True))
    assert [of[n] for n in lengths] == found.tolist()
    assert sorted(of) == sorted(of, key=lambda n: (of[n], n))


def test_ranks_are_spread_evenly_within_each_bin() -> None:
    signal, length, own = planted()
    found, bin_of = rank_in_bin(signal, length, 10), even_bins(length, 10)
    sizes = np.bincount(bin_of)
    assert len(sizes) == 10
    assert sizes.min() > 200
    for k, size in enumerate(sizes):
        assert np.allclose(np.sort(found[bin_of == k]), (np.arange(size) + 0.5) / size)
    assert abs(spearman(found, length) or 0) < 0.1
    assert (spearman(found, own) or 0) > 0.9


def test_without_its_library_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.interpolate", None)
    with pytest.raises(InputError) as caught:
        residual(np.array([1.0, 2.0]), np.array([3.0, 2.0]))
    assert str(caught.value) == (
        "a residual needs scipy: `pip install 'gaincurate[derive]'`. rank-in-bin does not."
    )


def test_what_cannot_be_asked() -> None:
    with pytest.raises(InputError) as caught:
        residual(np.array([1.0, 2.0]), np.array([0.0, 2.0]))
    assert str(caught.value) == "a length of 0 has no logarithm; take --length-free rank-in-bin."
    with pytest.raises(InputError, match="--bins 0: at least one."):
        rank_in_bin(np.ones(3), np.ones(3), 0)
