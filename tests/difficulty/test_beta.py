"""The papers' equations against SciPy, mpmath's precision where float64 cancels, and counts of samples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from gaincurate.core.rng import Floats, uniforms
from gaincurate.difficulty import beta

counts = st.floats(1e-3, 500)


def array(*values: float) -> Floats:
    return np.array(values, np.float64)


@given(counts, counts)
def test_the_special_functions_are_scipys(a: float, b: float) -> None:
    assert beta.log_gamma(array(a))[0] == pytest.approx(special.gammaln(a), rel=1e-12, abs=1e-12)
    assert beta.log_beta(array(a), array(b))[0] == pytest.approx(special.betaln(a, b), rel=1e-11, abs=1e-10)


@given(counts, counts)
def test_the_expected_variance_is_that_of_a_beta_law(a: float, b: float) -> None:
    law = stats.beta(a, b)
    (expected,) = beta.expected_variance(array(a), array(b))
    assert expected == pytest.approx(law.mean() - law.moment(2), rel=1e-9, abs=1e-12)


@given(counts, counts, st.integers(1, 64))
def test_a_group_differs_unless_its_beta_binomial_count_is_none_or_all(a: float, b: float, size: int) -> None:
    law = stats.betabinom(size, a, b)
    expected = pytest.approx(1 - law.pmf(0) - law.pmf(size), abs=1e-11)
    assert beta.groups_that_differ(array(a), array(b), size)[0] == expected


@given(st.lists(st.tuples(counts, counts), min_size=1, max_size=4), st.data())
def test_no_other_group_sizes_have_more_groups_that_differ(
    prompts: list[tuple[float, float]], data: Any
) -> None:
    least, more = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 4))
    bounds = least * len(prompts), (least + more) * len(prompts)
    total = data.draw(st.integers(*bounds))
    a, b = np.array(prompts).T

    def differ(sizes: Sequence[int]) -> float:
        laws = [stats.betabinom(size, *prompt) for size, prompt in zip(sizes, prompts, strict=True)]
        return float(sum(1 - law.pmf(0) - law.pmf(law.args[0]) for law in laws))

    chosen = beta.group_sizes(a, b, least, least + more, total)
    every = product(range(least, least + more + 1), repeat=len(prompts))
    assert chosen.sum() == total
    assert chosen.min() >= least
    assert chosen.max() <= least + more
    best = max(differ(sizes) for sizes in every if sum(sizes) == total)
    assert differ(chosen.tolist()) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (9.0, 1.0), (0.2, 0.6), (0.03, 4.0), (33.5, 12.25)])
def test_samples_have_the_beta_law(a: float, b: float) -> None:
    count = 40_000
    drawn = beta.sample(np.full(count, a), np.full(count, b), lambda stream: uniforms(5, 1, stream, 0, count))
    assert stats.kstest(drawn, stats.beta(a, b).cdf).pvalue > 0.001
    assert ((drawn >= 0) & (drawn <= 1)).all()


def test_the_evidence_is_the_beta_binomial_likelihood_up_to_a_constant() -> None:
    wins, losses = array(3, 0, 8), array(5, 8, 0)
    laws = ((1, 1), (2, 5))
    found = [beta.log_evidences(np.full(3, a), np.full(3, b), wins, losses).sum() for a, b in laws]
    right = [stats.betabinom(8, a, b).logpmf([3, 0, 8]).sum() for a, b in laws]
    assert found[0] - found[1] == pytest.approx(right[0] - right[1], rel=1e-12)
