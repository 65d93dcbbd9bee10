"""Batches that a column picks and rows in bins, by plain loops and against draws from a known truth."""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gaincurate.core.stats import Estimate
from gaincurate.difficulty.metrics import pass_variance
from gaincurate.report.build import BINS, QUARTILES, scatter
from gaincurate.report.document import ENDS, Lift
from gaincurate.report.relations import lift, towards
from gaincurate.report.verdict import best_end


def covered(found: list[Estimate], truth: float) -> bool:
    """Whether as many intervals hold the truth as 95 % ones would, but for once in 10,000 times."""
    held = sum(e.low is not None and e.high is not None and e.low <= truth <= e.high for e in found)
    low, high = stats.binom.ppf([5e-5, 1 - 5e-5], len(found), [0.95, 0.985])
    return bool(low <= held <= high)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), min_size=10, max_size=40),
    st.sampled_from([0.1, 0.25, 0.5]),
)
def test_a_lift_is_the_mean_over_all_ways_to_break_ties(rows: list[tuple[int, int]], share: float) -> None:
    values, outcome = np.array(rows, float).T
    found = lift(values, outcome, share)
    if np.ptp(values) == 0:
        assert found.value is None
        return
    picked = max(1, round(len(rows) * share))
    border = np.sort(values)[-picked]
    above, equal = outcome[values > border], outcome[values == border]
    left = picked - len(above)
    mean = (above.sum() + left * equal.mean()) / picked
    if comb(len(equal), left) < 500:
        ways = [sum(way) for way in itertools.combinations(equal, left)]
        mean = (above.sum() + np.mean(ways)) / picked
    assert found.value == pytest.approx(mean / outcome.mean(), abs=1e-12)
    assert found.rows == picked


@pytest.mark.parametrize("rows", [200, 1000])
@pytest.mark.parametrize("step", [0, 0.5], ids=["no ties", "ties"])
def test_the_intervals_of_lifts_cover(rows: int, step: float) -> None:
    def draw(random: np.random.Generator, count: int) -> Estimate:
        hard = random.normal(size=count)
        wins = random.binomial(8, 1 / (1 + np.exp(hard))).astype(float)
        signal = hard + 0.5 * random.normal(size=count)
        signal = np.round(signal / step) * step if step else signal
        return lift(signal, pass_variance(wins, 8 - wins))

    random = np.random.default_rng(rows)
    truth = draw(random, 1_000_000).value
    assert truth is not None
    assert covered([draw(random, rows) for _ in range(400)], truth)


def test_a_lift_of_nothing_is_none() -> None:
    some = np.arange(20.0)
    assert lift(some, np.zeros(20)).value is None
    assert lift(np.ones(20), some).value is None
    assert lift(some[:5], some[:5]).value is None
    assert lift(some, some).low is None  # two rows


def test_noise_seldom_has_an_end_that_surely_carries_more() -> None:
    random, found = np.random.default_rng(0), 0
    for _ in range(300):
        wins = random.binomial(8, random.random(256))
        outcome, values = wins * (8 - wins) / 56, random.normal(size=256)
        ends = [Lift("s", "t", end, 0.1, lift(towards(values, end), outcome)) for end in ENDS]
        found += best_end(ends, "s") is not None
    assert found <= 24  # at one look each it is 40


def test_bins_span_all_values_unless_one_lies_far_out() -> None:
    for values, last in ((np.linspace(0, 1, 1000), 1.0), (np.append(np.linspace(0, 1, 999), 50), 0.999)):
        assert scatter("s", values, np.full(1000, 9.0)).y_edges[-1] == pytest.approx(last, abs=5e-4)


@given(st.lists(st.tuples(st.integers(1, 4000), st.floats(-10, 10) | st.just(float("nan"))), max_size=60))
def test_a_scatter_holds_every_row_in_its_bin(rows: list[tuple[int, float]]) -> None:
    lengths, signal = np.array([*rows, (7, 1.0)], float).T
    found = scatter("s", signal, lengths)
    known = ~np.isnan(signal)
    assert sum(map(sum, found.counts)) == known.sum()
    assert found.x_edges == sorted(found.x_edges)
    assert len(found.counts) == len(found.quartiles) == len(found.x_edges) - 1 <= BINS
    assert all(len(row) == len(found.y_edges) - 1 == BINS for row in found.counts)
    ends = [-np.inf, *found.x_edges[1:-1], np.inf]
    for low, high, counts, quartiles in zip(ends[:-1], ends[1:], found.counts, found.quartiles, strict=True):
        inside = known & (lengths >= low) & (lengths < high)
        assert sum(counts) == inside.sum()
        assert len(quartiles) == (3 if inside.sum() >= 10 else 0)
        if quartiles:
            assert quartiles == pytest.approx(np.quantile(signal[inside], QUARTILES))
