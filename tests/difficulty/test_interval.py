"""The incomplete beta function against SciPy's, which the package does not need."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gaincurate.difficulty.metrics import beta_cdf, beta_quantile

SIZES = st.floats(0.5, 200)


@given(st.floats(0, 1), SIZES, SIZES)
def test_the_distribution_function_is_scipys(x: float, a: float, b: float) -> None:
    assert beta_cdf(x, a, b) == pytest.approx(stats.beta(a, b).cdf(x), abs=1e-11)


@given(st.sampled_from([0.025, 0.5, 0.975]), SIZES, SIZES)
def test_a_quantile_has_its_share_below_it(share: float, a: float, b: float) -> None:
    assert beta_quantile(share, a, b) == pytest.approx(stats.beta(a, b).ppf(share), abs=1e-10)
