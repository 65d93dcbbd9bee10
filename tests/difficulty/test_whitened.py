"""The ways without training against definitions written out anew."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.difficulty.embeddings import Space, whitening
from gaincurate.difficulty.training_free import (
    TEMPERATURES,
    attention,
    calibrated,
    cross_entropy,
    fit_calibration,
    fit_training_free,
)


def sample(rows: int, width: int, seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    random = np.random.default_rng(seed)
    scales = np.arange(1, width + 1) ** -1.0
    return ((random.normal(size=(rows, width)) * scales) @ random.normal(size=(width, width)) + 5).astype(
        np.float32
    )


def test_attention_equals_a_loop() -> None:
    random = np.random.default_rng(0)
    cosines, d = random.uniform(-1, 1, (4, 6)).astype(np.float32), random.integers(0, 9, 6) / 8
    seen = random.random((4, 6)) < 0.7
    for t in (0.1, 1.0):
        expected = []
        for row, may in zip(cosines, seen, strict=True):
            e = [math.exp(c / t) if m else 0.0 for c, m in zip(row.tolist(), may, strict=True)]
            expected.append(sum(a * x for a, x in zip(e, d, strict=True)) / sum(e))
        np.testing.assert_allclose(attention(cosines, d, t, seen), expected, atol=1e-12)


def penalised(weighted: np.ndarray, d: np.ndarray, w: float, b: float) -> float:
    lost = cross_entropy(calibrated(weighted, w, b), d) * len(d)
    return lost + 0.5 * ((w - 1) ** 2 + b**2)


@given(st.integers(0, 10_000), st.floats(-3, 3), st.floats(-2, 2))
def test_no_other_calibration_is_better(seed: int, slope: float, level: float) -> None:
    random = np.random.default_rng(seed)
    weighted = random.uniform(0.05, 0.95, 40)
    d = random.binomial(8, calibrated(weighted, slope, level)) / 8
    w, b = fit_calibration(weighted, d)
    assert 0 <= w <= 20
    best = penalised(weighted, d, w, b)
    for dw, db in [(0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01), (0.5, 0.2), (-0.5, 0.3)]:
        if w + dw >= 0:
            assert penalised(weighted, d, w + dw, b + db) >= best - 1e-9


def test_a_reference_is_predicted_from_the_others_alone() -> None:
    z, d = sample(30, 12), np.random.default_rng(1).integers(0, 9, 30) / 8
    fitted = fit_training_free(whitening(z, 6), z, d)
    assert fitted.temperature in TEMPERATURES
    found = fitted.leave_one_out()
    for i in range(0, 30, 7):
        others = np.arange(30) != i
        cosines = fitted.references[i : i + 1] @ fitted.references[others].T
        alone = calibrated(attention(cosines, d[others], fitted.temperature), fitted.w, fitted.b)
        assert found[i] == pytest.approx(alone[0], abs=1e-6)  # the products are in float32


def test_the_temperature_is_the_best_one_left_out() -> None:
    z, d = sample(40, 12, 3), np.random.default_rng(2).integers(0, 9, 40) / 8
    fitted = fit_training_free(Space(), z, d)
    units = z / np.linalg.norm(z, axis=1, keepdims=True)
    costs = {}
    for t in TEMPERATURES:
        weighted = attention(units @ units.T, d, t, ~np.eye(40, dtype=bool))
        costs[t] = cross_entropy(calibrated(weighted, *fit_calibration(weighted, d)), d)
    assert fitted.temperature == min(costs, key=lambda t: costs[t])


@pytest.mark.parametrize("rates", [[0.0] * 9, [1.0] * 9, [0.0, 1.0] * 5])
def test_rates_at_the_ends_give_finite_predictions(rates: list[float]) -> None:
    z = sample(len(rates), 8)
    fitted = fit_training_free(whitening(z), z, np.array(rates))
    for found in (fitted(z), fitted.leave_one_out()):
        assert ((found > 0) & (found < 1)).all()
