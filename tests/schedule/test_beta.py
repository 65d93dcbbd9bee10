"""The papers' equations against SciPy, mpmath's precision where float64 cancels, and counts of samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from gaincurate.core.rng import Floats, uniforms
from gaincurate.schedule.strategies import beta

counts = st.floats(1e-3, 500)


def array(*values: float) -> Floats:
    return np.array(values, np.float64)


@given(counts, counts)
def test_the_special_functions_are_scipys(a: float, b: float) -> None:
    assert beta.log_gamma(array(a))[0] == pytest.approx(special.gammaln(a), rel=1e-12, abs=1e-12)
    assert beta.digamma(array(a))[0] == pytest.approx(special.digamma(a), rel=1e-12, abs=1e-12)
    assert beta.log_beta(array(a), array(b))[0] == pytest.approx(special.betaln(a, b), rel=1e-11, abs=1e-10)
    assert beta.entropy(array(a), array(b))[0] == pytest.approx(
        float(stats.beta(a, b).entropy()), rel=1e-8, abs=1e-8
    )


@given(counts, counts)
def test_the_expected_variance_is_that_of_a_beta_law(a: float, b: float) -> None:
    law = stats.beta(a, b)
    (expected,) = beta.expected_variance(array(a), array(b))
    assert expected == pytest.approx(law.mean() - law.moment(2), rel=1e-9, abs=1e-12)
    assert beta.variance_of_mean(array(a), array(b))[0] == pytest.approx(law.mean() * (1 - law.mean()))


@given(counts, counts, st.integers(1, 64))
def test_a_group_differs_unless_its_beta_binomial_count_is_none_or_all(a: float, b: float, size: int) -> None:
    law = stats.betabinom(size, a, b)
    assert beta.groups_that_differ(array(a), array(b), size)[0] == pytest.approx(
        1 - law.pmf(0) - law.pmf(size), abs=1e-11
    )


def test_under_the_uniform_prior_two_of_nine_groups_of_eight_are_silent() -> None:
    assert beta.groups_that_differ(array(1), array(1), 8)[0] == pytest.approx(1 - 2 / 9, abs=1e-15)


@pytest.mark.parametrize(("a", "b", "size"), [(1, 1, 8), (1, 9, 8), (3.2, 1.7, 5), (41, 25, 8), (0.3, 2, 16)])
def test_insight_is_the_papers_equation_in_fifty_digits(a: float, b: float, size: int) -> None:
    (found,) = beta.insight(array(a), array(b), size, 3.0, 0.3)
    assert found == pytest.approx(float(insight_in_mpmath(a, b, size)), rel=1e-9)


def insight_in_mpmath(a: float, b: float, size: int) -> Any:
    """The score w(m) I, term by term."""
    mpmath = pytest.importorskip("mpmath")  # comes with torch
    mpmath.mp.dps = 50
    a, b = mpmath.mpf(a), mpmath.mpf(b)

    def entropy(x: Any, y: Any) -> Any:
        psi = mpmath.digamma
        inner = (x - 1) * psi(x) + (y - 1) * psi(y) - (x + y - 2) * psi(x + y)
        return mpmath.log(mpmath.beta(x, y)) - inner

    later = mpmath.fsum(
        mpmath.binomial(size, s) * mpmath.beta(a + s, b + size - s) / mpmath.beta(a, b)
        * entropy(a + s, b + size - s)
        for s in range(size + 1)
    )  # fmt: skip
    m = a / (a + b)
    return m * (1 - m) * mpmath.exp(-3 * (m - mpmath.mpf("0.3")) ** 2) * (entropy(a, b) - later)


@given(counts, counts, st.integers(1, 16))
def test_rollouts_never_tell_less_than_nothing(a: float, b: float, size: int) -> None:
    (found,) = beta.information(array(a), array(b), size)
    assert np.isfinite(found)
    assert found >= 0


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (9.0, 1.0), (0.2, 0.6), (0.03, 4.0), (33.5, 12.25)])
def test_samples_have_the_beta_law(a: float, b: float) -> None:
    count = 40_000
    drawn = beta.sample(np.full(count, a), np.full(count, b), lambda stream: uniforms(5, 1, stream, 0, count))
    assert stats.kstest(drawn, stats.beta(a, b).cdf).pvalue > 0.001
    assert ((drawn >= 0) & (drawn <= 1)).all()


def test_the_evidence_is_the_beta_binomial_likelihood_up_to_a_constant() -> None:
    wins, losses = array(3, 0, 8), array(5, 8, 0)
    found = [beta.log_evidence(np.full(3, a), np.full(3, b), wins, losses) for a, b in ((1, 1), (2, 5))]
    right = [stats.betabinom(8, a, b).logpmf([3, 0, 8]).sum() for a, b in ((1, 1), (2, 5))]
    assert found[0] - found[1] == pytest.approx(right[0] - right[1], rel=1e-12)
