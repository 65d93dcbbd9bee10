from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.difficulty.metrics import beta_cdf, beta_quantile


def integrated(x: float, a: float, b: float) -> float:
    """The distribution function of Beta(a, b) by Simpson's rule in float64, for a and b of at least 1/2.

    With x = sin(t)^2 the density is 2 sin(t)^(2a-1) cos(t)^(2b-1), which has no pole.
    """

    def area(upper: float) -> float:
        t, step = np.linspace(0.0, upper, 20_001, retstep=True)
        with np.errstate(divide="ignore"):
            logs = (2 * a - 1) * np.log(np.sin(t)) if a != 0.5 else np.zeros_like(t)
            logs = logs + ((2 * b - 1) * np.log(np.abs(np.cos(t))) if b != 0.5 else 0.0)
        y = 2 * np.exp(logs)
        return float(step / 3 * (y[0] + y[-1] + 4 * y[1:-1:2].sum() + 2 * y[2:-1:2].sum()))

    return area(math.asin(math.sqrt(x))) / area(math.pi / 2)


@pytest.mark.parametrize("a", [0.5, 1.0, 2.5, 8.5, 40.5])
@pytest.mark.parametrize("b", [0.5, 3.5, 9.0])
def test_the_distribution_function_is_that_of_numerical_integration(a: float, b: float) -> None:
    for x in (0.001, 0.1, 0.4, 0.5, 0.77, 0.99):
        assert beta_cdf(x, a, b) == pytest.approx(integrated(x, a, b), abs=1e-9)


def test_known_values() -> None:
    assert beta_cdf(0.3, 1, 1) == pytest.approx(0.3, abs=1e-15)  # uniform
    assert beta_cdf(0.3, 3, 1) == pytest.approx(0.3**3, abs=1e-15)
    assert beta_cdf(0.25, 0.5, 0.5) == pytest.approx(1 / 3, abs=1e-14)  # arcsine law: 2/pi asin(1/2)
    assert (beta_cdf(0.0, 2, 3), beta_cdf(1.0, 2, 3)) == (0.0, 1.0)


@given(a=st.integers(1, 129), b=st.integers(1, 129), share=st.sampled_from([0.025, 0.5, 0.975]))
def test_a_quantile_has_its_share_below_it(a: int, b: int, share: float) -> None:
    assert integrated(beta_quantile(share, a / 2, b / 2), a / 2, b / 2) == pytest.approx(share, abs=1e-7)
