from __future__ import annotations

import numpy as np

from gaincurate.schedule.strategies.neighbours import DIRECTIONS, Nearest, Space, nearest


def test_the_space_has_unit_variance_in_every_direction_and_cosines_in_it() -> None:
    random = np.random.default_rng(0)
    for shape in ((400, 30), (60, 300)):  # more rows than width, and fewer
        sample = (random.normal(size=shape) * random.uniform(0.1, 9, shape[1])).astype(np.float32)
        units = Space(sample)(sample)
        centred = sample - sample.mean(0, dtype=np.float64)
        u, s, _ = np.linalg.svd(centred, full_matrices=False)
        white = u[:, (s > s[0] * 1e-6)][:, :DIRECTIONS]  # an oracle by another decomposition
        white /= np.linalg.norm(white, axis=1, keepdims=True)
        np.testing.assert_allclose(units @ units.T, white @ white.T, atol=1e-6)


def test_the_nearest_are_those_of_a_sort_without_the_prompt_itself() -> None:
    random = np.random.default_rng(1)
    points = random.normal(size=(700, 6))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    rows, observed = np.arange(700), np.sort(random.choice(700, 90, replace=False))
    found = nearest(points, rows, points[observed], observed, 7)
    for row in rows:
        cosines = points[observed] @ points[row]
        cosines[observed == row] = -9
        assert set(found.places[row]) == set(np.argsort(-cosines)[:7])
        np.testing.assert_allclose(np.sort(found.cosines[row]), np.sort(cosines)[-7:], atol=1e-9)


def test_there_may_be_fewer_than_asked_for() -> None:
    points = np.eye(3)
    found = nearest(points, np.arange(3), points[:2], np.arange(2), 50)
    assert found.places.tolist() == [[1], [0], [0]]  # of equals the first


def test_the_rate_is_the_kernels_mean_over_rollouts() -> None:
    found = Nearest(np.array([[0, 1, 2]]), np.array([[0.9, 0.5, -0.2]]))
    wins, losses = np.array([8.0, 1.0, 0.0]), np.array([0.0, 3.0, 16.0])
    rates, rollouts = found.rates(wins, losses, 0.3)
    kernel = np.exp(np.array([0.0, -0.4, -1.1]) / 0.3)
    np.testing.assert_allclose(rollouts, [kernel @ (wins + losses)], atol=1e-9)
    np.testing.assert_allclose(rates, [kernel @ wins / (kernel @ (wins + losses))], atol=1e-9)


def test_equal_embeddings_have_equal_rates() -> None:
    random = np.random.default_rng(2)
    sample = np.repeat(random.normal(size=(40, 16)).astype(np.float32), 25, axis=0)[:997]
    points, observed = Space(sample)(sample), np.arange(0, 200, 3)
    wins = random.integers(0, 9, len(observed)).astype(float)
    others = np.arange(200, 997)
    found = nearest(points[others], others, points[observed], observed, 5)
    rates, rollouts = found.rates(wins, 8 - wins, 0.1)
    for kind in range(8, 40):
        alike = others // 25 == kind
        assert len(np.unique(rates[alike])) == len(np.unique(rollouts[alike])) == 1
